"""The D-Bus face on a real bus: plain tools, standard errors, properties, a bus that comes and goes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from dbus_fast import BusType, Message, MessageType, Variant
from dbus_fast.aio import MessageBus

from ipc import dbus
from ipc.dbus import Dbus
from ipc.dbus_session import COALESCE, NameTakenError
from ipc.dbus_writer_guard import guard
from ipc.dispatch import Dispatcher
from ipc.interface import NAME, PATH
from ipc.interface import PROPERTIES as PROPERTIES_OF_OURS
from tests.ipc.fake_service import FakeService
from tests.ipc.places import MEMBER, MEMBERS, ROOT_USER, STRANGER, Bus, Who, private_bus, public_folder, run, until

pytestmark = pytest.mark.netns  # needs root: other users ask, and owners are set

MANAGER = f"{NAME}.Manager"
PROPERTIES = "org.freedesktop.DBus.Properties"
STANDARD = "org.freedesktop.DBus.Error"


class Place:
    """A bus with our face on it, and a guest's connection."""

    def __init__(self, bus: Bus, service: FakeService, face: Dbus, guest: MessageBus) -> None:
        self.bus, self.service, self.face, self.guest = bus, service, face, guest

    async def send(
        self, interface: str | None, member: str, signature: str = "", *body: object, path: str = PATH
    ) -> Message:
        message = Message(
            destination=NAME, path=path, interface=interface, member=member, signature=signature, body=list(body)
        )
        reply = await asyncio.wait_for(self.guest.call(message), 20)
        assert reply is not None
        return reply

    async def dbus_send(self, who: Who, method: str, *arguments: str) -> tuple[int, str, str]:
        return await run(
            who, "/usr/bin/dbus-send", "--system", "--print-reply", f"--dest={NAME}", PATH, method, *arguments,
            env=self.bus.env,
        )  # fmt: skip


@contextlib.asynccontextmanager
async def connection(bus: Bus) -> AsyncIterator[MessageBus]:
    guest = await MessageBus(bus_address=bus.address, bus_type=BusType.SYSTEM).connect()
    try:
        yield guest
    finally:
        if guest.connected:
            guest.disconnect()
            with contextlib.suppress(Exception):
                await guest.wait_for_disconnect()


@contextlib.asynccontextmanager
async def place(extra: str = "") -> AsyncIterator[Place]:
    service = FakeService()
    async with private_bus(extra) as bus:
        face = Dbus(Dispatcher(service, MEMBERS), address=bus.address)
        await face.start()
        try:
            assert face.problem is None
            async with connection(bus) as guest:
                yield Place(bus, service, face, guest)
        finally:
            await face.stop()


def in_place(check: Callable[[Place], Awaitable[None]], extra: str = "") -> None:
    async def main() -> None:
        async with place(extra) as here:
            await check(here)

    asyncio.run(main())


def test_plain_dbus_send() -> None:
    async def check(here: Place) -> None:
        code, _, err = await here.dbus_send(STRANGER, f"{MANAGER}.Connect", "string:")
        assert (code, err.split(":")[0]) == (1, f"Error {NAME}.Error.NotPermitted")
        code, out, _ = await here.dbus_send(MEMBER, f"{MANAGER}.Connect", "string:")
        assert code == 0
        asked = [name for name, caller, _ in here.service.calls if caller.uid == MEMBER.uid]
        assert asked == ["connect"]
        assert here.service.calls[-1][2] == (None,)
        code, out, _ = await here.dbus_send(STRANGER, f"{MANAGER}.GetStatus")
        assert code == 0
        assert 'string "connected"' in out
        code, out, _ = await here.dbus_send(STRANGER, f"{PROPERTIES}.Get", f"string:{MANAGER}", "string:State")
        assert 'variant       string "connected"' in out
        code, _, err = await here.dbus_send(ROOT_USER, f"{MANAGER}.SetLockdown", "boolean:false")
        assert err.startswith(f"Error {NAME}.Error.Locked: Lockdown: the settings fix it. Edit tunwarden.toml.")

    in_place(check)


