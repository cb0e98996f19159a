"""What frames amount to: attacks as tools do them, and what honest networks do that looks alike."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from policies.facts import Evidence
from policies.hostile import Finding, Question, Watch
from tests.policies.test_frames import GATEWAY, RESOLVER, advertisement, arp, dhcp, packed, route

logging.getLogger("scapy.runtime").setLevel(logging.ERROR)
from scapy.layers.inet6 import ICMPv6NDOptPrefixInfo, ICMPv6NDOptRDNSS, ICMPv6NDOptRouteInfo  # noqa: E402

ROUTER, BACKUP, ATTACKER = "00:11:22:00:00:01", "00:11:22:00:00:02", "66:00:00:00:00:66"
VRRP, GLBP_1, GLBP_2 = "00:00:5e:00:01:07", "00:07:b4:00:01:01", "00:07:b4:00:01:02"
Timed = tuple[float, bytes]  # seconds, frame


class Answering:
    """A link whose devices answer the questions that are asked: who has the gateway's address."""

    def __init__(self, *present: str) -> None:
        self.present = list(present)
        self.questions = 0

    def play(self, *events: tuple[float, bytes | list[str]]) -> set[Evidence]:
        """Frames, and changes of who is present, in the order of their times; answers come 10 ms after a question."""
        watch = Watch()
        found: set[Evidence] = set()
        queue: list[tuple[float, bytes | list[str] | None]] = sorted(events, key=lambda event: event[0])
        while queue:
            now, what = queue.pop(0)
            if isinstance(what, list):
                self.present = what
                continue
            frames = [what] if what is not None else [arp(at=each) for each in self.present]
            for frame in frames:
                for said in watch.seen(frame, now):
                    if isinstance(said, Question):
                        assert said.address == packed(GATEWAY)
                        self.questions += 1
                        queue += [(now + 0.01, None), (now + 3.51, None)]
                        queue.sort(key=lambda event: event[0])
                    elif isinstance(said, Finding):
                        assert said.evidence not in found, "told twice"
                        found.add(said.evidence)
        return found


def watched(*frames: Timed) -> set[Evidence]:
    watch = Watch()
    return {
        said.evidence
        for now, frame in sorted(frames, key=lambda each: each[0])
        for said in watch.seen(frame, now)
        if isinstance(said, Finding)
    }


def every(seconds: float, frame: bytes, until: float = 60.0, begin: float = 5.0) -> Iterator[Timed]:
    now = begin
    while now < until:
        yield now, frame
        now += seconds


# --- the gateway's address --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [0.2, 1.0, 2.0, 10.0], ids=lambda seconds: f"every {seconds} s")
@pytest.mark.parametrize("answers", [True, False], ids=["answers too", "only says it"])
def test_arp_spoofing(seconds: float, answers: bool) -> None:
    """arpspoof says it every 2 s, bettercap every second, ettercap every 10."""
    link = Answering(ROUTER, *([ATTACKER] if answers else []))
    spoofed = every(seconds, arp(at=ATTACKER))
    assert link.play((0.0, arp(at=ROUTER)), *spoofed) == {Evidence.GATEWAY_MOVED}


def test_an_attacker_who_was_there_first() -> None:
    link = Answering(ROUTER, ATTACKER)
    assert link.play((0.0, arp(at=ATTACKER)), (30.0, arp(at=ROUTER, op=1))) == {Evidence.GATEWAY_MOVED}


def test_both_answer_when_the_network_is_joined() -> None:
    assert Answering(ROUTER, ATTACKER).play((0.0, arp(at=ROUTER)), (0.1, arp(at=ATTACKER))) == {Evidence.GATEWAY_MOVED}


def test_one_router_is_asked_nothing() -> None:
    link = Answering(ROUTER)
    assert link.play(*every(1.0, arp(at=ROUTER)), *every(7.0, arp(at=ROUTER, op=1))) == set()
    assert link.questions == 0


