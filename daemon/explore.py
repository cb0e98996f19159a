"""Finds out, in the background, what is behind a link: beacons, captive portals, evidence of an attacker.

Nothing waits for explorers. What they find comes back to the loop as `Found`, and counts only while the link still has
the association that it was found on.
"""

from __future__ import annotations

from typing import Protocol

from policies.decision import Decision
from policies.facts import Facts
from policies.settings import Settings
from policies.states import Phase


class Explorer(Protocol):
    def follow(self, facts: Facts, decision: Decision, phase: Phase, settings: Settings) -> None:
        """Begin what is worth looking at now and end what is not. Called after each event, when the kernel has agreed.

        Returns at once, and does nothing where nothing changed.
        """
        ...

    async def abandon(self) -> None:
        """End everything."""
        ...
