"""Kernel counters -> usage rows: who moved how many bytes and packets, when, on which network, with which profile.

What was counted between two readings belongs to whom it belonged since the first of them: so the counters are read when
that changes, when a link goes, and each ten seconds. All of it happens in the event loop, in microseconds; nothing of
it can fail protection. What cannot be read or kept is said, and tried again.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, tzinfo
from pathlib import Path
from zoneinfo import ZoneInfo

import structlog

from daemon.host import HostError, LinkCounters
from daemon.usage_store import Seen, UsageStore
from policies.counting import Counts, Owner, Way, between
from policies.external_links import whose
from policies.facts import UPLINKS, Facts, Link, LinkKind
from policies.firewall import MARK, FirewallPolicy
from policies.states import State

log = structlog.get_logger()

READ_S = 10.0  # between two readings
SOONEST_S = 1.0  # between two readings where more are wanted
COMMIT_S = 30.0  # between booking and commit, at most
PRUNE_S = 3600.0
ZONE = Path("/etc/localtime")
NOTHING = Counts()
UNREADABLE = "The traffic cannot be counted now: {}"


class LocalZone:
    """The machine's time zone; read again when somebody has changed it. UTC where it cannot be read."""

    def __init__(self, file: Path = ZONE) -> None:
        self._file = file
        self._mark: object = None
        self._zone: tzinfo = ZoneInfo("UTC")

    def __call__(self) -> tzinfo:
        try:
            about = self._file.stat()
            mark = (about.st_dev, about.st_ino, about.st_mtime_ns)
            if self._mark != mark:
                with self._file.open("rb") as file:
                    self._zone, self._mark = ZoneInfo.from_file(file), mark
        except (OSError, ValueError):
            self._zone, self._mark = ZoneInfo("UTC"), None
        return self._zone


@dataclass(slots=True)
class _Counted:
    """A link, and where its counters stood when they were booked last."""

    birth: int
    owner: Owner
    counts: Counts
    association: int = -1  # `Link.carrier_changes`, for which the owner was found


