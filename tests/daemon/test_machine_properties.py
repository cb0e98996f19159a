"""No sequence of events reaches a state whose FirewallPolicy lets a forbidden packet out (K1, K2, K3, N10).

What is forbidden is said here from what the user and the network are, without looking at the machine's state or at how
policies are made: see `forbidden`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import cache
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from daemon.machine import START, step
from policies.classify import Verdict, classify
from policies.decide import decide, intent_after
from policies.decision import Answer, Decision, Intent, Judgement, Manual, Rule
from policies.facts import (
    Endpoint,
    Facts,
    Internet,
    Link,
    LinkKind,
    ProfileFacts,
    Reach,
    Security,
    Tunnel,
    WifiNetwork,
)
from policies.firewall import MARK, NEVER_MARK, ONLY_MARK, TUNNEL_IFNAME, FirewallPolicy, firewall
from policies.known_network import KnownNetwork
from policies.settings import Settings
from policies.settings_tables import Split, Wifi, WifiAction
from policies.states import (
    Action,
    Cause,
    Changed,
    CloseTunnel,
    Event,
    Failed,
    OpenTunnel,
    Phase,
    Reconnect,
    RetryDue,
    ScheduleRetry,
    State,
    Target,
    TunnelClosed,
    TunnelDown,
    TunnelUp,
)
from tests.policies.evaluator import Hook, Packet, passes

OUTSIDE4, OUTSIDE6 = ip_address("203.0.113.9"), ip_address("2001:db8:9::9")
BRIDGE = ip_interface("192.168.1.1/24")  # containers, in which LAN4 would be one
LAN4, LAN6 = ip_address("192.168.1.7"), ip_address("fe80::7")
RESOLVER = ip_address("203.0.113.53")
SOURCE4, SOURCE6 = ip_address("192.0.2.10"), ip_address("2001:db8::10")
EXCLUDED = ip_network("2001:db8:9::/48")
SERVERS = {
    "one": Endpoint(ip_address("198.51.100.1"), 51820),
    "two": Endpoint(ip_address("2001:db8:2::2"), 443),
    "dns": Endpoint(ip_address("198.51.100.3"), 53),  # a server may well listen on port 53
}
PROFILES = {
    name: ProfileFacts(name, (server,), (ip_interface("203.0.113.77/32"),), (RESOLVER,))
    for name, server in SERVERS.items()
}
LINKS = ("wlan0", "wlan1", "eth0", "wwan0", "br0")
KINDS = dict(
    zip(LINKS, (LinkKind.WIFI, LinkKind.WIFI, LinkKind.WIRED, LinkKind.CELLULAR, LinkKind.VIRTUAL), strict=True)
)
HOME = KnownNetwork(ssid=b"home", minimum_security=Security.WPA2, action=WifiAction.DISCONNECT)
OFFICE = KnownNetwork(ssid=b"office", minimum_security=Security.WPA2, action=WifiAction.AUTO_CONNECT, profile="two")
LOUNGE = KnownNetwork(ssid=b"lounge", minimum_security=Security.WPA2, action=WifiAction.AUTO_CONNECT, allow_lan=True)
BEACON, DIGEST, FOREIGN = Endpoint(OUTSIDE4, 443, "tcp"), bytes(range(32)), bytes(32)
VAULT = KnownNetwork(ssid=b"vault", action=WifiAction.DISCONNECT, beacon=BEACON, beacon_sha256=DIGEST)
SETTINGS = (
    Settings(known=(HOME, OFFICE, LOUNGE, VAULT)),
    Settings(known=(HOME, OFFICE, LOUNGE, VAULT), wired=WifiAction.AUTO_CONNECT),
    Settings(wifi=Wifi(unsecured=WifiAction.AUTO_CONNECT, secured=WifiAction.AUTO_CONNECT)),
    Settings(
        known=(HOME,),
        wifi=Wifi(prompt_fallback=WifiAction.IGNORE),
        split=Split(subnets=(EXCLUDED, ip_network(RESOLVER))),
    ),
    Settings(known=(HOME, LOUNGE), wifi=Wifi(secured=WifiAction.PROMPT), wired=WifiAction.PROMPT),
    Settings(known=(HOME,), wifi=Wifi(hold_while_asking=False, prompt_fallback=WifiAction.IGNORE)),
)
EVENTS = (
    Changed,
    Reconnect,
    lambda: TunnelUp(0, Tunnel(TUNNEL_IFNAME, ())),
    lambda: TunnelDown(0, Cause.TUNNEL_LOST),
    lambda: TunnelClosed(0),
    lambda: RetryDue(0),
    lambda: Failed(Cause.FIREWALL_FAILED),
)
networks = st.builds(
    WifiNetwork,
    ssid=st.sampled_from([b"home", b"office", b"lounge", b"vault", b"cafe", b""]),
    security=st.sampled_from(Security),
    tkip=st.booleans(),
    malformed=st.booleans(),
)
PACKETS = [
    Packet(Hook.OUT, source, destination, protocol, 40000, port, oifname=oifname, mark=mark)
    for oifname in (*LINKS, TUNNEL_IFNAME)
    for source, destination in (
        (SOURCE4, OUTSIDE4), (SOURCE6, OUTSIDE6), (SOURCE4, LAN4), (SOURCE6, LAN6), (SOURCE4, RESOLVER),
        (SOURCE4, SERVERS["one"].address), (SOURCE6, SERVERS["two"].address), (SOURCE4, SERVERS["dns"].address),
    )
    for protocol, port in (
        ("udp", 443), ("tcp", 443), ("tcp", 80), ("udp", 53), ("tcp", 53), ("tcp", 853), ("udp", 51820), ("icmp", 0),
    )
    for mark in (0, MARK)
]  # fmt: skip


GOES_ON = (Phase.CONNECTING, Phase.CONNECTED, Phase.RECONNECTING, Phase.BLOCKED, Phase.DISCONNECTING)
PACKETS += [
    replace(packet, mark=mark)
    for packet in PACKETS
    if packet.oifname in ("wlan0", "eth0", TUNNEL_IFNAME) and packet.destination in (OUTSIDE4, OUTSIDE6, RESOLVER)
    and packet.mark == 0 and packet.destination_port in (53, 443)
    for mark in (NEVER_MARK, ONLY_MARK)
]  # fmt: skip
ANSWERERS = st.sampled_from([Rule.ANSWER, Rule.FALLBACK])
MOSTLY, RARELY = st.sampled_from([True] * 4 + [False]), st.sampled_from([False] * 4 + [True])
visited: Counter[str] = Counter()  # phases, "asking", "offline", and "beacon"


@cache
def passing(policy: FirewallPolicy) -> tuple[Packet, ...]:
    """Those of PACKETS that the policy lets go on."""
    return tuple(packet for packet in PACKETS if passes(policy, packet))


class Machine(RuleBasedStateMachine):
    """The world moves as it likes; the loop's part (facts, decide, step, and answers to actions) is played here."""

    def __init__(self) -> None:
        super().__init__()
        self.state: State = START
        self.facts = Facts()
        self.intent = Intent()
        self.settings = Settings()
        self.decision: Decision = decide(self.facts, self.settings, self.intent)
        self.opened: OpenTunnel | None = None
        self.closing: CloseTunnel | None = None
        self.retry: ScheduleRetry | None = None
        self.ups: set[int] = set()  # attempts that have really succeeded
        self.enforced = False  # before the first decision the kernel has an earlier daemon's rules, or none

    @initialize(chosen=st.sampled_from(SETTINGS), wanted=st.sampled_from(Target), profiles=st.booleans())
    def begin(self, chosen: Settings, wanted: Target, profiles: bool) -> None:
        self.settings = chosen
        self.intent = Intent(target=wanted)
        self.facts = replace(self.facts, profiles=dict(PROFILES) if profiles else {})
        self.take(Changed())

    def take(self, event: Event) -> None:
        self.decision = decide(self.facts, self.settings, self.intent)
        self.intent = intent_after(self.intent, self.decision)
        assert decide(self.facts, self.settings, self.intent) == self.decision, "deciding again changes the decision"
        self.state, actions = step(self.state, event, self.decision)
        for action in actions:
            self.act(action)
        self.enforced = True
        visited[self.state.phase] += 1
        if self.state.phase is Phase.PORTAL:
            assert self.reaching(Reach.PORTAL), "no portal is known"
        if self.decision.waits_for_internet:
            visited["offline"] += 1
        if self.decision.asking:
            visited["asking"] += 1
            assert self.facts.agents, "nobody is there to be asked"
            assert self.decision.target is Target.UNPROTECTED, "there is nothing to ask"
            assert not self.reaching(Reach.NOTHING) & self.decision.asking, "nobody is asked where no Internet is"
            assert not any(each.network == answer.network for each in self.asked for answer in self.decision.answers)

    def reaching(self, reach: Reach) -> set[str]:
        return {ifname for ifname, found in self.facts.internet.items() if found.reach is reach}

    @property
    def asked(self) -> list[Judgement]:
        return [each for each in self.decision.judgements if each.ifname in self.decision.asking]

    def act(self, action: Action) -> None:
        match action:
            case OpenTunnel():
                assert action.profile in self.facts.profiles
                self.opened, self.closing = action, None
            case CloseTunnel():
                self.opened, self.closing = None, action
            case ScheduleRetry():
                assert action.failures > 0
                self.retry = action

    # --- the world ----------------------------------------------------------------------------------------------------

    @rule(ifname=st.sampled_from(LINKS), carrier=MOSTLY, gateway=MOSTLY)
    def link(self, ifname: str, carrier: bool, gateway: bool) -> None:
        others = tuple(link for link in self.facts.links if link.ifname != ifname)
        link = Link(
            LINKS.index(ifname) + 2, ifname, KINDS[ifname], up=True, carrier=carrier,
            gateways=(SOURCE4, SOURCE6) if gateway else (), addresses=(BRIDGE,) if ifname == "br0" else (),
        )  # fmt: skip
        self.facts = replace(self.forgetting(ifname), links=(*others, link))
        self.take(Changed())

    def forgetting(self, ifname: str) -> Facts:
        """What is known once the link has another carrier."""
        others: Any = {
            name: {link: found for link, found in getattr(self.facts, name).items() if link != ifname}
            for name in ("wifi", "internet", "beacons")
        }
        return replace(self.facts, **others, overdue=self.facts.overdue - {ifname})

    @rule(ifname=st.sampled_from(LINKS))
    def unplug(self, ifname: str) -> None:
        links = tuple(link for link in self.facts.links if link.ifname != ifname)
        self.facts = replace(self.forgetting(ifname), links=links)
        self.take(Changed())

    @rule(ifname=st.sampled_from(["wlan0", "wlan1"]), network=networks)
    def identified(self, ifname: str, network: WifiNetwork) -> None:
        if any(link.ifname == ifname for link in self.facts.uplinks):
            self.facts = replace(self.facts, wifi={**self.facts.wifi, ifname: network})
            self.take(Changed())

    @rule(ifname=st.sampled_from(["wlan0", "wlan1"]))
    def overdue(self, ifname: str) -> None:
        if ifname not in self.facts.wifi and any(link.ifname == ifname for link in self.facts.uplinks):
            self.facts = replace(self.facts, overdue=self.facts.overdue | {ifname})
            self.take(Changed())

    @rule(ifname=st.sampled_from(["wlan0", "wlan1"]), digest=st.sampled_from([DIGEST, FOREIGN, b""]))
    def beacon_answered(self, ifname: str, digest: bytes) -> None:
        if any(link.ifname == ifname for link in self.facts.uplinks):
            self.facts = replace(self.facts, beacons={**self.facts.beacons, ifname: ((BEACON, digest),)})
            self.take(Changed())

    @rule(ifname=st.sampled_from(["wlan0", "wlan1"]), digest=st.sampled_from([DIGEST, FOREIGN, b""]))
    def at_the_vault(self, ifname: str, digest: bytes) -> None:
        """What chance alone seldom brings."""
        self.link(ifname, carrier=True, gateway=True)
        self.identified(ifname, WifiNetwork(b"vault", security=Security.WPA2))
        awaits = VAULT in self.settings.known and not self.facts.asleep
        assert (ifname in self.decision.held) >= awaits, "nothing leaves before the beacon has answered"
        visited["beacon"] += self.decision.beacons == ((ifname, BEACON),)
        self.beacon_answered(ifname, digest)
        assert (ifname in self.decision.held) >= (awaits and not digest)

    @rule(ifname=st.sampled_from(LINKS), reach=st.sampled_from([None, *Reach]))
    def looked_behind(self, ifname: str, reach: Reach | None) -> None:
        found = {name: found for name, found in self.facts.internet.items() if name != ifname}
        if reach and any(link.ifname == ifname for link in self.facts.uplinks):
            found[ifname] = Internet(reach, "probe")
        self.facts = replace(self.facts, internet=found)
        self.take(Changed())

    @rule(probing=st.sets(st.sampled_from(LINKS)), login=st.sets(st.sampled_from(LINKS)))
    def marked_packets_may_leave(self, probing: set[str], login: set[str]) -> None:
        """Whatever the explorers believe, also of links that are gone."""
        self.facts = replace(self.facts, probing=frozenset(probing), login=frozenset(login))
        self.take(Changed())

    @rule(never=RARELY, only=RARELY)
    def programs_are_split(self, never: bool, only: bool) -> None:
        self.facts = replace(self.facts, never=never, never_dns=30054 if never else 0, only=only)
        self.take(Changed())

    @rule(value=RARELY)
    def sleep(self, value: bool) -> None:
        self.facts = replace(self.facts, asleep=value)
        self.take(Changed())

    @rule(broken=st.sampled_from(["settings_broken", "store_broken"]), value=RARELY)
    def damage(self, broken: str, value: bool) -> None:
        change: Any = {broken: value}
        self.facts = replace(self.facts, **change)
        self.take(Changed())

    @rule(names=st.sets(st.sampled_from(sorted(PROFILES))) | st.just(set(PROFILES)))
    def profiles(self, names: set[str]) -> None:
        self.facts = replace(self.facts, profiles={name: PROFILES[name] for name in sorted(names)})
        self.take(Changed())

    # --- people -------------------------------------------------------------------------------------------------------

    @rule(wanted=st.sampled_from(Target), profile=st.sampled_from([None, *PROFILES]))
    def choose(self, wanted: Target, profile: str | None) -> None:
        manual = Manual(wanted, self.decision.here)
        self.intent = replace(self.intent, target=wanted, manual=manual, profile=profile)
        self.take(Changed())

    @rule(kill_switch=MOSTLY, lockdown=RARELY)
    def switch(self, kill_switch: bool, lockdown: bool) -> None:
        self.intent = replace(self.intent, kill_switch=kill_switch, lockdown=lockdown)
        self.take(Changed())

    @rule(number=st.sampled_from([0, 1, 1, 2]))
    def agents(self, number: int) -> None:
        self.facts = replace(self.facts, agents=number)
        self.take(Changed())
        if not number:
            assert not self.decision.asking, "with nobody to ask, the fallback applies at once"

    @precondition(lambda self: self.decision.asking)
    @rule(which=st.integers(0, 4), action=st.sampled_from([WifiAction.AUTO_CONNECT, WifiAction.IGNORE]), by=ANSWERERS)
    def answer(self, which: int, action: WifiAction, by: Rule) -> None:
        """By people, or by the deadline."""
        asked = self.asked[which % len(self.asked)]
        if by is Rule.FALLBACK:
            action = self.settings.wifi.prompt_fallback
        self.intent = replace(self.intent, answers=(*self.intent.answers, Answer(asked.network, action, by)))
        self.take(Changed())
        assert asked.ifname not in self.decision.asking, "asked again"
        if action is WifiAction.AUTO_CONNECT:
            assert self.decision.target is Target.PROTECTED
        self.agents(0)
        self.agents(1)
        assert asked.ifname not in self.decision.asking, "asked again"

    @rule()
    def at_a_cafe_with_somebody_to_ask(self) -> None:
        """What chance alone seldom brings."""
        awake: Any = {"settings_broken": False, "store_broken": False, "asleep": False}
        self.facts = replace(self.facts, profiles=dict(PROFILES), agents=1, links=(), **awake)
        self.intent = Intent()
        self.link("wlan0", carrier=True, gateway=True)
        self.identified("wlan0", WifiNetwork(b"cafe", security=Security.OPEN))

    @rule()
    def at_a_cafe_without_internet(self) -> None:
        """The same."""
        self.at_a_cafe_with_somebody_to_ask()
        asking = self.decision.asking
        self.looked_behind("wlan0", Reach.NOTHING)
        assert not self.decision.asking and self.decision.held >= asking - {"wlan0"}
        if asking and self.settings.wifi.hold_while_asking and self.state.phase is not Phase.DISCONNECTING:
            assert (self.state.phase, self.state.cause) == (Phase.HELD, Cause.NO_INTERNET)
        self.agents(0)
        assert self.decision.target is Target.UNPROTECTED or not asking, "nothing is done before there is Internet"
        self.agents(1)
        self.looked_behind("wlan0", Reach.INTERNET)
        assert self.decision.asking == asking

    @rule(login=st.booleans())
    def at_a_portal(self, login: bool) -> None:
        """The same."""
        self.on_a_cable_by_choice("one")
        self.link("eth0", carrier=True, gateway=True)
        for ifname in LINKS:
            if ifname != "eth0":
                self.unplug(ifname)
        self.looked_behind("eth0", Reach.PORTAL)
        self.marked_packets_may_leave({"eth0"}, {"eth0"} if login else set())

    @rule()
    def reconnect(self) -> None:
        self.take(Reconnect())

    @rule(profile=st.sampled_from(sorted(PROFILES)))
    def on_a_cable_by_choice(self, profile: str) -> None:
        """What chance alone seldom brings: everything that an attempt needs, at once."""
        awake: Any = {"settings_broken": False, "store_broken": False, "asleep": False}
        self.facts = replace(self.facts, profiles=dict(PROFILES), **awake)
        self.link("eth0", carrier=True, gateway=True)
        self.choose(Target.PROTECTED, profile)

    # --- the tunnel ---------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.opened is not None)
    @rule()
    def up(self) -> None:
        assert self.opened is not None
        profile = self.facts.profiles.get(self.opened.profile) or PROFILES[self.opened.profile]
        self.ups.add(self.opened.attempt)
        self.take(TunnelUp(self.opened.attempt, Tunnel(TUNNEL_IFNAME, profile.addresses, profile.resolvers)))

    @precondition(lambda self: self.opened is not None)
    @rule(cause=st.sampled_from([Cause.SERVER_UNREACHABLE, Cause.TUNNEL_LOST, Cause.TUNNEL_FAILED]))
    def down(self, cause: Cause) -> None:
        assert self.opened is not None
        opened, self.opened = self.opened, None
        self.take(TunnelDown(opened.attempt, cause))

    @precondition(lambda self: self.closing is not None)
    @rule()
    def closed(self) -> None:
        assert self.closing is not None
        closing, self.closing = self.closing, None
        self.take(TunnelClosed(closing.attempt))

    @precondition(lambda self: self.retry is not None)
    @rule()
    def retry_due(self) -> None:
        assert self.retry is not None
        retry, self.retry = self.retry, None
        self.take(RetryDue(retry.attempt))

    @rule(attempt=st.integers(-1, 40), which=st.integers(0, len(EVENTS) - 1))
    def late(self, attempt: int, which: int) -> None:
        """An event about an attempt that is over, or was never made."""
        event = EVENTS[which]()
        if isinstance(event, TunnelUp | TunnelDown | TunnelClosed | RetryDue):
            if attempt == self.state.attempt:
                attempt = -2
            event = replace(event, attempt=attempt)
        self.take(event)

    @rule(cause=st.sampled_from([Cause.FIREWALL_FAILED, Cause.ROUTES_FAILED, Cause.RESOLVER_FAILED]))
    def failed(self, cause: Cause) -> None:
        self.take(Failed(cause))

    # --- what must hold -----------------------------------------------------------------------------------------------

    @invariant()
    def nothing_forbidden_leaves(self) -> None:
        if not self.enforced:
            return
        policy = firewall(self.state, self.decision)
        for packet in passing(policy):
            if why := self.forbidden(packet):
                raise AssertionError(f"{why}: {packet} passes in {self.state} by {policy}")

    @invariant()
    def no_dead_end(self) -> None:
        """Wanted protection is either there, on its way, or says what it waits for."""
        if not self.enforced:
            return
        if self.state.phase in (Phase.CONNECTING, Phase.RECONNECTING):
            assert self.opened is not None and self.opened.attempt == self.state.attempt
        if self.state.phase is Phase.DISCONNECTING:
            assert self.closing is not None and self.closing.attempt == self.state.attempt
        if self.state.phase is Phase.BLOCKED:
            assert self.state.cause is not None
        if self.state.phase is Phase.CONNECTED:
            assert self.state.tunnel is not None
            assert self.state.attempt in self.ups, "connected by the report of another attempt"

    def forbidden(self, packet: Packet) -> str:
        """Why this packet must not leave; empty when it may."""
        intent, facts = self.intent, self.facts
        broken = facts.settings_broken or facts.store_broken
        wanted = intent.target is Target.PROTECTED
        strict = intent.lockdown or broken or (wanted and intent.kill_switch)
        tunnel = packet.oifname == TUNNEL_IFNAME
        if packet.mark == ONLY_MARK and facts.only and not tunnel:
            return "the program uses nothing but the tunnel"
        if packet.mark == NEVER_MARK and facts.never and tunnel:
            return "the program never uses the tunnel"
        if self.excluded(packet):
            return ""
        dns = packet.protocol in ("udp", "tcp") and packet.destination_port in (53, 853)
        if tunnel:
            if self.state.phase is not Phase.CONNECTED and not self.to_server(packet) and not self.to_lan(packet):
                return "nothing is known to hold the tunnel link"
            return (
                "DNS in the tunnel goes to its resolvers only"
                if dns and packet.destination != RESOLVER and not self.to_server(packet)
                else ""
            )
        if self.to_login(packet) or self.to_beacon(packet):
            return ""
        if packet.oifname != "br0" and facts.asleep and not self.to_server(packet):
            return "nobody knows where the machine will wake up"
        if packet.oifname in ("wlan0", "wlan1") and not self.classified(packet.oifname) and not self.to_server(packet):
            return "the network is not classified yet"
        hold = packet.oifname in self.decision.asking and self.settings.wifi.hold_while_asking
        if hold and not self.to_server(packet):
            return "people are being asked about the network"
        if packet.oifname == "br0" and packet.destination in BRIDGE.network and not dns and not broken:
            return ""  # it stays on this machine
        if not strict:
            connected = self.state.phase is Phase.CONNECTED
            return "the tunnel is up" if connected and not self.to_server(packet) and not self.to_lan(packet) else ""
        if broken:
            return "nobody knows what is wanted"
        if self.to_server(packet) and wanted:
            return ""
        if self.to_lan(packet) and not dns:
            return ""
        return "it leaves outside the tunnel"

    def classified(self, ifname: str) -> bool:
        told = ifname in self.facts.wifi and not self.beacon_is_awaited(ifname)
        return told or ifname in self.facts.overdue

    def beacon_is_awaited(self, ifname: str) -> bool:
        found, told = self.facts.wifi.get(ifname), dict(self.facts.beacons.get(ifname, ()))
        if found is None or found.ssid != b"vault" or VAULT not in self.settings.known:
            return False
        itself = found.security in (Security.WPA2, Security.WPA2_WPA3, Security.WPA3)
        return itself and not found.malformed and not found.tkip and not told.get(BEACON)

    def to_server(self, packet: Packet) -> bool:
        """To the exact server of the tunnel that is up or being made, with our mark."""
        if packet.mark != MARK or self.state.profile is None:
            return False
        server = PROFILES[self.state.profile.name].endpoints[0]
        to = (packet.destination, packet.destination_port, packet.protocol)
        return to == (server.address, server.port, server.protocol)

    def to_beacon(self, packet: Packet) -> bool:
        """To the pinned server, with our mark, over the link whose verdict waits for it."""
        certain = not (self.facts.asleep or self.facts.settings_broken or self.facts.store_broken)
        to = (packet.destination, packet.destination_port, packet.protocol)
        there = to == (BEACON.address, BEACON.port, "tcp") and self.beacon_is_awaited(packet.oifname)
        on = any(link.ifname == packet.oifname for link in self.facts.uplinks)
        return packet.mark == MARK and there and on and certain

    def to_login(self, packet: Packet) -> bool:
        """To a captive portal, with our mark, over an uplink that was judged, while there is no tunnel."""
        facts, ifname = self.facts, packet.oifname
        on = any(link.ifname == ifname for link in facts.uplinks) and ifname in facts.probing | facts.login
        judged = self.classified(ifname) if ifname in ("wlan0", "wlan1") else True
        certain = not (facts.asleep or facts.settings_broken or facts.store_broken)
        needed = (packet.protocol, packet.destination_port) in (("udp", 53), ("tcp", 53), ("tcp", 80), ("tcp", 443))
        closed = self.state.phase not in (Phase.IDLE, Phase.CONNECTED, Phase.DISCONNECTING)
        return packet.mark == MARK and on and judged and certain and needed and closed

    def excluded(self, packet: Packet) -> bool:
        """Beside the tunnel, by a program or to a network that is excluded, over an uplink that was judged."""
        facts, ifname, intent = self.facts, packet.oifname, self.intent
        certain = not (facts.asleep or facts.settings_broken or facts.store_broken or intent.lockdown)
        judged = self.classified(ifname) if ifname in ("wlan0", "wlan1") else True
        asked = ifname in self.decision.asking and self.settings.wifi.hold_while_asking
        on = any(link.ifname == ifname for link in facts.uplinks)
        if not (certain and judged and on) or asked or self.state.phase not in GOES_ON:
            return False
        to = packet.protocol, packet.destination_port
        dns = to in (("udp", 53), ("tcp", 53))
        by_program = facts.never and packet.mark == NEVER_MARK and not dns
        names = facts.never and packet.mark == MARK and to == ("udp", 53)
        subnets = self.settings.split.subnets and packet.destination in EXCLUDED and not dns and to != ("tcp", 853)
        return by_program or names or bool(subnets)

    def to_lan(self, packet: Packet) -> bool:
        """To the local network of a network that allows it."""
        found = self.facts.wifi.get(packet.oifname)
        on = any(link.ifname == packet.oifname for link in self.facts.uplinks)
        allows = found is not None and found.ssid == b"lounge"
        known = found is not None and classify(found, self.settings).verdict is Verdict.KNOWN
        return packet.destination in (LAN4, LAN6) and on and allows and known


Machine.TestCase.settings = settings(
    max_examples=400, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestMachine = Machine.TestCase


def test_the_machine_went_everywhere() -> None:
    """The properties above say nothing about states that were never reached."""
    if not visited:
        TestMachine().runTest()
    assert set(visited) == set(Phase) | {"asking", "offline", "beacon"}
    assert all(number >= 20 for number in visited.values()), visited
