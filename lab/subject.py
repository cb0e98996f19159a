"""The subject of every experiment: the real daemon on the laptop, and its real client library and command line."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ipc.client import Client, NotRunningError
from ipc.structs import Status
from lab.processes import LabError, Process
from lab.topology import Laboratory

TOP = Path(__file__).parent.parent
CLI = str(Path(sys.executable).with_name("tunwarden"))
PROFILE = "office"

# The veth `wlan0` is no radio, so the kernel cannot tell that it is Wi-Fi: the administrator says it.
SETTINGS = """\
version = 1

[[links]]
name = "wlan*"
kind = "wifi"

[wifi]
unsecured = "auto_connect"
secured = "ignore"

[tunnel]
connect_timeout = "4s"
retry_first = "500ms"
retry_longest = "2s"

# Probes for captive portals would be leaks to the meter: tests/netns/test_portal.py switches them on.
[portal]
detect = false

[[known]]
ssid = "Home"
security = "wpa2"
action = "disconnect"
"""

# For whoever looks at the hold before a network is identified: it does not end by itself meanwhile.
PATIENT = SETTINGS.replace("[wifi]\n", '[wifi]\nidentify_timeout = "1m"\n')


class Subject:
    """The daemon in one laboratory. Construct it before anything is joined: it writes the settings file."""

    pause = 0.005  # seconds between two looks whether something is there yet

    def __init__(self, lab: Laboratory, settings: str | None = SETTINGS, program: Sequence[str] = ("daemon",)) -> None:
        """`program`: the module to run and its arguments, such as ("lab.one_layer", "firewall")."""
        self.lab, self.program = lab, program
        self.process: Process | None = None
        if settings is not None:
            lab.laptop.write("/etc/tunwarden/tunwarden.toml", settings)

    # --- life ---------------------------------------------------------------------------------------------------------

    def start(self, timeout: float = 30.0) -> float:
        """Start the daemon as the service manager would; returns the seconds until it answered. Raises LabError."""
        begun = time.monotonic()
        self.process = self.lab.laptop.start(self.lab.python, "-I", "-m", *self.program)
        while True:
            try:
                self.status()
                return time.monotonic() - begun
            except NotRunningError:
                if not self.process.running or time.monotonic() > begun + timeout:
                    raise LabError(f"the daemon did not start:\n{self.process.output()}") from None
                time.sleep(self.pause)

    def kill(self) -> None:
        """SIGKILL, which no program can answer."""
        assert self.process is not None
        self.process.kill()

    def stop(self) -> int:
        """SIGTERM; its exit status."""
        assert self.process is not None
        return self.process.stop()

    def set_up(self, name: str = PROFILE) -> None:
        """Bring the VPN provider's file, as a new user would."""
        with self.client() as client:
            client.import_profile(name, self.lab.client_config())

    # --- asking -------------------------------------------------------------------------------------------------------

    def client(self, timeout: float = 10.0) -> Client:
        """A connection over the daemon's own socket, as root. Close it."""
        return Client(str(self.lab.laptop.path("/run/tunwarden")), timeout)

    def status(self) -> Status:
        """Raises NotRunningError."""
        with self.client() as client:
            return client.get_status()

    def wait(self, wanted: Callable[[Status], bool] | str, timeout: float = 30.0) -> Status:
        """Wait for a state, or for whatever `wanted` says of the status. Raises LabError with the last status."""
        done = (lambda status: status.state == wanted) if isinstance(wanted, str) else wanted
        deadline = time.monotonic() + timeout
        while not done(status := self.status()):
            if time.monotonic() > deadline:
                log = self.process.output() if self.process else ""
                raise LabError(f"after {timeout} s: {status}\n{log[-6000:]}")
            time.sleep(self.pause)
        return status

    def states(self) -> list[str]:
        """Every state that it has entered since its start, oldest first."""
        assert self.process is not None
        return re.findall(r" event=state phase=(\S+)", self.process.output())

    def went_through(self, *wanted: str, since: int = 0, timeout: float = 30.0) -> None:
        """Wait until it has entered these states in this order, after the first `since` of `states()`. Raises LabError.

        A state may last milliseconds, and be over before anybody has asked: the log has it.
        """
        deadline = time.monotonic() + timeout
        while True:
            entered = iter(self.states()[since:])
            if all(state in entered for state in wanted):
                return
            if time.monotonic() > deadline:
                log = self.process.output() if self.process else ""
                raise LabError(f"not {', '.join(wanted)} within {timeout} s\n{log[-6000:]}")
            time.sleep(self.pause)

    def wait_cleared(self, timeout: float = 25.0) -> Status:
        """Wait until a network is used without protection: before it was joined, the state was idle just as well."""
        return self.wait(
            lambda status: status.state == "idle" and any(each.cleared for each in status.networks), timeout
        )

    def cli(self, *argv: str, check: bool = True, input: str | None = None) -> str:
        """Run the real `tunwarden` on the laptop, as root; its standard output. Raises CommandError when `check`."""
        return self.lab.laptop.run(CLI, *argv, check=check, input=input).stdout

    def cli_json(self, *argv: str) -> object:
        """The same with `--json`, parsed."""
        return json.loads(self.cli(*argv, "--json"))
