"""A running Varlink face and raw connections to it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from ipc.dispatch import Dispatcher
from ipc.varlink import Limits, Varlink
from tests.ipc.fake_service import FakeService
from tests.ipc.places import MEMBERS, public_folder

NAME = "org.tunwarden.Daemon1"
ERROR = f"{NAME}.Error"


class Peer:
    """A raw connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, method: str, **more: object) -> None:
        self.write(json.dumps({"method": method if method.count(".") > 1 else f"{NAME}.{method}", **more}))

    def write(self, raw: str | bytes) -> None:
        self.writer.write((raw.encode() if isinstance(raw, str) else raw) + b"\0")

    async def receive(self) -> dict[str, object]:
        raw = await asyncio.wait_for(self.reader.readuntil(b"\0"), 20)
        reply = json.loads(raw[:-1])
        assert isinstance(reply, dict)
        return reply

    async def ask(self, method: str, **parameters: object) -> dict[str, object]:
        self.send(method, parameters=parameters)
        return await self.receive()

    async def ended(self) -> bool:
        """Whether the other side hangs up (soon)."""
        with contextlib.suppress(OSError):
            return await asyncio.wait_for(self.reader.read(), 20) == b""
        return True

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


class Place:
    """A running face."""

    def __init__(self, folder: Path, service: FakeService, face: Varlink) -> None:
        self.folder, self.service, self.face = folder, service, face
        self.peers: list[Peer] = []

    async def peer(self, name: str = "tunwarden.sock") -> Peer:
        peer = Peer(*await asyncio.open_unix_connection(str(self.folder / name), limit=1 << 24))
        self.peers.append(peer)
        return peer


@contextlib.asynccontextmanager
async def place(limits: Limits | None = None) -> AsyncIterator[Place]:
    service = FakeService()
    with public_folder() as folder:
        face = Varlink(Dispatcher(service, MEMBERS), "9.8.7", folder, limits)
        await face.start()
        here = Place(folder, service, face)
        try:
            yield here
        finally:
            for peer in here.peers:
                await peer.close()
            await face.stop()
            assert face._connections == set()
            assert not +face._counts
            assert list(folder.iterdir()) == []


def run(check: Callable[[Place], Awaitable[None]], limits: Limits | None = None) -> None:
    async def main() -> None:
        async with place(limits) as here:
            await check(here)

    asyncio.run(main())
