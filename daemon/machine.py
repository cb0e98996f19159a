"""step(state, event, decision) -> (state, actions): the state machine. Pure and total; `loop.py` does what it says.

Actions narrow first and widen last: Enforce stands before anything that takes a tunnel away, and after anything that a
wider policy needs. An event about another attempt than the present one is late and changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import assert_never

from policies.decision import Decision
from policies.states import (
    Action,
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

# A tunnel exists or is being made.
LIVE = frozenset({Phase.CONNECTING, Phase.CONNECTED, Phase.RECONNECTING})

# Blocked for one of these, another attempt may help; for the others something else has to change first.
TEMPORARY = frozenset(
    {
        Cause.SERVER_UNREACHABLE,
        Cause.CREDENTIALS_MISSING,
        Cause.CREDENTIALS_REFUSED,
        Cause.CERTIFICATE_REFUSED,
        Cause.TLS_FAILED,
        Cause.TUNNEL_LOST,
        Cause.TUNNEL_FAILED,
        Cause.FIREWALL_FAILED,
        Cause.ROUTES_FAILED,
        Cause.RESOLVER_FAILED,
    }
)

# Where a start begins. Nothing is enforced before the first decision: an earlier daemon's rules are still there, and
# a machine that was open stays so for the milliseconds that the first reading takes.
START = State(Phase.BLOCKED, Cause.STARTING)

Step = tuple[State, tuple[Action, ...]]


@dataclass(frozen=True, slots=True)
class _Goal:
    """Where a decision wants to be. `tunnel` says that only a tunnel will do; then `phase` does not count."""

    phase: Phase
    cause: Cause | None = None
    tunnel: bool = False


def step(state: State, event: Event, decision: Decision) -> Step:
    """The next state and what has to be done for it, in order."""
    match event:
        case Changed():
            return _settle(state, decision)
        case Reconnect():
            return _settle(state, decision, fresh=True)
        case TunnelUp(attempt, tunnel):
            if attempt != state.attempt or state.phase not in (Phase.CONNECTING, Phase.RECONNECTING):
                return _settle(state, decision)
            connected = replace(state, phase=Phase.CONNECTED, cause=None, failures=0, tunnel=tunnel)
            return _then(connected, (SetResolvers(tunnel),), decision)
        case TunnelDown(attempt, cause):
            external = state.profile is not None and state.profile.external is not None  # facts tell whether it is up
            if attempt != state.attempt or state.phase not in LIVE or external:
                return _settle(state, decision)
            return _lost(state, cause, decision)
        case TunnelClosed(attempt):
            if attempt != state.attempt or state.phase is not Phase.DISCONNECTING:
                return _settle(state, decision)
            return _settle(replace(state, phase=Phase.BLOCKED, cause=Cause.NO_NETWORK), decision, fresh=True)
        case RetryDue(attempt):
            due = attempt == state.attempt and state.phase is Phase.BLOCKED
            return _settle(state, decision, fresh=due)
        case Failed(cause):
            return _failed(state, cause)
        case _:
            assert_never(event)


def goal(decision: Decision) -> _Goal:
    """What a decision asks for."""
    if decision.closed is not None:
        return _Goal(Phase.BLOCKED, decision.closed)
    if decision.hold:
        return _Goal(Phase.HELD, Cause.NO_INTERNET if decision.waits_for_internet else None)
    if decision.target is Target.UNPROTECTED:
        return _Goal(Phase.BLOCKED, Cause.LOCKDOWN) if decision.lockdown else _Goal(Phase.IDLE)
    if not decision.online:
        return _Goal(Phase.BLOCKED, Cause.NO_NETWORK)
    if decision.profile is None:
        return _Goal(Phase.BLOCKED, Cause.NO_PROFILE)
    if decision.profile.listed and not decision.profile.endpoints:
        return _Goal(Phase.BLOCKED, Cause.NO_SERVER)
    if decision.profile.external is not None and not decision.portal:  # its way to the server is not ours to judge
        tunnel = decision.external is not None
        return _Goal(Phase.CONNECTED, tunnel=True) if tunnel else _Goal(Phase.BLOCKED, Cause.EXTERNAL_AWAY)
    if not decision.routable:
        return _Goal(Phase.BLOCKED, Cause.NO_ROUTE)
    if decision.portal:
        return _Goal(Phase.PORTAL, Cause.PORTAL)
    if decision.choosing:
        return _Goal(Phase.BLOCKED, Cause.CHOOSING_SERVER)
    return _Goal(Phase.CONNECTING, tunnel=True)


def _settle(state: State, decision: Decision, fresh: bool = False) -> Step:
    """Go where the decision wants to be. `fresh` asks for a new attempt even where one is under way or waits."""
    wanted = goal(decision)
    if state.phase is Phase.DISCONNECTING:
        return state, (Enforce(),)  # the tunnel is being taken down; TunnelClosed comes back here
    if state.phase in LIVE:
        external = state.profile is not None and state.profile.external is not None
        if external and decision.external is None and state.profile == decision.profile:
            rested, actions = _rest(state, wanted)  # it went away, and nothing is left that could be kept
            return rested, (*actions, CloseTunnel(state.attempt))
        if wanted.tunnel and decision.external is not None:
            return _guard(state, decision)
        if wanted.tunnel:
            if fresh or state.profile != decision.profile:
                return _attempt(state, decision, Phase.RECONNECTING)
            return state, (Enforce(),)
        waits = wanted.phase is Phase.HELD and decision.target is Target.PROTECTED
        works = state.phase is Phase.CONNECTED and wanted.phase is Phase.PORTAL
        if waits or works or wanted.cause is Cause.NO_ROUTE:
            # Another link is being identified, an address is being renewed, the tunnel gets through a portal all the
            # same: no reason to give it up. An attempt that has not got through does end at a portal.
            return state, (Enforce(),)
        return replace(state, phase=Phase.DISCONNECTING, tunnel=None), (Enforce(), CloseTunnel(state.attempt))
    if wanted.tunnel:
        waiting = state.phase is Phase.BLOCKED and state.cause in TEMPORARY
        same = state.network == decision.network and state.profile == decision.profile
        if waiting and same and not fresh and state.offline <= decision.offline:
            return replace(state, offline=decision.offline), (Enforce(),)
        if decision.external is not None:
            return _guard(state, decision)
        return _attempt(state, decision, Phase.RECONNECTING if waiting else Phase.CONNECTING)
    return _rest(state, wanted)


def _rest(state: State, wanted: _Goal) -> Step:
    """Be in a state without a tunnel."""
    rested = State(wanted.phase, wanted.cause, attempt=state.attempt)
    # A daemon that was killed has left its tunnel; a new attempt replaces it, everything else must take it away.
    left: tuple[Action, ...] = (CloseTunnel(state.attempt),) if state.cause is Cause.STARTING else ()
    if wanted.phase is Phase.IDLE:
        return rested, (RestoreResolvers(), Enforce(), *left)
    return rested, (Enforce(), *left)


def _attempt(state: State, decision: Decision, phase: Phase) -> Step:
    assert decision.profile is not None
    number = state.attempt + 1
    attempted = State(
        phase,
        cause=state.cause if phase is Phase.RECONNECTING else None,
        profile=decision.profile,
        attempt=number,
        failures=state.failures,
        network=decision.network,
        turn=_turn(state, decision),
    )
    return attempted, (Enforce(), OpenTunnel(number, decision.profile.name, attempted.servers))


def _guard(state: State, decision: Decision) -> Step:
    """Somebody else's tunnel is there: nothing is opened, and one of ours is closed."""
    tunnel, profile = decision.external, decision.profile
    assert tunnel is not None and profile is not None
    same = state.phase is Phase.CONNECTED and state.profile == profile
    if same and state.tunnel == tunnel:
        return replace(state, failures=0), (Enforce(),)
    number = state.attempt if same else state.attempt + 1
    guarded = State(
        Phase.CONNECTED,
        profile=profile,
        attempt=number,
        failures=state.failures,
        tunnel=tunnel,
        network=decision.network,
    )
    ours = not same and (state.phase in LIVE or state.cause is Cause.STARTING)
    closing: tuple[Action, ...] = (CloseTunnel(number),) if ours else ()
    return guarded, (SetResolvers(tunnel), Enforce(), *closing)


