"""Children that read what strangers send: what they cannot do, how they end, and that nothing of them stays."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from daemon.host import HostError
from daemon.linux.confined import Confined, run
from daemon.linux.confinement import MACHINES, NOBODY, seccomp_filter
from tests.daemon.linux.confined_child import ATTEMPTS, SYSCALLS

CHILD = "tests.daemon.linux.confined_child"
LONG = 30.0  # seconds: no test waits so long where all is well

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: to become nobody, and packet sockets")


def ask(word: str, sockets: Sequence[socket.socket] = (), seconds: float = LONG) -> bytes:
    """What the child of that name answers; and it has left nothing behind."""

    async def asked() -> bytes:
        try:
            return await run(CHILD, sockets, word.encode(), seconds=seconds)
        finally:
            assert children() == []

    return asyncio.run(asked())


def children() -> list[str]:
    """Our children but for those of other tests; the dead ones too."""
    found = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    return [pid for pid in found if pid not in OTHERS]


OTHERS: set[str] = set()


@pytest.fixture(autouse=True)
def others() -> None:
    OTHERS.clear()
    OTHERS.update(children())


async def seen(what: Callable[[], bool]) -> None:
    async with asyncio.timeout(LONG):
        while not what():  # noqa: ASYNC110  nobody announces it
            await asyncio.sleep(0.01)


# --- what it can do ---------------------------------------------------------------------------------------------------


def test_it_answers() -> None:
    assert ask("echo") == b"echo"
    assert ask("bytes") == bytes(range(256))


def test_it_knows_nothing_of_us(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "x")
    names = json.loads(ask("environment"))
    assert set(names) <= {"LC_CTYPE", "PYDANTIC_DISABLE_PLUGINS"}  # Python's own, and daemon/__init__.py's


def test_it_uses_the_sockets_it_was_given() -> None:
    ours, theirs = socket.socketpair()
    other, another = socket.socketpair()
    with ours, theirs, other, another:
        ours.send(b"one")
        other.send(b"two")
        assert ask("received", [theirs, another]) == b"one two"
        assert ask("send", [theirs]) == b"sent"
        assert ours.recv(100) == b"hello"


# --- what it cannot do ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", [name for name in ATTEMPTS if name not in ("send-frame", "write-frame", *SYSCALLS)])
def test_it_is_refused(what: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        assert ask(what, [sock]) == b"PermissionError"


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers are those of x86_64")
@pytest.mark.parametrize("what", SYSCALLS)
def test_machine_code_is_refused_too(what: str) -> None:
    assert ask(what) == b"PermissionError"


@needs_root
@pytest.mark.parametrize("what", ["send-frame", "write-frame"])
def test_frames_are_for_reading(what: str) -> None:
    """Positive control: we ourselves can send with that socket."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
        sock.bind(("lo", 0))
        assert sock.send(b"\0" * 60) == 60
        assert ask(what, [sock]) == b"PermissionError"


@needs_root
@pytest.mark.parametrize(
    ("without", "who"),
    [
        (["--groups=4,24"], NOBODY),
        (["--bounding-set=-setuid,-setgid,-setpcap", "--inh-caps=-setuid,-setgid,-setpcap"], 0),
    ],
    ids=["may become nobody", "stays root"],
)
def test_who_it_is(without: list[str], who: int) -> None:
    """As the kernel sees it. Without CAP_SETUID, as in the service, it stays root and has no capability left."""
    program = f"""
import asyncio, pathlib
from daemon.linux.confined import Confined
async def main():
    async with Confined({CHILD!r}, [], b"pid") as child:
        async for pid in child.told():
            about = pathlib.Path(f"/proc/{{int(pid)}}")
            print((about / "status").read_text(), (about / "limits").read_text(), sep="@")
            return
asyncio.run(main())
"""
    argv = ["/usr/bin/setpriv", *without, sys.executable, "-c", program]
    shown = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True, cwd=Path.cwd()).stdout
    about, _, limits = shown.partition("@")
    status = dict(line.split(":\t", 1) for line in about.splitlines())
    assert status["Uid"].split() == status["Gid"].split() == [str(who)] * 4
    assert who == 0 or status["Groups"].split() == []
    for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        assert int(status[name], 16) == 0
    assert (status["NoNewPrivs"], status["Seccomp"], status["Threads"]) == ("1", "2", "1")
    hard = {line[:26].strip(): line[26:].split()[1] for line in limits.splitlines()[1:] if line.strip()}
    assert {hard[f"Max {name}"] for name in ("file size", "processes", "core file size")} == {"0"}
    assert "unlimited" not in (hard["Max cpu time"], hard["Max address space"], hard["Max open files"])


# --- how it ends ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ("exit", "it ended, status 3"),
        ("crash", "it ended by signal 11"),
        ("memory", "MemoryError"),
        ("flood", "said more than 65536 bytes"),
        ("raise", r"ValueError: a reason\?\?\[31m"),
        ("unheard-of", "KeyError"),
    ],
)
def test_a_bad_end_is_told(what: str, why: str) -> None:
    with pytest.raises(HostError, match=why):
        ask(what)


