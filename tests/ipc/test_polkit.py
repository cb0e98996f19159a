"""E8 with polkit: the real polkitd on a private bus, with our actions, asked about real callers.

Nobody has a session here, so the `allow_any` defaults hold: polkit wants an administrator's password for everything.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from dbus_fast import BusType, Message, MessageType, Variant
from dbus_fast.aio import MessageBus

from ipc.access import Access
from ipc.dbus import Dbus
from ipc.dbus_queue import ASIDE
from ipc.describe import methods
from ipc.dispatch import Dispatcher
from ipc.interface import NAME, PATH
from ipc.polkit import ACTIONS, AUTHORITY, BUS, BUS_PATH, Polkit, Word
from ipc.polkit import NAME as POLKIT
from ipc.polkit import PATH as POLKIT_PATH
from tests.ipc.fake_service import FakeService
from tests.ipc.places import MEMBERS, ROOT, ROOT_USER, STRANGER, Bus, Who, private_bus, run
from tests.ipc.test_matrix import CALLS, MAY, _dbus

pytestmark = pytest.mark.netns  # needs root: a private view of polkit's folders, and other users

POLICY = """
  </policy>
  <policy user="polkitd">
    <allow own="org.freedesktop.PolicyKit1"/>
    <allow send_interface="org.freedesktop.PolicyKit1.AuthenticationAgent"/>
    <allow send_destination="*" send_type="method_call"/>
  </policy>
  <policy context="default">
    <allow send_destination="org.freedesktop.PolicyKit1"/>
"""

# polkitd knows one folder of actions and one of rules: it gets a private view of both.
POLKITD = """
import os, shutil, subprocess, sys
source, rules = sys.argv[1:]
for folder in ("/usr/share/polkit-1/actions", "/etc/polkit-1/rules.d", "/usr/share/polkit-1/rules.d"):
    if os.path.isdir(folder):
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", folder], check=True)
shutil.copy(source, "/usr/share/polkit-1/actions/")
with open("/etc/polkit-1/rules.d/50-test.rules", "w") as file:
    file.write(rules)
os.chmod("/etc/polkit-1/rules.d/50-test.rules", 0o644)
os.execv("/usr/lib/polkit-1/polkitd", ["polkitd", "--no-debug"])
"""
OURS = ROOT / "systemd" / "org.tunwarden.policy"


@contextlib.asynccontextmanager
async def polkitd(bus: Bus, rules: str = "", actions: Path = OURS) -> AsyncIterator[None]:
    process = await asyncio.create_subprocess_exec(
        "unshare", "--mount", "--propagation", "private", sys.executable, "-c", POLKITD, str(actions), rules,
        env={"PATH": "/usr/bin:/usr/sbin:/bin:/sbin", **bus.env},
    )  # fmt: skip
    try:
        async with client(bus) as asking, asyncio.timeout(20):
            while not await ask(asking, BUS, BUS_PATH, BUS, "NameHasOwner", "s", POLKIT):
                assert process.returncode is None, "polkitd has ended"
                await asyncio.sleep(0.05)
        yield
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@contextlib.asynccontextmanager
async def client(bus: Bus) -> AsyncIterator[MessageBus]:
    connection = await MessageBus(bus_address=bus.address, bus_type=BusType.SYSTEM).connect()
    try:
        yield connection
    finally:
        connection.disconnect()


async def ask(bus: MessageBus, name: str, path: str, face: str, member: str, signature: str, *body: object) -> Any:
    reply = await bus.call(Message(name, path, face, member, signature=signature, body=[*body]))
    assert reply is not None and reply.message_type is MessageType.METHOD_RETURN, reply and reply.body
    return reply.body[0] if reply.body else None


@contextlib.asynccontextmanager
async def face(bus: Bus, service: FakeService) -> AsyncIterator[None]:
    face = Dbus(Dispatcher(service, MEMBERS), address=bus.address)
    await face.start()
    service.calls.clear()  # the face's own watch
    try:
        yield
    finally:
        await face.stop()


# What busctl says of an answer. A caller with the flag would be asked for a password; without it he is told to set it.
ANSWERS = {
    "InteractiveAuthorizationRequired": "challenge",
    "NotPermitted": "denied",
}


async def call_all(bus: Bus, who: Who) -> list[str]:
    said = []
    for name, given, *_ in CALLS:
        described = methods()[f"{NAME}.{name}"]
        values = [_dbus(given.get(field.name, field.default)) for field in described.parameters]
        code, _out, err = await run(
            who, "/usr/bin/dbus-send", "--system", "--print-reply", f"--dest={NAME}", PATH, f"{NAME}.{name}", *values,
            env=bus.env,
        )  # fmt: skip
        said.append("allowed" if code == 0 else ANSWERS.get(err.split(":")[0].rpartition(".")[2], "allowed"))
    return said


@pytest.mark.parametrize("who", MAY, ids=lambda who: who.name)
def test_e9_every_method_by_every_caller(who: Who) -> None:
    """The whole table: method x caller -> allowed, or a challenge. Without polkit it is test_matrix.py's."""

    async def check() -> None:
        service = FakeService()
        async with private_bus(POLICY) as bus, polkitd(bus), face(bus, service):
            said = await call_all(bus, who)
        wanted = ["allowed" if MAY[who] >= needed else "challenge" for _, _, needed, _ in CALLS]
        assert [*zip([name for name, *_ in CALLS], said, strict=True)] == [
            *zip([name for name, *_ in CALLS], wanted, strict=True)
        ]
        assert [function for function, *_ in service.calls] == [
            function for _, _, needed, function in CALLS if MAY[who] >= needed
        ]

    asyncio.run(check())


