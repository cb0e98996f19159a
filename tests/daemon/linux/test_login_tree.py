"""N12: the process tree of a login: its marks, who gets in, and its end."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from daemon.host import HostError
from daemon.linux import control_groups, group_names, login_tree, socket_mark
from daemon.linux.login_tree import LoginTree
from daemon.linux.resolver_file import HEADER, Kind, Original
from lab.control_groups import NAME, _remove
from policies.facts import Link, LinkKind
from policies.firewall import LOGIN_MARK

LO = Link(1, "lo", LinkKind.WIRED, up=True, carrier=True)
NONE = f"{0:#x}"
MARKED = f"{LOGIN_MARK:#x}"
# Tells, for each line it reads, which mark an old and a new socket of it bear, and a new one of a child.
TELLER = """
import socket, subprocess, sys
MARK = "import socket; print(hex(socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).getsockopt(1, 36)))"
old = socket.socket()
print("ready", flush=True)
for _ in sys.stdin:
    child = subprocess.run([sys.executable, "-I", "-S", "-c", MARK], capture_output=True, text=True).stdout.strip()
    print(hex(old.getsockopt(1, 36)), hex(socket.socket().getsockopt(1, 36)), child, flush=True)
"""


# --- the program ------------------------------------------------------------------------------------------------------


def test_the_program_is_what_it_says() -> None:
    """r2 = mark; *(u32 *)(r1 + 16) = r2; r0 = 1; exit: <linux/bpf.h>, struct bpf_insn and struct bpf_sock."""
    code = "b702000076 6e7574 6321100000000000 b700000001000000 9500000000000000"
    assert socket_mark.program(0x74756E76) == bytes.fromhex(code)
    assert len(socket_mark.program(1)) == 4 * struct.calcsize("=BBhi")


def test_an_unknown_machine_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket_mark.platform, "machine", lambda: "vax")
    with pytest.raises(HostError, match="vax"):
        socket_mark.attach(0, LOGIN_MARK)


# --- where it is ------------------------------------------------------------------------------------------------------


def mounted(folder: Path, *lines: str) -> Path:
    mounts = folder / "mountinfo"
    mounts.write_text("".join(f"{line}\n" for line in lines))
    return mounts


def test_the_unified_hierarchy_is_found_wherever_it_is(tmp_path: Path) -> None:
    for name in ("a b", "hidden", "twice/inner"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("a b", "twice", "twice/inner"):
        (tmp_path / name / "cgroup.procs").touch()
    escaped = str(tmp_path / "a b").replace(" ", "\\040")
    old = "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu"
    one = mounted(tmp_path, old, f"41 31 0:38 / {escaped} rw,relatime shared:9 - cgroup2 cgroup2 rw")
    assert control_groups.top(one, "test") == tmp_path / "a b" / "tunwarden"
    hidden = f"42 31 0:38 / {tmp_path}/hidden rw - cgroup2 none rw"  # something is mounted over it
    twice = [f"43 31 0:38 / {tmp_path}/{name} rw - cgroup2 none rw" for name in ("twice/inner", "twice")]
    assert control_groups.top(mounted(tmp_path, hidden, *twice), "test") == tmp_path / "twice" / "tunwarden"


def test_without_it_there_is_no_login(tmp_path: Path) -> None:
    tree = LoginTree(mounted(tmp_path, "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu"))
    with pytest.raises(HostError, match=r"systemd\.unified_cgroup_hierarchy=1"):
        asyncio.run(tree.begin(0, [LO]))
    asyncio.run(tree.tidy())
    asyncio.run(tree.end())


# --- whom it asks for names -------------------------------------------------------------------------------------------


def test_the_networks_own_resolvers_are_asked(tmp_path: Path) -> None:
    stub, saved, up, absent = (tmp_path / name for name in ("stub", "x.saved", "up", "absent"))
    link = Link(5, "wlan0", LinkKind.WIFI, gateways=(ip_address("192.0.2.1"), ip_address("fe80::1")))
    stub.write_text("nameserver 127.0.0.53\noptions edns0\n")
    up.write_text(
        "# by somebody\nnameserver 192.0.2.53\nnameserver\nnameserver nonsense\n nameserver 2001:db8::53 # x\n"
    )
    saved.write_bytes(Original(Kind.FILE, b"nameserver 192.0.2.9\n").to_bytes())
    routers = [*link.gateways]

    def found(*paths: Path) -> list[str]:
        return [str(each) for each in group_names.addresses([link], paths)]

    assert found(absent, stub) == [str(each) for each in routers]
    assert found(stub, up) == ["192.0.2.53", "2001:db8::53", "192.0.2.1", "fe80::1"]
    stub.write_bytes(HEADER + b": ours\nnameserver 10.66.0.1\n")
    assert found(stub, saved, up) == ["192.0.2.9", "192.0.2.1", "fe80::1"], "ours leads into the tunnel"
    saved.write_bytes(b"damaged")
    assert found(stub, saved) == ["192.0.2.1", "fe80::1"]
    up.write_text("nameserver 192.0.2.1\n" * 9)
    assert found(up) == ["192.0.2.1", "fe80::1"], "each once"


# --- the real thing ---------------------------------------------------------------------------------------------------


@pytest.fixture
def mounts(tmp_path: Path) -> Iterator[Path]:
    """A part of this machine's hierarchy, as all there is."""
    if os.geteuid() != 0:
        pytest.skip("control groups need root")
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    places = [Path(line.split(" ")[4]) for line in lines if " - cgroup2 " in line]
    own = next((place for place in places if (place / "cgroup.procs").exists()), None)
    if own is None:
        pytest.skip("no unified control groups are mounted here")
    group = own / f"{NAME}{os.getpid()}-tree"
    group.mkdir()
    try:
        yield mounted(tmp_path, f"41 31 0:38 / {group} rw - cgroup2 cgroup2 rw")
    finally:
        _remove(group)


