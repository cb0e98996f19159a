"""N12 on the faces: who may log in, and as which process the daemon takes him."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from pathlib import Path

import pytest
from dbus_fast import MessageType

from ipc import sockets
from ipc.access import Caller, Transport
from ipc.interface import NAME
from tests.ipc import test_dbus, varlink_place
from tests.ipc.places import MEMBER, STRANGER, until

pytestmark = pytest.mark.netns  # needs root: other users ask, and owners are set

METHOD = "Networks.PortalLogin"


def test_a_login_is_told_of_until_the_caller_hangs_up() -> None:
    async def check(here: varlink_place.Place) -> None:
        here.service.logins = ["begun", "done"]
        peer = await here.peer()
        peer.send(METHOD, more=True)
        url = "http://portal.example/login"
        for state in here.service.logins:
            told = {"state": state, "url": url, "until": 1_700_000_600}
            assert await peer.receive() == {"continues": True, "parameters": {"login": told}}
        await peer.close()

    varlink_place.run(check)


def test_it_is_a_stream_and_a_change() -> None:
    async def check(here: varlink_place.Place) -> None:
        peer = await here.peer()
        assert (await peer.ask(METHOD))["error"] == "org.varlink.service.ExpectedMore"
        peer.send(METHOD, more=True, parameters={"command": "/bin/sh"})
        assert (await peer.receive())["error"] == f"{NAME}.Error.InvalidArgument", "no path, no command (E7)"
        reader = await here.peer("read.sock")
        reader.send(METHOD, more=True)
        assert (await reader.receive())["error"] == f"{NAME}.Error.NotPermitted"
        assert here.service.calls == []

    varlink_place.run(check)


def test_e8_who_is_not_in_the_group_has_no_way_in() -> None:
    async def check(here: varlink_place.Place) -> None:
        ask = (
            "import socket, sys\n"
            "with socket.socket(socket.AF_UNIX) as sock:\n"
            "    sock.connect(sys.argv[1])\n"
            f'    sock.sendall(b\'{{"method": "{NAME}.{METHOD}", "more": true}}\\0\')\n'
            "    print(sock.recv(1000).decode())\n"
        )
        for who, wanted in ((MEMBER, "begun"), (STRANGER, "PermissionError")):
            process = await asyncio.create_subprocess_exec(
                "/usr/bin/python3", "-I", "-S", "-c", ask, str(here.folder / "tunwarden.sock"),
                stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
                user=who.uid, group=who.gid, extra_groups=who.groups,
            )  # fmt: skip
            out, _ = await process.communicate()
            assert wanted in out.decode()

    varlink_place.run(check)


def test_on_the_bus_there_is_no_login() -> None:
    """It lasts as long as a connection, and names a process: neither is there."""

    async def check(here: test_dbus.Place) -> None:
        reply = await here.send(f"{NAME}.Networks", "PortalLogin")
        assert reply.message_type is MessageType.ERROR
        assert reply.error_name == "org.freedesktop.DBus.Error.UnknownMethod"

    test_dbus.in_place(check)


@pytest.mark.parametrize("peerpidfd", [True, False])
def test_the_caller_is_the_process_that_connected(monkeypatch: pytest.MonkeyPatch, peerpidfd: bool) -> None:
    """By SO_PEERPIDFD, or by its number on kernels before 6.5; the descriptor goes with the connection."""
    if not peerpidfd:
        monkeypatch.setattr(sockets, "SO_PEERPIDFD", 0x7FFF)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for transport in (Transport.SOCKET, Transport.READ_SOCKET):
            with sockets.process(ours, sockets.peer(ours, transport)) as caller:
                assert caller == Caller(os.geteuid(), caller.gids, os.getpid(), transport, caller.process)
                assert (caller.process is None) == (transport is Transport.READ_SOCKET)
                if caller.process is not None:
                    assert f"Pid:\t{os.getpid()}\n" in Path(f"/proc/self/fdinfo/{caller.process}").read_text()
                    assert not os.get_inheritable(caller.process)
            if caller.process is not None:
                with pytest.raises(OSError):
                    os.fstat(caller.process)


def test_the_process_stays_the_one_that_connected_when_it_hands_its_end_on() -> None:
    """What it does afterwards names nobody else: a descriptor that was passed on is still its own."""
    assert sys.platform == "linux"

    async def check(here: varlink_place.Place) -> None:
        ours, theirs = socket.socketpair()
        child = os.fork()
        if child == 0:
            ours.close()
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(str(here.folder / "tunwarden.sock"))
            socket.send_fds(theirs, [b"x"], [sock.fileno()])
            theirs.recv(1)
            os._exit(0)
        _, (descriptor,), _, _ = socket.recv_fds(ours, 1, 1)
        reader, writer = await asyncio.open_unix_connection(sock=socket.socket(fileno=descriptor))
        peer = varlink_place.Peer(reader, writer)
        peer.send(METHOD, more=True)
        await peer.receive()
        await until(lambda: bool(here.service.calls))
        (call,) = here.service.calls
        assert any(getattr(each, "pid", None) == child for each in call)
        theirs.close()
        ours.close()
        await asyncio.to_thread(os.waitpid, child, 0)
        await peer.close()

    varlink_place.run(check)