@pytest.mark.parametrize(("word", "expected"), [("YES", "allowed"), ("NO", "denied")])
def test_e9_an_administrators_rule_decides(word: str, expected: str) -> None:
    """A rule for one of the two actions: the other one stays as it is."""
    rules = (
        'polkit.addRule(function(action, subject) {\n if (action.id == "org.tunwarden.control") '
        f"return polkit.Result.{word};\n}});\n"
    )

    async def check() -> None:
        service = FakeService()
        async with private_bus(POLICY) as bus, polkitd(bus, rules), face(bus, service):
            said = await call_all(bus, STRANGER)
        wanted = {Access.READ: "allowed", Access.CHANGE: expected, Access.ADMIN: "challenge"}
        assert said == [wanted[needed] for _, _, needed, _ in CALLS]

    asyncio.run(check())


def test_e9_reading_never_asks_and_no_polkit_lets_nobody() -> None:
    async def check() -> None:
        service = FakeService()
        async with private_bus(POLICY) as bus, face(bus, service):
            said = await call_all(bus, STRANGER)
        assert said == ["allowed" if needed is Access.READ else "denied" for _, _, needed, _ in CALLS]

    asyncio.run(check())


def test_e9_actions_that_cannot_be_read_let_nobody(tmp_path: Path) -> None:
    """An unparsable file of actions: polkit knows none of them, and a rule that says yes to all is moot."""
    rules = "polkit.addRule(function(action, subject) { return polkit.Result.YES; });\n"

    async def check(actions: Path) -> list[str]:
        service = FakeService()
        async with private_bus(POLICY) as bus, polkitd(bus, rules, actions), face(bus, service):
            return await call_all(bus, STRANGER)

    damaged = tmp_path / OURS.name
    damaged.write_text(OURS.read_text().replace("</action>", "</acton>", 1))
    assert asyncio.run(check(damaged)) == [
        "allowed" if needed is Access.READ else "denied" for _, _, needed, _ in CALLS
    ]
    assert set(asyncio.run(check(OURS))) == {"allowed"}, "the control: with our actions, that rule lets everybody"


def started(pid: int) -> int:
    """When a process began, in clock ticks since the boot: field 22 of proc(5)."""
    return int(Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[19])


class Agent:
    """Asks nobody: root's own authentication agent for one process. It remembers what polkit wanted said to people."""

    def __init__(self, bus: MessageBus, answers: bool) -> None:
        self.bus, self.answers = bus, answers
        self.asked: list[tuple[str, str]] = []
        self.withdrawn = asyncio.Event()
        self.begun = asyncio.Event()
        bus.add_message_handler(self._received)

    async def register(self, pid: int, locale: str) -> None:
        subject = ["unix-process", {"pid": Variant("u", pid), "start-time": Variant("t", started(pid))}]
        await self._tell("RegisterAuthenticationAgent", "(sa{sv})ss", subject, locale, "/agent")

    async def _tell(self, member: str, signature: str, *body: object) -> None:
        await ask(self.bus, POLKIT, POLKIT_PATH, AUTHORITY, member, signature, *body)

    def _received(self, message: Message) -> bool:
        if message.interface != "org.freedesktop.PolicyKit1.AuthenticationAgent":
            return False
        if message.member == "CancelAuthentication":
            self.withdrawn.set()
            self.bus.send(Message.new_method_return(message))
            return True
        action, text, _icon, _details, cookie, identities = message.body
        self.asked.append((action, text))
        self.begun.set()
        if self.answers:
            self._task = asyncio.get_running_loop().create_task(self._answer(message, cookie, identities[0]))
        return True

    async def _answer(self, message: Message, cookie: str, identity: Any) -> None:
        await self._tell("AuthenticationAgentResponse2", "us(sa{sv})", 0, cookie, identity)
        self.bus.send(Message.new_method_return(message))


