"""WireGuard in a process: wireguard-go, its supervision and its configuration socket.

The socket speaks the cross-platform UAPI (https://www.wireguard.com/xplatform/): `get=1` or `set=1`, `key=value` lines,
an empty line; the answer ends with `errno=N` and an empty line. Keys pass through that socket and nowhere else.

The process outlives a SIGKILL of the daemon: the tunnel keeps working behind the same firewall. The next daemon finds
it by the socket (the kernel tells who listens) and by a pid file checked against the start time; never by its name.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import socket
import struct
import subprocess
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

from daemon import files
from daemon.host import HostError
from daemon.linux.wireguard_device import PeerState, Unsupported
from policies.facts import Endpoint
from policies.firewall import MARK, TUNNEL_IFNAME
from policies.wireguard import WireGuardPeer, WireGuardProfile

PROGRAM = Path("/usr/bin/wireguard-go")
SOCKETS = Path("/var/run/wireguard")  # where wireguard-go, and `wg show`, look for it
PID_FILE = Path("/run/tunwarden/wireguard-go.pid")
# All it may know of us. PROCESS_FOREGROUND spares its banner; "error" is the least it can say and still explain itself.
ENVIRONMENT = {"LOG_LEVEL": "error", "WG_PROCESS_FOREGROUND": "1"}

START_TIME = 5.0  # seconds until the socket must answer; 15 ms on an idle machine
START_LOOK = 0.004  # seconds between two looks while it starts
REPLY_TIME = 5.0  # seconds for one answer; 0.2 ms on an idle machine, and a machine that swaps is no dead tunnel
REPLY_LONGEST = 4 << 20  # bytes; a peer with 10,000 allowed networks needs 300 kB
TERM_TIME = 1.5  # seconds between SIGTERM and SIGKILL; it takes 5 ms
KILL_TIME = 1.0  # seconds a SIGKILL may take
TAIL = 2048  # bytes kept of what the process printed


class WireGuardGo:
    """The Device of wireguard_device.py on top of a wireguard-go process."""

    def __init__(
        self, ifname: str = TUNNEL_IFNAME, program: Path = PROGRAM, sockets: Path = SOCKETS, pid_file: Path = PID_FILE
    ) -> None:
        self._ifname, self._program, self._pid_file = ifname, program, pid_file
        self._socket = sockets / f"{ifname}.sock"
        self._process: Process | None = None

    async def create(self) -> None:
        what = "start wireguard-go"
        try:
            program = files.trusted_program(self._program)
        except FileNotFoundError as err:
            raise Unsupported(what, f"{self._program} is not installed") from err
        except OSError as err:
            raise HostError(what, f"{err.filename or self._program}: {err.strerror}") from err
        try:
            files.make_folder(self._pid_file.parent, 0o755)  # others share it; the file itself is root's alone
            self._process = process = Process([str(program), "-f", self._ifname])
            files.write(self._pid_file, f"{process.pid} {start_time(process.pid)}\n".encode("ascii"))
        except OSError as err:
            raise HostError(what, f"{err.filename or program}: {err.strerror}") from err
        try:
            async with asyncio.timeout(START_TIME):
                while self._listener() != process.pid:
                    if process.has_ended:
                        raise HostError(what, process.last_words())
                    await asyncio.sleep(START_LOOK)
        except TimeoutError as err:
            raise HostError(what, f"{self._socket} did not appear within {START_TIME:.0f} s") from err

    async def configure(self, profile: WireGuardProfile) -> None:
        await self._ask("configure the tunnel", configuration(profile))

    async def set_keepalive(self, peer: bytes, seconds: int) -> None:
        lines = ["set=1", f"public_key={peer.hex()}", "update_only=true", f"persistent_keepalive_interval={seconds}"]
        await self._ask("configure the tunnel", lines)

    async def renew(self, peer: WireGuardPeer) -> None:
        lines = ["set=1", f"public_key={peer.public_key.hex()}", "remove=true", *_peer_lines(peer)]
        await self._ask("ask the VPN server for a handshake", lines)

    async def read(self) -> dict[bytes, PeerState]:
        what = "read the tunnel's counters"
        with contextlib.suppress(ValueError):
            return parse_peers(await self._ask(what, ["get=1"]))
        raise HostError(what, "wireguard-go gave an unreadable answer")  # outside: the cause may quote the answer

    async def ended(self) -> str:
        if self._process is None:
            return "wireguard-go was not started"
        await self._process.wait()
        return self._process.last_words()

    async def remove(self) -> None:
        try:
            own, self._process = self._process, None
            if own is not None:
                await own.end()
            if (recorded := self._recorded()) is not None:
                pid, started = recorded
                await end_foreign(pid, lambda: start_time(pid) == started)
            if (listener := self._listener()) is not None and listener != os.getpid():
                await end_foreign(listener, lambda: self._listener() == listener)
            files.remove(self._pid_file)
            with contextlib.suppress(FileNotFoundError):  # SIGKILL leaves the socket's file; /run is root's alone
                self._socket.unlink()
        except OSError as err:
            raise HostError("stop wireguard-go", f"{err.filename or self._program}: {err.strerror}") from err

    def _listener(self) -> int | None:
        """The pid that listens at our socket, or None. Unlike a name or a file, the kernel vouches for it."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
            try:
                probe.connect(str(self._socket))
                return peer_of(probe)
            except OSError:
                return None

    def _recorded(self) -> tuple[int, int] | None:
        """The pid and the start time in our pid file, or None when there is none to read."""
        try:
            pid, started = (int(word) for word in files.read(self._pid_file).split())
        except (OSError, ValueError):
            return None
        return pid, started

    async def _ask(self, what: str, lines: Iterable[str]) -> list[tuple[str, str]]:
        """One request and its answer as (key, value) pairs. Raises HostError, without a word of the request."""
        process = self._process  # it may be closed while we wait
        if process is None:
            raise HostError(what, "wireguard-go does not run")
        reply = b""
        try:
            async with asyncio.timeout(REPLY_TIME):
                reader, writer = await asyncio.open_unix_connection(self._socket, limit=REPLY_LONGEST)
                try:
                    if peer_of(writer.get_extra_info("socket")) != process.pid:
                        raise HostError(what, f"another program listens at {self._socket}")
                    writer.write("".join(f"{line}\n" for line in (*lines, "")).encode("ascii"))
                    reply = await reader.readuntil(b"\n\n")
                finally:
                    writer.close()
        except TimeoutError as err:
            raise HostError(what, f"wireguard-go did not answer within {REPLY_TIME:.0f} s") from err
        except OSError as err:
            raise HostError(what, f"wireguard-go cannot be reached: {err.strerror}") from err
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # and forgotten: the exception holds what was read, and that may be our private key
        return parse_reply(what, reply)


