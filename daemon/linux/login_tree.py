"""The process tree in which people log in to a captive portal: a control group whose sockets bear a mark.

What the tree starts is in it too, and nobody gets in but by us: the group's files are root's. A process may leave it (a
service manager can move it), and gains nothing by that. With the login the tree ends: its marks, its names and, after
some patience, its processes. If the daemon is killed, `login_guard.py` ends it at once.

    <cgroup2>/tunwarden/login-<random>      removed afterwards, or by the next daemon

The unified hierarchy (cgroup2) is needed, also beside an old one, and Linux 5.14 (cgroup.kill). Without, there is no
login, and nothing is opened instead. Sources: cgroups(7), Documentation/admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import structlog

from daemon.host import HostError
from daemon.linux import control_groups, group_names, login_guard, nameservers, socket_mark
from daemon.linux.confined import Confined
from policies.facts import Link
from policies.firewall import LOGIN_MARK

log = structlog.get_logger()

GUARD = Path(login_guard.__file__).resolve()
FORWARDER = "daemon.linux.dns_forwarder"
WHAT = "prepare the login"


class LoginTree:
    """Implements `daemon.host.LoginTree`. One at a time."""

    def __init__(self, mounts: Path = control_groups.MOUNTS, resolvers: Sequence[Path] = nameservers.WRITTEN) -> None:
        self._mounts, self._resolvers = mounts, resolvers
        self._held = AsyncExitStack()  # marks and names
        self._guarded = AsyncExitStack()  # the guard, to the end: when it goes, it ends the tree
        self._folder: Path | None = None

    async def begin(self, process: int, links: Sequence[Link]) -> int:
        """See `daemon.host.LoginTree`."""
        await self.end()
        top = control_groups.top(self._mounts, WHAT)
        try:
            top.mkdir(mode=0o755, exist_ok=True)
            folder = top / f"login-{secrets.token_hex(8)}"
            folder.mkdir(mode=0o755)
        except OSError as err:
            raise HostError(WHAT, f"no control group can be made in {top}: {err.strerror}") from err
        self._folder = folder
        try:
            _hold_guard(folder, self._guarded)
            _hold_marks(folder, self._held)
            port = await self._hold_names(links, self._held)
            control_groups.move(process, folder, top, WHAT)
        except BaseException as err:
            await self.end()
            if isinstance(err, OSError):
                raise HostError(WHAT, f"{err.filename or folder}: {err.strerror}") from err
            raise
        return port

    async def end(self, patience: float = 0.0) -> None:
        """See `daemon.host.LoginTree`."""
        folder, self._folder = self._folder, None
        held, self._held = self._held, AsyncExitStack()
        guarded, self._guarded = self._guarded, AsyncExitStack()
        if folder is None:
            return
        if not patience:
            control_groups.kill(folder)
        await held.aclose()
        await control_groups.empty(folder, patience)
        await guarded.aclose()
        await _remove(folder)

    async def tidy(self) -> None:
        """See `daemon.host.LoginTree`."""
        try:
            left = [*control_groups.top(self._mounts, WHAT).glob("login-*")]
        except (HostError, OSError):
            return
        for folder in left:
            log.warning("an earlier daemon has left a login", folder=str(folder))
            await _remove(folder)

    async def _hold_names(self, links: Sequence[Link], held: AsyncExitStack) -> int:
        """Answer the tree's questions for names; the port of the loopback where. Raises HostError, OSError."""
        listeners, port = group_names.listeners()
        for each in listeners:
            held.enter_context(each)
        asked = [*group_names.connected(links, group_names.addresses(links, self._resolvers), held)]
        if not asked:
            log.warning("no resolver is known for the login", links=[link.ifname for link in links])
        argument = json.dumps({"listening": len(listeners)}).encode()
        child = await held.enter_async_context(Confined(FORWARDER, [*listeners, *asked], argument))
        watch = asyncio.get_running_loop().create_task(_watched(child))
        held.callback(watch.cancel)
        return port


def _hold_marks(folder: Path, held: AsyncExitStack) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        held.callback(os.close, socket_mark.attach(descriptor, LOGIN_MARK))
    finally:
        os.close(descriptor)


def _hold_guard(folder: Path, held: AsyncExitStack) -> None:
    try:
        killing = os.open(folder / "cgroup.kill", os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise HostError(WHAT, "a login's processes could not be ended for certain: that needs Linux 5.14") from None
    try:
        guard = subprocess.Popen(
            [sys.executable, "-I", "-S", str(GUARD), str(killing)],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={}, cwd="/",
            pass_fds=[killing], start_new_session=True,
        )  # fmt: skip
    finally:
        os.close(killing)

    async def dismiss() -> None:
        assert guard.stdin is not None
        guard.stdin.close()
        await asyncio.to_thread(guard.wait)

    held.push_async_callback(dismiss)


async def _remove(folder: Path) -> None:
    """End what is left in it, and remove it. What cannot be ended yet (it waits for a disk) is for the next daemon."""
    control_groups.kill(folder)
    await control_groups.empty(folder, control_groups.GONE_S)
    control_groups.remove(folder)


async def _watched(child: Confined) -> None:
    try:
        await child.hear()
    except HostError as err:
        log.error("names are no longer answered in the login", error=str(err))