def test_busctl_reads_everything() -> None:
    async def check(here: Place) -> None:
        busctl = ("/usr/bin/busctl", f"--address={here.bus.address}")
        code, out, err = await run(STRANGER, *busctl, "introspect", NAME, PATH)
        assert (code, err) == (0, "")
        assert re.search(r"\.AddKnown +method +sssssbbb +a\{sv\}", out)
        assert re.search(r'\.State +property +s +"idle" +emits-change', out)
        code, out, _ = await run(STRANGER, *busctl, "tree", "--list", NAME)
        assert set(out.split()) >= {PATH, f"{PATH}/links/wlan0", f"{PATH}/known/n486f6d65", f"{PATH}/profiles/home"}
        code, out, _ = await run(STRANGER, *busctl, "--json=short", "call", NAME, PATH, f"{NAME}.Networks", "Current")
        networks = json.loads(out)["data"][0]
        assert [network["ifname"]["data"] for network in networks] == ["wlan0", "eth0"]
        assert networks[0]["reasons"]["data"][0]["code"]["data"] == "open"
        assert networks[1]["ssid"]["data"] == ""  # null

    in_place(check)


@pytest.mark.parametrize(
    "interface, member, signature, body, path, error",
    [
        (MANAGER, "Nothing", "", (), PATH, f"{STANDARD}.UnknownMethod"),
        (MANAGER, "Watch", "", (), PATH, f"{STANDARD}.UnknownMethod"),
        (None, "Nothing", "", (), PATH, f"{STANDARD}.UnknownMethod"),
        (f"{NAME}.Nothing", "Connect", "s", ("",), PATH, f"{STANDARD}.UnknownInterface"),
        (MANAGER, "Connect", "s", ("",), "/org/tunwarden", f"{STANDARD}.UnknownInterface"),
        (MANAGER, "Connect", "s", ("",), "/org/tunwarden/Daemon1/x", f"{STANDARD}.UnknownObject"),
        (None, "Introspect", "", (), "/orgx", f"{STANDARD}.UnknownObject"),
        (MANAGER, "Connect", "", (), PATH, f"{STANDARD}.InvalidArgs"),
        (MANAGER, "Connect", "u", (1,), PATH, f"{STANDARD}.InvalidArgs"),
        (MANAGER, "Connect", "ss", ("", ""), PATH, f"{STANDARD}.InvalidArgs"),
        (MANAGER, "SetLockdown", "v", (Variant("b", False),), PATH, f"{STANDARD}.InvalidArgs"),
        (MANAGER, "Connect", "s", ("x" * 65,), PATH, f"{NAME}.Error.InvalidArgument"),
        (MANAGER, "Connect", "s", ("nowhere",), PATH, f"{NAME}.Error.NoSuchProfile"),
        (MANAGER, "Connect", "s", ("broken",), PATH, f"{NAME}.Error.Internal"),
        (PROPERTIES, "Get", "ss", (MANAGER, "Nothing"), PATH, f"{STANDARD}.UnknownProperty"),
        (PROPERTIES, "Get", "ss", (f"{NAME}.Networks", "State"), PATH, f"{STANDARD}.UnknownProperty"),
        (PROPERTIES, "Get", "ss", (f"{NAME}.Nothing", "State"), PATH, f"{STANDARD}.UnknownInterface"),
        (PROPERTIES, "GetAll", "s", (f"{NAME}.Nothing",), PATH, f"{STANDARD}.UnknownInterface"),
        (PROPERTIES, "Set", "ssv", (MANAGER, "Lockdown", Variant("b", False)), PATH, f"{STANDARD}.PropertyReadOnly"),
        (PROPERTIES, "Set", "ssv", (MANAGER, "Nothing", Variant("b", False)), PATH, f"{STANDARD}.UnknownProperty"),
    ],
)
def test_errors(
    interface: str | None, member: str, signature: str, body: tuple[object, ...], path: str, error: str
) -> None:
    async def check(here: Place) -> None:
        reply = await here.send(interface, member, signature, *body, path=path)
        assert reply.message_type is MessageType.ERROR
        assert reply.error_name == error
        assert "0123" not in str(reply.body)

    in_place(check)