class Teller:
    """A process that is to log in."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", TELLER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._read() == ["ready"]
        self.pidfd = os.pidfd_open(self.process.pid)

    def _read(self) -> list[str]:
        assert self.process.stdout
        return self.process.stdout.readline().split()

    def marks(self) -> list[str]:
        """Of a socket from before, a new one, and a child's."""
        assert self.process.stdin
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self._read()

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        os.close(self.pidfd)


@pytest.fixture
def teller() -> Iterator[Teller]:
    teller = Teller()
    yield teller
    teller.close()


def run(check: Callable[[], Coroutine[None, None, None]]) -> None:
    asyncio.run(check())


def test_n12_new_sockets_bear_the_mark_for_as_long_as_it_lasts(mounts: Path, teller: Teller) -> None:
    async def check() -> None:
        tree = LoginTree(mounts)
        assert teller.marks() == [NONE, NONE, NONE]
        port = await tree.begin(teller.pidfd, [LO])
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            with pytest.raises(OSError, match="in use"):
                other.bind(("127.0.0.1", port))
            assert other.getsockopt(socket.SOL_SOCKET, socket.SO_MARK) == 0, "nobody else's"
        assert teller.marks() == [NONE, MARKED, MARKED]
        ending = asyncio.create_task(tree.end(20))
        while (await asyncio.to_thread(teller.marks))[1] != NONE:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert not ending.done(), "it may end by itself"
        teller.process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(ending, 15)
        assert [*control_groups.top(mounts, "test").glob("login-*")] == []

    run(check)


def test_n12_the_end_kills_whoever_stays(mounts: Path, teller: Teller) -> None:
    async def check() -> None:
        tree = LoginTree(mounts)
        await tree.begin(teller.pidfd, [LO])
        await tree.end()
        assert await asyncio.to_thread(teller.process.wait, 10) == -signal.SIGKILL
        assert [*control_groups.top(mounts, "test").glob("login-*")] == []
        await tree.end()

    run(check)


def test_n12_a_second_one_ends_the_first(mounts: Path, teller: Teller) -> None:
    async def check() -> None:
        tree, second = LoginTree(mounts), Teller()
        try:
            await tree.begin(teller.pidfd, [LO])
            await tree.begin(second.pidfd, [LO])
            assert await asyncio.to_thread(teller.process.wait, 10) == -signal.SIGKILL
            assert second.marks() == [NONE, MARKED, MARKED]
        finally:
            await tree.end()
            second.close()

    run(check)