def test_the_longest_answer() -> None:
    assert len(ask("long")) == (64 << 10) - 1


@pytest.mark.parametrize("what", ["sleep", "loop"])
def test_it_gets_so_much_time(what: str) -> None:
    with pytest.raises(HostError, match=r"it took longer than 0\.5 s"):
        ask(what, seconds=0.5)


def test_a_module_that_is_not_there() -> None:
    with pytest.raises(HostError, match="ModuleNotFoundError"):
        asyncio.run(run("tests.no_such_module", [], b"", seconds=LONG))


def test_an_argument_too_long_is_our_own_mistake() -> None:
    with pytest.raises(ValueError, match="65536"):
        asyncio.run(run(CHILD, [], bytes(64 << 10), seconds=LONG))


def serve(argument: bytes, cpu: int = 60) -> list[bytes]:
    async def served() -> list[bytes]:
        try:
            async with Confined(CHILD, [], argument, cpu=cpu) as child:
                return [said async for said in child.told()]
        finally:
            assert children() == []

    return asyncio.run(served())


def test_it_tells() -> None:
    assert serve(b"three") == [b"0", b"1", b"2"]


@pytest.mark.parametrize(
    ("what", "why"),
    [(b"flood", "it says too much"), (b"memory", "MemoryError"), (b"forge", "it talks nonsense")],
)
def test_who_serves_badly_is_ended(what: bytes, why: str) -> None:
    with pytest.raises(HostError, match=why):
        serve(what)


def test_an_endless_loop_is_ended_by_the_kernel() -> None:
    with pytest.raises(HostError, match=r"it ended by signal (24|9)"):  # SIGXCPU
        serve(b"loop", cpu=1)


def test_cancelled_it_is_gone() -> None:
    async def cancelled() -> None:
        task = asyncio.create_task(run(CHILD, [], b"sleep", seconds=LONG))
        await seen(lambda: bool(children()))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert children() == []

    asyncio.run(cancelled())


def test_cancelled_twice_it_is_reaped() -> None:
    async def cancelled() -> None:
        task = asyncio.create_task(run(CHILD, [], b"sleep", seconds=LONG))
        await seen(lambda: bool(children()))
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await seen(lambda: not children())

    asyncio.run(cancelled())


def test_killed_it_is_told() -> None:
    async def killed() -> None:
        async with Confined(CHILD, [], b"pid") as child:
            async for pid in child.told():
                os.kill(int(pid), 9)

    with pytest.raises(HostError, match="it ended by signal 9"):
        asyncio.run(killed())


def test_whoever_gets_its_descriptor_next_is_heard() -> None:
    """One task hears, another ends it: asyncio's clean-up of the first comes when the number may be somebody else's."""

    async def check() -> None:
        loop, heard = asyncio.get_running_loop(), asyncio.Event()
        child = await Confined(CHILD, [], b"pid").__aenter__()
        async for _ in child.told():
            break
        hearing = asyncio.create_task(child.hear())
        await asyncio.sleep(0.05)
        number = child._channel.fileno()
        hearing.cancel()
        ending = child.__aexit__(None, None, None).__await__()
        next(ending)  # to its first wait: the channel is closed
        mine, other = socket.socketpair()
        with mine, other:
            next_owner = mine if mine.fileno() == number else other
            assert next_owner.fileno() == number
            loop.add_reader(number, heard.set)
            await asyncio.wait([hearing])
            (other if next_owner is mine else mine).send(b"x")
            await asyncio.wait_for(heard.wait(), LONG)
            loop.remove_reader(number)
        ending.close()
        await child._end()

    asyncio.run(check())
    assert children() == []


def test_it_ends_with_us() -> None:
    """Even when we are killed without a warning."""
    program = f"""
import asyncio
from daemon.linux.confined import Confined
async def main():
    async with Confined({CHILD!r}, [], b"pid") as child:
        async for pid in child.told():
            print(int(pid), flush=True)
asyncio.run(main())
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        watched = os.pidfd_open(pid)
        parent.kill()
    try:
        asyncio.run(_readable(watched))
    finally:
        os.close(watched)


async def _readable(fd: int) -> None:
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(fd, ended.set)
    async with asyncio.timeout(LONG):
        await ended.wait()


# --- the filter itself ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("machine", MACHINES)
def test_the_filter_of_each_machine_refuses_by_default(machine: str) -> None:
    """The kernel takes 4,096 instructions. The last word is a refusal, the first a check of the ABI."""
    architecture, numbers = MACHINES[machine]
    program = seccomp_filter(architecture, numbers, [3, 4])
    lines = [program[start : start + 8] for start in range(0, len(program), 8)]
    assert len(lines) < 4096
    assert lines[-1] == bytes.fromhex("0600000001000500")
    assert lines[1][4:] == architecture.to_bytes(4, "little")
    assert len(set(numbers.values())) == len(numbers)
