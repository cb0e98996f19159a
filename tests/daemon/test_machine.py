"""step() is total, and its important transitions are these. (That nothing leaks: test_machine_properties.py.)"""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest

from daemon.machine import LIVE, START, TEMPORARY, goal, step
from policies.decide import decide
from policies.decision import Decision, Intent
from policies.facts import Facts, Internet, ProfileFacts, Reach, Tunnel
from policies.firewall import TUNNEL_IFNAME
from policies.profiles import facts as profile_facts
from policies.settings import Settings
from policies.settings_tables import WifiAction
from policies.states import (
    SENTENCES,
    Cause,
    Changed,
    CloseTunnel,
    Enforce,
    Event,
    Failed,
    OpenTunnel,
    Phase,
    Reconnect,
    RestoreResolvers,
    RetryDue,
    ScheduleRetry,
    SetResolvers,
    State,
    Target,
    TunnelClosed,
    TunnelDown,
    TunnelUp,
)
from tests.daemon.fake_host import CABLE, CAFE, WLAN
from tests.daemon.profiles_for_tests import OFFICE

PROFILE = profile_facts(OFFICE)
OTHER = replace(PROFILE, name="other")
TUNNEL = Tunnel(TUNNEL_IFNAME, PROFILE.addresses, PROFILE.resolvers)


def decision(
    target: Target = Target.PROTECTED, *, profile: ProfileFacts | None = PROFILE, lockdown: bool = False,
    closed: Cause | None = None, facts: Facts | None = None,
) -> Decision:  # fmt: skip
    """What `decide` says at the cafe, bent as wished."""
    facts = facts or Facts(links=(WLAN,), wifi={"wlan0": CAFE}, profiles={"office": PROFILE})
    # The open network's rule is to leave things as they are, so `target` counts.
    settings = Settings().model_copy(
        update={"wifi": Settings().wifi.model_copy(update={"unsecured": WifiAction.IGNORE})}
    )
    found = decide(facts, settings, Intent(target=target, lockdown=lockdown))
    assert found.target is target
    return replace(found, profile=profile, closed=closed)


GOALS = {
    "tunnel": decision(),
    "another tunnel": decision(profile=OTHER),
    "idle": decision(Target.UNPROTECTED),
    "lockdown": decision(Target.UNPROTECTED, lockdown=True),
    "hold": decision(facts=Facts(links=(WLAN,), profiles={"office": PROFILE})),
    "hold, unprotected": decision(Target.UNPROTECTED, facts=Facts(links=(WLAN,))),
    "no network": decision(facts=Facts(profiles={"office": PROFILE})),
    "no profile": decision(profile=None),
    "no route": replace(decision(), routable=False),
    "portal": replace(decision(), portal=True),
    "no Internet": decision(
        facts=Facts(
            links=(WLAN,),
            wifi={"wlan0": CAFE},
            profiles={"office": PROFILE},
            internet={"wlan0": Internet(Reach.NOTHING, "probe")},
        )
    ),
    "settings broken": decision(closed=Cause.SETTINGS_BROKEN),
    "store broken": decision(closed=Cause.STORE_BROKEN),
}
STATES = [
    START,
    *(
        State(phase, cause, PROFILE if phase in LIVE | {Phase.DISCONNECTING} else None, 3, failures,
              TUNNEL if phase is Phase.CONNECTED else None, "wlan0/43616665/open")
        for phase in Phase
        for cause in ((*Cause,) if phase is Phase.BLOCKED else (None,))
        for failures in (0, 5)
    ),
]  # fmt: skip
EVENTS: list[Event] = [
    Changed(), Reconnect(),
    *(TunnelUp(number, TUNNEL) for number in (2, 3)),
    *(TunnelDown(number, cause) for number in (2, 3) for cause in (Cause.TUNNEL_LOST, Cause.SERVER_UNREACHABLE)),
    *(TunnelClosed(number) for number in (2, 3)),
    *(RetryDue(number) for number in (2, 3)),
    *(Failed(cause) for cause in (Cause.FIREWALL_FAILED, Cause.ROUTES_FAILED, Cause.RESOLVER_FAILED)),
]  # fmt: skip


def test_every_state_takes_every_event_with_every_goal() -> None:
    for state, event, (name, wanted) in product(STATES, EVENTS, GOALS.items()):
        where = f"{state} {event} {name}"
        after, actions = step(state, event, wanted)
        assert actions.count(Enforce()) == 1, f"the kernel follows each state, once: {where}"
        position = {type(action): index for index, action in enumerate(actions)}
        for takes_away in (CloseTunnel, OpenTunnel):
            assert position.get(takes_away, 9) > position[Enforce], f"narrowed first: {where}"
        for widens in (SetResolvers, RestoreResolvers):
            assert position.get(widens, -1) < position[Enforce], f"widened last: {where}"
        assert (after.phase is Phase.BLOCKED) <= (after.cause is not None), f"blocked says why: {where}"
        assert (after.tunnel is not None) == (after.phase is Phase.CONNECTED), where
        if after.phase in LIVE:
            assert after.profile is not None, where
        if after.phase is Phase.IDLE:
            assert wanted.target is Target.UNPROTECTED and not wanted.lockdown and wanted.closed is None, where
        if after.phase is Phase.CONNECTED and state.phase is not Phase.CONNECTED:
            assert event == TunnelUp(3, TUNNEL), where
        if OpenTunnel in position:
            assert after.attempt == state.attempt + 1 and goal(wanted).tunnel, where
        if isinstance(event, Failed):
            assert ScheduleRetry in position and after.phase is Phase.BLOCKED, f"it is tried again: {where}"
        if state.phase in LIVE and after.phase not in LIVE:
            assert CloseTunnel in position, f"no tunnel is left behind: {where}"


