"""E12 and the rights of a daemon that already runs."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from ipc import sockets
from ipc.access import NOBODY, Transport
from tests.ipc.places import MEMBERS, public_folder

pytestmark = pytest.mark.netns  # needs root: other users ask, and owners are set


@pytest.fixture
def folder() -> Iterator[Path]:
    with public_folder() as place:
        yield place


@contextlib.contextmanager
def listening(path: Path, mode: int = 0o660, gid: int | None = MEMBERS) -> Iterator[socket.socket]:
    with sockets.listen(path, mode, gid) as sock:
        yield sock


@pytest.mark.parametrize("mode, gid, owner", [(0o660, MEMBERS, MEMBERS), (0o666, None, 0), (0o660, None, 0)])
def test_owner_and_mode(folder: Path, mode: int, gid: int | None, owner: int) -> None:
    with listening(folder / "s", mode, gid):
        about = (folder / "s").stat()
        assert (stat.S_IMODE(about.st_mode), about.st_uid, about.st_gid) == (mode, 0, owner)


def test_it_is_never_too_open_on_the_way(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At bind nobody but root can connect, at chown neither; a lax umask of the process does not matter."""
    seen: list[tuple[str, int]] = []
    before = os.umask(0)

    def watched(name: str, function: object) -> object:
        def wrapper(path: object, *arguments: object, **keywords: object) -> None:
            seen.append((name, stat.S_IMODE((folder / "s").stat().st_mode)))
            function(path, *arguments, **keywords)  # type: ignore[operator]

        return wrapper

    monkeypatch.setattr(os, "chown", watched("chown", os.chown))
    monkeypatch.setattr(os, "chmod", watched("chmod", os.chmod))  # what Path.chmod calls
    try:
        with listening(folder / "s"):
            assert seen == [("chown", 0o600), ("chmod", 0o600)]
            assert os.umask(0) == 0
    finally:
        os.umask(before)


def test_a_stale_socket_is_replaced(folder: Path) -> None:
    with listening(folder / "s"):
        pass
    assert (folder / "s").exists()
    with listening(folder / "s"), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(folder / "s"))


def test_a_live_socket_is_left_alone(folder: Path) -> None:
    with listening(folder / "s") as first:
        for _ in range(100):  # also when its queue is full
            client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            client.connect_ex(str(folder / "s"))
            with pytest.raises(sockets.SocketError, match="Another daemon"), listening(folder / "s"):
                pass
            first.accept()[0].close() if _ < 20 else None
            client.close()
        assert (folder / "s").is_socket()


def test_something_else_in_its_place_is_left_alone(folder: Path) -> None:
    (folder / "s").write_text("precious")
    with pytest.raises(sockets.SocketError, match="not a socket"), listening(folder / "s"):
        pass
    (folder / "link").symlink_to(folder / "s")
    with pytest.raises(sockets.SocketError, match="not a socket"), listening(folder / "link"):
        pass
    assert (folder / "s").read_text() == "precious"


@pytest.mark.parametrize("mode, uid", [(0o777, 0), (0o775, 0), (0o755, 1)])
def test_the_folder_must_be_roots(folder: Path, mode: int, uid: int) -> None:
    inner = folder / "run"
    inner.mkdir()
    inner.chmod(mode)
    os.chown(inner, uid, -1)
    with pytest.raises(sockets.SocketError, match="must belong to root"), listening(inner / "s"):
        pass
    assert list(inner.iterdir()) == []


def test_a_missing_folder_is_made(folder: Path) -> None:
    with listening(folder / "run" / "s"):
        assert stat.S_IMODE((folder / "run").stat().st_mode) == 0o755


def test_only_our_own_socket_is_removed(folder: Path) -> None:
    path = folder / "s"
    with listening(path):
        inode = path.stat().st_ino
        sockets.remove(path, inode + 1)
        assert path.exists()
        sockets.remove(path, inode)
        sockets.remove(path, inode)
        assert not path.exists()


def test_unreadable_credentials_may_change_nothing() -> None:
    with socket.socket(socket.AF_INET) as sock:
        sock.close()
        caller = sockets.peer(sock, Transport.SOCKET)
    assert (caller.uid, caller.gids) == (NOBODY, frozenset())