def test_n12_who_has_ended_is_told_and_nothing_stays(mounts: Path, teller: Teller) -> None:
    async def check() -> None:
        tree = LoginTree(mounts)
        teller.process.kill()
        teller.process.wait()
        with pytest.raises(HostError, match="has ended"):
            await tree.begin(teller.pidfd, [LO])
        assert [*control_groups.top(mounts, "test").glob("login-*")] == []

    run(check)


def test_n12_a_number_that_is_somebody_elses_by_now_kills_nobody(
    mounts: Path, teller: Teller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends between the look at its number and the move, and another process gets the number."""
    stranger = Teller()
    numbers = Path(f"/proc/self/fdinfo/{teller.pidfd}").read_text()

    async def check() -> None:
        tree = LoginTree(mounts)
        real = Path.read_text

        def late(self: Path, *given: str, **how: str) -> str:
            if "fdinfo" in str(self):
                teller.process.kill()
                teller.process.wait()
                return numbers.replace(str(teller.process.pid), str(stranger.process.pid))
            return real(self, *given, **how)

        monkeypatch.setattr(Path, "read_text", late)
        with pytest.raises(HostError, match="has ended"):
            await tree.begin(teller.pidfd, [LO])
        monkeypatch.undo()
        assert stranger.marks() == [NONE, NONE, NONE]
        assert [*control_groups.top(mounts, "test").glob("login-*")] == []

    try:
        run(check)
    finally:
        stranger.close()


DAEMON = """
import asyncio, os, sys
from pathlib import Path
from daemon.linux.login_tree import LoginTree
from policies.facts import Link, LinkKind

async def main():
    await LoginTree(Path(sys.argv[1])).begin(os.pidfd_open(int(sys.argv[2])), [Link(1, "lo", LinkKind.WIRED)])
    print("begun", flush=True)
    await asyncio.sleep(1000)

asyncio.run(main())
"""


def test_n12_a_killed_daemon_takes_the_tree_along_and_the_next_one_tidies_up(mounts: Path, teller: Teller) -> None:
    daemon = subprocess.Popen(
        [sys.executable, "-c", DAEMON, str(mounts), str(teller.process.pid)], stdout=subprocess.PIPE, text=True,
        cwd=Path(login_tree.__file__).parents[2],
    )  # fmt: skip
    assert daemon.stdout
    try:
        assert daemon.stdout.readline() == "begun\n"
        assert teller.marks() == [NONE, MARKED, MARKED]
        daemon.kill()
        assert teller.process.wait(15) == -signal.SIGKILL
    finally:
        daemon.kill()
        daemon.communicate()
    tree = LoginTree(mounts)
    assert len([*control_groups.top(mounts, "test").glob("login-*")]) == 1
    asyncio.run(tree.tidy())
    assert [*control_groups.top(mounts, "test").glob("login-*")] == []


def test_n12_a_name_is_asked_for_on_both_loopbacks(mounts: Path, teller: Teller, tmp_path: Path) -> None:
    """What is refused needs no resolver, so it shows that somebody answers."""

    async def check() -> None:
        tree = LoginTree(mounts, [tmp_path / "absent"])
        port = await tree.begin(teller.pidfd, [LO])
        query = struct.pack(">6H", 7, 0x100, 1, 0, 0, 0) + b"\x01a\0" + struct.pack(">HH", 16, 1)
        loop = asyncio.get_running_loop()
        families = [(socket.AF_INET, "127.0.0.1")]
        if group_names.has_loopback6():
            families.append((socket.AF_INET6, "::1"))
        for family, address in families:
            with socket.socket(family, socket.SOCK_DGRAM) as asker:
                asker.setblocking(False)
                asker.connect((address, port))
                asker.send(query)
                answer = await asyncio.wait_for(loop.sock_recv(asker, 600), 20)
                assert answer[3] & 15 == 5
        await tree.end()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
            asker.connect(("127.0.0.1", port))
            asker.settimeout(5)
            asker.send(query)
            with pytest.raises(ConnectionRefusedError):
                asker.recv(600)

    run(check)
