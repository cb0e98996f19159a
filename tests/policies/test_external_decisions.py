"""T2: what is done about a tunnel that somebody else brings up, and what may pass."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_interface

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.machine import START, step
from policies.decide import decide
from policies.decision import Decision, Intent, Manual
from policies.external import facts as facts_of
from policies.external_links import marked
from policies.facts import Facts, Link, LinkKind, Tunnel
from policies.firewall import MARK, FirewallPolicy, firewall
from policies.settings import Settings
from policies.states import (
    Cause,
    Changed,
    CloseTunnel,
    Enforce,
    Event,
    Failed,
    OpenTunnel,
    Phase,
    Reconnect,
    RetryDue,
    SetResolvers,
    State,
    Target,
    TunnelClosed,
    TunnelDown,
    TunnelUp,
)
from tests.policies.evaluator import Hook, Packet, passes
from tests.policies.external_texts import BY_USER, PROFILE, SERVERS, TAP, TUN, WG, link

UPLINK = Link(
    3, "eth0", LinkKind.WIRED, True, True, 1, b"", (ip_interface("192.0.2.9/24"),), (ip_address("192.0.2.254"),)
)
PROTECTED = Intent(Target.PROTECTED, manual=Manual(Target.PROTECTED, "/"), profile="office")


def world(*links: Link, **other: object) -> Facts:
    profiles = {each.name: facts_of(each) for each in (PROFILE, BY_USER)}
    return replace(Facts(marked(links, profiles.values()), profiles=profiles), **other)  # type: ignore[arg-type]


def wanted(facts: Facts, intent: Intent = PROTECTED) -> Decision:
    return decide(facts, Settings(), intent)


AWAY, UP = wanted(world(UPLINK)), wanted(world(UPLINK, WG))
BLOCKED = State(Phase.BLOCKED, Cause.EXTERNAL_AWAY)
GUARDED = State(Phase.CONNECTED, profile=UP.profile, attempt=1, tunnel=UP.external, network=UP.network)
OWN = State(
    Phase.CONNECTED, profile=replace(facts_of(PROFILE), external=None), attempt=1, tunnel=Tunnel("tunwarden0", ())
)
MOVED = wanted(world(UPLINK, replace(WG, addresses=(ip_interface("10.2.0.3/24"),))))
IDLE = wanted(world(UPLINK, WG), replace(PROTECTED, target=Target.UNPROTECTED, manual=Manual(Target.UNPROTECTED, "/")))
NO_WAY = wanted(world(replace(UPLINK, gateways=()), WG))
STEPS: dict[str, tuple[State, Event, Decision, Phase, Cause | None, list[type]]] = {
    "a start without it": (START, Changed(), AWAY, Phase.BLOCKED, Cause.EXTERNAL_AWAY, [Enforce, CloseTunnel]),
    "a start with it": (START, Changed(), UP, Phase.CONNECTED, None, [SetResolvers, Enforce, CloseTunnel]),
    "it comes": (BLOCKED, Changed(), UP, Phase.CONNECTED, None, [SetResolvers, Enforce]),
    "it stays": (GUARDED, Changed(), UP, Phase.CONNECTED, None, [Enforce]),
    "it has other addresses": (GUARDED, Changed(), MOVED, Phase.CONNECTED, None, [SetResolvers, Enforce]),
    "it goes": (GUARDED, Changed(), AWAY, Phase.BLOCKED, Cause.EXTERNAL_AWAY, [Enforce, CloseTunnel]),
    "its link has vanished": (
        GUARDED, TunnelDown(1, Cause.TUNNEL_LOST), AWAY, Phase.BLOCKED, Cause.EXTERNAL_AWAY, [Enforce, CloseTunnel],
    ),
    "an address has": (
        GUARDED, TunnelDown(1, Cause.TUNNEL_LOST), MOVED, Phase.CONNECTED, None, [SetResolvers, Enforce],
    ),
    "no way to the server is seen": (GUARDED, Changed(), NO_WAY, Phase.CONNECTED, None, [Enforce]),
    "a fresh one is asked for": (GUARDED, Reconnect(), UP, Phase.CONNECTED, None, [Enforce]),
    "people disconnect": (GUARDED, Changed(), IDLE, Phase.DISCONNECTING, None, [Enforce, CloseTunnel]),
    "after one of ours": (OWN, Changed(), UP, Phase.CONNECTED, None, [SetResolvers, Enforce, CloseTunnel]),
    "after one of ours, not there": (OWN, Changed(), AWAY, Phase.DISCONNECTING, None, [Enforce, CloseTunnel]),
    "a refused firewall, too early": (
        State(Phase.BLOCKED, Cause.FIREWALL_FAILED, attempt=1, profile=UP.profile, network=UP.network),
        Changed(), UP, Phase.BLOCKED, Cause.FIREWALL_FAILED, [Enforce],
    ),
    "a refused firewall, again": (
        State(Phase.BLOCKED, Cause.FIREWALL_FAILED, attempt=1, profile=UP.profile, network=UP.network),
        RetryDue(1), UP, Phase.CONNECTED, None, [SetResolvers, Enforce],
    ),
}  # fmt: skip


@pytest.mark.parametrize("state, event, decision, phase, cause, actions", STEPS.values(), ids=STEPS.keys())
def test_steps(
    state: State, event: Event, decision: Decision, phase: Phase, cause: Cause | None, actions: list[type]
) -> None:
    """Nothing is ever opened; the rest follows the link."""
    after, done = step(state, event, decision)
    assert (after.phase, after.cause, [type(each) for each in done]) == (phase, cause, actions)


def test_it_may_be_used_while_nothing_is_guarded_and_is_no_uplink() -> None:
    assert IDLE.usable == {"eth0", "wg-office"} and [each.ifname for each in IDLE.judgements] == ["eth0"]
    strange = wanted(world(UPLINK, replace(WG, tunnel="")), replace(PROTECTED, profile=None))
    assert {each.ifname for each in strange.judgements} == {"eth0", "wg-office"}, "the control: one that nobody names"


def out(policy: FirewallPolicy, **packet: object) -> bool:
    sent = Packet(Hook.OUT, ip_address("192.0.2.9"), SERVERS[0].address, "udp", 40000, SERVERS[0].port, oifname="eth0")
    return passes(policy, replace(sent, **packet))  # type: ignore[arg-type]


@pytest.mark.parametrize(("state", "decision"), [(BLOCKED, AWAY), (GUARDED, UP)], ids=["away", "up"])
def test_who_may_reach_its_server(state: State, decision: Decision) -> None:
    policy = firewall(state, decision)
    assert out(policy, mark=0xCA6C), "the control"
    assert not out(policy) and not out(policy, mark=MARK) and not out(policy, mark=0xCA6C, destination_port=51821)
    assert not out(policy, mark=0xCA6C, oifname="wlan9"), "no uplink"
    assert not out(policy, mark=0xCA6C, destination=ip_address("192.0.2.2"))
    assert not out(policy, mark=0xCA6C, protocol="tcp")
    assert out(policy, oifname="wg-office", destination=ip_address("198.51.100.1")) is (state is GUARDED)


def test_the_hole_is_closed_where_everything_is() -> None:
    for closed in (
        replace(AWAY, closed=Cause.STORE_BROKEN),
        wanted(world(UPLINK, asleep=True)),
        wanted(world(UPLINK, settings_broken=True)),
    ):
        after, _ = step(BLOCKED, Changed(), closed)
        assert not firewall(after, closed).servers, after


LINKS = st.lists(
    st.sampled_from([
        UPLINK, replace(UPLINK, gateways=()), WG, replace(WG, carrier=False), replace(WG, addresses=()), TUN, TAP,
        replace(WG, tunnel="tun"), link("wg-office", "", kind=LinkKind.WIRED),
    ]),
    unique_by=lambda each: each.ifname, max_size=4,
)  # fmt: skip
WORLDS = st.builds(
    lambda links, closed, asleep: world(*links, settings_broken=closed, asleep=asleep),
    LINKS, st.sampled_from([False] * 4 + [True]), st.sampled_from([False] * 4 + [True]),
)  # fmt: skip
INTENTS = st.builds(
    lambda target, profile, lock: Intent(target, Manual(target, "/"), lockdown=lock, profile=profile),
    st.sampled_from(list(Target)), st.sampled_from(["office", "user", "gone"]), st.booleans(),
)  # fmt: skip
EVENTS = st.sampled_from(
    [Changed(), Reconnect(), TunnelDown(1, Cause.TUNNEL_LOST), TunnelUp(1, Tunnel("tunwarden0", ())), TunnelClosed(1),
     RetryDue(1), Failed(Cause.FIREWALL_FAILED)]
)  # fmt: skip


@given(st.lists(st.tuples(WORLDS, INTENTS, EVENTS), max_size=12))
def test_whatever_happens(story: list[tuple[Facts, Intent, Event]]) -> None:
    """Never opened, never connected without its link; protected, nothing but its own packets leaves by an uplink."""
    state = START
    for facts, intent, event in story:
        decision = wanted(facts, intent)
        state, actions = step(state, event, decision)
        assert not any(isinstance(each, OpenTunnel) for each in actions)
        assert (state.phase is Phase.CONNECTED) == (state.tunnel is not None)
        policy = firewall(state, decision)
        if state.phase is Phase.IDLE:
            assert decision.target is Target.UNPROTECTED
            continue
        engine = policy.engine
        for uplink in ("eth0", "tap0"):
            assert not out(policy, oifname=uplink), state
            assert not out(policy, oifname=uplink, mark=MARK), state
            assert not out(policy, oifname=uplink, mark=0xCA6C, destination=ip_address("203.0.113.1")), state
            if out(policy, oifname=uplink, mark=0xCA6C):
                assert engine and engine.fwmark == 0xCA6C and decision.closed is None
            if out(policy, oifname=uplink, uid=977):
                assert engine and engine.uid == 977 and decision.closed is None
