"""E12 and the rights of a daemon that already runs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from ipc import sockets
from ipc.access import NOBODY, Transport
from ipc.dispatch import Dispatcher
from ipc.varlink import Varlink
from tests.ipc.fake_service import FakeService
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


def test_e12_it_is_never_too_open_on_the_way(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_e12_the_folder_must_be_roots(folder: Path, mode: int, uid: int) -> None:
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


# --- sockets of the service manager -----------------------------------------------------------------------------------


@contextlib.contextmanager
def given(path: Path, mode: int = 0o660, uid: int = 0) -> Iterator[socket.socket]:
    """As systemd makes it: bound, listening, and waiting for a daemon."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.bind(str(path))
        path.chmod(mode)
        os.chown(path, uid, MEMBERS)
        sock.listen()
        yield sock


def test_a_given_socket_is_adopted_as_it_is(folder: Path) -> None:
    path = folder / "s"
    with given(path) as theirs, socket.socket(socket.AF_UNIX) as client:
        inode = path.stat().st_ino
        client.connect(str(path))
        client.sendall(b"early")
        for _ in range(2):  # a start that failed later on is tried again
            with sockets.adopt(theirs, path, 0o660) as ours:
                assert ours.getsockname() == str(path)
                assert not ours.get_inheritable()
        with sockets.adopt(theirs, path, 0o660) as ours, ours.accept()[0] as connection:
            assert connection.recv(10) == b"early"
        about = path.stat()
        assert (about.st_ino, stat.S_IMODE(about.st_mode), about.st_gid) == (inode, 0o660, MEMBERS)


def made_by_nobody(path: Path) -> socket.socket:
    """A socket that an unprivileged process listens at, its file given to root afterwards."""
    ours, theirs = socket.socketpair()
    path.parent.chmod(0o777)
    if (child := os.fork()) == 0:
        try:
            os.setgid(65534), os.setuid(65534)
            sock = socket.socket(socket.AF_UNIX)
            sock.bind(str(path))
            sock.listen()
            socket.send_fds(theirs, [b"x"], [sock.fileno()])
        finally:
            os._exit(0)
    with ours, theirs:
        _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
    os.waitpid(child, 0)
    path.parent.chmod(0o755)
    os.chown(path, 0, 0)
    path.chmod(0o600)
    return socket.socket(fileno=descriptors[0])


def test_a_given_socket_that_is_not_ours_is_refused(folder: Path) -> None:
    path = folder / "s"

    def refused(sock: socket.socket, why: str, at: Path = path) -> None:
        with pytest.raises(sockets.SocketError, match=why) as error:
            sockets.adopt(sock, at, 0o660)
        assert str(at) in str(error.value)
        assert "systemctl cat tunwarden.socket" in str(error.value)

    with given(path) as sock:
        refused(sock, "does not listen there", folder / "t")
        path.chmod(0o666)
        refused(sock, "too open by mode 0006")
        path.chmod(0o660)
        os.chown(path, 1, -1)
        refused(sock, "another one")
        path.unlink()
        refused(sock, "gone")
        path.write_text("precious")
        refused(sock, "another one")
        assert path.read_text() == "precious"
        path.unlink()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        refused(sock, "does not listen there")
        path.unlink()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        refused(sock, "no Unix stream socket")
    with socket.socket(socket.AF_INET) as sock:
        refused(sock, "no Unix stream socket")
    with made_by_nobody(path) as sock:
        refused(sock, "user 65534")


def test_a_given_socket_in_somebody_elses_folder_is_refused(folder: Path) -> None:
    inner = folder / "run"
    inner.mkdir()
    with given(inner / "s") as sock:
        sockets.adopt(sock, inner / "s", 0o660).close()
        inner.chmod(0o777)
        with pytest.raises(sockets.SocketError, match="must belong to root"):
            sockets.adopt(sock, inner / "s", 0o660)


def test_who_asks_before_the_daemon_is_there_waits_and_is_answered(folder: Path) -> None:
    """Before the first start, and between two daemons; the files stay the service manager's."""

    async def asked(path: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(b'{"method":"org.tunwarden.Daemon1.Manager.GetVersion"}\0')
        return reader, writer

    async def main() -> None:
        names = {"tunwarden.sock": 0o660, "read.sock": 0o666}
        with contextlib.ExitStack() as stack:
            sockets_given = {name: stack.enter_context(given(folder / name, mode)) for name, mode in names.items()}
            inodes = [(folder / name).stat().st_ino for name in names]
            for _ in range(2):
                waiting = [await asked(folder / name) for name in names]
                face = Varlink(Dispatcher(FakeService(), MEMBERS), "9.8.7", folder, given=sockets_given)
                await face.start()
                try:
                    for reader, writer in waiting:
                        reply = json.loads((await asyncio.wait_for(reader.readuntil(b"\0"), 20))[:-1])
                        assert "parameters" in reply and "error" not in reply
                        writer.close()
                finally:
                    await face.stop()
                assert [(folder / name).stat().st_ino for name in names] == inodes

    asyncio.run(main())


def test_one_socket_given_the_other_made(folder: Path) -> None:
    """What is not given is made, and removed again; of what is too open, neither is offered."""

    async def main() -> None:
        with given(folder / "read.sock", 0o666) as read:
            face = Varlink(Dispatcher(FakeService(), MEMBERS), "9.8.7", folder, given={"read.sock": read})
            await face.start()
            assert set(os.listdir(folder)) == {"tunwarden.sock", "read.sock"}
            await face.stop()
            assert set(os.listdir(folder)) == {"read.sock"}
            (folder / "read.sock").chmod(0o777)
            with pytest.raises(sockets.SocketError, match="too open"):
                await face.start()
            assert set(os.listdir(folder)) == {"read.sock"}
            (folder / "read.sock").chmod(0o666)
            await face.start()
            await face.stop()

    asyncio.run(main())


def test_who_may_not_give_it_to_the_group_leaves_it_roots(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In the service, without CAP_CHOWN, when its socket unit was masked."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "chown", refuse)
    with listening(folder / "s"):
        about = (folder / "s").stat()
        assert (stat.S_IMODE(about.st_mode), about.st_uid, about.st_gid) == (0o660, 0, 0)
    assert "root's alone" in caplog.text
