"""Prompts on both faces: who becomes an agent, what agents hear, and how they are told apart from the dead (N9)."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from dbus_fast import Message, MessageType, Variant
from dbus_fast.aio import MessageBus

from ipc.access import Caller, Transport
from ipc.dbus_streams import Streams
from ipc.describe import methods
from ipc.dispatch import Dispatcher
from ipc.errors import ServiceError
from ipc.interface import NAME
from tests.ipc import test_dbus, varlink_place
from tests.ipc.fake_service import PROMPT, FakeService
from tests.ipc.places import MEMBER, MEMBERS, STRANGER, python, run, until

pytestmark = pytest.mark.netns  # needs root: other users ask, and owners are set

PROMPTS = f"{NAME}.Prompts"
ANSWERED = replace(PROMPT, state="answered", answer="ignore")


# --- Varlink ----------------------------------------------------------------------------------------------------------


def test_a_varlink_agent_hears_what_waits_and_what_changes() -> None:
    async def check(here: varlink_place.Place) -> None:
        agents = [await here.peer() for _ in range(2)]
        for agent in agents:
            agent.send("Prompts.Watch", more=True)
            assert await agent.receive() == {"continues": True, "parameters": {"prompt": None}}
            raised = (await agent.receive())["parameters"]
            assert isinstance(raised, dict)
            assert (raised["prompt"]["id"], raised["prompt"]["network"]["ssid_hex"]) == (
                "ab12",
                PROMPT.network.ssid_hex,
            )
        assert len(here.service.agents) == 2
        asking = await here.peer()
        assert "error" not in await asking.ask("Prompts.Answer", id="ab12", answer="ignore")
        for agent in agents:
            answered = (await agent.receive())["parameters"]
            assert isinstance(answered, dict)
            assert (answered["prompt"]["state"], answered["prompt"]["answer"]) == ("answered", "ignore")
        late = await asking.ask("Prompts.Answer", id="ab12", answer="auto_connect")
        assert late["error"] == f"{NAME}.Error.NoSuchPrompt"
        await agents[0].close()
        await until(lambda: len(here.service.agents) == 1)

    varlink_place.run(check)


def test_who_cannot_answer_is_no_agent_on_varlink() -> None:
    async def check(here: varlink_place.Place) -> None:
        reader = await here.peer("read.sock")
        reader.send("Prompts.Watch", more=True)
        assert (await reader.receive())["error"] == f"{NAME}.Error.NotPermitted"
        assert "error" not in await reader.ask("Prompts.Waiting")
        assert here.service.agents == []

    varlink_place.run(check)


@pytest.mark.parametrize(
    "given",
    [
        {"answer": "ignore"},
        {"id": "ab12"},
        {"id": "ab12", "answer": "disconnect"},
        {"id": "x" * 65, "answer": "ignore"},
        {"id": "ab12", "answer": "auto_connect", "remember": "yes"},
        {"id": "ab12", "answer": "auto_connect", "for": 1},
    ],
)
def test_bad_answers_are_refused(given: dict[str, object]) -> None:
    async def check(here: varlink_place.Place) -> None:
        peer = await here.peer()
        assert (await peer.ask("Prompts.Answer", **given))["error"] == f"{NAME}.Error.InvalidArgument"
        assert here.service.calls == []

    varlink_place.run(check)


# --- D-Bus ------------------------------------------------------------------------------------------------------------


class BusAgent:
    """A connection that asked to watch, and the signals it got."""

    def __init__(self, bus: MessageBus) -> None:
        self.bus = bus
        self.signals: asyncio.Queue[Message] = asyncio.Queue()
        bus.add_message_handler(self._received)

    def _received(self, message: Message) -> None:
        if message.message_type is MessageType.SIGNAL and message.interface == PROMPTS:
            self.signals.put_nowait(message)

    async def watch(self) -> None:
        call = Message(destination=NAME, path="/org/tunwarden/Daemon1", interface=PROMPTS, member="Watch")
        reply = await asyncio.wait_for(self.bus.call(call), 20)
        assert reply is not None and reply.message_type is MessageType.METHOD_RETURN, reply and reply.body

    async def next(self) -> dict[str, Variant]:
        signal = await asyncio.wait_for(self.signals.get(), 20)
        assert (signal.member, signal.signature) == ("Changed", "a{sv}")
        prompt = signal.body[0]
        assert isinstance(prompt, dict)
        return prompt


def test_a_bus_agent_hears_what_waits_and_what_changes() -> None:
    async def check(here: test_dbus.Place) -> None:
        agent = BusAgent(here.guest)
        async with test_dbus.connection(here.bus) as other:
            bystander = BusAgent(other)
            await agent.watch()
            await agent.watch()  # twice is one agent
            assert len(here.service.agents) == 1
            prompt = await agent.next()
            assert (prompt["id"].value, prompt["state"].value) == ("ab12", "raised")
            assert prompt["network"].value["verdict"].value == "unsecured"
            assert prompt["remember"].value == ["auto_connect"]
            reply = await here.send(PROMPTS, "Answer", "ssb", "ab12", "ignore", False)
            assert reply.message_type is MessageType.METHOD_RETURN
            assert (await agent.next())["answer"].value == "ignore"
            reply = await here.send(PROMPTS, "Answer", "ssb", "ab12", "ignore", False)
            assert reply.error_name == f"{NAME}.Error.NoSuchPrompt"
            assert bystander.signals.empty() and agent.signals.empty()

    test_dbus.in_place(check)


def test_a_bus_agent_that_leaves_is_none_and_others_stay() -> None:
    async def check(here: test_dbus.Place) -> None:
        staying = BusAgent(here.guest)
        await staying.watch()
        async with test_dbus.connection(here.bus) as other:
            await BusAgent(other).watch()
            assert len(here.service.agents) == 2
        await until(lambda: len(here.service.agents) == 1)
        here.service.tell(ANSWERED)
        assert (await staying.next())["state"].value == "raised"
        assert (await staying.next())["state"].value == "answered"

    test_dbus.in_place(check)


def test_an_agent_that_asks_and_leaves_at_once_is_none() -> None:
    """`dbus-send` has left before anybody can answer."""

    async def check(here: test_dbus.Place) -> None:
        await asyncio.gather(*(here.dbus_send(MEMBER, f"{PROMPTS}.Watch") for _ in range(5)))
        code, _, err = await here.dbus_send(STRANGER, f"{PROMPTS}.Watch")
        assert (code, err.split(":")[0]) == (1, f"Error {NAME}.Error.NotPermitted")
        assert [name for name, *_ in here.service.calls].count("watch_prompts") <= 5
        await until(lambda: not here.service.agents)

    test_dbus.in_place(check)


def test_who_left_before_the_bus_would_have_said_so_is_no_agent() -> None:
    async def check() -> None:
        service = FakeService()
        asked: list[str] = []

        async def ask(question: Message) -> Message:
            asked.append(question.member or "")
            gone = question.member == "NameHasOwner"
            return Message(message_type=MessageType.METHOD_RETURN, reply_serial=1, signature="b" if gone else "",
                           body=[False] if gone else [])  # fmt: skip

        async def send(_: Message) -> None:
            raise AssertionError("told somebody who has left")

        streams = Streams(Dispatcher(service, MEMBERS), ask, send)
        root = Caller(0, frozenset(), 1, Transport.DBUS)
        with pytest.raises(ServiceError, match="has left the bus"):
            await streams.open(":1.5", methods()[f"{PROMPTS}.Watch"], root, {})
        assert (service.agents, asked) == ([], ["AddMatch", "NameHasOwner", "RemoveMatch"])

    asyncio.run(check())


def test_without_a_bus_there_are_no_bus_agents() -> None:
    async def check(here: test_dbus.Place) -> None:
        await BusAgent(here.guest).watch()
        await here.bus.stop()
        await until(lambda: not here.service.agents)

    test_dbus.in_place(check)


FORGE = """
import json, subprocess, sys
name = sys.argv[1]
forged = ["string:" + name, "string:" + name, "string:"]
command = ["/usr/bin/dbus-send", "--system", "--type=signal", "--dest=org.tunwarden.Daemon1", "/org/freedesktop/DBus"]
command += ["org.freedesktop.DBus.NameOwnerChanged", *forged]
subprocess.run(command, check=True, env={"DBUS_SYSTEM_BUS_ADDRESS": sys.argv[2]})
print(json.dumps("sent"))
"""


def test_nobody_can_say_of_another_that_he_has_left() -> None:
    async def check(here: test_dbus.Place) -> None:
        agent = BusAgent(here.guest)
        await agent.watch()
        assert await python(STRANGER, FORGE, here.guest.unique_name or "", here.bus.address) == "sent"
        await agent.next()
        here.service.tell(ANSWERED)
        assert (await agent.next())["state"].value == "answered"

    test_dbus.in_place(check)


def test_busctl_shows_the_interface() -> None:
    async def check(here: test_dbus.Place) -> None:
        busctl = ("/usr/bin/busctl", f"--address={here.bus.address}")
        _, out, err = await run(STRANGER, *busctl, "introspect", NAME, "/org/tunwarden/Daemon1", PROMPTS)
        lines = [" ".join(line.split()) for line in out.splitlines()]
        assert ".Answer method ssb - -" in lines and ".Watch method - - -" in lines, err
        assert ".Changed signal a{sv} - -" in lines and ".Waiting method - aa{sv} -" in lines

    test_dbus.in_place(check)
