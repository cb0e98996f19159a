"""docs/dbus.md is true: each of its lines does what stands behind it. docs/ipc.md is what the interface says."""

from __future__ import annotations

import asyncio
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from ipc.dispatch import Dispatcher
from ipc.reference import render
from ipc.varlink import Varlink
from tests.ipc.fake_service import FakeService
from tests.ipc.places import MEMBER, MEMBERS, ROOT, ROOT_USER, STRANGER, Who, public_folder, run
from tests.ipc.test_dbus import Place, in_place

DOCS = ROOT / "docs"
MONITORING = """
  </policy>
  <policy user="root">
    <allow send_destination="org.freedesktop.DBus" send_interface="org.freedesktop.DBus.Monitoring"/>
  </policy>
  <policy context="default">
"""
SECTIONS = dict(re.findall(r"^## ([^\n]+)\n+```sh\n(.*?)```", (DOCS / "dbus.md").read_text(), re.MULTILINE | re.DOTALL))
READING, CHANGING, FOLLOWING = SECTIONS


def lines(section: str) -> list[str]:
    return SECTIONS[section].strip().splitlines()


def test_every_line_of_the_guide_is_tried_here() -> None:
    assert READING.startswith("Reading") and CHANGING.startswith("Changing") and FOLLOWING == "Following"
    shown = (DOCS / "dbus.md").read_text()
    assert sum(len(lines(section)) for section in SECTIONS) == len(
        re.findall(r"^(dbus|busctl|gdbus|python3)", shown, re.M)
    )


@pytest.mark.netns
@pytest.mark.parametrize("who", [STRANGER, MEMBER, ROOT_USER], ids=lambda who: who.name)
def test_reading(who: Who) -> None:
    async def check(here: Place) -> None:
        for line in lines(READING):
            await shows(here, who, line)

    in_place(check)


@pytest.mark.netns
def test_changing() -> None:
    async def check(here: Place) -> None:
        for line in lines(CHANGING):
            code, _, err = await run(STRANGER, *command(here, line)[0], env=here.bus.env)
            assert code != 0 and "this needs root or the group tunwarden" in err, line
            await shows(here, MEMBER, line)

    in_place(check)


@pytest.mark.netns
def test_following(tmp_path: Path) -> None:
    """Each of the three watches sees a change. dbus-monitor and busctl want to be root, as on any machine."""

    async def check(here: Place) -> None:
        number = 0
        for line in lines(FOLLOWING)[:-1]:
            words, _ = command(here, line)
            with (tmp_path / "heard").open("wb") as heard:
                process = await asyncio.create_subprocess_exec(
                    "/usr/bin/stdbuf", "-oL", *words, env={"PATH": "/usr/bin", **here.bus.env}, stdout=heard,
                    stderr=asyncio.subprocess.DEVNULL,
                )  # fmt: skip
            try:
                async with asyncio.timeout(20):
                    while "Since" not in (tmp_path / "heard").read_text():
                        number += 1
                        here.service.change(since=number)
                        await asyncio.sleep(0.1)
            finally:
                if process.returncode is None:
                    process.kill()
                await process.wait()

    in_place(check, MONITORING)


@pytest.mark.netns
def test_the_reference_client_of_varlink() -> None:
    """`python -m varlink.cli` lists, explains and calls us; a stream follows."""

    async def check() -> None:
        service = FakeService()
        with public_folder() as folder:
            face = Varlink(Dispatcher(service, MEMBERS), "1", folder)
            await face.start()
            socket = f"unix:{folder}/read.sock"
            try:

                async def cli(*words: str) -> str:
                    code, out, err = await run(ROOT_USER, sys.executable, "-m", "varlink.cli", *words)
                    assert code == 0, err
                    return out

                assert "org.tunwarden.Daemon1.Manager" in await cli("info", socket)
                assert "method GetStatus() ->" in await cli("help", f"{socket}/org.tunwarden.Daemon1.Manager")
                assert '"state": "idle"' in await cli("call", f"{socket}/org.tunwarden.Daemon1.Manager.GetStatus")
            finally:
                await face.stop()

    asyncio.run(check())


@pytest.mark.netns
@pytest.mark.skipif(not shutil.which("varlinkctl"), reason="varlinkctl comes with systemd 255, Debian 12 has 252")
def test_systemds_client_of_varlink() -> None:
    async def check() -> None:
        with public_folder() as folder:
            face = Varlink(Dispatcher(FakeService(), MEMBERS), "1", folder)
            await face.start()
            try:
                code, out, err = await run(
                    ROOT_USER, "/usr/bin/varlinkctl", "call", f"{folder}/read.sock",
                    "org.tunwarden.Daemon1.Manager.GetStatus", "{}",
                )  # fmt: skip
            finally:
                await face.stop()
        assert (code, err) == (0, "") and '"state" : "idle"' in out

    asyncio.run(check())


def test_the_reference_is_what_the_interface_says() -> None:
    written = (DOCS / "ipc.md").read_text()
    assert written == render(), "run: .venv/bin/python -m ipc.reference > docs/ipc.md"


def command(here: Place, line: str) -> tuple[list[str], str]:
    """The words of an example on the test's bus, and what its output must show."""
    text, _, wanted = line.partition("  #")
    words = shlex.split(text)
    program = shutil.which(words[0])
    assert program, words[0]
    if words[0] == "busctl":  # which leaves DBUS_SYSTEM_BUS_ADDRESS aside when told --system
        words = [f"--address={here.bus.address}" if word == "--system" else word for word in words]
    return [program, *words[1:]], wanted.strip()


async def shows(here: Place, who: Who, line: str) -> None:
    words, wanted = command(here, line)
    code, out, err = await run(who, *words, env=here.bus.env)
    assert code == 0, (line, err)
    assert wanted in out, (line, out)