def test_a_pair_with_addresses_of_its_own_fails_over_and_back() -> None:
    """keepalived without virtual hardware addresses: five gratuitous ARPs, and five more after 5 s."""
    link = Answering(ROUTER)

    def takes_over(who: str, at: float) -> list[tuple[float, bytes | list[str]]]:
        return [(at, [who]), *[(at + 0.001 * n, arp(at=who, op=1)) for n in range(5)], (at + 5.0, arp(at=who, op=1))]

    assert (
        link.play((0.0, arp(at=ROUTER)), (19.0, arp(at=ROUTER)), *takes_over(BACKUP, 20.0), *takes_over(ROUTER, 50.0))
        == set()
    )
    assert link.questions


def test_the_old_router_answers_once_more_in_the_moment_of_the_fail_over() -> None:
    link = Answering(ROUTER, BACKUP)
    assert link.play((0.0, arp(at=ROUTER)), (20.0, arp(at=BACKUP)), (20.5, [BACKUP])) == set()


@pytest.mark.parametrize("virtual", [VRRP, "00:00:0c:07:ac:01", "00:00:0c:9f:f0:01"], ids=["vrrp", "hsrp", "hsrp2"])
def test_a_pair_with_a_virtual_address_fails_over_unnoticed(virtual: str) -> None:
    """The frame comes from another router; who is claimed stays the same (VRRP, CARP, HSRP)."""
    link = Answering(virtual)
    assert link.play((0.0, arp(at=virtual)), *every(5.0, arp(at=virtual, op=1))) == set()
    assert link.questions == 0


def test_routers_that_answer_by_turns() -> None:
    """GLBP: one address, a hardware address for each router, another one in each answer."""
    turns = [(n * 0.5, arp(at=(GLBP_1, GLBP_2)[n % 2])) for n in range(60)]
    assert Answering(GLBP_1).play(*turns) == set()
    assert Answering(GLBP_1, ATTACKER).play(*turns, *every(2.0, arp(at=ATTACKER))) == {Evidence.GATEWAY_MOVED}


def test_a_gateway_that_was_replaced() -> None:
    link = Answering(ROUTER)
    assert link.play((0.0, arp(at=ROUTER)), (3600.0, [BACKUP]), (3601.0, arp(at=BACKUP))) == set()


def test_two_gateways_are_two() -> None:
    """A link with two default routes: each has its own address."""
    assert watched(*every(1.0, arp(at=ROUTER)), *every(1.0, arp("192.168.7.2", at=BACKUP))) == set()


def test_questions_are_rare() -> None:
    """However often an attacker calls."""
    watch = Watch()
    asked = 0
    for number in range(10000):
        asked += sum(
            isinstance(said, Question) for said in watch.seen(arp(at=(ROUTER, ATTACKER)[number % 2]), number / 1000)
        )
    assert asked <= 2


# --- DHCP -------------------------------------------------------------------------------------------------------------

WAY = ("router", GATEWAY), ("name_server", RESOLVER)


def test_a_second_dhcp_server() -> None:
    rogue = dhcp(("router", "192.168.7.66"), ("name_server", "192.168.7.66"), at=ATTACKER, server="192.168.7.66")
    assert watched((0, dhcp(*WAY, at=ROUTER)), (0.1, rogue)) == {Evidence.SECOND_DHCP_SERVER}
    assert watched((0, rogue), (0.1, dhcp(*WAY, at=ROUTER, kind="ack"))) == {Evidence.SECOND_DHCP_SERVER}


def test_a_second_server_under_the_first_ones_name() -> None:
    rogue = dhcp(("router", GATEWAY), ("name_server", "192.168.7.66"), at=ATTACKER)
    assert watched((0, dhcp(*WAY, at=ROUTER)), (0.1, rogue)) == {Evidence.SECOND_DHCP_SERVER}


