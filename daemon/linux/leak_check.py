"""Probes that must not leave, watched on the link (K7). Being built: cannot look yet."""

from __future__ import annotations

from collections.abc import Sequence

from daemon.host import HostError


class LinuxLeakCheck:
    """Implements `daemon.host.LeakCheck`."""

    async def check(self, ifnames: Sequence[str]) -> tuple[str, ...]:
        raise HostError("check for leaks", "not built yet")
