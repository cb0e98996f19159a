"""Gives name resolution back to systemd-resolved, NetworkManager and resolvconf, from what the daemon noted of them.

With busctl(1), which comes with systemd, and without the daemon's code (daemon/linux/resolver_*.py wrote the notes).
"""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

BUSCTL = ("/usr/bin/busctl", "--system", "--auto-start=no", "--timeout=5")
RESOLVCONFS = ("/usr/sbin/resolvconf", "/sbin/resolvconf", "/usr/bin/resolvconf")
RESOLVED, NETWORKD, NM = "org.freedesktop.resolve1", "org.freedesktop.network1", "org.freedesktop.NetworkManager"
RUN, STATE = Path("/run/tunwarden"), Path("/var/lib/tunwarden")

Call = Callable[..., tuple[int, str]]  # exit code and errors, as `cli.panic_reset._call`
Step = tuple[bool, str]


def restore(call: Call, run: Path = RUN, state: Path = STATE) -> Iterator[Step]:
    """For each that was told of the tunnel's resolvers: whether it is as it was, and the sentence that says so."""
    for note, name, undo in (
        (run / "resolved.json", "systemd-resolved", _resolved),
        (state / "networkmanager-dns.json", "NetworkManager", _networkmanager),
        (run / "resolvconf", "resolvconf", _resolvconf),
    ):
        try:
            text = note.read_text(encoding="utf-8")
        except FileNotFoundError:
            continue
        except OSError as error:
            yield False, f"Name resolution: {note} cannot be read: {error.strerror}"
            continue
        try:
            why = undo(call, text)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            why = f"{note} is damaged ({error!r})"
        if why:
            yield False, f"Name resolution: {name} still has the tunnel's resolvers: {why}"
            continue
        note.unlink(missing_ok=True)
        yield True, f"Name resolution: given back to {name}."


def _resolved(call: Call, text: str) -> str:
    """What went wrong, in words; "" for nothing."""
    note = json.loads(text)
    failures = []
    with contextlib.suppress(OSError):  # the link is gone, and what resolved knew of it too
        failures.append(_of_resolved(call, socket.if_nametoindex(note["tunnel"]), "RevertLink", "i"))
    for link in note["links"]:
        try:
            if socket.if_indextoname(link["ifindex"]) != link["ifname"]:
                continue
        except OSError:
            continue
        domains = [word for name, only in link["domains"] for word in (str(name), _spoken(only))]
        failures.append(
            _of_resolved(call, link["ifindex"], "SetLinkDomains", "ia(sb)", str(len(link["domains"])), *domains)
            or _of_resolved(call, link["ifindex"], "SetLinkDefaultRoute", "ib", _spoken(link["default_route"]))
        )
    return "; ".join(filter(None, failures))


def _of_resolved(call: Call, ifindex: int, member: str, signature: str, *words: str) -> str:
    at = (RESOLVED, "/org/freedesktop/resolve1", f"{RESOLVED}.Manager", member, signature, str(ifindex), *words)
    code, errors = call(*BUSCTL, "call", "--", *at)
    if code == 0 or "not known" in errors:  # NoSuchLink
        return ""
    if "is managed" in errors:  # LinkBusy
        at = (NETWORKD, "/org/freedesktop/network1", f"{NETWORKD}.Manager", "RevertLinkDNS", "i", str(ifindex))
        code, errors = call(*BUSCTL, "call", "--", *at)
    return errors if code else ""


def _networkmanager(call: Call, text: str) -> str:
    former = json.loads(text)["former"]
    at = (NM, "/org/freedesktop/NetworkManager", NM, "GlobalDnsConfiguration", "a{sv}", *_dictionary(former))
    code, errors = call(*BUSCTL, "set-property", "--", *at)
    return errors if code else ""


def _dictionary(value: dict[str, Any]) -> Iterator[str]:
    """As busctl wants an a{sv}: how many, then key, type and value of each."""
    yield str(len(value))
    for key, inner in value.items():
        yield str(key)
        if isinstance(inner, dict):
            yield from ("a{sv}", *_dictionary(inner))
        else:
            yield from ("as", str(len(inner)), *map(str, inner))


def _resolvconf(call: Call, text: str) -> str:
    programs = [path for path in RESOLVCONFS if Path(path).exists()]
    if not programs:
        return "there is no resolvconf any more"
    code, errors = call(programs[0], "-d", str(json.loads(text)["ifname"]))
    return errors if code else ""


def _spoken(truth: object) -> str:
    return "true" if truth else "false"