class Process:
    """A program in its own session, watched through a pidfd: its end is an event, its pid is never anybody else's."""

    def __init__(
        self,
        argv: list[str],
        name: str = "wireguard-go",
        stdin: int = subprocess.DEVNULL,
        give_up: Callable[[], None] | None = None,
    ) -> None:
        """Start it. Absolute program, no shell, nothing inherited but `stdin` and the pipe it prints into.

        `name` is for people. `give_up` lowers the rights of the thread that calls it: that of the start, which ends
        with it, and whose rights are the program's. Raises OSError.
        """
        self._tail, self._name = b"", name

        def start() -> subprocess.Popen[bytes]:
            if give_up is not None:
                give_up()
            return subprocess.Popen(
                argv, env=ENVIRONMENT, cwd="/", umask=0o077, start_new_session=True, close_fds=True,
                stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )  # fmt: skip

        if give_up is None:
            self._popen = start()
        else:  # nothing of ours runs between fork and exec, so our memory need not be copied for it: vfork
            with ThreadPoolExecutor(max_workers=1) as thread:
                self._popen = thread.submit(start).result()
        self.pid = self._popen.pid
        try:
            self._pidfd = os.pidfd_open(self.pid)
        except OSError:  # kernels before 5.3
            self._popen.kill()
            self._popen.communicate()
            raise
        assert self._popen.stdout is not None
        self._pipe = self._popen.stdout
        os.set_blocking(self._pipe.fileno(), False)
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        self._loop.add_reader(self._pidfd, self._on_end)
        self._loop.add_reader(self._pipe.fileno(), self._on_output)

    @property
    def has_ended(self) -> bool:
        return self._ended.is_set()

    async def wait(self) -> None:
        await self._ended.wait()

    async def end(self) -> None:
        """SIGTERM, then SIGKILL; returns when it is gone. Idempotent. Raises OSError (ETIMEDOUT)."""
        for number, limit in ((signal.SIGTERM, TERM_TIME), (signal.SIGKILL, KILL_TIME)):
            if self.has_ended:
                return
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), limit)
        if not self.has_ended:
            raise TimeoutError(f"process {self.pid} does not end")

    def last_words(self) -> str:
        """Why it ended, in one line of printable text."""
        lines = self._tail.decode("utf-8", "replace").splitlines()
        said = "".join(char for char in (lines[-1] if lines else "") if char.isprintable())[-200:]
        status = self._popen.poll()
        how = "runs" if status is None else f"signal {-status}" if status < 0 else f"exit status {status}"
        return f"{self._name} ended ({how}){': ' if said else ''}{said}"

    def _on_end(self) -> None:
        self._on_output()
        self._popen.wait()  # returns at once: the pidfd says it has ended
        self._loop.remove_reader(self._pidfd)
        self._loop.remove_reader(self._pipe.fileno())
        os.close(self._pidfd)
        self._pipe.close()
        self._ended.set()

    def _on_output(self) -> None:
        try:
            piece = os.read(self._pipe.fileno(), 1 << 16)
        except BlockingIOError:
            return
        if not piece:
            self._loop.remove_reader(self._pipe.fileno())
        self._tail = (self._tail + piece)[-TAIL:]


