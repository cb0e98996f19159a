"""How this machine resolves names without us: what policies/resolvers.py decides on."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import structlog

from daemon.linux.resolver_file import Kind, Original, ResolvConf
from daemon.linux.resolver_networkmanager import mode
from daemon.linux.resolver_resolvconf import program
from daemon.linux.system_bus import BusError, SystemBus
from policies.resolvers import NETWORKMANAGER, RESOLVED, Resolvconf, ResolverFacts

LONGEST = 4096  # bytes: who wrote it stands at the beginning, and a stub has one nameserver

log = structlog.get_logger()


async def read(bus: SystemBus, file: ResolvConf) -> ResolverFacts:
    """Never raises: a bus that is not there, or does not answer, has no services."""
    owned = frozenset([name for name in (RESOLVED, NETWORKMANAGER) if await _owned(bus, name)])
    nm_mode = nm_writer = ""
    if NETWORKMANAGER in owned:
        try:
            nm_mode, nm_writer = await mode(bus)
        except BusError as err:
            log.debug("NetworkManager does not say how it resolves names", error=str(err))
    target, text = _behind(file.path, file.theirs)
    found = program()
    return ResolverFacts(target, text, owned, nm_mode, nm_writer, found[1] if found else Resolvconf.ABSENT)


async def _owned(bus: SystemBus, name: str) -> bool:
    try:
        return await bus.owned(name)
    except BusError as err:
        log.debug("the system bus does not answer", error=str(err))
        return False


def _behind(path: Path, theirs: Callable[[], Original]) -> tuple[str | None, str]:
    """Where the link leads, None where it is none, and what is to be read. Instead of ours, what it replaced."""
    try:
        original = theirs()
    except (OSError, ValueError):
        return None, ""
    match original.kind:
        case Kind.ABSENT:
            return None, ""
        case Kind.FILE:
            return None, original.content[:LONGEST].decode("utf-8", "replace")
        case Kind.LINK:
            target = Path(os.path.normpath(path.parent / os.fsdecode(original.content)))
            try:
                with target.open("rb") as file:
                    return str(target), file.read(LONGEST).decode("utf-8", "replace")
            except OSError:
                return str(target), ""
