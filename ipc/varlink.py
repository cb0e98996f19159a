"""The Varlink face: two Unix sockets, one JSON object a message, each ended by NUL (https://varlink.org).

asyncvarlink gives the messages, the standard errors and org.varlink.service. Its transport is not used: it bounds
neither what it reads nor what it queues, and one fast client keeps its read loop for ever (README.md). asyncio's
streams do better.
"""

from __future__ import annotations

import asyncio
import json
import logging
import resource
import socket
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping
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
QUEUE = 4096  # clients that wait to be accepted; the kernel's own limit by default (net.core.somaxconn)
BUFFER = 16 << 10  # bytes that are read before anybody asks for them; asyncio takes up to 256 KiB more at a time
ACCEPTED = 64  # of them in one turn of the loop
Connected = Callable[[asyncio.StreamReader, asyncio.StreamWriter], None]
EVERYONE = -1  # stands for a uid: of everybody but root
_HUNG_UP = object()


@dataclass(frozen=True, slots=True)
class Limits:
    """What a peer may take of us."""

    message: int = 64 << 10  # bytes of one call on read.sock, and of anyone but root on tunwarden.sock
    large_message: int = 5 << 18  # 1.25 MiB: a profile of 1 MiB with its line ends escaped; root on tunwarden.sock
    message_seconds: float = 10.0  # from the first byte of a call to its last
    send_seconds: float = 5.0  # for a peer to make room for more of what it asked for
    leave_seconds: float = 1.0  # for a peer to read what was sent before the connection is closed
    connections: int = 1024  # on each socket, beside root's
    connections_per_uid: int = 64  # on each socket; root's have no limit of their own


