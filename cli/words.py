"""A status in words: what it means, the weightiest thing first."""

from __future__ import annotations

import time

from cli.output import Output, safe
from ipc.structs import Network, Status

OWN_LINK = "tunwarden0"
MTU_SOURCES = {
    "profile": "as the profile says",
    "search": "which get through",
    "default": "whether they get through is not known",
}
VERDICTS = {"known": "green", "unsecured": "red", "unidentified": "yellow"}


def headline(status: Status) -> tuple[str, str]:
    """Colour and sentence."""
    if (status.target == "protected" or status.lockdown) and not status.blocking and not status.protected:
        if status.kill_switch or status.lockdown:
            return "red", "NOT PROTECTED AND NOT BLOCKED: traffic can leave outside the tunnel."
        return "red", f"Not protected ({status.state}): the kill switch is off, traffic leaves outside the tunnel."
    profile = status.profile or "the VPN"
    match status.state:
        case "connected" if status.protected:
            return "green", f"Protected: connected through {profile}{_server(status)}."
        case "connecting":
            return "yellow", f"Connecting to {profile}{_server(status)}: nothing leaves until the tunnel is up."
        case "reconnecting":
            return "yellow", f"Reconnecting to {profile}{_server(status)}: nothing leaves meanwhile."
        case "held":
            return "yellow", "Held: nothing leaves until the network has been judged."
        case "blocked":
            return "yellow", "Blocked: nothing leaves."
        case "portal":
            return "yellow", "Blocked: this network wants you to log in first."
        case "disconnecting":
            return "yellow", "Disconnecting."
        case "idle":
            return "red", "Not protected: traffic leaves outside the tunnel."
        case other:
            return "yellow", f"State: {other}."


def _server(status: Status) -> str:
    named = f"{status.server_name}, " if status.server_name else ""
    return f" ({named}{status.server})" if status.server else ""


def show(status: Status, out: Output, now: float | None = None) -> None:
    """The whole status, for a glance."""
    colour, text = headline(status)
    out.line(out.paint(text, colour))
    if status.alarm:
        out.line(f"  {out.paint(f'ALARM: {status.alarm}', 'red')}")
    if status.cause_text:
        out.line(f"  {safe(status.cause_text)}")
    for warning in status.warnings:
        out.line(f"  {out.paint(f'Warning: {warning}', 'yellow')}")
    since = (time.time() if now is None else now) - status.since
    _row(out, "For", duration(since))
    if status.profile:
        server = _server(status).strip(" ()")
        _row(out, "Profile", f"{status.profile}{f', server {server}' if server else ''}")
    if status.tunnel not in (None, OWN_LINK):
        _row(out, "Tunnel", f"{status.tunnel}, which another program brings up")
    for number, network in enumerate(status.networks):
        _row(out, "Networks" if number == 0 else "", network_words(network), VERDICTS.get(network.verdict or ""))
        for reason in network.reasons:
            _row(out, "", f"  {reason.text}", "dim")
    if status.protected or status.rx_bytes or status.tx_bytes:
        _row(out, "Traffic", f"{size(status.rx_bytes)} in, {size(status.tx_bytes)} out")
    if status.mtu:
        known = MTU_SOURCES.get(status.mtu_source or "", "")
        _row(out, "Packets", f"up to {status.mtu} bytes, {known}", "dim")
    if status.outside:
        programs = "1 program" if status.outside == 1 else f"{status.outside} programs"
        _row(out, "Beside it", f"{programs} (`tunwarden split list`)", "yellow")
    _row(out, "Kill switch", f"{switch(status.kill_switch)}, lockdown {switch(status.lockdown)}")


def _row(out: Output, label: str, text: str, colour: str | None = None) -> None:
    shown = out.paint(text, colour) if colour else safe(text)
    out.line(f"  {out.paint(f'{label:12}', 'dim')} {shown}" if label else f"  {'':12} {shown}")


def network_words(network: Network) -> str:
    """One network in one line."""
    name = f"{network.ifname} ({network.kind})" if network.ssid is None else f"{network.ifname} “{network.ssid}”"
    parts = [part for part in (network.security, network.verdict) if part]
    text = f"{name}: {', '.join(parts)}" if parts else name
    match network.internet:
        case "nothing":
            text += " – no Internet"
        case "portal":
            # Where it leads is a stranger's word, and a link in a terminal is quickly opened: in quotes, and said so.
            text += f" – a portal, which says “{network.portal_url}”" if network.portal_url else " – a portal"
    return f"{text} – traffic passes" if network.cleared else text


def change(status: Status, at: float) -> str:
    """One line of `watch`."""
    stamp = time.strftime("%H:%M:%S", time.localtime(at))
    parts = [stamp, status.state, status.profile or "", status.cause or ""]
    if not status.protected:
        parts.append("blocking" if status.blocking else "OPEN")
    parts += [network_words(network) for network in status.networks]
    return safe("  ".join(part for part in parts if part))


def switch(on: bool) -> str:
    return "on" if on else "off"


def size(count: int) -> str:
    """Bytes in decimal units, as the providers count."""
    value, units = float(count), iter(("B", "kB", "MB", "GB", "TB"))
    unit = next(units)
    while value >= 999.95 and unit != "TB":
        value, unit = value / 1000, next(units)
    return f"{count} B" if unit == "B" else f"{value:.1f} {unit}"


def duration(seconds: float) -> str:
    """The two greatest units."""
    left = max(0, int(seconds))
    days, hours, minutes = left // 86400, left // 3600 % 24, left // 60 % 60
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {left % 60} s" if minutes else f"{left} s"