def configuration(profile: WireGuardProfile) -> Iterator[str]:
    """The `set` request of a profile: no name, path or free text goes in, only numbers, addresses and hex."""
    yield "set=1"
    yield f"private_key={profile.private_key.hex()}"
    yield "listen_port=0"
    yield f"fwmark={MARK}"
    yield "replace_peers=true"
    for peer in profile.peers:
        yield from _peer_lines(peer)


def _peer_lines(peer: WireGuardPeer) -> Iterator[str]:
    yield f"public_key={peer.public_key.hex()}"
    if peer.preshared_key is not None:
        yield f"preshared_key={peer.preshared_key.hex()}"
    if peer.endpoints:
        yield f"endpoint={_socket_address(peer.endpoints[0])}"
    yield f"persistent_keepalive_interval={peer.keepalive}"
    yield "replace_allowed_ips=true"
    for network in peer.allowed_ips:
        yield f"allowed_ip={network}"


def _socket_address(endpoint: Endpoint) -> str:
    host = f"[{endpoint.address}]" if endpoint.address.version == 6 else str(endpoint.address)
    return f"{host}:{endpoint.port}"


def parse_reply(what: str, reply: bytes) -> list[tuple[str, str]]:
    """The lines of an answer before its errno. Raises HostError when that is not 0."""
    pairs = []
    for line in reply.decode("ascii", "replace").splitlines():
        key, equals, value = line.partition("=")
        if equals:
            pairs.append((key, value))
    if not pairs or pairs[-1][0] != "errno":
        raise HostError(what, "wireguard-go gave an incomplete answer")
    status = pairs.pop()[1]
    if status != "0":
        number = abs(int(status)) if status.removeprefix("-").isdigit() else 0
        raise HostError(what, f"wireguard-go refused: {os.strerror(number) if number else 'unknown error'}")
    return pairs


def parse_peers(pairs: Iterable[tuple[str, str]]) -> dict[bytes, PeerState]:
    """The peers of a `get` answer. Other keys, the private one among them, are passed over. Raises ValueError."""
    peers: dict[bytes, PeerState] = {}
    public: bytes | None = None
    for key, value in pairs:
        if key == "public_key":
            public = bytes.fromhex(value)
            peers[public] = PeerState()
        elif public is None:
            continue  # of the device itself
        elif key == "rx_bytes":
            peers[public] = replace(peers[public], rx=int(value))
        elif key == "tx_bytes":
            peers[public] = replace(peers[public], tx=int(value))
        elif key == "last_handshake_time_sec":
            peers[public] = replace(peers[public], handshake=float(value))
        elif key == "last_handshake_time_nsec":  # follows the seconds
            peers[public] = replace(peers[public], handshake=peers[public].handshake + int(value) / 1e9)
        elif key == "endpoint":
            host, _, port = value.rpartition(":")
            # A link-local server's scope stays with the address: "[fe80::1%3]".
            peers[public] = replace(peers[public], endpoint=Endpoint(ip_address(host.strip("[]")), int(port)))
    return peers


def start_time(pid: int) -> int:
    """Clock ticks after boot when the process started (proc(5), field 22): with the pid, it names one process for ever.

    -1 when there is no such process.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return -1
    return int(stat[stat.rindex(b")") + 2 :].split()[19])


def peer_of(connection: socket.socket) -> int:
    """The pid at the other end of a Unix socket. Raises OSError, PermissionError unless root holds it."""
    size = struct.calcsize("3i")
    pid, uid, _gid = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    if uid != 0:
        raise PermissionError(1, "somebody else than root listens there")
    return int(pid)


async def end_foreign(pid: int, is_it: Callable[[], bool]) -> None:
    """End a process that is not our child, if it still is the one meant. Raises OSError (ETIMEDOUT)."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        # Asked after the pidfd is open: from there on the number cannot come to mean another process.
        if not is_it():
            return
        for number, limit in ((signal.SIGTERM, TERM_TIME), (signal.SIGKILL, KILL_TIME)):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, number)
            deadline = asyncio.get_running_loop().time() + limit
            while asyncio.get_running_loop().time() < deadline:
                if select.select([pidfd], [], [], 0)[0]:
                    return
                await asyncio.sleep(START_LOOK)
        raise TimeoutError(f"process {pid} does not end")
    finally:
        os.close(pidfd)
