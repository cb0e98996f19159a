"""T8: which networks are reached beside the tunnel, what may leave beside it in which state, and what is kept of it."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

import pytest

from policies.decide import decide
from policies.decision import Intent
from policies.facts import Endpoint, Facts, Link, LinkKind, ProfileFacts, Tunnel
from policies.firewall import FirewallPolicy, excluded, firewall
from policies.settings import Settings, parse_settings
from policies.settings_tables import WifiAction
from policies.split import Group, Program, apart, from_json, is_path, to_json
from policies.states import Cause, Phase, State, Target
from tests.policies.evaluator import Hook, Packet, passes

ETH = Link(2, "eth0", LinkKind.WIRED, up=True, carrier=True, gateways=(ip_address("192.0.2.1"),))
WLAN = Link(3, "wlan0", LinkKind.WIFI, up=True, carrier=True)
TUNNEL = Tunnel("tunwarden0", (ip_interface("10.66.0.2/32"),), (ip_address("10.66.0.1"),))
PROFILE = ProfileFacts(
    "office", (Endpoint(ip_address("198.51.100.7"), 51820),), TUNNEL.addresses, (ip_address("10.99.0.1"),)
)
SUBNETS = '["203.0.113.0/24", "10.66.0.0/16", "10.99.0.0/16"]'
SETTINGS = parse_settings(f'[wired]\naction = "auto_connect"\n[split]\nsubnets = {SUBNETS}\n')
WANTED = Intent(Target.PROTECTED)
FACTS = Facts(links=(ETH,), profiles={"office": PROFILE}, never=True, never_dns=30054, only=True)
GOES_ON = (Phase.CONNECTING, Phase.CONNECTED, Phase.RECONNECTING, Phase.BLOCKED, Phase.DISCONNECTING)


def policy(
    phase: Phase, facts: Facts = FACTS, intent: Intent = WANTED, settings: Settings = SETTINGS
) -> FirewallPolicy:
    tunnel = TUNNEL if phase is Phase.CONNECTED else None
    cause = Cause.SERVER_UNREACHABLE if phase is Phase.BLOCKED else None
    return firewall(State(phase, cause, PROFILE, tunnel=tunnel), decide(facts, settings, intent))


@pytest.mark.parametrize("phase", Phase)
def test_what_is_excluded_goes_on_from_before_the_tunnel_until_after_it(phase: Phase) -> None:
    found = policy(phase)
    assert found.beside == found.subnet_links == ({"eth0"} if phase in GOES_ON else frozenset())
    assert found.beside_dns == (30054 if phase in GOES_ON else 0)
    assert found.never and found.only, "in every state"
    assert not (found.tree and found.beside), "the routing layer lets one of these marks pass at a time"


STRICT: dict[str, tuple[dict[str, Any], Intent]] = {
    "lockdown": ({}, replace(WANTED, lockdown=True)),
    "broken settings": ({"settings_broken": True}, WANTED),
    "a damaged store": ({"store_broken": True}, WANTED),
    "asleep": ({"asleep": True}, WANTED),
}


@pytest.mark.parametrize("name", STRICT)
@pytest.mark.parametrize("phase", Phase)
def test_nothing_is_excluded(name: str, phase: Phase) -> None:
    facts, intent = STRICT[name]
    found = policy(phase, replace(FACTS, **facts), intent)
    assert found.beside == found.subnet_links == frozenset()
    assert found.never and found.only, "programs bound to the tunnel stay so"


def test_a_network_that_is_not_judged_is_not_left_by() -> None:
    both = replace(FACTS, links=(ETH, WLAN))
    assert policy(Phase.CONNECTED, both).beside == {"eth0"}
    asking = SETTINGS.model_copy(update={"wired": WifiAction.PROMPT})
    asked = decide(replace(FACTS, agents=1), asking, Intent())
    assert asked.held == {"eth0"} and asked.beside == frozenset()


def test_without_a_group_nothing_is_opened_for_it() -> None:
    found = policy(Phase.CONNECTED, replace(FACTS, never=False, only=False))
    assert (found.beside, found.beside_dns, found.never, found.only) == (frozenset(), 0, False, False)
    assert found.subnet_links == {"eth0"}, "which is the administrator's and of no group"


def test_what_belongs_to_the_tunnel_is_never_beside_it() -> None:
    decision = decide(FACTS, SETTINGS, WANTED)
    state = State(Phase.CONNECTED, profile=PROFILE, tunnel=TUNNEL)
    assert excluded(state, decision) == (
        (ip_network("203.0.113.0/24"),),
        (ip_network("10.66.0.0/16"), ip_network("10.99.0.0/16")),
    )
    assert policy(Phase.CONNECTED).subnets == policy(Phase.BLOCKED).subnets == (ip_network("203.0.113.0/24"),)


@pytest.mark.parametrize(
    ("subnet", "within"),
    [
        ("10.66.0.0/16", True),
        ("10.66.0.1/32", True),
        ("10.67.0.0/16", False),
        ("fd66::/32", True),
        ("fd67::/32", False),
    ],
)
def test_apart(subnet: str, within: bool) -> None:
    network = ip_network(subnet)
    found = apart([network], [ip_interface("fd66::2/64")], [ip_address("10.66.0.1")])
    assert found == (((), (network,)) if within else ((network,), ()))


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("mark", ["never", "only"])
def test_either_group_by_the_second_reading_of_the_specification(phase: Phase, mark: str) -> None:
    """The marks as numbers: what a program in a group may do is the product's promise, not a constant's name."""
    number = {"never": 0x74756E75, "only": 0x74756E74}[mark]
    found = policy(phase)

    def leaves(link: str, to: str = "8.8.8.8", port: int = 443, protocol: str = "tcp") -> bool:
        packet = Packet(Hook.OUT, ip_address("192.0.2.9"), ip_address(to), protocol, 40000, port, "", link, number)
        return passes(found, packet)

    outside = phase in GOES_ON or phase is Phase.IDLE
    assert leaves("eth0") is (outside and mark == "never")
    assert leaves("eth0", port=53) is (phase is Phase.IDLE and mark == "never")
    assert leaves("tunwarden0") is (phase is Phase.CONNECTED and mark == "only")
    assert leaves("lo", "127.0.0.1")
    assert leaves("lo", "127.0.0.53", 53, "udp") is (phase is (Phase.IDLE if mark == "never" else Phase.CONNECTED))


@pytest.mark.parametrize("path", ["/usr/bin/env", "/opt/a b/c", "/é"])
def test_paths(path: str) -> None:
    assert is_path(path)


@pytest.mark.parametrize(
    "path",
    ["", "/", "//", "env", "./env", "/usr//bin", "/usr/../bin", "/usr/./bin", "/usr/", "/a\nb", "/" + "a" * 4096],
)
def test_what_is_no_path(path: str) -> None:
    assert not is_path(path)


def test_programs_are_kept() -> None:
    programs = frozenset({Program("/usr/bin/env", 1000, Group.NEVER), Program("/usr/bin/env", 0, Group.ONLY)})
    assert from_json(to_json(programs)) == programs
    for wrong in ("", "[]", '{"version": 2}', '{"version": 1, "programs": [["env", 0, "never"]]}',
                  '{"version": 1, "programs": [["/env", -1, "never"]]}', '{"version": 1, "programs": [["/env"]]}',
                  '{"version": 1, "programs": [["/env", 0, "x"]]}'):  # fmt: skip
        with pytest.raises((ValueError, TypeError)):
            from_json(wrong)