# As nobody: calls Disconnect so many times, and allows the question. Reads meanwhile, over the same connection.
CALLER = """
import asyncio, os, sys
from dbus_fast import BusType, Message, MessageFlag
from dbus_fast.aio import MessageBus
async def main():
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
    bus = await MessageBus(bus_address=sys.argv[1], bus_type=BusType.SYSTEM).connect()
    print("ready", flush=True)
    sys.stdin.readline()
    face = "org.tunwarden.Daemon1.Manager"
    def question(member, flags):
        return Message("org.tunwarden.Daemon1", "/org/tunwarden/Daemon1", face, member, flags=flags)
    flag = MessageFlag.ALLOW_INTERACTIVE_AUTHORIZATION
    asked = [asyncio.create_task(bus.call(question("Disconnect", flag))) for _ in range(int(sys.argv[2]))]
    await asyncio.sleep(0)
    reading = await bus.call(question("GetVersion", MessageFlag.NONE))
    print(reading.message_type.name, flush=True)
    for done in asyncio.as_completed(asked):
        answer = await done
        print(answer.error_name or "done", flush=True)
asyncio.run(main())
"""


@contextlib.asynccontextmanager
async def asking(
    bus: Bus, *, answers: bool, locale: str = "C", calls: int = 1
) -> AsyncIterator[tuple[Agent, asyncio.StreamReader]]:
    """A caller whose polkit questions an agent of ours gets, and what that caller says."""
    async with client(bus) as connection:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", CALLER, bus.address, str(calls),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            assert process.stdout and process.stdin
            assert await asyncio.wait_for(process.stdout.readline(), 20) == b"ready\n"
            agent = Agent(connection, answers)
            await agent.register(process.pid, locale)
            process.stdin.write(b"\n")
            async with asyncio.timeout(30):
                yield agent, process.stdout
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


IN_ENGLISH, IN_GERMAN = "Authentication is required to connect", "Um den Schutz zu verbinden"


@pytest.mark.parametrize(("locale", "words"), [("en_US.UTF-8", IN_ENGLISH), ("de_DE.UTF-8", IN_GERMAN)])
def test_a_person_is_asked_where_the_call_allows_it(locale: str, words: str) -> None:
    """In his language; and reading goes on meanwhile, over the same connection."""

    async def check() -> None:
        service = FakeService()
        async with (
            private_bus(POLICY) as bus,
            polkitd(bus),
            face(bus, service),
            asking(bus, answers=True, locale=locale) as (agent, said),
        ):
            assert {await said.readline(), await said.readline()} == {b"METHOD_RETURN\n", b"done\n"}
        ((action, text),) = agent.asked
        assert action == ACTIONS[Access.CHANGE]
        assert words in text
        assert "disconnect" in [function for function, *_ in service.calls]

    asyncio.run(check())


def test_a_question_nobody_answers_holds_nothing_up_and_goes_with_the_daemon() -> None:
    async def check() -> None:
        service = FakeService()
        async with private_bus(POLICY) as bus, polkitd(bus):
            asked = Dbus(Dispatcher(service, MEMBERS), address=bus.address)
            await asked.start()
            try:
                async with asking(bus, answers=False) as (agent, said):
                    await agent.begun.wait()
                    assert await said.readline() == b"METHOD_RETURN\n"
                    async with client(bus) as other:  # root is not asked, and not kept waiting
                        await ask(other, NAME, PATH, f"{NAME}.Manager", "Disconnect", "")
                    await asked.stop()
                    await agent.withdrawn.wait()
            finally:
                await asked.stop()
        assert [caller.uid for function, caller, _ in service.calls if function == "disconnect"] == [ROOT_USER.uid]

    asyncio.run(check())


