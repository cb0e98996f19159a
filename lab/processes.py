"""A program running inside a laboratory host."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from pathlib import Path


class LabError(RuntimeError):
    """The laboratory itself does not work; the test's subject was not judged."""


def children(pid: int) -> tuple[int, ...]:
    """Process ids of the children of `pid`, by scanning /proc: /proc/PID/task/*/children is optional in kernels."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                stat = Path(f"/proc/{entry}/stat").read_text(encoding="utf-8", errors="replace")
            except (FileNotFoundError, ProcessLookupError):
                continue
            # The command name may hold spaces and brackets: the fields that matter follow its last one.
            if int(stat[stat.rindex(")") + 2 :].split()[1]) == pid:
                found.append(int(entry))
    return tuple(found)


def only_child(parent: subprocess.Popen[bytes], timeout: float = 30.0) -> int | None:
    """The id of the process `parent` forked, or None when it ended before it could be seen. Raises LabError."""
    deadline = time.monotonic() + timeout
    while True:
        if found := children(parent.pid):
            return found[0]
        if parent.poll() is not None:
            return None
        if time.monotonic() > deadline:
            raise LabError(f"{parent.args!r} started nothing within {timeout} s")
        time.sleep(0.001)


class Process:
    """Started by `Host.start`. `pid` is the real program's id on this machine, not the wrapper's that entered the host.

    The program is ended with its host at the latest, whatever becomes of the test process.
    """

    def __init__(self, wrapper: subprocess.Popen[bytes], log: Path) -> None:
        self._wrapper, self._log = wrapper, log
        self.pid = only_child(wrapper)
        self._pidfd: int | None = None
        if self.pid is not None:
            try:
                self._pidfd = os.pidfd_open(self.pid)
            except ProcessLookupError:
                self.pid = None

    @property
    def stdin(self) -> int:
        """File descriptor of the program's standard input; only with `Host.start(..., stdin=subprocess.PIPE)`."""
        assert self._wrapper.stdin is not None, "started without stdin=PIPE"
        return self._wrapper.stdin.fileno()

    @property
    def running(self) -> bool:
        return self.pid is not None and self._wrapper.poll() is None

    def send(self, number: int) -> None:
        """Send a signal to the real program. A program that has ended already is no error."""
        if self._pidfd is not None:
            try:
                signal.pidfd_send_signal(self._pidfd, number)
            except ProcessLookupError:
                return

    def wait(self, timeout: float = 30.0) -> int:
        """Exit status, negative for a signal, as in subprocess. Raises LabError when it does not end in time."""
        try:
            if self.ended_within(timeout):
                self.resume()
            return self._wrapper.wait(timeout)
        except subprocess.TimeoutExpired as err:
            raise LabError(f"{self._wrapper.args!r} did not end within {timeout} s\n{self.output()}") from err

    def resume(self) -> None:
        """Continue the wrapper: nsenter stops itself when its child is stopped, and would sleep through its end."""
        self._wrapper.send_signal(signal.SIGCONT)

    def kill(self) -> int:
        """SIGKILL the real program and wait until it is gone."""
        self.send(signal.SIGKILL)
        return self.wait()

    def stop(self, timeout: float = 30.0) -> int:
        """SIGTERM the real program and wait until it is gone."""
        self.send(signal.SIGTERM)
        return self.wait(timeout)

    def output(self) -> str:
        """Everything written to standard output and error so far."""
        try:
            return self._log.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""

    def wait_output(self, text: str, timeout: float = 30.0) -> str:
        """Wait until `text` was printed; returns all output. Raises LabError when it ends or takes too long."""
        deadline = time.monotonic() + timeout
        while text not in (seen := self.output()):
            ended = self._wrapper.poll() is not None
            if (ended and text not in self.output()) or time.monotonic() > deadline:
                raise LabError(f"{self._wrapper.args!r} never printed {text!r}:\n{seen}")
            time.sleep(0.002)
        return seen

    def ended_within(self, seconds: float) -> bool:
        """Wait at most `seconds` for the end of the real program."""
        if self._pidfd is None:
            return True
        return bool(select.select([self._pidfd], [], [], seconds)[0])

    def close(self) -> None:
        """Forget the process, after its host has ended it."""
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None
        if self._wrapper.stdin is not None:
            self._wrapper.stdin.close()
        self._wrapper.kill()  # a wrapper that outlived its program
        self._wrapper.wait()
