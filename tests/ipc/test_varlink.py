"""The Varlink face as its guests see it: answers, errors, watching, a second daemon."""

from __future__ import annotations

import asyncio
import json

import pytest

from ipc.dispatch import Dispatcher
from ipc.sockets import SocketError
from ipc.varlink import Varlink
from tests.ipc.fake_service import FakeService
from tests.ipc.places import MEMBERS, public_folder, until
from tests.ipc.varlink_place import ERROR, NAME, Place, run

pytestmark = pytest.mark.netns  # needs root: other users ask, and owners are set


@pytest.mark.parametrize(
    "method, parameters, error",
    [
        ("org.example.Nothing", {}, "org.varlink.service.InterfaceNotFound"),
        (f"{NAME}.Manager.Nothing", {}, "org.varlink.service.MethodNotFound"),
        (f"{NAME}.Import", {}, "org.varlink.service.InterfaceNotFound"),
        ("org.varlink.service.GetInterfaceDescription", {"interface": "a.b"}, "org.varlink.service.InterfaceNotFound"),
        ("org.varlink.service.GetInterfaceDescription", {"interface": 1}, "org.varlink.service.InvalidParameter"),
        ("org.varlink.service.GetInfo", {"more": 1}, "org.varlink.service.InvalidParameter"),
        (f"{NAME}.Manager.Watch", {}, "org.varlink.service.ExpectedMore"),
        (f"{NAME}.Manager.Connect", {"profile": 1}, f"{ERROR}.InvalidArgument"),
        (f"{NAME}.Manager.Connect", {"profile": "x" * 65}, f"{ERROR}.InvalidArgument"),
        (f"{NAME}.Manager.Connect", {"profile": "\u00e9" * 33}, f"{ERROR}.InvalidArgument"),
        (f"{NAME}.Manager.Connect", {"profile": "\ud800"}, f"{ERROR}.InvalidArgument"),
        (f"{NAME}.Manager.Connect", {"profile": "a\0b"}, f"{ERROR}.InvalidArgument"),
        (f"{NAME}.Manager.Connect", {"profil": "home"}, f"{ERROR}.InvalidArgument"),
        (f"{NAME}.Manager.Connect", {"profile": "broken"}, f"{ERROR}.Internal"),
        (f"{NAME}.Manager.SetLockdown", {}, f"{ERROR}.InvalidArgument"),
        (f"{NAME}.Manager.SetLockdown", {"on": 1}, f"{ERROR}.InvalidArgument"),
        (f"{NAME}.Manager.SetLockdown", {"on": None}, f"{ERROR}.InvalidArgument"),
        (f"{NAME}.Networks.AddKnown", {"action": "explode"}, f"{ERROR}.InvalidArgument"),
        (f"{NAME}.Networks.AddKnown", {"security": "wpa4"}, f"{ERROR}.InvalidArgument"),
        (f"{NAME}.Networks.AddKnown", {"allow_lan": "yes"}, f"{ERROR}.InvalidArgument"),
        (f"{NAME}.Networks.ForgetKnown", {"ssid_hex": ""}, f"{ERROR}.NoSuchNetwork"),
    ],
)
def test_errors(method: str, parameters: dict[str, object], error: str) -> None:
    async def check(here: Place) -> None:
        peer = await here.peer()
        reply = await peer.ask(method, **parameters)
        assert reply["error"] == error
        assert "0123" not in json.dumps(reply)  # what an unexpected exception says stays in the log
        assert (await peer.ask("Manager.GetVersion"))["parameters"] == {"version": "9.8.7"}

    run(check)


def test_null_and_absent_are_the_same() -> None:
    async def check(here: Place) -> None:
        peer = await here.peer()
        for parameters in ({}, {"profile": None}, {"profile": ""}):
            assert "error" not in await peer.ask("Manager.Connect", **parameters)
        await peer.ask("Networks.AddKnown")
        assert [arguments for *_, arguments in here.service.calls] == [(None,)] * 3 + [(None,) * 5 + (False,) * 3]

    run(check)


def test_oneway_calls_are_not_answered() -> None:
    async def check(here: Place) -> None:
        peer = await here.peer()
        peer.send("Manager.Disconnect", oneway=True)
        peer.send("Manager.Connect", oneway=True, parameters={"profile": "nowhere"})
        assert (await peer.ask("Manager.GetVersion"))["parameters"] == {"version": "9.8.7"}
        assert [name for name, *_ in here.service.calls] == ["disconnect", "connect", "get_version"]

    run(check)


@pytest.mark.parametrize("name", ["tunwarden.sock", "read.sock"])
def test_watch(name: str) -> None:
    async def check(here: Place) -> None:
        peer = await here.peer(name)
        peer.send("Manager.Watch", more=True)
        first = await peer.receive()
        assert first["continues"] is True
        assert first["parameters"]["status"]["sequence"] == 1  # type: ignore[index]
        for count in range(3):
            here.service.change(rx_bytes=count + 1)
        peer.send("Manager.GetVersion")  # has to wait: it must neither be answered in between nor disturb
        replies = [await peer.receive() for _ in range(3)]
        assert [reply["parameters"]["status"]["sequence"] for reply in replies] == [2, 3, 4]  # type: ignore[index]
        here.service.change(rx_bytes=9)
        assert (await peer.receive())["parameters"]["status"]["rx_bytes"] == 9  # type: ignore[index]

    run(check)


def test_a_watch_ends_when_the_caller_hangs_up() -> None:
    async def check(here: Place) -> None:
        peer = await here.peer()
        peer.send("Manager.Watch", more=True)
        await peer.receive()
        assert len(here.service.feed._watchers) == 1
        await peer.close()
        await until(lambda: not here.service.feed._watchers and not here.face._connections)

    run(check)


def test_a_second_daemon_is_refused_and_the_first_goes_on() -> None:
    async def check(here: Place) -> None:
        second = Varlink(Dispatcher(FakeService(), MEMBERS), "2", here.folder)
        with pytest.raises(SocketError, match="Another daemon"):
            await second.start()
        assert (await (await here.peer()).ask("Manager.GetVersion"))["parameters"] == {"version": "9.8.7"}

    run(check)


def test_half_a_start_leaves_nothing_open() -> None:
    async def check() -> None:
        with public_folder() as folder:
            (folder / "read.sock").write_text("in the way")
            face = Varlink(Dispatcher(FakeService(), MEMBERS), "1", folder)
            with pytest.raises(SocketError, match="not a socket"):
                await face.start()
            assert [path.name for path in folder.iterdir()] == ["read.sock"]

    asyncio.run(check())
