"""The events process: `/api/v1/events` (server-sent events) and `/api/v1/commands?wait=25`, as a small ASGI program.

It is no part of Django's own, whose threads and middleware would cost every idle stream more than the stream itself.
"""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from django.conf import settings
from django.core.exceptions import DisallowedHost, ValidationError
from django.core.handlers.asgi import ASGIRequest
from django.db import DatabaseError
from django.http import HttpResponse

from portal.api.problems import problem, refused
from portal.devices.authentication import FirstToken
from portal.devices.hub import Full, Hub, Stream
from portal.devices.models import Credential

RETRY = 5000  # milliseconds after which a client comes again
LONGEST_WAIT = 25  # seconds
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Application:
    def __init__(self) -> None:
        self.hub: Hub | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            await self._answer(scope, receive, send)
        # A WebSocket is none of ours: returning refuses it.

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        self.hub = Hub()
        self.hub.start()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.hub.stop()
        await send({"type": "lifespan.shutdown.complete"})

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert self.hub is not None, "the server must support lifespan"
        if scope["path"] not in ("/api/v1/events", "/api/v1/commands"):
            await _send(send, problem(404, "not_found", "The events process has no such address."))
            return
        if scope["method"] != "GET":
            await _send(send, problem(405, "refused", "GET only."))
            return
        request = ASGIRequest(scope, io.BytesIO())  # type: ignore[no-untyped-call]
        try:
            request.get_host()
            credential = await self.hub.in_thread(lambda: FirstToken()(request))
        except DisallowedHost:
            await _send(send, problem(400, "malformed", "This is not a name of the portal."))
            return
        except ValidationError as err:
            await _send(send, refused(request, err))
            return
        except DatabaseError:
            await _send(send, _later("The database does not answer. Come again later."))
            return
        if credential is None:
            await _send(send, problem(401, "not_signed_in", "Sign in first: Authorization is missing or not valid."))
            return
        try:
            if scope["path"] == "/api/v1/events":
                await self._stream(request, credential, receive, send)
            else:
                await self._poll(request, credential, receive, send)
        except Full:
            await _send(send, _later("Too many devices are listening. Come again later."))

    async def _stream(self, request: ASGIRequest, credential: Credential, receive: Receive, send: Send) -> None:
        stream = _opened(self.hub, credential, request.headers.get("Last-Event-ID", ""))
        try:
            headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
            await _start(send, 200, headers)
            await _write(send, f"retry: {RETRY}\n\n")
            watch = asyncio.create_task(_left(receive, stream))
            try:
                while True:
                    try:
                        async with asyncio.timeout(settings.EVENT_KEEPALIVE):
                            new = await stream.queue.get()
                    except TimeoutError:
                        await _write(send, ": still here\n\n")
                        continue
                    if new is None:
                        break
                    for number, token in new:
                        await _write(send, f"id: {number}\nevent: command\ndata: {token}\n\n")
                await _write(send, "event: disconnected\ndata:\n\n", more=False)
            finally:
                watch.cancel()
        finally:
            self.hub.close(stream)  # type: ignore[union-attr]

    async def _poll(self, request: ASGIRequest, credential: Credential, receive: Receive, send: Send) -> None:
        text = request.GET.get("wait", "0")
        if not text.isascii() or not text.isdigit() or len(text) > 3 or int(text) > LONGEST_WAIT:
            await _send(send, problem(422, "malformed", f"wait: seconds, 0 to {LONGEST_WAIT}."))
            return
        stream = _opened(self.hub, credential, "")
        watch = asyncio.create_task(_left(receive, stream))
        try:
            async with asyncio.timeout(max(int(text), 1)):
                new = await stream.queue.get()
        except TimeoutError:
            new = []
        finally:
            watch.cancel()
            self.hub.close(stream)  # type: ignore[union-attr]
        body = json.dumps({"commands": [token for _number, token in new or []]})
        await _send(send, HttpResponse(body, content_type="application/json", headers={"Cache-Control": "no-store"}))


def _opened(hub: Hub | None, credential: Credential, last: str) -> Stream:
    number = int(last) if last.isascii() and last.isdigit() and len(last) < 19 else None
    stream = Stream(credential.pk, credential.device_id, credential.device.public_id, number)
    assert hub is not None
    hub.open(stream)
    return stream


async def _left(receive: Receive, stream: Stream) -> None:
    """The other side is gone: what waits for the queue need not wait any longer."""
    while (await receive())["type"] != "http.disconnect":
        pass
    stream.queue.put_nowait(None)


def _later(detail: str) -> HttpResponse:
    response = problem(503, "later", detail)
    response["Retry-After"] = "30"
    return response


async def _start(send: Send, status: int, headers: dict[str, str]) -> None:
    encoded = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": encoded})


async def _write(send: Send, text: str, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": text.encode(), "more_body": more})


async def _send(send: Send, response: HttpResponse) -> None:
    await _start(send, response.status_code, {**response.headers, "Content-Length": str(len(response.content))})
    await send({"type": "http.response.body", "body": response.content})


application = Application()