def test_calls_without_an_interface() -> None:
    async def check(here: Place) -> None:
        assert (await here.send(None, "GetVersion")).body == ["9.8.7"]
        assert (await here.send(None, "Introspect", path="/")).message_type is MessageType.METHOD_RETURN
        assert (await here.send("org.freedesktop.DBus.Peer", "Ping")).message_type is MessageType.METHOD_RETURN

    in_place(check)


def test_properties() -> None:
    async def check(here: Place) -> None:
        reply = await here.send(PROPERTIES, "GetAll", "s", MANAGER)
        assert {name: (value.signature, value.value) for name, value in reply.body[0].items()} == {
            "State": ("s", "idle"),
            "Protected": ("b", False),
            "Blocking": ("b", False),
            "Alarm": ("s", ""),
            "Cause": ("s", ""),
            "Profile": ("s", ""),
            "Since": ("t", 1_700_000_000),
            "KillSwitch": ("b", True),
            "Lockdown": ("b", False),
        }
        assert (await here.send(PROPERTIES, "GetAll", "s", f"{NAME}.Networks")).body == [{}]

    in_place(check)


async def watch_signals(guest: MessageBus) -> list[dict[str, object]]:
    """The changes PropertiesChanged tells the guest from now on."""
    seen: list[dict[str, object]] = []

    def received(message: Message) -> bool:
        if message.member == "PropertiesChanged":
            interface, changed, invalidated = message.body
            assert (interface, invalidated) == (MANAGER, [])
            seen.append({name: value.value for name, value in changed.items()})
        return False

    guest.add_message_handler(received)
    rule = f"type='signal',interface='{PROPERTIES}',path='{PATH}'"
    await guest.call(
        Message(
            destination="org.freedesktop.DBus", path="/org/freedesktop/DBus", interface="org.freedesktop.DBus",
            member="AddMatch", signature="s", body=[rule],
        )
    )  # fmt: skip
    return seen


def test_changes_are_announced_together_and_only_what_changed() -> None:
    async def check(here: Place) -> None:
        seen = await watch_signals(here.guest)
        await asyncio.sleep(2 * COALESCE)
        seen.clear()
        here.service.change(rx_bytes=1)  # not a property
        for count in range(200):  # in one turn of the loop
            here.service.change(since=count)
        here.service.change(state="held", lockdown=True)
        await until(lambda: {"State": "held"}.items() <= {k: v for one in seen for k, v in one.items()}.items())
        await asyncio.sleep(3 * COALESCE)
        assert len(seen) <= 2
        assert {name: value for one in seen for name, value in one.items()} == {
            "State": "held", "Lockdown": True, "Since": 199,
        }  # fmt: skip
        here.service.change(state="idle")
        await until(lambda: seen[-1] == {"State": "idle"})

    in_place(check)


def test_announcements_have_a_pace() -> None:
    async def check(here: Place) -> None:
        seen = await watch_signals(here.guest)
        begun = asyncio.get_running_loop().time()
        for count in range(100):
            here.service.change(since=count)
            await asyncio.sleep(0.002)
        await until(lambda: bool(seen) and seen[-1].get("Since") == 99)
        assert len(seen) <= (asyncio.get_running_loop().time() - begun) / COALESCE + 2

    in_place(check)


def test_a_second_daemon_is_told() -> None:
    async def check(here: Place) -> None:
        second = Dbus(Dispatcher(FakeService(), MEMBERS), address=here.bus.address)
        try:
            with pytest.raises(NameTakenError, match="already running"):
                await second.start()
        finally:
            await second.stop()
        assert (await here.send(MANAGER, "GetVersion")).body == ["9.8.7"]

    in_place(check)


