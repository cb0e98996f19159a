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
import contextlib
import json
import os
import re
import secrets
import select
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AsyncExitStack
from ipaddress import IPv6Address
from pathlib import Path

import structlog

from daemon.host import HostError
from daemon.linux import login_guard, nameservers, socket_mark
from daemon.linux.confined import Confined
from policies.facts import Address, Link
from policies.firewall import LOGIN_MARK, MARK

log = structlog.get_logger()

GUARD = Path(login_guard.__file__).resolve()
FORWARDER = "daemon.linux.dns_forwarder"
WHAT = "prepare the login"
MOUNTS = Path("/proc/self/mountinfo")
USUAL = "/sys/fs/cgroup"
PORTS_TRIED = 20  # until one is free for IPv4 and IPv6
GONE_S, LOOK_S = 5.0, 0.02  # for killed processes to be gone


class LoginTree:
    """Implements `daemon.host.LoginTree`. One at a time."""

    def __init__(self, mounts: Path = MOUNTS, resolvers: Sequence[Path] = nameservers.WRITTEN) -> None:
        self._mounts, self._resolvers = mounts, resolvers
        self._held = AsyncExitStack()  # marks and names
        self._guarded = AsyncExitStack()  # the guard, to the end: when it goes, it ends the tree
        self._folder: Path | None = None

    async def begin(self, process: int, links: Sequence[Link]) -> int:
        """See `daemon.host.LoginTree`."""
        await self.end()
        top = self._top()
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
            _move(process, folder)
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
            _kill(folder)
        await held.aclose()
        await _empty(folder, patience)
        await guarded.aclose()
        await _remove(folder)

    async def tidy(self) -> None:
        """See `daemon.host.LoginTree`."""
        try:
            left = [*self._top().glob("login-*")]
        except (HostError, OSError):
            return
        for folder in left:
            log.warning("an earlier daemon has left a login", folder=str(folder))
            await _remove(folder)

    def _top(self) -> Path:
        """Our own folder of the unified hierarchy. Raises HostError."""
        found: list[Path] = []
        for line in self._mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
            place, _, kind = line.partition(" - ")
            if kind.startswith("cgroup2 "):
                escaped = place.split(" ")[4]
                path = Path(re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), escaped))
                if (path / "cgroup.procs").exists():  # else something is mounted over it
                    found.append(path)
        if found:  # a sandbox shows parts of it once more
            return min(found, key=lambda path: (not path.is_relative_to(USUAL), len(path.parts))) / "tunwarden"
        raise HostError(
            WHAT, "this system has no unified control groups: boot it with systemd.unified_cgroup_hierarchy=1"
        )

    async def _hold_names(self, links: Sequence[Link], held: AsyncExitStack) -> int:
        """Answer the tree's questions for names; the port of the loopback where. Raises HostError, OSError."""
        listeners, port = _listeners()
        for each in listeners:
            held.enter_context(each)
        asked = [*_connected(links, self.addresses(links), held)]
        if not asked:
            log.warning("no resolver is known for the login", links=[link.ifname for link in links])
        argument = json.dumps({"listening": len(listeners)}).encode()
        child = await held.enter_async_context(Confined(FORWARDER, [*listeners, *asked], argument))
        watch = asyncio.get_running_loop().create_task(_watched(child))
        held.callback(watch.cancel)
        return port

    def addresses(self, links: Sequence[Link]) -> list[Address]:
        """The resolvers of the network, as its manager has written them down, and its routers: mostly they are some."""
        found = nameservers.of_the_network(self._resolvers)
        routers = (gateway for link in links for gateway in link.gateways)
        return [*dict.fromkeys((*found, *routers))][: nameservers.MOST]


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


def _move(process: int, folder: Path) -> None:
    """Put the process of a pidfd into the control group. Raises HostError, OSError."""
    gone = HostError(WHAT, "the process that asked for it has ended")
    pid = next(
        int(line.split()[1])
        for line in Path(f"/proc/self/fdinfo/{process}").read_text(encoding="ascii").splitlines()
        if line.startswith("Pid:")
    )
    if pid <= 0:
        raise gone
    try:
        (folder / "cgroup.procs").write_text(str(pid), encoding="ascii")
    except ProcessLookupError:
        raise gone from None
    if select.select([process], [], [], 0)[0]:
        # It ended meanwhile, so the number may be somebody else's already, who must not be ended with the login.
        for other in _processes(folder):
            with contextlib.suppress(OSError):
                (folder.parent / "cgroup.procs").write_text(other, encoding="ascii")
        raise gone


def _processes(folder: Path) -> list[str]:
    return (folder / "cgroup.procs").read_text(encoding="ascii").split()


def _kill(folder: Path) -> None:
    with contextlib.suppress(OSError):
        (folder / "cgroup.kill").write_text("1", encoding="ascii")


async def _empty(folder: Path, seconds: float) -> bool:
    """Whether no process is left, after so long at most."""
    until = asyncio.get_running_loop().time() + seconds
    while True:
        try:
            if "populated 0" in (folder / "cgroup.events").read_text(encoding="ascii"):
                return True
        except OSError:
            return True
        if asyncio.get_running_loop().time() >= until:
            return False
        await asyncio.sleep(LOOK_S)


async def _remove(folder: Path) -> None:
    """End what is left in it, and remove it. What cannot be ended yet (it waits for a disk) is for the next daemon."""
    _kill(folder)
    await _empty(folder, GONE_S)
    _remove_groups(folder)


def _remove_groups(folder: Path) -> None:
    for inner in sorted(folder.glob("**/"), reverse=True):  # root may have made groups of its own in there
        try:
            inner.rmdir()
        except FileNotFoundError:
            continue
        except OSError as err:
            log.error("a login's control group cannot be removed", folder=str(inner), error=err.strerror)


async def _watched(child: Confined) -> None:
    try:
        await child.hear()
    except HostError as err:
        log.error("names are no longer answered in the login", error=str(err))


def _listeners() -> tuple[list[socket.socket], int]:
    """UDP sockets on both loopback addresses, with the same port. Raises OSError."""
    for _ in range(PORTS_TRIED):
        four = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        four.setblocking(False)
        four.bind(("127.0.0.1", 0))
        port = int(four.getsockname()[1])
        try:
            six = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        except OSError:  # a kernel without IPv6
            return [four], port
        six.setblocking(False)
        try:
            six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            six.bind(("::1", port))
        except OSError as err:
            six.close()
            if not Path("/proc/sys/net/ipv6").exists() or not _has_loopback6():
                return [four], port
            four.close()
            last = err
            continue
        return [four, six], port
    raise last


def _has_loopback6() -> bool:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            return False
    return True


def _connected(links: Iterable[Link], addresses: Sequence[Address], held: AsyncExitStack) -> Iterator[socket.socket]:
    """Sockets to the resolvers, over these links and with our mark; one that has no way there is left out."""
    for link in links:
        for address in addresses:
            six = isinstance(address, IPv6Address)
            one = socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM)
            held.enter_context(one)
            try:
                one.setblocking(False)
                one.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK)
                one.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, link.ifname.encode() + b"\0")
                one.connect((str(address).partition("%")[0], 53, 0, link.ifindex) if six else (str(address), 53))
            except OSError:
                continue
            yield one