def test_late_news_changes_nothing() -> None:
    for state, (name, wanted) in product(STATES, GOALS.items()):
        for late in (TunnelUp(2, TUNNEL), TunnelDown(2, Cause.TUNNEL_LOST), TunnelClosed(2), RetryDue(2)):
            assert step(state, late, wanted) == step(state, Changed(), wanted), (state, late, name)


def at(phase: Phase, cause: Cause | None = None) -> State:
    tunnel = TUNNEL if phase is Phase.CONNECTED else None
    return State(phase, cause, PROFILE, 3, 0, tunnel, GOALS["tunnel"].network)


TRANSITIONS = [
    # from, event, goal, to, cause, actions
    (START, Changed(), "idle", Phase.IDLE, None, "RestoreResolvers Enforce CloseTunnel"),
    (START, Changed(), "tunnel", Phase.CONNECTING, None, "Enforce OpenTunnel"),
    (START, Changed(), "hold", Phase.HELD, None, "Enforce CloseTunnel"),
    (START, Changed(), "settings broken", Phase.BLOCKED, Cause.SETTINGS_BROKEN, "Enforce CloseTunnel"),
    (at(Phase.IDLE), Changed(), "hold, unprotected", Phase.HELD, None, "Enforce"),
    (at(Phase.IDLE), Changed(), "lockdown", Phase.BLOCKED, Cause.LOCKDOWN, "Enforce"),
    (at(Phase.IDLE), Changed(), "tunnel", Phase.CONNECTING, None, "Enforce OpenTunnel"),
    (at(Phase.HELD), Changed(), "idle", Phase.IDLE, None, "RestoreResolvers Enforce"),
    (at(Phase.CONNECTING), TunnelUp(3, TUNNEL), "tunnel", Phase.CONNECTED, None, "SetResolvers Enforce"),
    (at(Phase.CONNECTING), TunnelUp(3, TUNNEL), "idle", Phase.DISCONNECTING, None, "Enforce CloseTunnel"),
    (at(Phase.CONNECTING), TunnelDown(3, Cause.SERVER_UNREACHABLE), "tunnel", Phase.BLOCKED, Cause.SERVER_UNREACHABLE,
     "Enforce CloseTunnel ScheduleRetry"),
    (at(Phase.CONNECTED), TunnelDown(3, Cause.TUNNEL_LOST), "tunnel", Phase.RECONNECTING, Cause.TUNNEL_LOST,
     "Enforce OpenTunnel"),
    (at(Phase.CONNECTED), Changed(), "tunnel", Phase.CONNECTED, None, "Enforce"),
    (at(Phase.CONNECTED), Changed(), "another tunnel", Phase.RECONNECTING, None, "Enforce OpenTunnel"),
    (at(Phase.CONNECTED), Reconnect(), "tunnel", Phase.RECONNECTING, None, "Enforce OpenTunnel"),
    (at(Phase.CONNECTED), Changed(), "hold", Phase.CONNECTED, None, "Enforce"),
    (at(Phase.CONNECTED), Changed(), "no route", Phase.CONNECTED, None, "Enforce"),
    (at(Phase.CONNECTED), Changed(), "no network", Phase.DISCONNECTING, None, "Enforce CloseTunnel"),
    (at(Phase.CONNECTED), Changed(), "idle", Phase.DISCONNECTING, None, "Enforce CloseTunnel"),
    (at(Phase.CONNECTED), Changed(), "store broken", Phase.DISCONNECTING, None, "Enforce CloseTunnel"),
    (at(Phase.DISCONNECTING), Changed(), "tunnel", Phase.DISCONNECTING, None, "Enforce"),
    (at(Phase.DISCONNECTING), TunnelClosed(3), "tunnel", Phase.CONNECTING, None, "Enforce OpenTunnel"),
    (at(Phase.DISCONNECTING), TunnelClosed(3), "idle", Phase.IDLE, None, "RestoreResolvers Enforce"),
    (at(Phase.DISCONNECTING), TunnelClosed(3), "no network", Phase.BLOCKED, Cause.NO_NETWORK, "Enforce"),
    (at(Phase.BLOCKED, Cause.SERVER_UNREACHABLE), Changed(), "tunnel", Phase.BLOCKED, Cause.SERVER_UNREACHABLE,
     "Enforce"),
    (at(Phase.BLOCKED, Cause.SERVER_UNREACHABLE), RetryDue(3), "tunnel", Phase.RECONNECTING, Cause.SERVER_UNREACHABLE,
     "Enforce OpenTunnel"),
    (at(Phase.BLOCKED, Cause.SERVER_UNREACHABLE), Reconnect(), "tunnel", Phase.RECONNECTING, Cause.SERVER_UNREACHABLE,
     "Enforce OpenTunnel"),
    (at(Phase.CONNECTING), Changed(), "portal", Phase.DISCONNECTING, None, "Enforce CloseTunnel"),
    (at(Phase.RECONNECTING), Changed(), "portal", Phase.DISCONNECTING, None, "Enforce CloseTunnel"),
    (at(Phase.DISCONNECTING), TunnelClosed(3), "portal", Phase.PORTAL, Cause.PORTAL, "Enforce"),
    (at(Phase.CONNECTED), Changed(), "portal", Phase.CONNECTED, None, "Enforce"),
    (at(Phase.CONNECTED), TunnelDown(3, Cause.TUNNEL_LOST), "portal", Phase.BLOCKED, Cause.TUNNEL_LOST,
     "Enforce CloseTunnel ScheduleRetry"),
    (at(Phase.BLOCKED, Cause.TUNNEL_LOST), TunnelClosed(3), "portal", Phase.PORTAL, Cause.PORTAL, "Enforce"),
    (at(Phase.BLOCKED, Cause.SERVER_UNREACHABLE), Changed(), "portal", Phase.PORTAL, Cause.PORTAL, "Enforce"),
    (at(Phase.PORTAL, Cause.PORTAL), Changed(), "portal", Phase.PORTAL, Cause.PORTAL, "Enforce"),
    (at(Phase.PORTAL, Cause.PORTAL), Changed(), "tunnel", Phase.CONNECTING, None, "Enforce OpenTunnel"),
    (at(Phase.PORTAL, Cause.PORTAL), Changed(), "idle", Phase.IDLE, None, "RestoreResolvers Enforce"),
    (at(Phase.BLOCKED, Cause.SERVER_UNREACHABLE), Changed(), "no Internet", Phase.BLOCKED, Cause.SERVER_UNREACHABLE,
     "Enforce"),
    (at(Phase.BLOCKED, Cause.NO_ROUTE), Changed(), "tunnel", Phase.CONNECTING, None, "Enforce OpenTunnel"),
    (at(Phase.BLOCKED, Cause.STORE_BROKEN), Changed(), "idle", Phase.IDLE, None, "RestoreResolvers Enforce"),
    (at(Phase.IDLE), Failed(Cause.FIREWALL_FAILED), "idle", Phase.BLOCKED, Cause.FIREWALL_FAILED,
     "Enforce ScheduleRetry"),
    (at(Phase.CONNECTED), Failed(Cause.RESOLVER_FAILED), "tunnel", Phase.BLOCKED, Cause.RESOLVER_FAILED,
     "Enforce CloseTunnel ScheduleRetry"),
]  # fmt: skip