def test_a_fail_over_pair() -> None:
    """Two servers with one configuration: both offer, one grants, the other takes over."""
    resolvers = ("name_server", RESOLVER, "192.168.7.54")
    turned = ("name_server", "192.168.7.54", RESOLVER)
    router = ("router", GATEWAY)
    assert watched(
        (0, dhcp(router, resolvers, at=ROUTER)), (0.1, dhcp(router, turned, at=BACKUP, server="192.168.7.2")),
        (0.2, dhcp(router, resolvers, at=ROUTER, kind="ack")),
        (1800, dhcp(router, turned, at=BACKUP, server="192.168.7.2", kind="ack")),
    ) == set()  # fmt: skip


def test_two_servers_behind_one_relay() -> None:
    """Even where they disagree: the relay is the router, and was asked to."""
    other = dhcp(("router", GATEWAY), ("name_server", "10.9.9.9"), at=ROUTER, server="10.0.0.2")
    assert watched((0, dhcp(*WAY, at=ROUTER, server="10.0.0.1")), (0.1, other)) == set()


def test_clients_that_ask_for_less() -> None:
    """A printer is not told what it did not ask for; the answers are broadcast."""
    assert watched((0, dhcp(*WAY, at=ROUTER)), (9, dhcp(at=BACKUP, server="192.168.7.2", kind="ack"))) == set()


def test_a_server_that_changes_its_mind() -> None:
    assert watched((0, dhcp(*WAY, at=ROUTER)), (99, dhcp(("router", "192.168.7.2"), at=ROUTER, kind="ack"))) == set()


@pytest.mark.parametrize("code", [121, 249])
@pytest.mark.parametrize(
    "pushed",
    ["0.0.0.0/1 192.168.7.1", "128.0.0.0/1 192.168.7.1", "198.51.100.7/32 192.168.7.1", "0.0.0.0/0 192.168.7.66",
     "8.0.0.0/7 192.168.7.1", "172.0.0.0/8 192.168.7.1", "192.0.0.0/8 0.0.0.0"],
)  # fmt: skip
def test_routes_by_dhcp(code: int, pushed: str) -> None:
    """TunnelVision (CVE-2024-3661), and a way that the option for routers does not name."""
    assert watched((0, dhcp(*WAY, (code, route(pushed)), at=ROUTER))) == {Evidence.DHCP_ROUTES}
    honest = route("10.0.0.0/8 192.168.7.1") + route("0.0.0.0/0 192.168.7.1")
    assert watched((0, dhcp(*WAY, (code, honest + route(pushed)), at=ROUTER))) == {Evidence.DHCP_ROUTES}


def test_static_routes_of_1997() -> None:
    assert watched((0, dhcp(*WAY, (33, packed("198.51.100.7") + packed(GATEWAY))))) == {Evidence.DHCP_ROUTES}
    assert watched((0, dhcp(*WAY, (33, packed("10.3.0.0") + packed(GATEWAY))))) == set()


@pytest.mark.parametrize(
    "pushed",
    ["0.0.0.0/0 192.168.7.1", "10.0.0.0/8 192.168.7.2", "172.16.0.0/12 192.168.7.2", "192.168.0.0/16 192.168.7.1",
     "169.254.169.254/32 192.168.7.2", "100.64.0.0/10 192.168.7.1", "239.0.0.0/8 0.0.0.0"],
)  # fmt: skip
def test_routes_of_organisations(pushed: str) -> None:
    """The default route belongs into the option (RFC 3442); private networks are the organisation's own."""
    assert watched((0, dhcp(*WAY, (121, route(pushed)), at=ROUTER))) == set()
    assert watched((0, dhcp((121, route(pushed)), at=ROUTER))) == set()


# --- router advertisements --------------------------------------------------------------------------------------------


def prefix(text: str = "2001:db8:7::") -> ICMPv6NDOptPrefixInfo:
    return ICMPv6NDOptPrefixInfo(prefix=text, prefixlen=64)


HONEST = advertisement(prefix(), at=ROUTER)


