"""The closed ruleset that the early unit loads at boot (K2). Being built: keeps nothing yet."""

from __future__ import annotations

from pathlib import Path

from policies.firewall import FirewallPolicy


class LockdownFile:
    """Implements `daemon.host.Lockdown`."""

    def __init__(self, state_folder: Path) -> None:
        self._file = state_folder / "lockdown.nft"

    async def keep(self, policy: FirewallPolicy | None) -> None:
        return None