class Varlink:
    """`start`, then serve until `stop`."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        version: str,
        folder: Path = FOLDER,
        limits: Limits | None = None,
        given: Mapping[str, socket.socket] | None = None,
    ) -> None:
        """`given`: sockets at which the service manager listens for us, by their name in `folder`."""
        self._dispatcher, self._folder, self._limits = dispatcher, folder, limits or Limits()
        self._standard, self._given = Standard(version), given or {}
        self._servers: list[tuple[asyncio.Server, Path, int | None]] = []  # the file's inode where it is ours to remove
        self._connections: set[asyncio.Task[None]] = set()
        self._counts: Counter[tuple[Transport, int]] = Counter()
        self._lines = Lines()
        # Root's, and as many of everybody else. With two descriptors each, half of all stay for the daemon's own work.
        self._places = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 8

    async def start(self) -> None:
        """Open both sockets. Raises SocketError or OSError, and leaves none open then."""
        gid = self._dispatcher.gid
        try:
            await self._listen("tunwarden.sock", 0o660, gid, Transport.SOCKET)
            await self._listen("read.sock", 0o666, None, Transport.READ_SOCKET)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Close both sockets and every connection. Who asks at a given socket waits for the next daemon."""
        for server, path, inode in self._servers:
            if inode is not None:
                sockets.remove(path, inode)
            server.close()
        self._servers.clear()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _listen(self, name: str, mode: int, gid: int | None, transport: Transport) -> None:
        path = self._folder / name
        given = self._given.get(name)
        sock = sockets.listen(path, mode, gid) if given is None else sockets.adopt(given, path, mode)
        inode = path.lstat().st_ino if given is None else None

        loop = asyncio.get_running_loop()

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = loop.create_task(self._connected(reader, writer, transport))
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)

        def protocol() -> Protocol:
            return Protocol(asyncio.StreamReader(BUFFER, loop), connected, loop)

        # Not create_unix_server: from Python 3.13 on that removes the file when it closes, also one that was given.
        server = await loop.create_server(protocol, sock=sock, backlog=ACCEPTED)
        # asyncio set the queue's length, too; where it is full, a connect that does not wait fails.
        sock.listen(QUEUE)
        self._servers.append((server, path, inode))

    async def _connected(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, transport: Transport
    ) -> None:
        sock = _socket_of(writer)
        with sockets.process(sock, sockets.peer(sock, transport)) as caller:
            await self._serve(caller, reader, writer)

    async def _serve(self, caller: Caller, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        shared = (self._dispatcher, self._standard, self._limits, self._lines)
        connection = Connection(*shared, caller, reader, writer)
        everyone, own = (caller.transport, EVERYONE), (caller.transport, caller.uid)
        self._counts.update((everyone, own) if caller.uid else (own,))
        try:
            if self._crowded(caller):
                await connection.refuse()
            else:
                await connection.serve()
        except (TimeoutError, TooSlowError):  # the peer is not reading, or cannot keep up
            log.info("connection of uid %d, pid %d is dropped: it reads too slowly", caller.uid, caller.pid)
            connection.drop()
        except OSError as error:  # it left
            log.debug("connection of uid %d, pid %d ends: %r", caller.uid, caller.pid, error)
        except Exception:
            log.exception("connection of uid %d, pid %d failed", caller.uid, caller.pid)
        finally:
            self._counts.subtract((everyone, own) if caller.uid else (own,))
            if not self._counts[own]:
                del self._counts[own]
            await connection.close()

    def _crowded(self, caller: Caller) -> bool:
        """Whether this connection, which has been counted, is one too many. Root's and others' places are apart."""
        whose = 0 if caller.uid == 0 else EVERYONE
        if sum(self._counts[transport, whose] for transport in Transport) > self._places:
            return True
        return caller.uid != 0 and (
            self._counts[caller.transport, caller.uid] > min(self._limits.connections_per_uid, self._places // 8)
            or self._counts[caller.transport, EVERYONE] > self._limits.connections
        )


def parsed(raw: bytes) -> VarlinkMethodCall | None:
    """The call that a message is; None: it is none."""
    try:
        return VarlinkMethodCall.fromjson(json.loads(raw.decode()))
    except (ValueError, TypeError, RecursionError):
        return None


class Protocol(asyncio.StreamReaderProtocol):
    """Says when the peer has closed its side, also where something is left to read before that."""

    def __init__(self, reader: asyncio.StreamReader, connected: Connected, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(reader, connected, loop)
        self.ended: asyncio.Future[None] = loop.create_future()

    def eof_received(self) -> bool:
        self._end()
        return bool(super().eof_received())

    def connection_lost(self, error: Exception | None) -> None:
        self._end()
        super().connection_lost(error)

    def _end(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


class Connection:
    """One peer: its calls are answered in order, one at a time, so what it can queue is what its buffers hold."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        standard: Standard,
        limits: Limits,
        lines: Lines,
        caller: Caller,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._dispatcher, self._standard, self._limits, self._lines = dispatcher, standard, limits, lines
        self._caller, self._reader, self._writer = caller, reader, writer
        protocol = writer.transport.get_protocol()
        assert isinstance(protocol, Protocol)
        self._ended = protocol.ended

    async def serve(self) -> None:
        """Answer until the peer hangs up or breaks the protocol."""
        while (raw := await self._receive()) is not None:
            if (call := parsed(raw)) is None:
                await self._send(_error(ServiceError(Error.INVALID_ARGUMENT, "Message", "it is not a Varlink call.")))
                return
            await self._answer(call)

    async def refuse(self) -> None:
        """Answer the call that will come: there are too many connections."""
        await self._send(_error(ServiceError(Error.NOT_NOW, "Connection", "there are too many.", "Close some.")))

    def drop(self) -> None:
        """Tell, behind all that waits for the peer, why it gets no more."""
        why, remedy = "what was sent is read too slowly.", "Connect again: a stream begins with the present."
        self._writer.write(_encoded(_error(ServiceError(Error.NOT_NOW, "Connection", why, remedy))))

    async def close(self) -> None:
        """Hang up. What was sent is left to the peer for a moment, then it is gone."""
        self._writer.close()
        try:
            async with asyncio.timeout(self._limits.leave_seconds):
                await self._writer.wait_closed()
        except (OSError, TimeoutError):
            pass
        finally:
            self._writer.transport.abort()

    async def _receive(self) -> bytes | None:
        """The next message without its NUL. None at the end, or (after an answer) when it was too long or too slow."""
        # A task, so that others have their turn also when there is much to read here.
        first = await asyncio.get_running_loop().create_task(self._reader.read(1))
        if first in (b"", b"\0"):
            return b"" if first else None
        large = self._caller.uid == 0 and self._caller.transport is Transport.SOCKET
        longest = self._limits.large_message if large else self._limits.message
        try:
            async with asyncio.timeout(self._limits.message_seconds):
                if (raw := await self._rest(first, longest)) is not None:
                    return raw
        except asyncio.IncompleteReadError:
            return None
        except TimeoutError:
            pass
        why = f"it is longer than {longest} bytes, or its end did not come in time."
        await self._send(_error(ServiceError(Error.INVALID_ARGUMENT, "Message", why)))
        return None

    async def _rest(self, first: bytes, longest: int) -> bytes | None:
        """A message from its first byte to the NUL, which is left out. None: it is too long."""
        raw = bytearray(first)
        while len(raw) <= longest:
            try:
                raw += (await self._reader.readuntil(b"\0"))[:-1]
            except asyncio.LimitOverrunError as more:  # than the buffer is for
                raw += await self._reader.readexactly(more.consumed)
            else:
                return bytes(raw) if len(raw) <= longest else None
        return None

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
                await self._send_bytes(self._lines.encoded(method, reply))
        finally:
            await replies.aclose()

    async def _next(self, replies: AsyncGenerator[object, None]) -> object:
        """The next reply; _HUNG_UP when the peer has closed its side. A call it sends meanwhile has to wait."""
        coming = asyncio.get_running_loop().create_task(_step(replies))
        try:
            await asyncio.wait((coming, self._ended), return_when=asyncio.FIRST_COMPLETED)
            return coming.result() if coming.done() else _HUNG_UP
        finally:
            coming.cancel()
            await asyncio.wait((coming,))

    async def _send(self, reply: VarlinkMethodReply) -> None:
        """Send, and wait until the peer has room for more. Raises OSError or TimeoutError: then hang up."""
        await self._send_bytes(_encoded(reply))

    async def _send_bytes(self, line: bytes) -> None:
        self._writer.write(line)
        if self._writer.transport.get_write_buffer_size():
            async with asyncio.timeout(self._limits.send_seconds):
                await self._writer.drain()


class Lines:
    """The last reply of each stream as it goes over the wire: a thousand watchers are sent the same one."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[object, bytes]] = {}

    def encoded(self, method: Method, reply: object) -> bytes:
        """A reply that is not changed any more, with what ends it."""
        of, line = self._last.get(method.wire_name, (None, b""))
        if of is not reply or not line:
            line = _encoded(_reply(method, plain(reply), continues=True))
            self._last[method.wire_name] = (reply, line)
        return line


async def _step(replies: AsyncGenerator[object, None]) -> object:
    return await anext(replies)


def _reply(method: Method, result: JSONValue, *, continues: bool = False) -> VarlinkMethodReply:
    parameters: JSONObject = {method.returns.name: result} if method.returns else {}
    return VarlinkMethodReply(parameters, continues=continues)


def _encoded(reply: VarlinkMethodReply) -> bytes:
    return json.dumps(reply.tojson(), separators=(",", ":")).encode() + b"\0"


def _error(error: ServiceError | VarlinkErrorReply) -> VarlinkMethodReply:
    if isinstance(error, VarlinkErrorReply):
        return error.toreply()
    fields: JSONObject = {"what": error.what, "why": error.why, "remedy": error.remedy}
    return GenericVarlinkErrorReply(error.error.wire_name, fields).toreply()


def _socket_of(writer: asyncio.StreamWriter) -> socket.socket:
    sock: socket.socket = writer.get_extra_info("socket")
    return sock
