"""The programs that never use the tunnel, and those that use nothing else: control groups whose sockets bear a mark.

    <cgroup2>/tunwarden/never/<pid>-<uid>-<random>/    NEVER_MARK: a process, and all that it starts from then on
    <cgroup2>/tunwarden/only/<pid>-<uid>-<random>/     ONLY_MARK

The marks are the group's own for as long as it exists, so they outlive a daemon that is killed, and the next one takes
the groups over. A tree has a group of its own, for whoever is removed must lose the sockets it made there: a socket
belongs to the group that it was made in, and that one is silenced. Nobody gets in but by us and by being started in
there: the files are root's.

The unified hierarchy alone. Where only the old one is mounted (net_cls), this is refused with a word on what to do: its
mark comes after the route and the address of a packet were chosen, so what is excluded would have the tunnel's address.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import secrets
import socket
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import structlog

from daemon.host import HostError, SplitTree
from daemon.linux import control_groups, executables, group_names, nameservers, socket_mark
from daemon.linux.confined import Confined
from daemon.linux.executables import Executables
from policies.facts import Address, Link
from policies.firewall import NEVER_MARK, ONLY_MARK
from policies.split import Group, Program

log = structlog.get_logger()

WHAT = "Split"
FORWARDER = "daemon.linux.dns_forwarder"
MARKS = {Group.NEVER: NEVER_MARK, Group.ONLY: ONLY_MARK}
TREE = re.compile(r"([0-9]{1,10})-([0-9]{1,10})-[0-9a-f]{16}")
PER_S, BURST = 200.0, 1000.0  # questions for names
AGAIN_S = 1.0  # before a forwarder that has ended is started anew
ROUNDS = 100  # of moving out whoever is in a group: somebody may be starting others all the time


class SplitGroups:
    """Implements `daemon.host.SplitGroups`."""

    def __init__(self, mounts: Path = control_groups.MOUNTS, resolvers: Sequence[Path] = nameservers.WRITTEN) -> None:
        self._mounts, self._resolvers = mounts, resolvers
        self._executables = Executables()
        self._ready: set[Group] = set()  # marked by us
        self._listeners: list[socket.socket] = []
        self._port = 0
        self._serving: asyncio.Task[None] | None = None
        self._asked: tuple[object, ...] = ()  # whom the forwarder asks

    # --- who is in them ----------------------------------------------------------------------------------------------

    def take_over(self) -> frozenset[Group]:
        """See `daemon.host.SplitGroups`."""
        try:
            top = control_groups.top(self._mounts, WHAT)
        except HostError:
            return frozenset()  # then nobody is in any
        found = frozenset(group for group in Group if control_groups.populated(top / group.value))
        for group in found:
            self._prepare(top, group)
        self.trees()  # removes what has ended since
        return found

    def add(self, group: Group, process: int, uid: int) -> SplitTree:
        """See `daemon.host.SplitGroups`."""
        top = control_groups.top(self._mounts, WHAT)
        number = control_groups.pid(process)
        if number in (1, os.getpid()):
            raise HostError(WHAT, "that process is this computer's own, and everything would follow it")
        if inside := self._holding(top, number):
            raise HostError(WHAT, f"process {number} is in the group {inside} already; remove it there first")
        self._prepare(top, group)
        folder = top / group.value / f"{max(number, 0)}-{uid}-{secrets.token_hex(8)}"
        try:
            folder.mkdir(mode=0o755)
            control_groups.move(process, folder, top, WHAT)
        except BaseException as err:
            control_groups.remove(folder)
            if isinstance(err, OSError):
                raise HostError(WHAT, f"{err.filename or folder}: {err.strerror}") from err
            raise
        return SplitTree(group, number, uid, _name(number), 1)

    def trees(self) -> tuple[SplitTree, ...]:
        """See `daemon.host.SplitGroups`."""
        found = []
        for group, folder, number, uid in self._folders():
            inside = _processes(folder)
            if inside:
                found.append(SplitTree(group, number, uid, _name(inside[0]), len(inside)))
            elif not control_groups.populated(folder):
                with contextlib.suppress(OSError):  # somebody was just being added
                    folder.rmdir()
        return tuple(found)

    def find(self, pid: int) -> SplitTree | None:
        """See `daemon.host.SplitGroups`."""
        for group, folder, number, uid in self._folders():
            inside = _processes(folder)
            if inside and (pid in inside or pid == number):
                return SplitTree(group, number, uid, _name(inside[0]), len(inside))
        return None

    def trees_of(self, program: Program) -> tuple[SplitTree, ...]:
        """See `daemon.host.SplitGroups`."""
        found = []
        with contextlib.suppress(HostError):
            meant = executables.identity(program.path, WHAT)
            for group, folder, number, uid in self._folders():
                inside = _processes(folder) if (group, uid) == (program.group, program.uid) else []
                if any(self._executables.of(each, WHAT) == meant for each in inside):
                    found.append(SplitTree(group, number, uid, _name(inside[0]), len(inside)))
        return tuple(found)

    def remove(self, tree: SplitTree) -> None:
        """See `daemon.host.SplitGroups`."""
        top = control_groups.top(self._mounts, WHAT)
        for group, folder, number, uid in self._folders():
            if (group, number, uid) == (tree.group, tree.pid, tree.uid):
                self._empty(folder, top)

    def _empty(self, folder: Path, top: Path) -> None:
        """The sockets first: at no moment does a process that has left still have one that is marked and works."""
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        try:
            socket_mark.silence(descriptor)
        finally:
            os.close(descriptor)
        for _ in range(ROUNDS):
            left = _processes(folder)
            if not left:
                break
            for number in left:
                with contextlib.suppress(OSError):
                    (top / "cgroup.procs").write_text(str(number), encoding="ascii")
        else:
            raise HostError(WHAT, "it starts others faster than they can be removed: end it")
        control_groups.remove(folder)

    def _folders(self) -> Iterable[tuple[Group, Path, int, int]]:
        try:
            top = control_groups.top(self._mounts, WHAT)
        except HostError:
            return
        for group in Group:
            for folder in sorted((top / group.value).glob("*/")):
                if named := TREE.fullmatch(folder.name):
                    yield group, folder, int(named[1]), int(named[2])

    def _holding(self, top: Path, pid: int) -> str:
        """The group that this process is in; "" when it is in none of ours."""
        for group in Group:
            for folder in (top / group.value).glob("**/"):
                if pid in _processes(folder):
                    return group.value
        return ""

    def _prepare(self, top: Path, group: Group) -> None:
        """The group is there, and marks. Raises HostError."""
        folder = top / group.value
        if group in self._ready and folder.exists():
            return
        try:
            for each in (top, folder):
                each.mkdir(mode=0o755, exist_ok=True)
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as err:
            raise HostError(WHAT, f"no control group can be made in {top}: {err.strerror}") from err
        try:
            socket_mark.attach_for_good(descriptor, MARKS[group])
        finally:
            os.close(descriptor)
        self._ready.add(group)

    # --- processes of this machine -----------------------------------------------------------------------------------

    def open(self, pid: int) -> tuple[int, frozenset[int]]:
        """See `daemon.host.SplitGroups`."""
        try:
            process = os.pidfd_open(pid)
        except (OSError, OverflowError) as err:
            raise HostError(WHAT, f"there is no process {pid}") from err
        try:
            users = executables.users(pid)
            if control_groups.ended(process):  # then the number may have been another's when we looked
                raise ProcessLookupError
        except OSError as err:
            os.close(process)
            raise HostError(WHAT, f"there is no process {pid}") from err
        return process, users

    def check(self, path: str) -> None:
        """See `daemon.host.SplitGroups`."""
        executables.identity(path, WHAT)
        self._executables.of(os.getpid(), WHAT)

    def gather(self, programs: Iterable[Program]) -> tuple[SplitTree, ...]:
        """See `daemon.host.SplitGroups`."""
        wanted: dict[tuple[int, executables.Identity], Group] = {}
        for program in programs:
            with contextlib.suppress(HostError):  # it is not installed now
                wanted[program.uid, executables.identity(program.path, WHAT)] = program.group
        if not wanted:
            return ()
        inside = {number for _, folder, _, _ in self._folders() for number in _processes(folder)}
        added = []
        for number in executables.running(frozenset(uid for uid, _ in wanted)):
            if number in inside:
                continue
            with contextlib.suppress(HostError):
                process, users = self.open(number)
                try:
                    what = self._executables.of(number, WHAT)
                    (uid,) = users if len(users) == 1 else (-1,)
                    if what is not None and (group := wanted.get((uid, what))) and not control_groups.ended(process):
                        added.append(self.add(group, process, uid))
                finally:
                    os.close(process)
        return tuple(added)

    # --- names -------------------------------------------------------------------------------------------------------

    async def answer(self, links: Sequence[Link], through: Sequence[Address]) -> int:
        """See `daemon.host.SplitGroups`."""
        if not self._listeners:
            try:
                self._listeners, self._port = group_names.listeners()
            except OSError as err:
                raise HostError(WHAT, f"names cannot be answered: {err.strerror}") from err
        asked = self._whom(links, through)
        if asked != self._asked or self._serving is None:
            await self._hush()
            self._asked = asked
            self._serving = asyncio.get_running_loop().create_task(self._serve(links, through))
        return self._port

    def _whom(self, links: Sequence[Link], through: Sequence[Address]) -> tuple[object, ...]:
        if through:
            return (*through,)
        names = tuple((link.ifindex, link.ifname, link.addresses) for link in links)
        return names, tuple(group_names.addresses(links, self._resolvers))

    async def _serve(self, links: Sequence[Link], through: Sequence[Address]) -> None:
        while True:
            async with AsyncExitStack() as held:
                asked = [*_plain(through, held)] if through else []
                if not through:
                    asked = [*group_names.connected(links, group_names.addresses(links, self._resolvers), held)]
                argument = json.dumps({"listening": len(self._listeners), "per_s": PER_S, "burst": BURST}).encode()
                try:
                    child = await held.enter_async_context(Confined(FORWARDER, [*self._listeners, *asked], argument))
                    await child.hear()
                except (HostError, OSError) as err:
                    log.warning("names of excluded programs", error=str(err))
            await asyncio.sleep(AGAIN_S)

    async def _hush(self) -> None:
        serving, self._serving = self._serving, None
        if serving is not None:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)

    async def close(self) -> None:
        """See `daemon.host.SplitGroups`."""
        await self._hush()
        for each in self._listeners:
            each.close()
        self._listeners = []
        self._executables.close()


def _plain(addresses: Sequence[Address], held: AsyncExitStack) -> Iterable[socket.socket]:
    """Sockets without a mark: they go where everybody's packets go, into the tunnel."""
    for address in addresses:
        one = socket.socket(socket.AF_INET6 if address.version == 6 else socket.AF_INET, socket.SOCK_DGRAM)
        held.enter_context(one)
        try:
            one.setblocking(False)
            one.connect((str(address), 53))
        except OSError:
            continue
        yield one


def _processes(folder: Path) -> list[int]:
    """In it, and in groups that root may have made below."""
    found = []
    for each in folder.glob("**/"):
        with contextlib.suppress(OSError):
            found += control_groups.processes(each)
    return found


def _name(pid: int) -> str:
    """What a process calls itself: for people, and no proof of anything."""
    try:
        text = Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").rstrip("\n")
    except OSError:
        return ""
    return "".join(char if char.isprintable() else "?" for char in text)
