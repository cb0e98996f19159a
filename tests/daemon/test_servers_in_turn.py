"""T4: a profile whose servers are tried one at a time: whose turn it is, and that nobody else may be reached."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_interface

import pytest

from daemon.machine import step
from policies.facts import Endpoint, ProfileFacts, Tunnel
from policies.firewall import TUNNEL_IFNAME, firewall
from policies.profiles import facts as profile_facts
from policies.states import (
    Cause,
    Changed,
    Event,
    OpenTunnel,
    Phase,
    Reconnect,
    RetryDue,
    State,
    TunnelDown,
    TunnelUp,
)
from tests.daemon.profiles_for_tests import OFFICE
from tests.daemon.test_machine import decision

FIRST, SIXTH, LAST = (
    Endpoint(ip_address(address), 1194, "udp") for address in ("192.0.2.11", "2001:db8::11", "192.0.2.13")
)
PROFILE = ProfileFacts("office", (FIRST, SIXTH, LAST), (), (), one_at_a_time=True)
WANTED = replace(decision(profile=PROFILE), leads_to=frozenset({FIRST, LAST}))  # the network has no IPv6
GIVEN = Tunnel(TUNNEL_IFNAME, (ip_interface("10.8.0.2/24"),), (ip_address("10.8.0.1"),))


def after(state: State, *events: Event) -> State:
    for event in events:
        state, actions = step(state, event, WANTED)
        for action in actions:
            if isinstance(action, OpenTunnel):
                assert action.servers == state.servers
        assert firewall(state, WANTED).servers == (state.servers if state.phase in REACHING else ())
    return state


REACHING = (Phase.CONNECTING, Phase.RECONNECTING, Phase.CONNECTED)
IDLE = State(Phase.IDLE)


def test_one_that_fails_gives_way_to_the_next_that_can_be_reached() -> None:
    state = after(IDLE, Changed())
    seen = []
    for _ in range(4):
        seen.append(state.servers)
        state = after(state, TunnelDown(state.attempt, Cause.SERVER_UNREACHABLE), RetryDue(state.attempt))
    assert seen == [(FIRST,), (LAST,), (FIRST,), (LAST,)]


def test_one_that_worked_is_tried_again_first() -> None:
    state = after(IDLE, Changed())
    state = after(state, TunnelDown(state.attempt, Cause.SERVER_UNREACHABLE), RetryDue(state.attempt))
    state = after(state, TunnelUp(state.attempt, GIVEN))
    assert (state.phase, state.servers) == (Phase.CONNECTED, (LAST,))
    for event in (TunnelDown(state.attempt, Cause.TUNNEL_LOST), Reconnect()):
        again = after(state, event)
        assert (again.phase, again.servers) == (Phase.RECONNECTING, (LAST,))


def test_another_profile_begins_with_its_first() -> None:
    state = after(IDLE, Changed())
    state = after(state, TunnelDown(state.attempt, Cause.SERVER_UNREACHABLE), RetryDue(state.attempt))
    other = replace(PROFILE, name="other")
    state, _ = step(state, Changed(), replace(WANTED, profile=other))
    assert state.servers == (FIRST,)


def test_where_none_can_be_reached_the_first_is_tried() -> None:
    state, _ = step(IDLE, Changed(), replace(WANTED, leads_to=frozenset()))
    assert state.servers == (FIRST,)


@pytest.mark.parametrize("turn", range(3))
def test_peers_of_wireguard_are_no_alternatives(turn: int) -> None:
    profile = replace(profile_facts(OFFICE), endpoints=PROFILE.endpoints)
    assert profile.servers(turn) == PROFILE.endpoints


def test_addresses_that_the_server_gave_are_guarded() -> None:
    """L2: the profile names none."""
    state = after(IDLE, Changed())
    assert firewall(state, WANTED).guarded == ()
    state = after(state, TunnelUp(state.attempt, GIVEN))
    assert firewall(state, WANTED).guarded == (ip_address("10.8.0.2"),)