def _turn(state: State, decision: Decision) -> int:
    """Whose turn it is: the server that was in use, or the next that a network leads to."""
    profile = decision.profile
    assert profile is not None
    first = state.turn if state.profile == profile else 0
    turns = range(first, first + len(profile.endpoints)) if profile.one_at_a_time else ()
    return next((turn for turn in turns if decision.leads_to.issuperset(profile.servers(turn))), first)


def _lost(state: State, cause: Cause, decision: Decision) -> Step:
    """A tunnel that worked is tried again at once; one that could not be made waits its turn."""
    if state.phase is Phase.CONNECTED and goal(decision).tunnel:
        return _attempt(replace(state, cause=cause), decision, Phase.RECONNECTING)
    failed = replace(
        state, phase=Phase.BLOCKED, cause=cause, failures=state.failures + 1, turn=state.turn + 1, tunnel=None
    )
    actions = (Enforce(), CloseTunnel(state.attempt), ScheduleRetry(state.attempt, failed.failures))
    return failed, actions


def _failed(state: State, cause: Cause) -> Step:
    """The system refused an action: as closed as it lets us be, and tried again. The tunnel goes with it."""
    failed = replace(state, phase=Phase.BLOCKED, cause=cause, failures=state.failures + 1, tunnel=None)
    closing: tuple[Action, ...] = (CloseTunnel(state.attempt),) if state.phase in LIVE | {Phase.DISCONNECTING} else ()
    return failed, (Enforce(), *closing, ScheduleRetry(state.attempt, failed.failures))


def _then(state: State, first: tuple[Action, ...], decision: Decision) -> Step:
    """`first`, and then whatever the decision makes of the new state."""
    settled, actions = _settle(state, decision)
    if settled.phase is not state.phase:
        return settled, actions  # no longer wanted: do not even begin
    return settled, (*first, *actions)
