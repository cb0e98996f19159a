"""A container that boots this machine's own root with a real systemd: units, the journal and the system bus are real.

About 0.7 s to boot. Everything written in it lives in memory and goes with it; it has no network but its own. As with
`hosts.py`, nothing of it survives the test process: a keeper (container_keeper.py) cleans up after any death, SIGKILL
too. Needs root and Debian's systemd-container.
"""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from lab.hosts import ENVIRONMENT, CommandError
from lab.processes import LabError, children

KEEPER = Path(__file__).with_name("container_keeper.py")
PROGRAMS = ("systemd-nspawn", "unshare", "nsenter", "setpriv")
BOOT_TIME = 60.0  # seconds; 0.7 on an idle machine


def why_no_container() -> str | None:
    """Why this machine cannot boot a container; None when it can."""
    if os.name != "posix" or os.uname().sysname != "Linux":
        return "booting a container needs Linux"
    if os.geteuid() != 0:
        return "booting a container needs root"
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    missing = [program for program in PROGRAMS if shutil.which(program, path=path) is None]
    if missing:
        return f"booting a container misses {', '.join(missing)}: run lab/install-missing"
    if not Path("/usr/lib/systemd/systemd").exists() and not Path("/lib/systemd/systemd").exists():
        return "booting a container needs systemd, which is not installed here: run lab/install-missing"
    return None


class Container:
    """`with Container("box") as box: box.run("systemctl", "status")`."""

    def __init__(self, name: str, binds: Mapping[Path, str] | None = None) -> None:
        """`binds`: folders of this machine and where they are in the container, read-only."""
        self.name = name
        self._binds = dict(binds or {})
        self._keeper: subprocess.Popen[str] | None = None
        self._nspawn = self._leader = 0
        # No name in any folder: it goes with the last process that holds it.
        self._console = tempfile.TemporaryFile()  # noqa: SIM115

    # --- life ---------------------------------------------------------------------------------------------------------

    def boot(self) -> None:
        """Start it and wait until systemd says that everything is up. Raises LabError."""
        binds = [f"{folder}:{place}" for folder, place in self._binds.items()]
        self._keeper = subprocess.Popen(
            [sys.executable, "-I", "-S", str(KEEPER), self.name, *binds], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self._console, text=True, env=ENVIRONMENT,
            start_new_session=True,  # Ctrl-C is for the test process alone; the keeper cleans up behind it
        )  # fmt: skip
        self._wait_booted()

    def reboot(self) -> None:
        """Shut down in order and boot again. Files stay; the kernel's network is new."""
        self.run("systemctl", "poweroff", check=False)  # the keeper starts it again
        self._wait_booted()

    def _wait_booted(self) -> None:
        assert self._keeper is not None
        assert self._keeper.stdout is not None
        deadline = time.monotonic() + BOOT_TIME
        ready, _, _ = select.select([self._keeper.stdout], [], [], BOOT_TIME)
        line = self._keeper.stdout.readline() if ready else ""
        if not line:
            raise LabError(f"container {self.name} did not start:\n{self.console()}")
        self._nspawn = int(line)
        state = "no process 1"
        while True:
            if leader := self._find_leader():
                self._leader = leader
                state = self.run("systemctl", "is-system-running", check=False).stdout.strip() or state
                if state in ("running", "degraded"):
                    return
            if time.monotonic() > deadline or not self.alive:
                raise LabError(f"container {self.name} did not boot ({state}):\n{self.console()}")
            time.sleep(0.02)

    def _find_leader(self) -> int | None:
        """Process 1, once it is systemd: before, it still shares files with this machine and must not be entered."""
        for child in children(self._nspawn):
            try:
                if Path(os.readlink(f"/proc/{child}/exe")).name == "systemd":
                    return child
            except OSError:
                continue
        return None

    @property
    def alive(self) -> bool:
        return self._keeper is not None and self._keeper.poll() is None

    @property
    def pid(self) -> int:
        """Process 1 of the container, as this machine numbers it. Raises LabError when it is gone."""
        # nspawn keeps its children's numbers in use until it has reaped them, and the keeper ends with nspawn.
        if not self.alive or self._leader not in children(self._nspawn):
            raise LabError(f"container {self.name} is gone:\n{self.console()}")
        return self._leader

    def close(self) -> None:
        """End it and wait until nothing is left. Idempotent."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            with keeper:  # closes its standard input, which is its sign to end, and waits
                pass
        self._console.close()

    def __enter__(self) -> Container:
        try:
            self.boot()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    # --- inside -------------------------------------------------------------------------------------------------------

    def run(
        self, *argv: str, user: str | None = None, check: bool = True, input: str | None = None, timeout: float = 60.0,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:  # fmt: skip
        """Run a command in all its namespaces, as `user` with the user's groups. Raises CommandError when `check`."""
        enter = ["nsenter", "-t", str(self.pid), "-m", "-u", "-i", "-n", "-p", "-C", "--"]
        become = ["setpriv", "--reuid", user, "--regid", self._group(user), "--init-groups", "--"] if user else []
        result = subprocess.run(
            [*enter, *become, *argv], check=False, input=input if input is not None else "", capture_output=True,
            text=True, timeout=timeout, env={**ENVIRONMENT, **(env or {})},
        )  # fmt: skip
        if check and result.returncode != 0:
            raise CommandError(self.name, argv, result)
        return result

    def _group(self, user: str) -> str:
        return self.run("id", "-g", user).stdout.strip()

    def show(self, unit: str, *properties: str) -> dict[str, str]:
        """Properties of a unit as `systemctl show` tells them."""
        shown = self.run("systemctl", "show", unit, *(f"--property={each}" for each in properties)).stdout
        return dict(line.split("=", 1) for line in shown.splitlines())

    def journal(self, *selection: str) -> str:
        """The messages of this boot, without their stamps."""
        self.run("journalctl", "--sync")
        return self.run("journalctl", "--boot", "--quiet", "--output=cat", *selection).stdout

    def path(self, path: str) -> Path:
        """How this machine reaches a file of the container. Never follow absolute symbolic links through it."""
        return Path(f"/proc/{self.pid}/root{path}")

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Create or replace a file, and the folders above it."""
        self.run("install", "-D", "-m", f"{mode:o}", "/dev/stdin", path, input=text)

    def read(self, path: str) -> str:
        """Raises CommandError when there is no such file."""
        return self.run("cat", "--", path).stdout

    def console(self) -> str:
        """The end of what nspawn and systemd printed."""
        if self._keeper is not None and self._keeper.stdout is not None:
            select.select([self._keeper.stdout], [], [], 0.2)  # an ending keeper has its last words still to say
        size = os.fstat(self._console.fileno()).st_size
        return os.pread(self._console.fileno(), 6000, max(0, size - 6000)).decode(errors="replace")
