"""What of others keeps the VPN's own packets in (K8). Being built: finds nothing yet."""

from __future__ import annotations

from collections.abc import Sequence

from policies.facts import Endpoint


class NftObstacles:
    """Implements `daemon.host.Obstacles`."""

    async def find(self, servers: Sequence[Endpoint]) -> tuple[str, ...]:
        return ()