@pytest.mark.parametrize(
    "rogue",
    [
        advertisement(prefix("2001:db8:66::"), at=ATTACKER, router="fe80::66"),
        advertisement(prefix(), at=ATTACKER, router="fe80::66", preference=1),
        advertisement(ICMPv6NDOptRDNSS(dns=["fe80::66"]), at=ATTACKER, router="fe80::66", lifetime=0),
        advertisement(ICMPv6NDOptRouteInfo(prefix="2000::", plen=3), at=ATTACKER, router="fe80::66", lifetime=0),
        advertisement(ICMPv6NDOptRouteInfo(prefix="::", plen=0), at=ATTACKER, router="fe80::66", lifetime=0),
        advertisement(at=ATTACKER, lifetime=0),
    ],
    ids=["its own network", "louder", "resolver only", "half the internet", "everything", "the other one withdrawn"],
)
def test_a_rogue_router(rogue: bytes) -> None:
    assert watched((0, HONEST), (1, rogue)) == {Evidence.ROGUE_ROUTER}


def test_the_routers_address_by_turns() -> None:
    spoofed = advertisement(prefix(), at=ATTACKER)
    frames = [(n * 1.0, (HONEST, spoofed)[n % 2]) for n in range(6)]
    assert watched(*frames) == {Evidence.ROGUE_ROUTER}


@pytest.mark.parametrize(
    "other",
    [
        advertisement(prefix(), at=BACKUP, router="fe80::2"),
        advertisement(prefix(), at=BACKUP, router="fe80::2", preference=3),
        advertisement(at=BACKUP, router="fe80::2"),
        advertisement(prefix("2001:db8:8::"), at=ROUTER, router="fe80::9"),
        advertisement(prefix("2001:db8:8::"), at=ROUTER),
        advertisement(ICMPv6NDOptRouteInfo(prefix="fd12:3456::", plen=64), at=BACKUP, router="fe80::2", lifetime=0),
        advertisement(prefix("fd12:3456::"), at=BACKUP, router="fe80::2", lifetime=0),
        advertisement(at=ROUTER, lifetime=0),
    ],
    ids=["an equal", "a backup", "without a network", "another address of the same", "renumbered",
         "a border router of things", "an address only", "it says goodbye"],
)  # fmt: skip
def test_routers_that_belong_together(other: bytes) -> None:
    assert watched((0, HONEST), (1, other), (2, HONEST), (3, other)) == set()


def test_a_router_pair_that_shares_its_address() -> None:
    """VRRP for IPv6 without virtual hardware addresses; the one that steps back says so."""
    backup = advertisement(prefix(), at=BACKUP)
    steps_back = advertisement(prefix(), at=BACKUP, lifetime=0)
    assert watched((0, HONEST), (60, backup), (660, backup), (700, HONEST), (700.1, steps_back), (701, HONEST)) == set()


def test_a_router_that_was_replaced() -> None:
    """The old one's time is over before the new one comes."""
    assert watched((0, HONEST), (1801, advertisement(prefix("2001:db8:9::"), at=BACKUP, router="fe80::2"))) == set()
    goodbye = advertisement(at=ROUTER, lifetime=0)
    new = advertisement(prefix("2001:db8:9::"), at=BACKUP, router="fe80::2")
    assert watched((0, HONEST), (10, goodbye), (11, new)) == set()


# --- a mesh -----------------------------------------------------------------------------------------------------------


def test_a_day_in_a_mesh() -> None:
    """Nodes relay the same router's frames; a satellite has a resolver and an access point of its own, and no more."""
    satellite = "00:11:22:00:00:09"
    frames = [
        (0.0, dhcp(*WAY, at=ROUTER)), (0.1, dhcp(*WAY, at=ROUTER, kind="ack")), (0.2, arp(at=ROUTER)),
        *every(30.0, arp(at=ROUTER, op=1), 3600), *every(200.0, HONEST, 3600),
        *every(40.0, arp("192.168.7.2", at=satellite, op=1), 3600),
        (1800.0, dhcp(*WAY, at=ROUTER, kind="ack")),
    ]  # fmt: skip
    assert watched(*frames) == set()
