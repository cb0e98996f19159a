"""The daemon with layers taken away: `python -I -m lab.one_layer {firewall|routing}` keeps that one, `none` keeps none.

Only for tests: each layer must hold by itself (K3), and without both packets must leak. What is taken away is
replaced by a layer that does nothing and says that all is well, which is what a kernel that lies would look like.
Everything else is the real daemon.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from daemon import __main__ as daemon
from daemon import adapters
from daemon.host import Host
from policies.firewall import FirewallPolicy
from policies.settings import Settings

LAYERS = ("firewall", "routing", "none")


class LayerTakenAway:
    """Implements `daemon.host.Firewall` and `daemon.host.Routes`, and enforces nothing."""

    async def set(self, policy: FirewallPolicy) -> None:
        return None

    async def verify(self, policy: FirewallPolicy) -> bool:
        return True

    async def reset(self) -> None:
        return None


def main() -> None:
    (kept,) = sys.argv[1:]
    assert kept in LAYERS, kept
    real = adapters.host

    def host(settings: Settings, state_folder: Path) -> Host:
        gone = LayerTakenAway()
        whole = real(settings, state_folder)
        return replace(
            whole,
            firewall=whole.firewall if kept == "firewall" else gone,
            routes=whole.routes if kept == "routing" else gone,
        )

    adapters.host = host
    daemon.main()


if __name__ == "__main__":
    main()
