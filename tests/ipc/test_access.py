from __future__ import annotations

import pytest

from ipc.access import NOBODY, Access, Caller, Transport, allowed

READ, CHANGE, ADMIN = Access.READ, Access.CHANGE, Access.ADMIN
GID = 777


@pytest.mark.parametrize(
    "uid, gids, gid, most",
    [
        (0, {0}, GID, ADMIN),
        (0, {0}, None, ADMIN),
        (1000, {1000, GID}, GID, CHANGE),
        (1000, {1000}, GID, READ),
        (1000, {1000, GID}, None, READ),  # no such group on this system: nobody is in it
        (1000, {0}, GID, READ),  # root's group is not root
        (NOBODY, frozenset(), GID, READ),
    ],
)
@pytest.mark.parametrize("transport", [Transport.SOCKET, Transport.DBUS])
def test_who_may(uid: int, gids: set[int], gid: int | None, most: Access, transport: Transport) -> None:
    caller = Caller(uid, frozenset(gids), 1, transport)
    assert [access for access in Access if allowed(caller, access, gid)] == [a for a in Access if a <= most]


@pytest.mark.parametrize("uid", [0, 1000])
def test_the_reading_socket_only_reads(uid: int) -> None:
    caller = Caller(uid, frozenset({GID}), 1, Transport.READ_SOCKET)
    assert [access for access in Access if allowed(caller, access, GID)] == [READ]
