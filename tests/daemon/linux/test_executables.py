"""T8: which program a process runs, told by the kernel; and files that nobody but root can change."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path

import pytest

from daemon.host import HostError
from daemon.linux import route_plan
from daemon.linux.executables import Executables, _device, identity, running, users
from daemon.linux.route_plan import END, ONLY, ONLY_END, OURS
from policies.firewall import MARK, NEVER_MARK, FirewallPolicy
from policies.states import Phase

SLEEP = str(Path("/bin/sleep").resolve())


@pytest.fixture
def asked() -> Iterator[Executables]:
    if os.geteuid() != 0:
        pytest.skip("the kernel tells root alone")
    executables = Executables()
    yield executables
    executables.close()


def test_a_process_is_told_by_its_file_and_not_by_its_name(asked: Executables, tmp_path: Path) -> None:
    link = tmp_path / "another-name"
    shutil.copy(SLEEP, link)
    for program, same in (([SLEEP, "60"], True), ([str(link), "60"], False)):
        process = subprocess.Popen(["sleep", *program[1:]], executable=program[0])
        try:
            while os.readlink(f"/proc/{process.pid}/exe") != program[0]:  # until it has become that program
                pass
            assert (asked.of(process.pid, "test") == identity(SLEEP, "test")) is same
            assert process.pid in set(running(frozenset({0}))) and users(process.pid) == {0}
        finally:
            process.kill()
            process.wait()
        assert asked.of(process.pid, "test") is None, "there is no such process"


def test_a_socket_that_failed_is_made_anew(asked: Executables) -> None:
    mine = asked.of(os.getpid(), "test")
    assert mine is not None and asked._socket is not None
    asked._socket.close()
    with pytest.raises(HostError):
        asked.of(os.getpid(), "test")
    assert asked.of(os.getpid(), "test") == mine


@pytest.mark.parametrize("mode", [0o775, 0o757])
def test_what_others_could_change_is_refused(tmp_path: Path, mode: int) -> None:
    """The file, or a folder above it. Under /run, whose folders above are root's alone."""
    if os.geteuid() != 0:
        pytest.skip("others' files need root")
    top = Path("/run") / f"tunwarden-test-{os.getpid()}-{mode:o}"
    top.mkdir(mode=0o755)
    try:
        file = top / "program"
        shutil.copy(SLEEP, file)
        file.chmod(0o755)
        assert identity(str(file), "test")
        file.chmod(mode)
        with pytest.raises(HostError, match="others than root"):
            identity(str(file), "test")
        file.chmod(0o755)
        top.chmod(mode)
        with pytest.raises(HostError, match="others than root"):
            identity(str(file), "test")
        top.chmod(0o755)
        os.chown(file, 1000, 0)
        with pytest.raises(HostError, match="others than root"):
            identity(str(file), "test")
        os.chown(file, 0, 0)
        file.chmod(0o644)
        with pytest.raises(HostError, match="no program"):
            identity(str(file), "test")
        (top / "link").symlink_to(SLEEP)
        with pytest.raises(HostError, match="symbolic link"):
            identity(str(top / "link"), "test")
        with pytest.raises(HostError, match="No such file"):
            identity(str(top / "absent"), "test")
    finally:
        shutil.rmtree(top)


def test_devices_are_numbered_as_the_kernel_does() -> None:
    """huge_encode_dev() of 8:1, 254:0 and 259:300, whose minor has more than eight bits."""
    told = {0x801: (8, 1), 0xFE00: (254, 0), 0x11032C: (259, 300)}
    assert {encoded: _device(encoded) for encoded in told} == {
        encoded: major << 20 | minor for encoded, (major, minor) in told.items()
    }


def test_rules_of_the_routing_layer() -> None:
    """Who is bound has rules in every state; who is beside passes by a mask, and only then."""
    four, six = socket.AF_INET, socket.AF_INET6
    idle = FirewallPolicy(Phase.IDLE, cleared=frozenset({"eth0"}))
    blocked = FirewallPolicy(Phase.BLOCKED, capture=True)
    assert route_plan.rules(idle, four) == route_plan.rules(replace(idle, never=True), six) == []
    assert route_plan.rules(replace(idle, only=True), four) == [ONLY, ONLY_END]
    assert route_plan.rules(replace(blocked, only=True), four) == [OURS, ONLY_END]
    assert route_plan.rules(replace(blocked, only=True), six) == [OURS, END, ONLY_END]
    assert route_plan.rules(replace(blocked, never=True), four) == [OURS], "there is nowhere to go"
    (beside,) = route_plan.rules(replace(blocked, never=True, beside=frozenset({"eth0"})), four)
    passes = {number for number in range(MARK - 8, MARK + 9) if number & beside.mask == beside.mark}
    assert passes == {MARK, NEVER_MARK}
    links = frozenset({"eth0"})
    for network, rules in (("203.0.113.0/24", [OURS, END]), ("2001:db8::/32", [OURS])):
        policy = replace(blocked, subnets=(ip_network(network),), subnet_links=links)
        assert route_plan.rules(policy, six) == rules, "the second rule would end what was thrown to main"
