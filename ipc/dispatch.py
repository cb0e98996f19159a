"""One call, whichever face it came through: access first, then arguments, then the service."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping

from ipc.access import Access, Caller, Transport, allowed, group_gid
from ipc.describe import Method
from ipc.errors import Error, ServiceError
from ipc.interface import Service
from ipc.structs import KnownNetwork, Profile, Status
from ipc.values import Json, arguments, plain

log = logging.getLogger("tunwarden.ipc")

# Asked about a caller who may not by himself: whether somebody else lets him. ServiceError may say more than False.
Appeal = Callable[[Access], Awaitable[bool]]


class Dispatcher:
    """Stands between the faces and the service. `gid` is the group whose members may change things."""

    def __init__(self, service: Service, gid: int | None = None) -> None:
        self._service = service
        # Once, at the start: a lookup may ask the network (NSS), and must not stall a call.
        self.gid = group_gid() if gid is None else gid

    async def call(
        self, method: Method, caller: Caller, given: Mapping[str, object], appeal: Appeal | None = None
    ) -> Json:
        """The result of the method as plain data. Raises ServiceError, and what `appeal` raises."""
        await self._authorise(method, caller, given, appeal)
        keywords = arguments(method, given)
        try:
            return plain(await getattr(self._service, method.function)(caller=caller, **keywords))
        except ServiceError:
            raise
        except Exception:
            log.exception("%s failed", method.wire_name)
            raise ServiceError(
                Error.INTERNAL, f"{method.interface}.{method.name}", "the service failed.", "See its log."
            ) from None

    async def watch(
        self, method: Method, caller: Caller, given: Mapping[str, object], appeal: Appeal | None = None
    ) -> AsyncGenerator[object, None]:
        """The stream of a streaming method. Raises as `call`; the iterator may raise TooSlowError."""
        await self._authorise(method, caller, given, appeal)
        keywords = arguments(method, given)
        stream: AsyncGenerator[object, None] = getattr(self._service, method.function)(caller=caller, **keywords)
        return stream

    def follow(self) -> AsyncGenerator[Status, None]:
        """The stream for a face's own use."""
        return self._service.watch(_ourselves())

    async def lists(self) -> tuple[tuple[Profile, ...], tuple[KnownNetwork, ...]]:
        """All profiles and known networks, for a face's own use."""
        known: list[KnownNetwork] = []
        while page := await self._service.list_known(_ourselves(), start=len(known)):
            known += page
        return await self._service.list_profiles(_ourselves()), tuple(known)

    async def _authorise(
        self, method: Method, caller: Caller, given: Mapping[str, object], appeal: Appeal | None
    ) -> None:
        access = method.access_for(given)
        if allowed(caller, access, self.gid) or (appeal is not None and await appeal(access)):
            if access is not Access.READ:
                log.info("%s asked by uid %d, pid %d (%s)", method.wire_name, caller.uid, caller.pid, caller.transport)
            return
        log.debug("%s refused to uid %d, pid %d (%s)", method.wire_name, caller.uid, caller.pid, caller.transport)
        what = f"{method.interface}.{method.name}"
        if caller.transport is Transport.READ_SOCKET:
            why, remedy = "read.sock only answers questions.", "Use sudo, or ask to be added to the group tunwarden."
        elif access is Access.ADMIN:
            why, remedy = "this needs the administrator.", "Use sudo."
        else:
            why, remedy = "this needs root or the group tunwarden.", "Use sudo, or ask to be added to the group."
        raise ServiceError(Error.NOT_PERMITTED, what, why, remedy)


def _ourselves() -> Caller:
    return Caller(os.getuid(), frozenset(), os.getpid(), Transport.DBUS)
