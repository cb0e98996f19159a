"""The service tunwarden-watch: opens packet sockets and reads what strangers send, so that the daemon need not.

Started by systemd when the daemon asks, as a user of its own who has CAP_NET_RAW and nothing else. It does what the
daemon does by itself where there is no such service: `frames.py`, `leak_check.py` and the sockets of
`wireguard_echo.py` are the same. A program of its own still reads the frames of a link: a confined child, without that
capability. What goes to the daemon is `watch_client.py`'s to say, and to check. It ends when nobody has asked for a
while.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import socket
import sys
from collections.abc import Coroutine
from ipaddress import ip_network
from typing import Any

from daemon.host import HostError
from daemon.linux import systemd
from daemon.linux.confinement import FAILED, LONGEST, RESULT, TOLD
from daemon.linux.frames import LinkFrames, said_of
from daemon.linux.leak_check import LinuxLeakCheck
from daemon.linux.watch_client import SOCKET, VERSION, link_of
from daemon.linux.wireguard_echo import echo_socket
from daemon.linux.wireguard_go import peer_of
from policies.firewall import TUNNEL_IFNAME

IDLE_S = 30.0
REQUEST_S = 5.0  # for the first message
MOST = 32  # connections at once: each watched link is one, each check another
IFNAMES = 64  # that one check looks at
PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 47, 4  # <linux/prctl.h>
WRONG = (ValueError, TypeError, KeyError)  # what a request that is not one of ours raises


class WatchService:
    """Answers whoever is root at `listener`, a listening socket for SOCK_SEQPACKET."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._serving: set[asyncio.Task[None]] = set()
        self._last = 0.0

    async def run(self, idle: float = IDLE_S) -> None:
        """Returns when nobody has asked for `idle` seconds. The next question is systemd's to start another for."""
        loop = asyncio.get_running_loop()
        self._listener.setblocking(False)
        self._last = loop.time()
        loop.add_reader(self._listener, self._accept)
        try:
            while self._serving or loop.time() - self._last < idle:  # noqa: ASYNC110  it need not be exact
                await asyncio.sleep(idle)
        finally:
            loop.remove_reader(self._listener)
            for each in self._serving:
                each.cancel()
            await asyncio.gather(*self._serving, return_exceptions=True)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            connection, _ = self._listener.accept()
            if len(self._serving) >= MOST:
                connection.close()
                return
            task = asyncio.create_task(_serve(connection))
            self._serving.add(task)
            task.add_done_callback(self._served)

    def _served(self, task: asyncio.Task[None]) -> None:
        self._serving.discard(task)
        self._last = asyncio.get_running_loop().time()


async def _serve(connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    connection.setblocking(False)
    try:
        peer_of(connection)  # raises PermissionError unless it is root
        async with asyncio.timeout(REQUEST_S):
            request = json.loads(await loop.sock_recv(connection, LONGEST))
        if request["version"] != VERSION:
            raise HostError("watch links", f"this service speaks version {VERSION} of its protocol: restart it")
        await _doing(connection, request)
    except HostError as err:
        await _fail(connection, err)
    except WRONG:
        await _fail(connection, HostError("watch links", "the request is not understood"))
    except (OSError, TimeoutError):
        pass  # the daemon has gone, or it was not the daemon
    finally:
        connection.close()


def _doing(connection: socket.socket, request: dict[str, Any]) -> Coroutine[Any, Any, None]:
    match request["ask"]:
        case "frames":
            return _frames(connection, request)
        case "leaks":
            return _leaks(connection, request)
        case "echo":
            return _echo(connection, request)
    raise ValueError


async def _fail(connection: socket.socket, err: HostError) -> None:
    with contextlib.suppress(OSError):
        await _say(connection, FAILED + json.dumps([err.what, err.why]).encode())


async def _say(connection: socket.socket, said: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(connection, said)


async def _frames(connection: socket.socket, request: dict[str, Any]) -> None:
    """Until the daemon hangs up, or the link cannot be read any more."""
    watch = LinkFrames(link_of(request["link"]))
    reading: asyncio.Task[None] | None = None
    try:
        await _say(connection, TOLD)
        while message := await asyncio.get_running_loop().sock_recv(connection, LONGEST):
            said = json.loads(message)
            if "link" in said:
                watch.follow(link_of(said["link"]), None)
            elif reading is None:
                reading = asyncio.create_task(_read(connection, watch))
    finally:
        if reading is not None:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
        watch.close()


async def _read(connection: socket.socket, watch: LinkFrames) -> None:
    try:
        async with contextlib.aclosing(watch.found()) as found:
            async for finding in found:
                await _say(connection, TOLD + said_of(finding))
    except HostError as err:
        await _fail(connection, err)
    finally:
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)  # wakes whoever listens to the daemon


async def _leaks(connection: socket.socket, request: dict[str, Any]) -> None:
    ifnames = [str(each) for each in request["ifnames"]][:IFNAMES]
    check = LinuxLeakCheck(tuple(ip_network(each) for each in request["excluded"]))
    check.tunnel = str(request["tunnel"])
    await _say(connection, RESULT + json.dumps(await check.check(ifnames)).encode())


async def _echo(connection: socket.socket, request: dict[str, Any]) -> None:
    """The sockets themselves, bound to the tunnel. Without CAP_NET_RAW nobody binds them to another link."""
    versions = [version for version in (4, 6) if version in request["versions"]]
    with contextlib.ExitStack() as stack:
        try:
            made = [stack.enter_context(echo_socket(TUNNEL_IFNAME, version)) for version in versions]
        except OSError as err:
            raise HostError("ask through the tunnel", err.strerror or str(err)) from err
        socket.send_fds(connection, [RESULT], [each.fileno() for each in made])


def main() -> None:
    listener = systemd.listeners().get(SOCKET)
    if listener is None:
        sys.exit("tunwarden-watch is started by systemd: systemctl start tunwarden-watch.socket")
    os.environ.clear()
    # Programs that it starts, to read frames, begin without CAP_NET_RAW.
    clear = [ctypes.c_ulong(each) for each in (PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)]
    if ctypes.CDLL(None, use_errno=True).prctl(*clear) != 0:
        sys.exit("ambient capabilities cannot be given up")
    asyncio.run(WatchService(listener).run())


if __name__ == "__main__":
    main()