def test_questions_that_wait_are_bounded() -> None:
    """One caller cannot pile up windows: a few calls wait for a password, the others are refused at once."""

    async def check() -> None:
        service = FakeService()
        async with (
            private_bus(POLICY) as bus,
            polkitd(bus),
            face(bus, service),
            asking(bus, answers=False, calls=10) as (_, said),
        ):
            lines = [await said.readline() for _ in range(1 + 10 - ASIDE)]
        assert lines.count(b"METHOD_RETURN\n") == 1
        assert lines.count(b"org.freedesktop.DBus.Error.LimitsExceeded\n") == 10 - ASIDE
        assert {function for function, *_ in service.calls} == {"get_version"}

    asyncio.run(check())


# What no polkit answers, with the type it says of itself.
STRANGE: list[tuple[str, list[object]]] = [
    ("", []),
    ("b", [True]),
    ("bb", [True, True]),
    ("s", ["yes"]),
    ("(bb)", [[True, True]]),
    ("(bba{sv})", [[True, True, {}]]),
    ("(uua{ss})", [[1, 1, {}]]),
    ("ab", [[True, True, True]]),
    ("v", [Variant("(bba{ss})", [True, True, {}])]),
    ("(bba{ss})s", [[True, True, {}], "more"]),
]


@pytest.mark.parametrize(("signature", "body"), STRANGE, ids=lambda each: str(each))
def test_e9_an_answer_of_a_strange_shape_lets_nobody(
    signature: str, body: list[object], caplog: pytest.LogCaptureFixture
) -> None:
    """An ordinary denial, with its reason in the log. The control: the right shape lets in."""

    def answering(signature: str, body: list[object]) -> Polkit:
        async def ask(question: Message, seconds: float) -> Message:
            if question.member == "GetNameOwner":
                return Message(message_type=MessageType.METHOD_RETURN, reply_serial=1, signature="s", body=[":1.7"])
            return Message(message_type=MessageType.METHOD_RETURN, reply_serial=1, signature=signature, body=body)

        return Polkit(ask)

    async def check() -> None:
        for interactive in (False, True):
            said = await answering(signature, body).may(":1.1", Access.CHANGE, interactive=interactive)
            assert said is Word.NO
            right = answering("(bba{ss})", [[True, False, {}]])
            assert await right.may(":1.1", Access.CHANGE, interactive=interactive) is Word.YES

    asyncio.run(check())
    assert repr(signature) in caplog.text


# As nobody: both calls at once, neither of which allows a question to a person.
TWO_CALLS = """
import asyncio, os, sys
from dbus_fast import BusType, Message
from dbus_fast.aio import MessageBus
async def main():
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
    bus = await MessageBus(bus_address=sys.argv[1], bus_type=BusType.SYSTEM).connect()
    name, path = "org.tunwarden.Daemon1", "/org/tunwarden/Daemon1"
    print(bus.unique_name)
    calls = [Message(name, path, f"{name}.Manager", member) for member in ("Disconnect", "GetVersion")]
    for answer in await asyncio.wait_for(asyncio.gather(*(bus.call(call) for call in calls)), 20):
        print(answer.error_name or answer.body[0])
asyncio.run(main())
"""
FAKE_ALLOWED = POLICY.replace('user="polkitd"', 'user="root"')


@pytest.mark.parametrize(("signature", "body"), [STRANGE[1], STRANGE[8]], ids=["b", "v"])
def test_e9_a_strange_polkit_on_the_bus_costs_no_other_call(signature: str, body: list[object]) -> None:
    """The caller hears a denial, and what he asked behind it, over the same connection, is answered."""

    async def check() -> None:
        service, subjects = FakeService(), []

        def received(message: Message) -> Message | bool:
            if message.member != "CheckAuthorization":
                return False
            subjects.append(message.body[0])
            return Message.new_method_return(message, signature, body)

        async with private_bus(FAKE_ALLOWED) as bus, client(bus) as fake, face(bus, service):
            fake.add_message_handler(received)
            await fake.request_name(POLKIT)
            code, out, err = await run(ROOT_USER, sys.executable, "-c", TWO_CALLS, bus.address)
        assert (code, err) == (0, "")
        name, *said = out.split()
        assert said == [f"{NAME}.Error.NotPermitted", "9.8.7"]
        ((kind, about),) = subjects
        assert kind == "system-bus-name", "never a process id"
        assert {key: value.value for key, value in about.items()} == {"name": name}, "the caller's own"
        assert [function for function, *_ in service.calls] == ["get_version"]

    asyncio.run(check())
