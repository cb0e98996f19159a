"""What the tests of bad input and broken surroundings share (test_bad_*.py)."""

from __future__ import annotations

import ctypes
import os
import signal
from pathlib import Path

import pytest

from lab.hosts import Host
from lab.subject import Subject

FILE = "/etc/tunwarden/tunwarden.toml"
STATE = "/var/lib/tunwarden"
NAME = "org.tunwarden.Daemon1"
AT_FDCWD, RENAME_EXCHANGE = -100, 2  # <linux/fcntl.h>, <linux/fs.h>
_libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture
def connected(subject: Subject) -> Subject:
    """At the cafe, protected."""
    subject.lab.join("cafe")
    subject.wait("connected")
    return subject


def restart(subject: Subject) -> None:
    subject.kill()
    subject.start()


def reload(subject: Subject) -> None:
    assert subject.process is not None
    subject.process.send(signal.SIGHUP)


def worked(subject: Subject) -> float:
    """Seconds of processor time that the daemon has used: a busy machine makes it slow, but does not make it work."""
    assert subject.process is not None
    stat = Path(f"/proc/{subject.process.pid}/stat").read_text(encoding="utf-8", errors="replace")
    user, system = stat[stat.rindex(")") + 2 :].split()[11:13]  # proc_pid_stat(5)
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def told(subject: Subject, text: str) -> None:
    """Wait until a warning says it."""
    subject.wait(lambda status: any(text in warning for warning in status.warnings))


def exchange(host: Host, path: str) -> None:
    """Put what is at `path`.new into its place at once, for the daemon watches: without a file, its defaults count,
    and open this machine; and a resolv.conf that is gone it writes again.
    """
    old, new = (os.fsencode(host.path(each)) for each in (path, f"{path}.new"))
    if _libc.renameat2(AT_FDCWD, old, AT_FDCWD, new, RENAME_EXCHANGE) != 0:
        raise OSError(ctypes.get_errno(), f"exchange {path}")
    host.run("rm", "-rf", f"{path}.new")