@pytest.mark.parametrize(
    "before, event, wanted, phase, cause, actions",
    TRANSITIONS,
    ids=[f"{row[0].phase}-{type(row[1]).__name__}-{row[2]}" for row in TRANSITIONS],
)
def test_transitions(before: State, event: Event, wanted: str, phase: Phase, cause: Cause | None, actions: str) -> None:
    after, done = step(before, event, GOALS[wanted])
    assert (after.phase, after.cause) == (phase, cause)
    assert " ".join(type(action).__name__ for action in done) == actions


def test_failures_are_counted_and_forgotten() -> None:
    state = replace(at(Phase.CONNECTING), failures=4)
    assert step(state, TunnelDown(3, Cause.SERVER_UNREACHABLE), GOALS["tunnel"])[0].failures == 5
    assert step(state, TunnelUp(3, TUNNEL), GOALS["tunnel"])[0].failures == 0


def test_where_internet_comes_back_a_tunnel_is_tried_at_once() -> None:
    waiting, _ = step(at(Phase.BLOCKED, Cause.SERVER_UNREACHABLE), Changed(), GOALS["no Internet"])
    assert step(waiting, Changed(), GOALS["no Internet"]) == (waiting, (Enforce(),)), "but not as long as it is away"
    after, _ = step(waiting, Changed(), GOALS["tunnel"])
    assert after.phase is Phase.RECONNECTING
    failed, _ = step(after, TunnelDown(after.attempt, Cause.SERVER_UNREACHABLE), GOALS["tunnel"])
    assert step(failed, Changed(), GOALS["tunnel"])[0] == failed, "once"


def test_words() -> None:
    assert set(SENTENCES) == set(Cause)
    assert all(cause.value.endswith("failed") or "-" in cause.value for cause in TEMPORARY)
    assert CABLE.is_uplink
