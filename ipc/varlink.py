"""The Varlink face: two Unix sockets, one JSON object a message, each ended by NUL (https://varlink.org).

asyncvarlink gives the messages, the standard errors and org.varlink.service. Its transport is not used: it bounds
neither what it reads nor what it queues, and one fast client keeps its read loop for ever (README.md). asyncio's
streams do better.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections import Counter
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

from asyncvarlink.error import GenericVarlinkErrorReply, VarlinkErrorReply
from asyncvarlink.message import VarlinkMethodCall, VarlinkMethodReply
from asyncvarlink.serviceerrors import ExpectedMore, MethodNotImplemented
from asyncvarlink.types import JSONObject, JSONValue

from ipc import sockets
from ipc.access import Caller, Transport
from ipc.describe import Method, methods
from ipc.dispatch import Dispatcher
from ipc.errors import Error, ServiceError
from ipc.feed import TooSlowError
from ipc.values import plain
from ipc.varlink_service import Standard

log = logging.getLogger("tunwarden.ipc")

FOLDER = Path("/run/tunwarden")
_HUNG_UP = object()


@dataclass(frozen=True, slots=True)
class Limits:
    """What a peer may take of us."""

    message: int = 64 << 10  # bytes of one call on read.sock, and of anyone but root on tunwarden.sock
    large_message: int = 5 << 18  # 1.25 MiB: a profile of 1 MiB with its line ends escaped; root on tunwarden.sock
    message_seconds: float = 10.0  # from the first byte of a call to its last
    send_seconds: float = 5.0  # for a peer to make room for more of what it asked for
    connections: int = 128  # on each socket; root always finds a place
    connections_per_uid: int = 16  # on each socket


class Varlink:
    """`start`, then serve until `stop`."""

    def __init__(
        self, dispatcher: Dispatcher, version: str, folder: Path = FOLDER, limits: Limits | None = None
    ) -> None:
        self._dispatcher, self._folder, self._limits = dispatcher, folder, limits or Limits()
        self._standard = Standard(version)
        self._servers: list[tuple[asyncio.Server, Path, int]] = []
        self._connections: set[asyncio.Task[None]] = set()
        self._counts: Counter[tuple[Transport, int]] = Counter()

    async def start(self) -> None:
        """Open both sockets. Raises SocketError or OSError, and leaves none open then."""
        gid = self._dispatcher.gid
        try:
            await self._listen("tunwarden.sock", 0o660, gid, Transport.SOCKET, self._limits.large_message)
            await self._listen("read.sock", 0o666, None, Transport.READ_SOCKET, self._limits.message)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Close both sockets and every connection."""
        for server, path, inode in self._servers:
            sockets.remove(path, inode)
            server.close()
        self._servers.clear()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _listen(self, name: str, mode: int, gid: int | None, transport: Transport, limit: int) -> None:
        path = self._folder / name
        sock = sockets.listen(path, mode, gid)

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.get_running_loop().create_task(self._connected(reader, writer, transport))
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)

        server = await asyncio.start_unix_server(connected, sock=sock, limit=limit)
        self._servers.append((server, path, path.lstat().st_ino))

    async def _connected(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, transport: Transport
    ) -> None:
        sock = _socket_of(writer)
        with sockets.process(sock, sockets.peer(sock, transport)) as caller:
            await self._serve(caller, reader, writer)

    async def _serve(self, caller: Caller, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        transport = caller.transport
        connection = Connection(self._dispatcher, self._standard, self._limits, caller, reader, writer)
        everyone, own = (transport, -1), (transport, caller.uid)
        self._counts.update((everyone, own))
        try:
            crowded = self._counts[own] > self._limits.connections_per_uid
            if caller.uid != 0 and (crowded or self._counts[everyone] > self._limits.connections):
                await connection.refuse()
            else:
                await connection.serve()
        except (OSError, TimeoutError, TooSlowError) as error:  # the peer left, is not reading, or cannot keep up
            log.debug("connection of uid %d, pid %d ends: %r", caller.uid, caller.pid, error)
        except Exception:
            log.exception("connection of uid %d, pid %d failed", caller.uid, caller.pid)
        finally:
            self._counts.subtract((everyone, own))
            if not self._counts[own]:
                del self._counts[own]
            await connection.close()


class Connection:
    """One peer: its calls are answered in order, one at a time, so what it can queue is what its buffers hold."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        standard: Standard,
        limits: Limits,
        caller: Caller,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._dispatcher, self._standard, self._limits = dispatcher, standard, limits
        self._caller, self._reader, self._writer = caller, reader, writer
        self._ahead: asyncio.Task[bytes] | None = None  # will be the first byte of the next message, or the end

    async def serve(self) -> None:
        """Answer until the peer hangs up or breaks the protocol."""
        while (raw := await self._receive()) is not None:
            try:
                call = VarlinkMethodCall.fromjson(json.loads(raw.decode()))
            except (ValueError, TypeError, RecursionError):
                await self._send(_error(ServiceError(Error.INVALID_ARGUMENT, "Message", "it is not a Varlink call.")))
                return
            await self._answer(call)

    async def refuse(self) -> None:
        """Answer the call that will come: there are too many connections."""
        await self._send(_error(ServiceError(Error.NOT_NOW, "Connection", "there are too many.", "Close some.")))

    async def close(self) -> None:
        """Hang up. What was sent is left to the peer for a moment, then it is gone."""
        if self._ahead is not None:
            self._ahead.cancel()
        self._writer.close()
        try:
            async with asyncio.timeout(1):
                await self._writer.wait_closed()
        except (OSError, TimeoutError):
            pass
        finally:
            self._writer.transport.abort()

    async def _receive(self) -> bytes | None:
        """The next message without its NUL. None at the end, or (after an answer) when it was too long or too slow."""
        first = await self._first()
        self._ahead = None
        if first in (b"", b"\0"):
            return b"" if first else None
        raw: bytes | None
        try:
            async with asyncio.timeout(self._limits.message_seconds):
                raw = first + (await self._reader.readuntil(b"\0"))[:-1]
        except asyncio.IncompleteReadError:
            return None
        except (asyncio.LimitOverrunError, TimeoutError):
            raw = None
        large = self._caller.uid == 0 and self._caller.transport is Transport.SOCKET
        longest = self._limits.large_message if large else self._limits.message
        if raw is None or len(raw) > longest:
            why = f"it is longer than {longest} bytes, or its end did not come in time."
            await self._send(_error(ServiceError(Error.INVALID_ARGUMENT, "Message", why)))
            return None
        return raw

    def _first(self) -> asyncio.Task[bytes]:
        """The read that is under way. Being a task, it lets others have their turn also when there is much to read."""
        if self._ahead is None:
            self._ahead = asyncio.get_running_loop().create_task(self._reader.read(1))
        return self._ahead

    async def _answer(self, call: VarlinkMethodCall) -> None:
        try:
            method = methods().get(call.method)
            if call.upgrade:
                raise MethodNotImplemented(method=call.method_name)
            if method is None:
                reply = self._standard.answer(call)
            elif method.stream:
                await self._stream(method, call)
                return
            else:
                reply = _reply(method, await self._dispatcher.call(method, self._caller, call.parameters))
        except (ServiceError, VarlinkErrorReply) as error:
            reply = _error(error)
        if not call.oneway:
            await self._send(reply)

    async def _stream(self, method: Method, call: VarlinkMethodCall) -> None:
        """Send every reply until the peer hangs up, leaves unread what it has, or falls behind (TooSlowError)."""
        if not call.more:
            raise ExpectedMore
        replies = await self._dispatcher.watch(method, self._caller, call.parameters)
        try:
            while (reply := await self._next(replies)) is not _HUNG_UP:
                await self._send(_reply(method, plain(reply), continues=True))
        finally:
            await replies.aclose()

    async def _next(self, replies: AsyncGenerator[object, None]) -> object:
        """The next reply; _HUNG_UP when the peer has closed its side. A call it sends meanwhile has to wait."""
        coming = asyncio.get_running_loop().create_task(_step(replies))
        try:
            await asyncio.wait((coming, self._first()), return_when=asyncio.FIRST_COMPLETED)
            if not coming.done() and not self._first().result():
                return _HUNG_UP
            return await coming
        finally:
            coming.cancel()
            await asyncio.wait((coming,))

    async def _send(self, reply: VarlinkMethodReply) -> None:
        """Send, and wait until the peer has room for more. Raises OSError or TimeoutError: then hang up."""
        self._writer.write(json.dumps(reply.tojson(), separators=(",", ":")).encode() + b"\0")
        async with asyncio.timeout(self._limits.send_seconds):
            await self._writer.drain()


async def _step(replies: AsyncGenerator[object, None]) -> object:
    return await anext(replies)


def _reply(method: Method, result: JSONValue, *, continues: bool = False) -> VarlinkMethodReply:
    parameters: JSONObject = {method.returns.name: result} if method.returns else {}
    return VarlinkMethodReply(parameters, continues=continues)


def _error(error: ServiceError | VarlinkErrorReply) -> VarlinkMethodReply:
    if isinstance(error, VarlinkErrorReply):
        return error.toreply()
    fields: JSONObject = {"what": error.what, "why": error.why, "remedy": error.remedy}
    return GenericVarlinkErrorReply(error.error.wire_name, fields).toreply()


def _socket_of(writer: asyncio.StreamWriter) -> socket.socket:
    sock: socket.socket = writer.get_extra_info("socket")
    return sock
