"""E13: many clients at once. Nobody is turned away for want of a place in a queue, and nobody takes all places."""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
from collections.abc import AsyncIterator, Iterator

import pytest

from ipc import varlink
from ipc.varlink import Limits
from tests.ipc.places import MEMBER, ROOT_USER, STRANGER, Who, place_of, python, until
from tests.ipc.test_varlink_hostile import ASK_MANY
from tests.ipc.varlink_place import Place, run

pytestmark = pytest.mark.netns  # needs root: other users ask

WATCHERS, CHANGES = 1_100, 30  # more than there are places beside root's

# All connect in one turn of the loop, as asyncio's clients do; each then says whether it missed a status.
WATCH_ALL = """
import asyncio, json, resource, sys
path, count, last = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_NOFILE, (16384, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
in_place, failed = asyncio.Semaphore(0), []
async def watch():
    try:
        reader, writer = await asyncio.open_unix_connection(path, limit=1 << 20)
        writer.write(b'{"method": "org.tunwarden.Daemon1.Manager.Watch", "more": true}' + bytes(1))
        sequence = json.loads((await reader.readuntil(bytes(1)))[:-1])["parameters"]["status"]["sequence"]
        in_place.release()
        while sequence < last:
            status = json.loads((await reader.readuntil(bytes(1)))[:-1])["parameters"]["status"]
            assert status["sequence"] == sequence + 1, "a gap"
            sequence += 1
        return writer
    except Exception as error:
        failed.append(repr(error))
        in_place.release()
async def main():
    everybody = asyncio.gather(*(watch() for _ in range(count)))
    for _ in range(count):
        await in_place.acquire()
    print(json.dumps(failed), flush=True)
    await everybody
    print(json.dumps(failed), flush=True)
asyncio.run(main())
"""

# Asks on so many connections, which stay open until standard input ends.
HOLD = ASK_MANY.replace("print(json.dumps(answers))", "print(json.dumps(answers), flush=True); sys.stdin.read()")


@pytest.fixture(autouse=True)
def enough_descriptors() -> Iterator[None]:
    """As systemd/tunwarden.service sets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 16384:
        pytest.skip(f"only {hard} descriptors may be open here (ulimit -Hn)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (16384, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextlib.asynccontextmanager
async def running(who: Who, code: str, *arguments: str) -> AsyncIterator[asyncio.StreamReader]:
    """What a program of somebody's says, while it runs."""
    program, folder = place_of(who)
    process = await asyncio.create_subprocess_exec(
        program, "-c", code, *arguments,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, cwd=folder,
        user=who.uid, group=who.gid, extra_groups=who.groups,
    )  # fmt: skip
    try:
        assert process.stdout
        async with asyncio.timeout(60):
            yield process.stdout
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def test_e13_a_thousand_watchers_get_in_at_once_and_miss_nothing() -> None:
    """Without QUEUE some hundred of them did not; and while they are there, others are served."""

    async def check(here: Place) -> None:
        path = str(here.folder / "tunwarden.sock")
        async with running(ROOT_USER, WATCH_ALL, path, str(WATCHERS), str(1 + CHANGES)) as said:
            assert json.loads(await said.readline()) == []
            assert len(here.service.feed._watchers) == WATCHERS
            assert await python(STRANGER, ASK_MANY, str(here.folder / "read.sock"), "3") == ["done"] * 3
            assert await python(MEMBER, ASK_MANY, path, "3") == ["done"] * 3
            for count in range(CHANGES):
                here.service.change(rx_bytes=count + 1)
                await asyncio.sleep(0)
            assert json.loads(await said.readline()) == []
        await until(lambda: not here.service.feed._watchers, 20)

    run(check, Limits(send_seconds=60))  # the machine may be slow; the watchers do read


@pytest.mark.parametrize("name", ["tunwarden.sock", "read.sock"])
def test_e13_a_user_who_takes_what_he_can_locks_nobody_out(name: str) -> None:
    async def check(here: Place) -> None:
        path, most = str(here.folder / name), Limits().connections_per_uid
        async with running(MEMBER, HOLD, path, str(most + 20)) as said:
            assert json.loads(await said.readline()) == ["done"] * most + ["NotNow"] * 20
            other = Who("other", 2, 2, MEMBER.groups)
            assert await python(other, ASK_MANY, path, "3") == ["done"] * 3
            assert await python(ROOT_USER, ASK_MANY, path, "3") == ["done"] * 3

    run(check)


def test_e13_half_of_the_descriptors_stay_the_daemons(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where few may be open, nobody's connections take those that the firewall and the tunnel need."""
    monkeypatch.setattr(varlink.resource, "getrlimit", lambda _: (128, 128))

    async def check(here: Place) -> None:
        path = str(here.folder / "tunwarden.sock")
        others = await python(MEMBER, ASK_MANY, path, "4")
        assert others == ["done"] * 2 + ["NotNow"] * 2, "16 places, an eighth of them a user's"
        await until(lambda: not here.face._connections)
        roots = await python(ROOT_USER, ASK_MANY, path, "18")
        assert roots == ["done"] * 16 + ["NotNow"] * 2

    run(check)
