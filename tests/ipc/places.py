"""Where the tests' sockets and buses are, and who asks there."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import json
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
NOBODY = 65534
MEMBERS = 54321  # stands for the gid of the group tunwarden, which need not exist here


@dataclass(frozen=True)
class Who:
    """A user the tests ask as."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]


ROOT_USER = Who("root", 0, 0, ())
MEMBER = Who("member", 1, 1, (MEMBERS,))  # an account the bus knows: Debian's `daemon`
STRANGER = Who("stranger", NOBODY, NOBODY, ())


def place_of(who: Who) -> tuple[str, Path]:
    """The interpreter and the checkout that this user may use."""
    return (sys.executable, ROOT) if who.uid == 0 else _public_place()


@cache
def _public_place() -> tuple[str, Path]:
    """A checkout may lie in root's own folder, where nobody else can read: then a copy of what strangers run.

    With the interpreter behind the virtual environment, for the client and the command line need no other package.
    """
    program = Path(sys.executable).absolute()
    if all(step.stat().st_mode & stat.S_IXOTH for step in (program, *program.parents, *ROOT.parents, ROOT)):
        return sys.executable, ROOT
    copy = Path(tempfile.mkdtemp(prefix="tunwarden-checkout-"))
    atexit.register(shutil.rmtree, copy, ignore_errors=True)
    for package in ("ipc", "policies", "cli"):
        shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (copy, *copy.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return str(program.resolve()), copy


@contextlib.contextmanager
def public_folder() -> Iterator[Path]:
    """A folder of root's that everybody can enter, as /run/tunwarden is."""
    folder = Path(tempfile.mkdtemp(prefix="tunwarden-test-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


async def run(who: Who, *command: str, env: dict[str, str] | None = None, stdin: bytes = b"") -> tuple[int, str, str]:
    """Run a program as somebody: exit code, output, errors."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=place_of(who)[1],
        env={"PATH": "/usr/bin:/bin", **(env or {})},
        user=who.uid,
        group=who.gid,
        extra_groups=who.groups,
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(stdin), 60)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def python(who: Who, code: str, *arguments: str) -> object:
    """Run Python as somebody; the code prints JSON."""
    status, out, err = await run(who, place_of(who)[0], "-c", code, *arguments)
    assert status == 0, err
    return json.loads(out)


async def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Returns when the condition holds."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - the condition is not ours to signal
            await asyncio.sleep(0.01)


BUS_CONFIG = """\
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-BUS Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path={socket}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <deny own="*"/>
    <deny send_type="method_call"/>
    <allow send_type="signal"/>
    <allow send_requested_reply="true" send_type="method_return"/>
    <allow send_requested_reply="true" send_type="error"/>
    {extra}
    <allow receive_type="method_call"/>
    <allow receive_type="method_return" receive_requested_reply="false"/>
    <allow receive_type="method_return"/>
    <allow receive_type="error"/>
    <allow receive_type="signal"/>
    <allow send_destination="org.freedesktop.DBus" send_interface="org.freedesktop.DBus"/>
    <allow send_destination="org.freedesktop.DBus" send_interface="org.freedesktop.DBus.Introspectable"/>
    <allow send_destination="org.freedesktop.DBus" send_interface="org.freedesktop.DBus.Properties"/>
  </policy>
  <include>{policy}</include>
  <limit name="max_replies_per_connection">50000</limit>
</busconfig>
"""


class Bus:
    """A private dbus-daemon with the rules of the system bus and ours, which can be stopped and started again."""

    def __init__(self, folder: Path, extra: str = "") -> None:
        self.socket = folder / "bus"
        self.address = f"unix:path={self.socket}"
        self.env = {"DBUS_SYSTEM_BUS_ADDRESS": self.address}
        self._config = folder / "bus.conf"
        policy = ROOT / "systemd" / "org.tunwarden.Daemon1.conf"
        self._config.write_text(BUS_CONFIG.format(socket=self.socket, policy=policy, extra=extra))
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            "/usr/bin/dbus-daemon", f"--config-file={self._config}", "--nofork", "--nopidfile", "--print-address",
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert self._process.stdout is not None
        assert await asyncio.wait_for(self._process.stdout.readline(), 20)
        os.chmod(self.socket, 0o666)

    async def stop(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
        self.socket.unlink(missing_ok=True)


@contextlib.asynccontextmanager
async def private_bus(extra: str = "") -> AsyncIterator[Bus]:
    """A running bus; `extra` goes into its default rules."""
    with public_folder() as folder:
        bus = Bus(folder, extra)
        await bus.start()
        try:
            yield bus
        finally:
            await bus.stop()
