"""What the loop's inbox takes: the machine's events, hints to look again, and commands of callers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from policies.facts import Facts
from policies.states import Event


@dataclass(frozen=True, slots=True)
class LinksHint:
    """The kernel said that something about links, addresses or routes may have changed."""


@dataclass(frozen=True, slots=True)
class WifiHint:
    """A Wi-Fi source said that something may have changed."""


@dataclass(frozen=True, slots=True)
class ResolverHint:
    """Somebody may have changed how names are resolved."""


@dataclass(frozen=True, slots=True)
class Overdue:
    """Nobody has identified the Wi-Fi link in time."""

    ifname: str
    generation: int


@dataclass(frozen=True, slots=True)
class AgentsHint:
    """Somebody who can ask people has come, or gone."""


@dataclass(frozen=True, slots=True)
class Unanswered:
    """The time to answer a prompt is over."""

    prompt: str


@dataclass(frozen=True, slots=True)
class TamperHint:
    """Our rules may have been changed, as `what` says: by us, or by somebody else; `foreign`: certainly not by us."""

    what: str
    foreign: bool = False


@dataclass(frozen=True, slots=True)
class QuotaHint:
    """The kernel lets nothing more of the allowance pass: what is left should be counted anew."""


@dataclass(frozen=True, slots=True)
class Untold:
    """What was put back a moment ago, when the notice of whoever did it had not come yet; `told`: how many had."""

    what: str
    told: int


@dataclass(frozen=True, slots=True)
class SleepHint:
    """The machine is about to sleep, which waits for `ready`, or has woken up."""

    asleep: bool
    ready: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Checked:
    """A check of `daemon.checks` has ended: what it found in sentences, or why it could not look."""

    topic: str  # "leak" or "obstacle"
    found: tuple[str, ...]
    unable: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """An explorer found something out behind a link; void unless the link still has this association."""

    ifname: str
    association: tuple[int, int]  # `Link.association`
    change: Callable[[Facts], Facts]


@dataclass(frozen=True, slots=True)
class Alive:
    """Call `tell`: whoever owns the state still handles events."""

    tell: Callable[[], None]


@dataclass(slots=True)
class Command:
    """Something a caller wants done by the task that owns the state. The result or the exception goes to `done`."""

    run: Callable[[], Awaitable[Event]]
    done: asyncio.Future[None]


Inboxed = (
    Event
    | LinksHint
    | WifiHint
    | ResolverHint
    | TamperHint
    | QuotaHint
    | Untold
    | SleepHint
    | AgentsHint
    | Unanswered
    | Overdue
    | Checked
    | Found
    | Alive
    | Command
)


def coalesced(batch: list[Inboxed]) -> list[Inboxed]:
    """Each kind of hint once, at its first place: a hint says that something may have changed, not how often.

    Among hints about our rules, one that is certainly about somebody else's doing says more than one that may be ours.
    Links come before Wi-Fi: a new association forgets the network that was read before it.
    Names come last: whatever is put back for them would hide that the rules were changed.
    """
    kept: list[Inboxed] = []
    places: dict[type, int] = {}
    for event in batch:
        hint = isinstance(event, LinksHint | WifiHint | ResolverHint | TamperHint)
        if not hint or type(event) not in places:
            places[type(event)] = len(kept)
            kept.append(event)
        elif isinstance(event, TamperHint) and event.foreign:
            kept[places[TamperHint]] = event
    if places.get(WifiHint, len(kept)) < places.get(LinksHint, 0):
        kept.insert(places[WifiHint], kept.pop(places[LinksHint]))
    return sorted(kept, key=lambda event: isinstance(event, ResolverHint))
