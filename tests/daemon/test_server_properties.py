"""The machine of test_machine_properties, with a profile that has a list: only the server that is tried may be reached.

While the fastest is looked for: those that are being asked, where protection is wanted, and nowhere else (K1, K3, T4).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from ipaddress import ip_interface
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from policies.decision import Manual
from policies.facts import Endpoint, Picked, ProfileFacts, Reach, Tunnel
from policies.firewall import MARK, TUNNEL_IFNAME
from policies.states import Cause, Changed, Phase, Target, TunnelUp
from tests.daemon.test_machine_properties import PROFILES, RESOLVER, SERVERS, Machine
from tests.policies.evaluator import Packet

LISTED = tuple(SERVERS.values())
MANY = ProfileFacts("many", LISTED[:1], (ip_interface("203.0.113.77/32"),), (RESOLVER,), listed=True)
CHOICES = ("", "fastest", "a")
seen: Counter[str] = Counter()

some = st.lists(st.sampled_from(LISTED), unique=True).map(tuple)


class Servers(Machine):
    @rule(choice=st.sampled_from(CHOICES), wanted=st.sampled_from([Target.PROTECTED] * 3 + [Target.UNPROTECTED]))
    def choose_a_server(self, choice: str, wanted: Target) -> None:
        self.facts = replace(self.facts, profiles={**PROFILES, "many": MANY})
        manual = Manual(wanted, self.decision.here)
        servers = (("many", choice),) if choice else ()
        self.intent = replace(self.intent, target=wanted, manual=manual, profile="many", servers=servers)
        self.link("eth0", carrier=True, gateway=True)

    @rule(
        choice=st.sampled_from(CHOICES), profile=st.sampled_from(["many"] * 4 + ["one"]), endpoints=some,
        unmeasured=st.booleans(), probing=some,
    )  # fmt: skip
    def picked(
        self,
        choice: str,
        profile: str,
        endpoints: tuple[Endpoint, ...],
        unmeasured: bool,
        probing: tuple[Endpoint, ...],
    ) -> None:
        """Whatever was picked and is being asked, also for another choice, and also servers of another list."""
        names = tuple(str(each.address) for each in endpoints)
        found = Picked(profile, choice, endpoints, names, unmeasured=unmeasured, probing=probing)
        self.facts = replace(self.facts, picked=found)
        self.take(Changed())

    @rule(probing=some)
    def asking_for_the_fastest(self, probing: tuple[Endpoint, ...]) -> None:
        """What chance alone seldom brings."""
        awake: Any = {"settings_broken": False, "store_broken": False, "asleep": False}
        self.facts = replace(self.facts, **awake)
        self.choose_a_server("fastest", Target.PROTECTED)
        self.looked_behind("eth0", Reach.INTERNET)
        self.picked("fastest", "many", LISTED, True, probing)

    @rule(choice=st.sampled_from(CHOICES), endpoints=some, probing=some)
    def trying_some(self, choice: str, endpoints: tuple[Endpoint, ...], probing: tuple[Endpoint, ...]) -> None:
        """The same: with servers that have been chosen."""
        self.asking_for_the_fastest(probing)
        self.choose_a_server(choice, Target.PROTECTED)
        self.picked(choice, "many", endpoints, False, probing)
        if self.closing is not None:
            self.closed()
        if self.opened is not None:
            self.one_server_at_a_time()
            self.up()
            self.one_server_at_a_time()
            self.nothing_forbidden_leaves()
            self.picked(choice, "many", endpoints[::-1], False, probing)
            self.one_server_at_a_time()

    @precondition(lambda self: self.opened is not None)
    @rule()
    def up(self) -> None:
        assert self.opened is not None
        profile = self.facts.profiles.get(self.opened.profile) or {**PROFILES, "many": MANY}[self.opened.profile]
        self.ups.add(self.opened.attempt)
        self.take(TunnelUp(self.opened.attempt, Tunnel(TUNNEL_IFNAME, profile.addresses, profile.resolvers)))

    def to_server(self, packet: Packet) -> bool:
        to = Endpoint(packet.destination, packet.destination_port, packet.protocol)
        if packet.mark != MARK:
            return False
        picked = self.facts.picked
        if self.state.phase is Phase.BLOCKED:
            certain = not (self.facts.asleep or self.facts.settings_broken or self.facts.store_broken)
            asked = picked is not None and picked.unmeasured and picked.profile == "many" and to in picked.probing
            return (
                asked and certain and picked is not None and picked.choice == dict(self.intent.servers).get("many", "")
            )
        if self.state.profile is None or self.state.profile.name != "many":
            return super().to_server(packet)
        # Of a list, what the attempt was opened with: that one and no other.
        return self.opened is not None and self.opened.attempt == self.state.attempt and self.opened.servers == (to,)

    @invariant()
    def one_server_at_a_time(self) -> None:
        if self.state.profile is not None and self.state.profile.name == "many":
            seen[self.state.phase] += 1
        if self.state.cause in (Cause.CHOOSING_SERVER, Cause.NO_SERVER):
            seen[self.state.cause] += 1
        if self.opened is not None and self.opened.profile == "many":
            assert len(self.opened.servers) == 1, self.opened


Servers.TestCase.settings = settings(
    max_examples=200, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestServers = Servers.TestCase


def test_the_machine_went_everywhere() -> None:
    """The properties above say nothing about states that were never reached."""
    if not seen:
        TestServers().runTest()
    assert {
        Cause.CHOOSING_SERVER,
        Cause.NO_SERVER,
        Phase.CONNECTING,
        Phase.CONNECTED,
        Phase.RECONNECTING,
    } <= seen.keys(), seen
    assert all(number >= 10 for number in seen.values()), seen