class Accounting:
    """Owned by the event loop; `follow` is told of every decision. `trouble` hears why counting or keeping fails."""

    def __init__(
        self,
        counters: LinkCounters,
        store: UsageStore,
        trouble: Callable[[str | None], None],
        wall: Callable[[], float] = time.time,
        zone: Callable[[], tzinfo] | None = None,
    ) -> None:
        self._counters, self.store, self._trouble, self.wall = counters, store, trouble, wall
        self.zone = zone or LocalZone()
        self.moved: dict[Way, Counts] = dict.fromkeys(Way, NOTHING)  # since this object was made
        self.on_reading: Callable[[], float] = lambda: READ_S  # hears of each, and says when the next one is wanted
        self._links: dict[int, _Counted] = {}
        self._left: dict[int, Seen] | None = None  # where an earlier daemon stopped; None once the links were seen
        self._dirty: float | None = None  # monotonic time of the oldest booking that was not committed
        self._pruned = -PRUNE_S
        self._followed: tuple[Facts, State, FirewallPolicy | None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._wanted = asyncio.Event()
        self._said: str | None = None

    # --- life ---------------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Before anything is changed: from here on every link that goes is noticed."""
        try:
            self._left = self.store.seen(self._counters.boot_id())
        except sqlite3.Error as err:
            self.failed(err)
            self._left = {}
        running = asyncio.get_running_loop()
        try:
            running.add_reader(self._counters.fileno(), self._went)
        except HostError as err:
            self._say(UNREADABLE.format(err))
        self._task = running.create_task(self._run())

    def soon(self) -> None:
        """Read before the next reading is due, but not twice within SOONEST_S."""
        self._wanted.set()

    async def _run(self) -> None:
        while True:
            wait, running = READ_S, asyncio.get_running_loop()
            self._wanted.clear()
            earliest = running.time() + SOONEST_S
            try:
                self.read()
                wait = self.on_reading()
                self._keep()
            except Exception:  # a defect here must not end the counting, nor anything else
                log.exception("accounting failed")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._wanted.wait()
                    await asyncio.sleep(earliest - running.time())

    async def end(self) -> None:
        """Read once more, commit and close."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        with contextlib.suppress(HostError, ValueError):
            asyncio.get_running_loop().remove_reader(self._counters.fileno())
        self.read()
        try:
            self.store.close()
        except sqlite3.Error as err:
            log.error("the last traffic is not kept", error=str(err))
        self._counters.close()

    # --- to whom ------------------------------------------------------------------------------------------------------

    def follow(self, facts: Facts, state: State, enforced: FirewallPolicy | None) -> None:
        """What is in force now. Costs nothing where nothing of it has changed."""
        if not facts.links or self._task is None:
            return
        self._followed = (facts, state, enforced)
        carrier, ours = self._carrier(facts, state), state.tunnel.ifname if state.tunnel else ""
        for link in facts.links:  # the tunnel's owner follows its carrier's
            if link.kind in UPLINKS and link.ifname != ours:
                self._follow(link, self._of_uplink(link, facts, state, enforced))
        for link in facts.links:
            if link.kind is LinkKind.TUNNEL or link.ifname == ours:
                self._follow(link, self._of_tunnel(link, carrier, state))
        self._left = None

    def _of_uplink(self, link: Link, facts: Facts, state: State, enforced: FirewallPolicy | None) -> Owner:
        before = self._links.get(link.ifindex)
        if before is not None and not (link.is_uplink and enforced is not None):
            return before.owner  # nothing leaves over it, or nobody knows how
        cleared = enforced is not None and link.ifname in enforced.cleared
        network = facts.wifi.get(link.ifname)
        name = link.ifname if link.kind is not LinkKind.WIFI else network.ssid.hex() if network else ""
        profile = state.profile.name if state.profile and not cleared else ""
        return Owner(Way.CLEAR if cleared else Way.CARRIER, link.kind.value, name, profile)

    def _of_tunnel(self, link: Link, carrier: Link | None, state: State) -> Owner:
        before = self._links.get(link.ifindex)
        # A link belongs to one profile as long as it lives: the next profile gets a new one.
        profile = before.owner.profile if before else ""
        if link.external:
            profile = self._of_others(link, profile, state)
        profile = profile or (state.profile.name if state.profile else "")
        below = self._links.get(carrier.ifindex) if carrier else None
        kind, network = (below.owner.kind, below.owner.network) if below else ("", "")
        if not kind and before:
            kind, network = before.owner.kind, before.owner.network
        return Owner(Way.TUNNEL, kind, network, profile)

    def _of_others(self, link: Link, before: str, state: State) -> str:
        """The profile of a link that somebody else brought up, also while it is not guarded: the one in use, if any."""
        assert self._followed is not None
        names = whose(link, self._followed[0])
        if state.tunnel and state.tunnel.ifname == link.ifname and state.profile:
            return state.profile.name
        return before if before in names else next(iter(names), "")

    def _carrier(self, facts: Facts, state: State) -> Link | None:
        """The uplink by which the tunnel's packets go."""
        uplinks = facts.uplinks
        if len(uplinks) < 2 or not state.servers:
            return uplinks[0] if len(uplinks) == 1 else None
        engine = state.profile.external if state.profile else None
        try:
            ifindex = self._counters.way_to(state.servers[0].address, (engine and engine.fwmark) or MARK)
        except HostError:
            return None
        return next((link for link in uplinks if link.ifindex == ifindex), None)

    def _follow(self, link: Link, owner: Owner) -> None:
        entry = self._links.get(link.ifindex)
        if entry is None:
            self._meet(link, owner)
            return
        if not entry.owner.network and entry.association == link.carrier_changes:
            entry.owner = entry.owner._replace(kind=owner.kind, network=owner.network)  # it was this one all the time
        entry.association = link.carrier_changes
        if entry.owner != owner:
            self._read(link.ifindex, entry)
            entry.owner = owner
            self._note(link.ifindex, entry)

    def _meet(self, link: Link, owner: Owner) -> None:
        """A link that was not counted yet, or not by this process."""
        if (now := self._now(link.ifindex)) is None:
            return  # gone meanwhile
        birth = self._counters.birth(link.ifname)
        left = (self._left or {}).get(link.ifindex)
        if left is not None and left.birth == birth:
            entry = _Counted(birth, left.owner, left.counts, link.carrier_changes)
        else:
            # What went over an uplink before anybody counted is nobody's; a new link counts from its beginning.
            old = self._left is not None and (owner.way is not Way.TUNNEL or link.external)
            entry = _Counted(birth, owner, now if old else NOTHING)
            entry.association = link.carrier_changes
        self._links[link.ifindex] = entry
        self._read(link.ifindex, entry)
        if owner.way is not Way.TUNNEL or not entry.owner.profile:
            entry.owner = owner
        self._note(link.ifindex, entry)
        self._commit()  # a kill in the next moment must not lose whose it is

    # --- counting -----------------------------------------------------------------------------------------------------

    def read(self) -> None:
        """Book what was counted on every link up to now."""
        self._went()
        if self._followed is not None:
            self.follow(*self._followed)  # a link that was made anew, so quickly that all looks as before
        for ifindex, entry in tuple(self._links.items()):
            self._read(ifindex, entry)

    def _read(self, ifindex: int, entry: _Counted) -> None:
        self._went()
        if self._links.get(ifindex) is entry and (counts := self._now(ifindex)) is not None:
            self._book(ifindex, entry, counts)

    def _now(self, ifindex: int) -> Counts | None:
        try:
            counts = self._counters.read(ifindex)
        except HostError as err:
            self._say(UNREADABLE.format(err))
            return None
        return counts

    def _went(self) -> None:
        """Links that have gone, with the last they counted."""
        try:
            removed = self._counters.removed()
        except HostError as err:
            self._say(UNREADABLE.format(err))
            return
        for ifindex, counts in removed:
            if entry := self._links.pop(ifindex, None):
                self._book(ifindex, entry, counts)
                self._note(ifindex, None)
            elif left := (self._left or {}).pop(ifindex, None):
                self._book(ifindex, _Counted(left.birth, left.owner, left.counts), counts)
                self._note(ifindex, None)

    def _book(self, ifindex: int, entry: _Counted, now: Counts) -> None:
        counted, entry.counts = between(entry.counts, now, self._counters.bits), now
        if counted == NOTHING:
            return
        self.moved[entry.owner.way] = self.moved[entry.owner.way].plus(counted)
        at = self.wall()
        try:
            self.store.book(at, self.today(at), entry.owner, counted)
            self.store.note(ifindex, Seen(entry.birth, entry.owner, now))
        except sqlite3.Error as err:
            self.failed(err)
        self._dirty = self._dirty if self._dirty is not None else time.monotonic()

    def today(self, at: float | None = None) -> date:
        """The local day."""
        return datetime.fromtimestamp(self.wall() if at is None else at, self.zone()).date()

    # --- keeping ------------------------------------------------------------------------------------------------------

    def _note(self, ifindex: int, entry: _Counted | None) -> None:
        try:
            self.store.note(ifindex, Seen(entry.birth, entry.owner, entry.counts) if entry else None)
        except sqlite3.Error as err:
            self.failed(err)
        self._dirty = self._dirty if self._dirty is not None else time.monotonic()

    def _keep(self) -> None:
        now = time.monotonic()
        if now - self._pruned >= PRUNE_S:
            self._pruned = now
            try:
                self.store.prune()
            except sqlite3.Error as err:
                self.failed(err)
        if self._dirty is not None and now - self._dirty >= COMMIT_S - READ_S:
            self._commit()

    def _commit(self) -> None:
        try:
            self.store.commit()
        except sqlite3.Error as err:
            self.failed(err)
            return
        self._dirty = None
        self._say(self.store.trouble)

    def failed(self, err: sqlite3.Error) -> None:
        """What was booked since the last commit is gone from the file, so it is counted once more from there."""
        self.store.recover(err)
        log.error("traffic not kept", error=str(err))
        self._say(self.store.trouble or f"The counted traffic cannot be kept now: {err}")
        with contextlib.suppress(sqlite3.Error):
            for ifindex, seen in self.store.seen(self._counters.boot_id()).items():
                if entry := self._links.get(ifindex):
                    entry.counts = seen.counts if seen.birth == entry.birth else entry.counts

    def _say(self, trouble: str | None) -> None:
        if trouble != self._said:
            self._said = trouble
            self._trouble(trouble)
