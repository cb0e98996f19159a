"""What users want, and say when they are asked: on the disk before it is acted on."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import structlog

from daemon.store import Store, StoreError
from policies.decision import ANYWHERE, Answer, Intent, Manual
from policies.facts import Facts
from policies.states import Target

log = structlog.get_logger()


class Loop(Protocol):
    """What of the loop is needed here."""

    store: Store
    intent: Intent
    facts: Facts
    warnings: dict[str, str]

    def warn(self, topic: str, text: str) -> None: ...


class Choices:
    """Of one loop, which owns the intent and calls this in its turn. Post Changed afterwards."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop

    def keep(self, intent: Intent) -> None:
        """A choice is on the disk before it is acted on. A disk that refuses is told to people; memory still counts."""
        loop = self._loop
        if intent == loop.intent:
            return
        loop.intent = intent
        try:
            loop.store.save_intent(intent)
            loop.warnings.pop("store", None)
        except StoreError as err:
            loop.warn("store", f"The choice could not be saved and is lost at the next start: {err}")

    def settle(self, answer: Answer) -> None:
        """What a prompt came to."""
        loop = self._loop
        others = tuple(each for each in loop.intent.answers if each.network != answer.network)
        self.keep(replace(loop.intent, answers=(*others, answer)))

    def decide_anew(self) -> None:
        """A user says what is wanted: that settles what a damaged store left open."""
        loop = self._loop
        loop.facts = replace(loop.facts, store_broken=False)
        if not loop.store.unkept:  # or it is still true that nothing is kept
            loop.warnings.pop("trouble", None)
        try:
            loop.store.decided()
        except StoreError as err:
            loop.warn("store", f"The choice could not be saved and is lost at the next start: {err}")

    def stay_open(self, when: str) -> None:
        """An administrator opened the machine with panic-reset while nobody was there to be told (K6)."""
        loop = self._loop
        self.decide_anew()
        # Not only on this network: at a boot, none is there yet, and the next one would close the machine again.
        manual = Manual(Target.UNPROTECTED, ANYWHERE)
        self.keep(replace(loop.intent, target=Target.UNPROTECTED, manual=manual, lockdown=False))
        loop.warn("panic", f"This machine was opened by hand with panic-reset at {when}. Connect when you are ready.")
        log.warning("opened by hand", when=when)
