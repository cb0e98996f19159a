"""Split tunnelling: who is kept out of the tunnel, or in it, and for how long (docs/split.md).

Whoever asks may name processes of his own alone, unless he is root. The firewall knows of a group before anybody is in
it, and forgets it after the last has left. A tree that has ended is noticed within a second, and so is a new process of
a program that is listed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import structlog

from daemon.host import HostError, SplitGroups, SplitTree
from daemon.store import Store, StoreError
from ipc.access import Caller
from ipc.errors import Error, ServiceError
from ipc.structs import SplitEntry
from policies.decision import Decision
from policies.facts import Facts
from policies.firewall import FirewallPolicy
from policies.settings import Settings
from policies.split import MOST_PROGRAMS, Group, Network, Program, SplitNames, is_path
from policies.states import Changed, Event, Phase

log = structlog.get_logger()

LOOK_S = 1.0  # between two looks at who is there, while anybody may be
MOST_TREES = 256  # of one user: each is a control group

Change = Callable[[Facts], Facts]


class Splits:
    """Implements `daemon.explore.Explorer`: names are answered by the network that there is."""

    def __init__(
        self,
        groups: SplitGroups,
        store: Store,
        command: Callable[[Callable[[], Awaitable[Event]]], Awaitable[None]],
        change: Callable[[Change], None],
        warn: Callable[[str, str | None], None],
        enforced: Callable[[], FirewallPolicy | None],
    ) -> None:
        """`command`: have something done by the owner of the state; `change`: its facts, from within that; `warn`: of
        a topic, None ends it; `enforced`: what the kernel has confirmed.
        """
        self._groups, self._store, self._command, self._change = groups, store, command, change
        self._warn, self._enforced = warn, enforced
        self.trees: tuple[SplitTree, ...] = ()
        self.programs: frozenset[Program] = frozenset()
        self._present: frozenset[Group] = frozenset()  # that the firewall knows of
        self._beginning: frozenset[Group] = frozenset()  # that somebody is about to be in
        self._facts, self._beside, self._settings = Facts(), frozenset[str](), Settings()
        self._looking: asyncio.Task[None] | None = None
        self._answering: asyncio.Task[None] | None = None
        self._again = False

    @property
    def outside(self) -> int:
        """How many trees of processes never use the tunnel."""
        return sum(tree.group is Group.NEVER for tree in self.trees)

    # --- life --------------------------------------------------------------------------------------------------------

    async def begin(self) -> None:
        """Take over what an earlier daemon has left, before the first decision."""
        port = 0
        try:
            self.programs = self._store.programs()
        except StoreError as err:
            self._warn("split programs", f"Which programs are listed for split tunnelling is not known: {err}.")
        try:
            self._groups.take_over()
            self.trees = self._groups.trees()
            self._present = self._wanted(self.trees)
            port = await self._groups.answer((), ()) if Group.NEVER in self._present else 0
        except HostError as err:  # what is marked stays so, and those bound to the tunnel stay bound
            self._warn("split", f"Split tunnelling does not work: {err}.")
            self._present |= {Group.ONLY}
        self._change(lambda facts: self._with_groups(facts, port))
        self._look_on()

    async def abandon(self) -> None:
        """Whoever is in a group stays there, and so do the rules about it."""
        for task in (self._looking, self._answering):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        await self._groups.close()

    def follow(self, facts: Facts, decision: Decision, phase: Phase, settings: Settings) -> None:
        """Names are asked of the networks there are."""
        self._facts, self._beside, self._settings = facts, decision.beside, settings
        if not facts.never:
            return
        self._again = True
        if self._answering is None or self._answering.done():
            self._answering = asyncio.create_task(self._answer())

    def left_out(self, subnets: Sequence[Network]) -> None:
        """These excluded networks belong to the tunnel, so they are not excluded."""
        names = ", ".join(str(each) for each in subnets)
        text = f"{names}: part of the tunnel, so reached through it, though split.subnets says otherwise."
        self._warn("split subnets", text if subnets else None)

    async def _answer(self) -> None:
        while self._again:
            self._again = False
            links = [link for name in sorted(self._beside) if (link := self._facts.link(name))]
            enforced = self._enforced()
            through = enforced.tunnel.resolvers if enforced and enforced.tunnel else ()
            tunnel = self._settings.split.names is SplitNames.TUNNEL
            with contextlib.suppress(HostError):  # said when the group was begun
                await self._groups.answer([] if tunnel else links, through if tunnel else ())

    # --- who is there ------------------------------------------------------------------------------------------------

    def _look_on(self) -> None:
        if self._present and (self._looking is None or self._looking.done()):
            self._looking = asyncio.create_task(self._look())

    async def _look(self) -> None:
        """While anybody may be in a group."""
        while self._present:
            await asyncio.sleep(LOOK_S)
            try:
                for tree in self._groups.gather(self.programs) if self.programs else ():
                    log.info("grouped, as listed", group=tree.group.value, pid=tree.pid, uid=tree.uid, name=tree.name)
                await self._tell()
            except Exception:  # who looks no more would leave programs that are kept in the tunnel out of it
                log.exception("looking for processes to group failed", again_in_s=LOOK_S)

    async def _tell(self) -> None:
        """What has changed since."""
        trees = self._groups.trees()
        if trees != self.trees or self._wanted(trees) != self._present:
            await self._command(self._settle)

    def _wanted(self, trees: Sequence[SplitTree]) -> frozenset[Group]:
        """The groups that the firewall is to know of: somebody is in them, or about to be."""
        listed = {program.group for program in self.programs}
        return (self._present & self._beginning) | listed | {tree.group for tree in trees}

    async def _settle(self) -> Event:
        """By the owner of the state: a group that nobody is in any more is forgotten, with its rules."""
        self.trees = self._groups.trees()
        self._present = self._wanted(self.trees)
        self._change(lambda facts: self._with_groups(facts, facts.never_dns))
        return Changed()

    def _with_groups(self, facts: Facts, port: int) -> Facts:
        never = Group.NEVER in self._present
        return replace(facts, never=never, never_dns=port if never else 0, only=Group.ONLY in self._present)

    async def _open(self, group: Group) -> None:
        """Have the firewall know of the group. Raises ServiceError."""
        try:
            port = await self._groups.answer((), ()) if group is Group.NEVER and not self._facts.never else None
        except HostError as err:
            raise _refused(err) from err

        async def run() -> Event:
            self._present |= {group}
            self._change(lambda facts: self._with_groups(facts, facts.never_dns if port is None else port))
            return Changed()

        await self._command(run)
        enforced = self._enforced()
        if group is Group.ONLY and (enforced is None or not enforced.only):
            raise _not_now("the kernel has not confirmed the rules.", "`tunwarden status` says why.")

    @contextmanager
    def _begun(self, group: Group) -> Iterator[None]:
        self._beginning |= {group}
        try:
            yield
        finally:
            self._beginning -= {group}

    # --- what callers ask for ----------------------------------------------------------------------------------------

    def listed(self, caller: Caller) -> tuple[SplitEntry, ...]:
        """What the caller has put there; everything, for root."""
        programs = [SplitEntry(each.group.value, each.path, 0, each.uid, 0) for each in sorted(self.programs)]
        trees = [
            SplitEntry(each.group.value, each.name, each.pid, each.uid, each.processes) for each in self._groups.trees()
        ]
        return tuple(each for each in (*programs, *trees) if caller.uid in (0, each.uid))

    async def add(self, caller: Caller, group: Group, pid: int) -> None:
        """A process, and what it starts from now on; 0: the caller's own. Raises ServiceError."""
        with self._process(caller, pid) as (process, uid), self._begun(group):
            if sum(tree.uid == uid for tree in self._groups.trees()) >= MOST_TREES:
                raise _not_now(f"{MOST_TREES} programs of that user are in a group already.", "Remove some.")
            await self._open(group)
            try:
                tree = self._groups.add(group, process, uid)
            except HostError as err:
                raise _refused(err) from err
            finally:
                await self._command(self._settle)
        self._look_on()
        log.info("added", group=group.value, pid=tree.pid, uid=uid, name=tree.name)

    @contextmanager
    def _process(self, caller: Caller, pid: int) -> Iterator[tuple[int, int]]:
        """A pidfd, and whose it is. Its user is looked at after it is open, so the number cannot become another's."""
        if pid == 0:
            if caller.process is None:
                raise _not_now("your process cannot be told from others here.", "Name it, or ask over tunwarden.sock.")
            pid = caller.pid
        try:
            process, users = self._groups.open(pid)
        except HostError as err:
            raise _refused(err) from err
        try:
            if caller.uid not in (0, *users) or (caller.uid != 0 and len(users) > 1):
                why = f"process {pid} is not yours."
                raise ServiceError(Error.NOT_PERMITTED, "Split", why, "Use sudo for processes of others.")
            yield process, min(users) if len(users) == 1 else 0
        finally:
            os.close(process)

    async def remove(self, caller: Caller, pid: int) -> None:
        """The tree that a process is in, with the sockets it has made there. Raises ServiceError."""
        tree = self._groups.find(pid)
        if tree is None:
            raise _not_now(f"process {pid} is in no group.", "`tunwarden split list` shows who is.")
        if caller.uid not in (0, tree.uid):
            why = f"process {pid} was added by somebody else."
            raise ServiceError(Error.NOT_PERMITTED, "Split", why, "Use sudo.")
        for program in self.programs:
            if tree in self._groups.trees_of(program):
                remedy = f"Remove that: `tunwarden split remove --program {program.path}`."
                raise _not_now(f"process {pid} runs {program.path}, which is listed.", remedy)
        await self._command(lambda: self._removed((tree,)))

    async def _removed(self, trees: Sequence[SplitTree]) -> Event:
        try:
            for tree in trees:
                self._groups.remove(tree)
                log.info("removed", group=tree.group.value, pid=tree.pid, uid=tree.uid, name=tree.name)
        except HostError as err:
            raise _refused(err) from err
        finally:
            event = await self._settle()
        return event

    async def add_program(self, caller: Caller, group: Group, path: str, uid: int) -> None:
        """All processes of an executable of one user, now and later. Raises ServiceError."""
        program = self._program(caller, group, path, uid)
        try:
            self._groups.check(path)
        except HostError as err:
            raise _refused(err) from err
        kept = frozenset(each for each in self.programs if (each.path, each.uid) != (program.path, program.uid))
        if len(kept) >= MOST_PROGRAMS:
            raise _not_now(f"{MOST_PROGRAMS} programs are listed already.", "Remove some.")
        with self._begun(group):
            await self._open(group)
            await self._command(lambda: self._keep(kept | {program}))
            self._groups.gather((program,))
        await self._command(self._settle)
        self._look_on()

    async def remove_program(self, caller: Caller, path: str, uid: int) -> None:
        """It is listed no more, and its processes are removed. Raises ServiceError."""
        wanted = self._program(caller, Group.NEVER, path, uid)
        program = next((each for each in self.programs if (each.path, each.uid) == (wanted.path, wanted.uid)), None)
        if program is None:
            raise _not_now(f"{path} is not listed.", "`tunwarden split list` shows what is.")
        await self._command(lambda: self._keep(self.programs - {program}))
        await self._command(lambda: self._removed(self._groups.trees_of(program)))

    def _program(self, caller: Caller, group: Group, path: str, uid: int) -> Program:
        if not is_path(path):
            raise ServiceError(Error.INVALID_ARGUMENT, "Split", "path: an absolute path is needed, without `..`.")
        own = caller.uid if uid < 0 else uid
        if caller.uid not in (0, own):
            raise ServiceError(Error.NOT_PERMITTED, "Split", "those processes are not yours.", "Use sudo.")
        return Program(path, own, group)

    async def _keep(self, programs: frozenset[Program]) -> Event:
        try:
            self._store.save_programs(programs)
        except StoreError as err:
            raise _not_now(f"{err}.", "Nothing was changed; free the disk and try again.") from err
        self.programs = programs
        return Changed()


def _not_now(why: str, remedy: str) -> ServiceError:
    return ServiceError(Error.NOT_NOW, "Split", why, remedy)


def _refused(err: HostError) -> ServiceError:
    return ServiceError(Error.NOT_NOW, "Split", f"{err.why}.", "Nothing was changed.")
