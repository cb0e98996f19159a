"""What the faces show, told from what the loop knows."""

from __future__ import annotations

from ipc.structs import Network, Reason, Status
from policies.classify import SENTENCES as REASONS
from policies.classify import ssid_text
from policies.decision import Decision, Judgement
from policies.facts import Endpoint, Facts
from policies.firewall import FirewallPolicy
from policies.states import SENTENCES, Phase, State

METERED = {True: "yes", False: "no", None: None}


def networks(facts: Facts, decision: Decision, enforced: FirewallPolicy | None) -> tuple[Network, ...]:
    """The networks we are on; `cleared` only where the kernel has confirmed it."""
    cleared = enforced.cleared if enforced is not None else frozenset()
    return tuple(_network(each, facts, each.ifname in cleared) for each in decision.judgements)


def _network(judgement: Judgement, facts: Facts, cleared: bool) -> Network:
    wifi, found = facts.wifi.get(judgement.ifname), judgement.classification
    behind = facts.internet.get(judgement.ifname)
    reasons = found.reasons if found else ()
    return Network(
        ifname=judgement.ifname,
        kind=judgement.kind.value,
        ssid=ssid_text(wifi.ssid) if wifi else None,
        ssid_hex=wifi.ssid.hex() if wifi else None,
        security=wifi.security.value if wifi else None,
        verdict=found.verdict.value if found else None,
        reasons=tuple(Reason(reason.value, REASONS[reason]) for reason in reasons),
        action=judgement.action.value if judgement.action else None,
        rule=judgement.rule.value,
        cleared=cleared,
        internet=behind.reach.value if behind else None,
        portal_url=(behind.url or None) if behind else None,
        source=wifi.source.value if wifi else None,
        metered=METERED[wifi.metered] if wifi else None,
    )


def server(state: State) -> Endpoint | None:
    """The server in use."""
    if state.profile is None or state.phase not in (Phase.CONNECTING, Phase.CONNECTED, Phase.RECONNECTING):
        return None
    return state.servers[0] if state.servers else None


def server_name(state: State) -> str | None:
    """The name of the server in use, in its profile's list."""
    used = server(state)
    if used is None or state.profile is None:
        return None
    return next((name for at, name in zip(state.profile.endpoints, state.profile.names) if at == used), None)  # noqa: B905


def endpoint_text(endpoint: Endpoint) -> str:
    """`198.51.100.7:51820` or `[2001:db8::7]:51820`."""
    host = f"[{endpoint.address}]" if endpoint.address.version == 6 else str(endpoint.address)
    return f"{host}:{endpoint.port}"


def status(
    state: State,
    decision: Decision,
    facts: Facts,
    enforced: FirewallPolicy | None,
    blocking: bool,
    *,
    since: int,
    warnings: tuple[str, ...],
    alarm: str | None,
    lists: int,
    sequence: int,
    version: str,
    detail: str | None = None,
    outside: int = 0,
    mtu: int = 0,
    mtu_source: str | None = None,
) -> Status:
    """The whole status but for the byte counts, which are read when asked for.

    `protected` and `blocking` are said only of what the kernel has confirmed.
    """
    used = server(state)
    return Status(
        state=state.phase.value,
        target=decision.target.value,
        protected=state.phase is Phase.CONNECTED and enforced is not None and enforced.tunnel is not None,
        blocking=blocking,
        cause=state.cause.value if state.cause else None,
        cause_text=SENTENCES[state.cause] if state.cause else None,
        profile=state.profile.name if state.profile else None,
        server=endpoint_text(used) if used else None,
        server_name=server_name(state),
        since=since,
        networks=networks(facts, decision, enforced),
        kill_switch=decision.kill_switch,
        lockdown=decision.lockdown,
        warnings=warnings,
        alarm=alarm,
        rx_bytes=0,
        tx_bytes=0,
        lists=lists,
        sequence=sequence,
        version=version,
        detail=detail,
        outside=outside,
        tunnel=state.tunnel.ifname if state.tunnel else None,
        mtu=mtu,
        mtu_source=mtu_source if mtu else None,
    )
