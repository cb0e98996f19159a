"""The openvpn program: its configuration, its start with next to no rights, and its management socket.

Everything goes to it over two descriptors that only root can reach: the configuration on its standard input (memory, no
file), the user name and the password over a Unix socket in a folder of root's. It runs no scripts, makes no link, sets
no address and no route. It ends with the socket, so also when we are killed.

Its packets are marked by the kernel, because of its control group, `<cgroup2>/tunwarden/openvpn`: so it needs no
capability at all. It is moved there while it waits to be let go, and has no socket yet. Where no group can be marked,
it sets the mark itself, with CAP_NET_ADMIN.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import struct
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from daemon import files
from daemon.host import HostError
from daemon.linux import control_groups, socket_mark
from daemon.linux.openvpn_said import Said
from daemon.linux.wireguard_go import Process, end_foreign, peer_of, start_time
from policies.facts import Endpoint
from policies.firewall import MARK, TUNNEL_IFNAME
from policies.openvpn import OpenVPNProfile, render

log = structlog.get_logger()

PROGRAM = Path("/usr/sbin/openvpn")
FOLDER = Path("/run/tunwarden/openvpn")
START_TIME = 5.0  # seconds until it must have connected to our socket; 10 ms on an idle machine
LAST_WORDS = 1.0  # seconds for what was written before the end to be read
LONGEST_LINE = 64 << 10  # bytes of one line over the socket; openvpn's own are far below

# Of what a server pushes, this is taken; the first rule that fits counts. Of routes, DNS of other kinds, variables,
# timers that end the tunnel and whatever comes with the next version, nothing.
TAKEN = (
    "ifconfig ", "ifconfig-ipv6 ", "route-gateway ", "topology ", "tun-mtu ", "dhcp-option DNS ", "dhcp-option DNS6 ",
    "ping ", "ping-restart ", "peer-id ", "cipher ", "protocol-flags ", "key-derivation ", "auth-token ",
    "auth-token-user ", "comp-lzo", "compress", "push-continuation ",
)  # fmt: skip

PR_SET_NO_NEW_PRIVS, CAPABILITY_VERSION_3 = 38, 0x20080522  # <linux/prctl.h>, <linux/capability.h>
CAP_NET_ADMIN = 12
_libc = ctypes.CDLL(None, use_errno=True)


def configuration(profile: OpenVPNProfile, server: Endpoint, socket: Path, *, marked: bool = False) -> Iterator[str]:
    """The lines of the configuration: what is ours, then what comes of the profile's fields.

    `marked`: the kernel marks its packets; else openvpn does.
    """
    protocol = f"{server.protocol}{server.address.version}{'-client' if server.protocol == 'tcp' else ''}"
    yield from (
        "client", f"remote {server.address} {server.port} {protocol}", "nobind", *(() if marked else (f"mark {MARK}",)),
        f"dev {TUNNEL_IFNAME}", "dev-type tun", "disable-dco", "ifconfig-noexec", "route-noexec", "ifconfig-nowarn",
        "script-security 0", "allow-compression no", "auth-nocache", "auth-retry none",
        # One connection, one process: who tries again, and where, is for the daemon to say.
        "remap-usr1 SIGTERM", "connect-retry-max 1", "resolv-retry 0",
        f"management {socket} unix", "management-client", "management-hold", "management-query-passwords",
        "management-up-down", "verb 1", "suppress-timestamps",
    )  # fmt: skip
    yield from (f'pull-filter accept "{beginning}"' for beginning in TAKEN)
    yield 'pull-filter ignore ""'
    yield from render(profile)


class OpenVPNProcess:
    """One openvpn. `start`, then `heard` after each change, `end` at last."""

    def __init__(self, program: Path = PROGRAM, folder: Path = FOLDER, mounts: Path = control_groups.MOUNTS) -> None:
        self._program, self._socket, self._pid_file = program, folder / "management.sock", folder / "pid"
        self._mounts = mounts
        self.said = Said()
        self._changed = asyncio.Event()  # something was heard
        self._gone = False
        self.process: Process | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None

    async def start(
        self, profile: OpenVPNProfile, server: Endpoint, meanwhile: Callable[[], None] = lambda: None
    ) -> None:
        """Returns when it is connecting. `meanwhile` is called while it starts. Raises HostError."""
        what = "start openvpn"
        try:
            program = files.trusted_program(self._program)
            files.make_folder(self._socket.parent.parent, 0o755)
            files.make_folder(self._socket.parent, 0o700)
            with contextlib.suppress(FileNotFoundError):
                self._socket.unlink()
        except FileNotFoundError as err:
            raise HostError(what, f"{self._program} is not installed") from err
        except OSError as err:
            raise HostError(what, f"{err.filename or self._program}: {err.strerror}") from err
        arrived: asyncio.Future[tuple[asyncio.StreamReader, asyncio.StreamWriter]]
        arrived = asyncio.get_running_loop().create_future()

        def arrive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if arrived.done():
                writer.close()
            else:
                arrived.set_result((reader, writer))

        moving: asyncio.Task[None] | None = None
        listener = await asyncio.start_unix_server(arrive, self._socket, limit=LONGEST_LINE)
        try:
            group = self._group()
            lines = configuration(profile, server, self._socket, marked=group is not None)
            self.process = process = _run(program, "".join(f"{line}\n" for line in lines), marked=group is not None)
            if group is not None:
                moving = asyncio.get_running_loop().create_task(_move(process.pid, group))
                moving.add_done_callback(lambda task: task.cancelled() or task.exception())  # the first error is told
            files.write(self._pid_file, f"{process.pid} {start_time(process.pid)}\n".encode("ascii"))
            meanwhile()
            ended = asyncio.ensure_future(process.wait())
            either: set[asyncio.Future[Any]] = {arrived, ended}
            await asyncio.wait(either, timeout=START_TIME, return_when=asyncio.FIRST_COMPLETED)
            ended.cancel()
            if not arrived.done():
                why = process.last_words() if process.has_ended else "it does not answer"
                raise HostError(what, why)
            reader, self._writer = arrived.result()
            if peer_of(self._writer.get_extra_info("socket")) != process.pid:
                raise HostError(what, f"another program came to {self._socket}")
            if moving is not None:
                await moving
        except OSError as err:
            raise HostError(what, f"{err.filename or program}: {err.strerror}") from err
        finally:
            listener.close()
            arrived.cancel()
            if moving is not None:
                moving.cancel()
        self._reading = asyncio.get_running_loop().create_task(self._listen(reader, profile))

    def _group(self) -> Path | None:
        """The control group whose sockets bear our mark; None where there can be none."""
        try:
            return _marked_group(self._mounts)
        except HostError as err:
            log.warning("openvpn keeps CAP_NET_ADMIN, to mark its packets", why=err.why)
            return None

    async def _listen(self, reader: asyncio.StreamReader, profile: OpenVPNProfile) -> None:
        try:
            while line := await reader.readline():
                self.said.hear(line.decode("utf-8", "replace").rstrip("\r\n"))
                self._answer(profile)
                self._changed.set()
        except (OSError, ValueError):  # gone, or a line that never ends: its process ends with the socket
            pass
        finally:
            self._hang_up()
            self._gone = True
            self._changed.set()

    async def more(self) -> bool:
        """Returns when something was heard since the last time: False when there will be nothing more."""
        await self._changed.wait()
        self._changed.clear()
        return not self._gone

    async def last_words(self) -> str:
        """Why it has ended, or is about to."""
        if self._reading is not None:
            await asyncio.wait({self._reading}, timeout=LAST_WORDS)
        with contextlib.suppress(TimeoutError):
            if self.process is not None:
                await asyncio.wait_for(self.process.wait(), LAST_WORDS)
        return self.said.why or (self.process.last_words() if self.process else "openvpn ended")

    def _answer(self, profile: OpenVPNProfile) -> None:
        said = self.said
        if said.wants_hold_released:
            said.wants_hold_released = False
            self._tell("log on", "state on", "hold release")
        if said.wants_login:
            said.wants_login = False
            if profile.user is not None and profile.password is not None:
                self._tell(f'username "Auth" {_quoted(profile.user)}', f'password "Auth" {_quoted(profile.password)}')

    def _tell(self, *commands: str) -> None:
        if self._writer is not None:
            self._writer.write("".join(f"{command}\n" for command in commands).encode())

    def _hang_up(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    async def end(self) -> None:
        """End it and what an earlier daemon left. Idempotent, bounded in time. Raises HostError."""
        try:
            if self._reading is not None:
                self._reading.cancel()
                self._reading = None
            self._hang_up()
            own, self.process = self.process, None
            if own is not None:
                await own.end()
            await self._end_recorded()
        except OSError as err:
            raise HostError("stop openvpn", f"{err.filename or self._program}: {err.strerror}") from err

    async def _end_recorded(self) -> None:
        try:
            pid, started = (int(word) for word in files.read(self._pid_file).split())
        except (OSError, ValueError):
            return
        await end_foreign(pid, lambda: start_time(pid) == started)
        files.remove(self._pid_file)


def _marked_group(mounts: Path) -> Path:
    """Raises HostError."""
    what = "mark openvpn's packets"
    top = control_groups.top(mounts, what)
    folder = top / "openvpn"
    try:
        for each in (top, folder):
            each.mkdir(mode=0o755, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            socket_mark.attach_for_good(descriptor, MARK)
        finally:
            os.close(descriptor)
    except OSError as err:
        raise HostError(what, f"no control group can be made in {top}: {err.strerror}") from err
    return folder


async def _move(pid: int, folder: Path) -> None:
    """Put our child, not yet waited for, into the group: some 20 ms in the kernel. Raises HostError, OSError."""
    process = os.pidfd_open(pid)

    def move() -> None:
        try:
            control_groups.move(process, folder, folder.parent, "mark openvpn's packets")
        finally:
            os.close(process)

    await asyncio.to_thread(move)


def _run(program: Path, text: str, *, marked: bool) -> Process:
    """`marked`: the kernel marks its packets. Raises OSError."""
    given = os.memfd_create("configuration", os.MFD_CLOEXEC)
    try:
        os.write(given, text.encode())
        os.lseek(given, 0, os.SEEK_SET)
        return Process([str(program), "--config", "stdin"], "openvpn", stdin=given, give_up=partial(_give_up, marked))
    finally:
        os.close(given)


def _give_up(marked: bool) -> None:
    """Of the calling thread, for good. With no_new_privs, a program that starts as root gets no capability back.

    Raises OSError.
    """
    kept = 0 if marked else 1 << CAP_NET_ADMIN
    header = struct.pack("=Ii", CAPABILITY_VERSION_3, 0)
    data = struct.pack("=6I", kept, kept, 0, 0, 0, 0)
    if _libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 or _libc.capset(header, data) != 0:
        raise OSError(ctypes.get_errno(), "its rights cannot be taken away")


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