def test_only_root_may_own_the_name() -> None:
    async def check(here: Place) -> None:
        await here.face.stop()
        code, _, err = await run(
            STRANGER, "/usr/bin/dbus-send", "--system", "--print-reply", "--dest=org.freedesktop.DBus",
            "/org/freedesktop/DBus", "org.freedesktop.DBus.RequestName", f"string:{NAME}", "uint32:0",
            env=here.bus.env,
        )  # fmt: skip
        assert code == 1
        assert "AccessDenied" in err

    in_place(check)


def test_no_bus_is_no_error_and_it_is_found_when_it_comes_and_comes_back() -> None:
    async def check() -> None:
        with public_folder() as folder:
            bus = Bus(folder)
            face = Dbus(Dispatcher(FakeService(), MEMBERS), address=bus.address)
            await face.start()
            try:
                assert face.problem is not None
                for _ in range(2):
                    await bus.start()
                    await until(lambda: face.problem is None, 15)
                    async with connection(bus) as guest:
                        message = Message(destination=NAME, path=PATH, interface=MANAGER, member="GetVersion")
                        assert (await guest.call(message)).body == ["9.8.7"]
                    await bus.stop()
                    await until(lambda: face.problem is not None)
            finally:
                await face.stop()
                await bus.stop()

    asyncio.run(check())


def test_a_bus_that_was_started_again_is_told_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever knew the properties from before hears all of them: they may have changed while there was no bus."""
    monkeypatch.setattr(dbus, "RETRY_FIRST", 3.0)  # time for a guest to be there first

    async def check() -> None:
        with public_folder() as folder:
            bus, service = Bus(folder), FakeService()
            face = Dbus(Dispatcher(service, MEMBERS), address=bus.address)
            await bus.start()
            await face.start()
            try:
                assert face.problem is None
                await bus.stop()
                await until(lambda: face.problem is not None)
                service.change(state="held")
                await bus.start()
                async with connection(bus) as guest:
                    seen = await watch_signals(guest)
                    assert face.problem is not None, "the guest was there first"
                    await until(lambda: bool(seen), 20)
                    assert seen[0].keys() == {prop.name for prop in PROPERTIES_OF_OURS}
                    assert seen[0]["State"] == "held"
                    assert (await guest.call(_get_owner())).body[0].startswith(":")  # type: ignore[union-attr]
            finally:
                await face.stop()
                await bus.stop()

    asyncio.run(check())


LAX = '<allow send_requested_reply="false" send_type="method_return"/>'


def test_a_forged_answer_about_credentials_is_not_believed() -> None:
    """The library takes any message with the right serial for the answer; a lax bus would deliver a stranger's."""

    async def check(here: Place) -> None:
        asked = asyncio.create_task(
            run(
                STRANGER, "/usr/bin/dbus-send", "--system", "--print-reply", "--reply-timeout=2000", f"--dest={NAME}",
                PATH,
                f"{MANAGER}.Disconnect", env=here.bus.env,
            )
        )  # fmt: skip
        guard(here.guest)
        root = {"UnixUserID": Variant("u", 0), "ProcessID": Variant("u", 1)}
        owner = (await here.guest.call(_get_owner())).body[0]
        while not asked.done():
            for serial in range(1, 60):
                forged = Message(
                    message_type=MessageType.METHOD_RETURN, destination=owner, reply_serial=serial,
                    signature="a{sv}", body=[root],
                )  # fmt: skip
                await here.guest.send(forged)
            await asyncio.sleep(0)
        code, _, _ = await asked
        assert code == 1
        assert "disconnect" not in [name for name, *_ in here.service.calls]

    in_place(check, LAX)


def _get_owner() -> Message:
    return Message(
        destination="org.freedesktop.DBus", path="/org/freedesktop/DBus", interface="org.freedesktop.DBus",
        member="GetNameOwner", signature="s", body=[NAME],
    )  # fmt: skip
