"""Name resolution through resolvconf(8): Debian's, or openresolv. It has no other interface than its program.

The record bears the tunnel link's name, which Debian's interface-order puts before those of networks ("tun*").
openresolv is told that it is the only one (-x). Debian's knows no such thing and lists the network's resolvers behind
ours, where the firewall drops what they are asked. Records live in /run, as our note that there is one does.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from pathlib import Path

from daemon import files
from daemon.host import HostError
from policies.facts import Tunnel
from policies.resolvers import Resolvconf

PROGRAMS = tuple(
    Path(path)
    for path in (
        "/usr/sbin/resolvconf",
        "/sbin/resolvconf",
        "/usr/bin/resolvconf",
        "/run/current-system/sw/bin/resolvconf",
    )
)
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
PATIENCE = 5.0  # seconds: it runs the scripts of everybody who wants to know
LONGEST = 64 * 1024  # bytes of its text that are looked at
SET, RESTORE = "tell resolvconf of the tunnel's resolvers", "take the tunnel's resolvers back from resolvconf"


def program() -> tuple[Path, Resolvconf] | None:
    """Which one this machine has; None for none that only root can have put there."""
    for path in PROGRAMS:
        with contextlib.suppress(OSError):
            real = files.trusted_program(path)
            if real.name == "resolvectl":
                return path, Resolvconf.RESOLVECTL
            with real.open("rb") as file:
                text = file.read(LONGEST).lower()
            return path, Resolvconf.OPENRESOLV if b"openresolv" in text + os.fsencode(real) else Resolvconf.DEBIAN
    return None


class ResolvconfProgram:
    """The `Resolver` of daemon/host.py over that program. `record`: where we note that it has a record of ours."""

    def __init__(self, record: Path, written: Path = Path("/etc/resolv.conf")) -> None:
        self._record, self._written = record, written
        self._told: Tunnel | None = None
        self._after: bytes | None = None  # what it wrote when it was told last

    async def set(self, tunnel: Tunnel) -> None:
        """Twice is harmless. Raises HostError."""
        if self._told == tunnel and self.intact():
            return
        again = self._after is not None
        self._after = self._told = None
        lines = "".join(f"nameserver {address}\n" for address in tunnel.resolvers)
        try:
            files.make_folder(self._record.parent, 0o755)
            note = {"ifname": tunnel.ifname, "servers": [str(address) for address in tunnel.resolvers]}
            files.write(self._record, json.dumps(note).encode("ascii"))
            await _run(SET, "-a", tunnel.ifname, "-m", "0", "-x", text=lines)
            if again:  # Debian's does nothing for a record that it has, also where its file was overwritten
                await _run(SET, "-u")
            self._after, self._told = self._written.read_bytes(), tunnel
        except OSError as err:
            raise HostError(SET, f"{err.filename or self._written}: {err.strerror}") from err

    def intact(self) -> bool:
        """Whether what it wrote is still there."""
        try:
            return self._after is not None and self._written.read_bytes() == self._after
        except OSError:
            return False

    def used(self) -> bool:
        """Whether there is a record of ours, of this process or an earlier one."""
        return self._record.exists()

    async def restore(self) -> None:
        """Idempotent. Raises HostError."""
        self._after = self._told = None
        try:
            ifname = str(json.loads(files.read(self._record))["ifname"])
            await _run(RESTORE, "-d", ifname)
            files.remove(self._record)
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError) as err:
            raise HostError(RESTORE, f"{self._record}: {err!r}") from err


async def _run(what: str, *argv: str, text: str = "") -> None:
    """Raises HostError."""
    found = program()
    if found is None or found[1] is Resolvconf.RESOLVECTL:
        raise HostError(what, "there is no resolvconf here; choose another [dns] manager")
    process = await asyncio.create_subprocess_exec(
        found[0], *argv, env=ENVIRONMENT, cwd="/",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(PATIENCE):
            _, errors = await process.communicate(text.encode("ascii"))
    except TimeoutError as err:
        raise HostError(what, f"{found[0]} has not ended within {PATIENCE:g} s") from err
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        said = errors[-300:].decode("utf-8", "replace").strip()
        raise HostError(what, f"{found[0]} {argv[0]}: exit status {process.returncode}; {said}")
