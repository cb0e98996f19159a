"""The daemon with layers taken away: `python -I -m lab.one_layer {firewall|routing}` keeps that one, `none` keeps none.

With `unchecked` after it the daemon's own check for leaks is off: its probes get out where a layer is missing, as they
should, and a meter would count them.

Only for tests: each layer must hold by itself (K3), and without both packets must leak. What is taken away is
replaced by a layer that does nothing and says that all is well, which is what a kernel that lies would look like.
Everything else is the real daemon.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from daemon import __main__ as daemon
from daemon import adapters
from daemon.host import Host
from policies.firewall import FirewallPolicy
from policies.settings import Settings
from policies.split import Network

LAYERS = ("firewall", "routing", "none")


class LayerTakenAway:
    """Implements `daemon.host.Firewall` and `daemon.host.Routes`, and enforces nothing."""

    async def set(self, policy: FirewallPolicy) -> None:
        return None

    async def verify(self, policy: FirewallPolicy) -> bool:
        return True

    async def allow(self, left: Callable[[], int]) -> None:
        return None

    async def reset(self) -> None:
        return None


class NoCheck:
    """Implements `daemon.host.LeakCheck`, and sends nothing."""

    excluded: tuple[Network, ...] = ()
    tunnel: str = ""

    async def check(self, ifnames: Sequence[str]) -> tuple[str, ...]:
        return ()


def main() -> None:
    kept, *options = sys.argv[1:]
    assert kept in LAYERS and options in ([], ["unchecked"]), sys.argv
    real = adapters.host

    def host(settings: Settings, state_folder: Path) -> Host:
        gone = LayerTakenAway()
        whole = real(settings, state_folder)
        return replace(
            whole,
            firewall=whole.firewall if kept == "firewall" else gone,
            routes=whole.routes if kept == "routing" else gone,
            leak_check=NoCheck() if options else whole.leak_check,
        )

    adapters.host = host
    daemon.main()


if __name__ == "__main__":
    main()
