"""Hosts are isolated from this machine and from one another, and end with whatever runs in them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab.hosts import CommandError, Host
from lab.processes import LabError

pytestmark = pytest.mark.netns


@pytest.fixture
def host() -> Iterator[Host]:
    with Host("box") as one:
        yield one


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_files_of_a_host_are_its_own(host: Host) -> None:
    before = Path("/etc/resolv.conf").read_bytes() if Path("/etc/resolv.conf").exists() else None
    host.write("/etc/resolv.conf", "nameserver 192.0.2.1\n")
    host.write("/etc/tunwarden/tunwarden.toml", "version = 1\n", mode=0o600)
    host.write("/var/lib/tunwarden/state", "x")
    host.write("/run/tunwarden/socket", "x")
    assert host.read("/etc/tunwarden/tunwarden.toml") == "version = 1\n"
    assert host.run("stat", "-c", "%a", "/etc/tunwarden/tunwarden.toml").stdout == "600\n"
    after = Path("/etc/resolv.conf").read_bytes() if Path("/etc/resolv.conf").exists() else None
    assert before == after
    for path in ("/var/lib/tunwarden/state", "/run/tunwarden/socket"):
        assert not Path(path).exists()
    with Host("other") as other, pytest.raises(CommandError):
        other.read("/run/tunwarden/socket")


def test_this_machines_settings_are_not_inherited(host: Host) -> None:
    assert host.run("find", "/var/lib", "/run", "-name", "tunwarden*").stdout == ""
    assert host.run("ls", "/etc/tunwarden", check=False).returncode != 0
    assert host.run("hostname").stdout == "box\n"
    assert socket.gethostname() != "box"


def test_processes_are_its_own(host: Host) -> None:
    seen = host.run("sh", "-c", "ls -d /proc/[0-9]*").stdout.split()
    assert 2 <= len(seen) <= 4  # process 1, the shell, ls


def test_links_are_its_own(host: Host) -> None:
    assert host.run("ls", "/sys/class/net").stdout.split() == ["lo"]
    assert host.inside(socket.if_nameindex) == [(1, "lo")]
    assert len(socket.if_nameindex()) >= 1


def test_sysctls_are_its_own(host: Host) -> None:
    host.sysctl(("net/ipv4/ip_forward", "1"))
    assert host.read("/proc/sys/net/ipv4/ip_forward") == "1\n"
    with Host("other") as other:
        assert other.read("/proc/sys/net/ipv4/ip_forward") == "0\n"


def test_a_process_is_the_real_one_not_its_wrapper(host: Host) -> None:
    process = host.start("sleep", "60")
    assert process.pid is not None
    until(lambda: Path(f"/proc/{process.pid}/comm").read_text() == "sleep\n")
    assert process.kill() == -signal.SIGKILL
    assert not Path(f"/proc/{process.pid}").exists()
    assert not process.running


def test_output_and_exit_status(host: Host) -> None:
    process = host.start("sh", "-c", "echo out; echo err >&2; exit 3")
    assert process.wait() == 3
    assert process.output() == "out\nerr\n"
    with pytest.raises(LabError, match="never printed"):
        process.wait_output("something else", timeout=1)
    with pytest.raises(CommandError, match="err"):
        host.run("sh", "-c", "echo err >&2; false")
    assert host.run("cat", input="text").stdout == "text"


def test_orphans_are_reaped(host: Host) -> None:
    """A daemon that forks twice leaves no zombie behind: nothing else would reap in a PID namespace."""
    host.run("sh", "-c", "(sleep 0.05 &) ; exit 0")
    until(lambda: "(sleep)" not in host.run("sh", "-c", "cat /proc/[0-9]*/stat 2>/dev/null; :").stdout)


def test_closing_ends_everything_at_once() -> None:
    host = Host("box")
    host.ready()
    process = host.start("sh", "-c", "trap '' TERM INT; sleep 60 & sleep 61")
    assert process.pid is not None
    host.close()
    assert not Path(f"/proc/{process.pid}").exists()
    host.close()
    with pytest.raises(LabError, match="gone"):
        host.run("true")


def test_a_stopped_process_does_not_keep_its_host() -> None:
    """nsenter stops itself with its child; a stopped parent reaps nobody."""
    host = Host("box")
    process = host.start("sleep", "60")
    process.send(signal.SIGSTOP)
    time.sleep(0.05)
    start = time.monotonic()
    host.close()
    assert time.monotonic() - start < 30, "half of what its program sleeps"
    assert not Path(f"/proc/{process.pid}").exists()


def test_a_stopped_process_can_be_killed_or_continued(host: Host) -> None:
    process = host.start("sleep", "60")
    process.send(signal.SIGSTOP)
    time.sleep(0.05)
    assert process.kill() == -signal.SIGKILL
    other = host.start("sh", "-c", "echo begun; read line; echo done", stdin=subprocess.PIPE)
    other.wait_output("begun")
    other.send(signal.SIGSTOP)
    os.write(other.stdin, b"go on\n")
    time.sleep(0.2)
    assert "done" not in other.output()
    other.send(signal.SIGCONT)
    other.wait_output("done")
    assert other.wait() == 0


def test_namespace_of_a_socket_opened_here(host: Host) -> None:
    before = os.readlink("/proc/self/ns/net")
    with host.socket(socket.AF_INET, socket.SOCK_STREAM) as inner:
        inner.bind(("127.0.0.1", 0))
        inner.listen()
        with socket.socket() as outer, pytest.raises(ConnectionRefusedError):
            outer.connect(inner.getsockname())
    assert os.readlink("/proc/thread-self/ns/net") == before


def test_mounts_of_this_machine_do_not_change(host: Host) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    host.run("mount", "-t", "tmpfs", "tmpfs", "/mnt")
    assert Path("/proc/self/mountinfo").read_text() == before


def test_stdin_of_a_process(host: Host) -> None:
    process = host.start("cat", stdin=subprocess.PIPE)
    os.write(process.stdin, b"hello\n")
    assert "hello" in process.wait_output("hello")
    process.stop()
