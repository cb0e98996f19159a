"""The daemon, killed at its n-th change of the machine: `python -I -m lab.fault_injector N {before|after} [later]`.

Only for tests (K5). Everything is the real daemon. What it changes is counted and printed as a line each,
`change 12: nft`: transactions of the firewall, requests that change links, addresses, rules or
routes, sysctls, WireGuard's configuration, programs started and signalled, files and the database. Right before or
right after the N-th it gets SIGKILL; 0 is never. With `later`, counting begins with SIGUSR1.

What lies between two changes reads and computes only, so "after the n-th" is for the machine what "before the next" is,
except that less time has passed.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from daemon import __main__ as daemon
from daemon.linux import libnftables, link_changes, rtnetlink, wireguard_go, wireguard_kernel

READS = ("SELECT", *(f"PRAGMA {name}" for name in (
    "quick_check", "user_version", "locking_mode", "cache_size", "synchronous",
)))  # fmt: skip
# What another program could see of a file. The steps in between are tests/daemon/power_cut.py's.
FILE_CHANGES = ("write", "pwrite", "rename", "replace", "unlink", "symlink", "mkdir")


class Injector:
    """Counts, tells and kills."""

    def __init__(self, deadly: int, moment: str, later: bool) -> None:
        self.deadly, self.counting, self.count = (deadly, moment), not later, 0
        signal.signal(signal.SIGUSR1, lambda *_: self._begin())

    def _begin(self) -> None:
        self.counting = True
        print("counting", flush=True)

    @contextlib.contextmanager
    def change(self, what: str) -> Iterator[None]:
        """Around a change. One that fails was none, such as the removal of a file that is not there."""
        if not self.counting:
            yield
            return
        self.count += 1
        number = self.count
        if (number, "before") == self.deadly:
            self._die(number, what)
        try:
            yield
        except BaseException:
            self.count -= 1
            raise
        print(f"change {number}: {what}", flush=True)
        # Or later: where two ran at a time, the one that had that number may have failed and been none.
        deadly, moment = self.deadly
        if moment == "after" and 0 < deadly <= number:
            self._die(number, what)

    def _die(self, number: int, what: str) -> None:
        print(f"dies {self.deadly[1]} change {number}: {what}", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

    def wrap(self, owner: Any, name: str, what: str, counts: Callable[..., bool] = lambda *_, **__: True) -> None:
        """Count each call of `owner.name` for which `counts` says so."""
        real = getattr(owner, name)

        @functools.wraps(real)
        def call(*args: Any, **options: Any) -> Any:
            with self.change(what) if counts(*args, **options) else contextlib.nullcontext():
                return real(*args, **options)

        @functools.wraps(real)
        async def wait(*args: Any, **options: Any) -> Any:
            with self.change(what) if counts(*args, **options) else contextlib.nullcontext():
                return await real(*args, **options)

        setattr(owner, name, wait if inspect.iscoroutinefunction(real) else call)


class _Database(sqlite3.Connection):
    """The built-in class takes no other method: this one does."""

    def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
        return super().execute(sql, *values)


def arm(injector: Injector) -> None:
    """Replace everything the daemon changes its machine with by something that counts."""
    for nft in (libnftables.LibNft, libnftables.NftProgram):
        injector.wrap(nft, "run", "nft", lambda _, text, check=False: not check and not text.startswith("list"))
    # The kernel handles a batch within one system call: all of it or none. Links and WireGuard have names of their own.
    injector.wrap(rtnetlink, "change", "routing")
    injector.wrap(link_changes, "_change", "link", lambda kind, *_: kind != link_changes.RTM_NEWADDR)
    injector.wrap(link_changes, "_change", "addr", lambda kind, *_: kind == link_changes.RTM_NEWADDR)
    for device in (wireguard_go.WireGuardGo, wireguard_kernel.WireGuardKernel):
        for change in ("configure", "set_keepalive", "renew"):
            injector.wrap(device, change, f"wireguard {change}")
    injector.wrap(subprocess, "Popen", "start a program")
    injector.wrap(signal, "pidfd_send_signal", "signal a program")
    injector.wrap(Path, "write_text", "sysctl", lambda path, *_, **__: path.is_relative_to("/proc/sys"))
    for change in FILE_CHANGES:
        injector.wrap(os, change, change)

    injector.wrap(_Database, "execute", "database", lambda _, sql, *__: not sql.startswith(READS))
    connect: Any = functools.partial(sqlite3.connect, factory=_Database)
    sqlite3.connect = connect


def main() -> None:
    deadly, moment, *later = sys.argv[1:]
    assert moment in ("before", "after"), moment
    assert later in ([], ["later"]), later
    arm(Injector(int(deadly), moment, bool(later)))
    daemon.main()


if __name__ == "__main__":
    main()
