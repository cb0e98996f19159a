"""A laboratory host: a container of a network, a process tree and a few file systems, held by one process.

Nothing of it has a name on this machine: no /run/netns entry, no cgroup, no folder in /tmp. The holder dies with the
test process (even by SIGKILL), the kernel then ends every process in its PID namespace, and the namespaces, links and
mounts go with the last of them.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import IO, TypeVar

from lab.processes import LabError, Process, only_child

T = TypeVar("T")

CLONE_NEWNET = 0x40000000  # <linux/sched.h>
HOLDER = Path(__file__).with_name("holder.py")
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "PYTHONDONTWRITEBYTECODE": "1",  # the checkout is shared with the machine
}
_libc = ctypes.CDLL(None, use_errno=True)


class CommandError(LabError):
    """A command in a host failed; carries `returncode`, `stdout` and `stderr`."""

    def __init__(self, host: str, argv: tuple[str, ...], result: subprocess.CompletedProcess[str]) -> None:
        super().__init__(f"{host}: {shlex.join(argv)} -> {result.returncode}\n{result.stdout}{result.stderr}")
        self.returncode, self.stdout, self.stderr = result.returncode, result.stdout, result.stderr


class Host:
    """Own network, PID, mount and host-name namespaces; /etc, /run, /var/lib and /sys are its own.

    The rest of the root file system (the checkout, its virtual environment, /tmp) is the machine's, read-write.
    Boot in the main thread: the kernel ties the holder's life to the *thread* that started it (PR_SET_PDEATHSIG).
    The constructor does nothing. `boot()` starts the holder and returns; `ready()`, and whatever uses the host, waits.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._logs = itertools.count(1)
        self._processes: list[Process] = []
        self._pid: int | None = None
        self._holder: subprocess.Popen[bytes] | None = None
        self._closed = False

    def boot(self) -> None:
        """Start the host without waiting for it. Idempotent."""
        if self._holder is not None or self._closed:
            return
        unshare = ("unshare", "--net", "--mount", "--pid", "--uts", "--fork", "--kill-child=KILL", "--mount-proc")
        self._holder = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *unshare, "--", sys.executable, "-I", "-S", str(HOLDER), self.name],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT,
            start_new_session=True,  # Ctrl-C is for the test process alone: it cleans up in order
        )  # fmt: skip

    def ready(self) -> None:
        """Wait until the file systems are in place (about 50 ms). Raises LabError."""
        self.boot()
        if self._pid is not None or self._holder is None:
            return
        assert self._holder.stdout is not None
        assert self._holder.stderr is not None
        if self._holder.stdout.readline() != b"ready\n":
            why = self._holder.stderr.read().decode(errors="replace")
            raise LabError(f"host {self.name} did not start: {why}")
        self._pid = only_child(self._holder)

    @property
    def pid(self) -> int:
        """Process 1 of the host, as this machine numbers it."""
        self.ready()
        # A number that is free again may belong to anybody: never hand it out.
        if self._pid is None or self._holder is None or self._holder.poll() is not None:
            raise LabError(f"host {self.name} is gone")
        return self._pid

    def _enter(self, argv: tuple[str, ...]) -> list[str]:
        return ["nsenter", "-t", str(self.pid), "-n", "-m", "-u", "-p", "--", *argv]

    def run(
        self, *argv: str, check: bool = True, input: str | None = None, timeout: float = 30.0,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:  # fmt: skip
        """Run a command to its end, about 4 ms more than the command takes. Raises CommandError when `check`."""
        result = subprocess.run(
            self._enter(argv), check=False, input=input if input is not None else "", capture_output=True, text=True,
            timeout=timeout, env={**ENVIRONMENT, **(env or {})},
        )  # fmt: skip
        if check and result.returncode != 0:
            raise CommandError(self.name, argv, result)
        return result

    def start(self, *argv: str, env: Mapping[str, str] | None = None, stdin: int | IO[bytes] | None = None) -> Process:
        """Start a program; its output goes to a file in the host's own /run/lab. Working directory: /."""
        log = self.path(f"/run/lab/{next(self._logs)}-{Path(argv[0]).name}.log")
        with log.open("wb") as output:
            wrapper = subprocess.Popen(
                self._enter(argv), stdin=subprocess.DEVNULL if stdin is None else stdin, stdout=output,
                stderr=subprocess.STDOUT, env={**ENVIRONMENT, **(env or {})},
                # A group of its own, so Ctrl-C passes by; but of our session: if we die while the program is stopped,
                # the kernel continues the orphaned group, and nothing stopped keeps the host from ending.
                process_group=0,
            )  # fmt: skip
        process = Process(wrapper, log)
        self._processes.append(process)
        return process

    def path(self, path: str) -> Path:
        """How this machine reaches a file of the host. Never follow absolute symbolic links through it."""
        return Path(f"/proc/{self.pid}/root{path}")

    def listens(self, path: str) -> bool:
        """Whether somebody listens at a Unix socket of the host; its file alone comes a moment earlier."""
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(self.path(path)))
            except OSError:
                return False
        return True

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Create or replace a file of the host, and its folders."""
        self.run("install", "-D", "-m", f"{mode:o}", "/dev/stdin", path, input=text)

    def read(self, path: str) -> str:
        """Raises CommandError when there is no such file."""
        return self.run("cat", "--", path).stdout

    def inside(self, call: Callable[[], T]) -> T:
        """Call in the host's network namespace (only that): sockets it opens stay there. About 0.2 ms."""
        namespace = os.open(f"/proc/{self.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)

        def enter_and_call() -> T:
            if _libc.setns(namespace, CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), f"setns to {self.name}")
            return call()

        try:
            # A thread of its own that ends afterwards: setns changes the calling thread only.
            with ThreadPoolExecutor(max_workers=1) as thread:
                return thread.submit(enter_and_call).result()
        finally:
            os.close(namespace)

    def socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """A socket of the host in this process. Close it: an open one keeps the namespace alive."""
        return self.inside(lambda: socket.socket(family, kind, protocol))

    def sysctl(self, *settings: tuple[str, str]) -> None:
        """Set network sysctls, such as ("net/ipv4/ip_forward", "1")."""

        def write() -> None:
            for key, value in settings:
                Path("/proc/sys", key).write_text(value, encoding="ascii")

        self.inside(write)

    def ip(self, *commands: str) -> None:
        """Run `ip` commands (one string each) in the host's network namespace, in one process. Raises CommandError."""
        batch(self, *commands)

    def logs(self) -> dict[str, str]:
        """What every program of the host printed, by file name."""
        folder = self.path("/run/lab")
        return {log.name: log.read_text(errors="replace") for log in sorted(folder.glob("*.log"))}

    def close(self) -> None:
        """End every process of the host and with them the host. Idempotent."""
        self._closed = True
        if self._holder is None:
            return
        holder, self._holder = self._holder, None
        with holder:  # closes its pipes and waits for it
            if holder.poll() is None:
                if self._pid is not None:
                    # When process 1 is gone, the kernel has already ended all the others.
                    os.kill(self._pid, signal.SIGKILL)
                else:
                    holder.kill()
            # nsenter stops itself with its child. It must reap, for process 1 waits until all are reaped.
            for process in self._processes:
                process.resume()
            with contextlib.suppress(subprocess.TimeoutExpired):
                holder.wait(1)
            for process in self._processes:
                process.close()
        self._processes.clear()

    def __enter__(self) -> Host:
        self.ready()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()


def batch(host: Host, *commands: str) -> None:
    """`ip -batch` that enters the network namespace only, so `netns PID` means this machine's process ids."""
    argv = ("ip", "-batch", "-")
    result = subprocess.run(
        ["nsenter", "-t", str(host.pid), "-n", "--", *argv], check=False, input="\n".join(commands) + "\n",
        capture_output=True, text=True, timeout=30, env=ENVIRONMENT,
    )  # fmt: skip
    if result.returncode != 0:
        raise CommandError(host.name, (*argv, *commands), result)
