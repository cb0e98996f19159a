"""Names through the two real programs called resolvconf (T6): Debian's and openresolv."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.subject import Subject
from lab.topology import Laboratory
from tests.conftest import next_seed
from tests.netns.test_lessons_17_18 import whoami
from tests.netns.test_resolver_resolved import PATIENCE, link_of, until

PLACES = Path("/usr/local/lib/tunwarden-lab")
RECORDS = {"openresolv": "/run/resolvconf/interfaces/tunwarden0", "resolvconf": "/run/resolvconf/interface/tunwarden0"}
LINKS = {"openresolv": "", "resolvconf": "../run/resolvconf/resolv.conf"}  # where /etc/resolv.conf leads

pytestmark = pytest.mark.netns


@pytest.fixture(params=RECORDS)
def package(request: pytest.FixtureRequest) -> str:
    if not (PLACES / request.param).exists():
        pytest.skip(f"{request.param} is not here: run lab/install-missing")
    return str(request.param)


@pytest.fixture
def lab(package: str) -> Iterator[Laboratory]:
    """With that resolvconf installed, and a DHCP client that hands its resolvers to it."""
    with Laboratory(next_seed(), dhcp_options={"cafe": ["option:dns-server"]}) as lab:
        laptop, place = lab.laptop, PLACES / package
        for folder in ("/usr/sbin", "/usr/lib"):
            laptop.run("mount", "-t", "overlay", "overlay", "-o", f"ro,lowerdir={place}{folder}:{folder}", folder)
        laptop.run("cp", "-a", f"{place}/etc/.", "/etc")
        laptop.run("mkdir", "-p", "/run/resolvconf/interface" if package == "resolvconf" else "/run/resolvconf")
        if package == "resolvconf":
            laptop.run("ln", "-sfn", LINKS[package], "/etc/resolv.conf")
            laptop.run("resolvconf", "--enable-updates")
        lease(lab)
        assert f"nameserver {lab.plan.cafe.host4(1)}" in laptop.read("/etc/resolv.conf")
        yield lab


@pytest.fixture
def subject(lab: Laboratory) -> Iterator[Subject]:
    subject = Subject(lab)
    subject.start(PATIENCE)
    subject.set_up()
    yield subject
    assert subject.process is not None
    assert "Traceback" not in subject.process.output(), subject.process.output()


def lease(lab: Laboratory, *more: str) -> None:
    lines = "".join(f"nameserver {server}\n" for server in (lab.plan.cafe.host4(1), *more))
    lab.laptop.run("resolvconf", "-a", "wlan0.udhcpc", input=lines)


def test_names_go_into_the_tunnel_and_come_back(package: str, subject: Subject) -> None:
    lab = subject.lab
    before = lab.laptop.read("/etc/resolv.conf")
    lab.join("cafe")
    subject.wait("connected", PATIENCE)
    lines = lab.laptop.read("/etc/resolv.conf").splitlines()
    asked = [line.split()[1] for line in lines if line.startswith("nameserver")]
    assert asked[:2] == list(map(str, lab.plan.tunnel_server))
    if package == "openresolv":
        assert len(asked) == 2, "it was told that ours are the only ones"
    assert whoami(lab) == lab.plan.tunnel_server[0]
    assert lab.laptop.path(RECORDS[package]).exists()
    subject.cli("disconnect")
    subject.wait("idle", PATIENCE)
    assert lab.laptop.read("/etc/resolv.conf") == before
    assert link_of(lab) == LINKS[package]
    assert not lab.laptop.path(RECORDS[package]).exists()
    assert whoami(lab) == lab.plan.cafe.host4(1)


def test_l17_a_killed_daemon_leaves_nothing_behind(package: str, subject: Subject) -> None:
    """And a lease in the meantime is what comes back."""
    lab = subject.lab
    lab.join("cafe")
    subject.wait("connected", PATIENCE)
    subject.kill()
    lease(lab, str(lab.plan.internet4))
    subject.start(PATIENCE)
    subject.wait("connected", PATIENCE)
    assert whoami(lab) == lab.plan.tunnel_server[0]
    lease(lab)
    until(lambda: whoami(lab) == lab.plan.tunnel_server[0], "a lease while connected changes nothing")
    subject.kill()
    subject.start(PATIENCE)
    subject.wait("connected", PATIENCE)  # a choice made before the network is identified may be void
    subject.cli("disconnect")
    subject.wait("idle", PATIENCE)
    assert not lab.laptop.path(RECORDS[package]).exists()
    assert whoami(lab) == lab.plan.cafe.host4(1)


def test_panic_reset_takes_our_record_away(package: str, subject: Subject) -> None:
    lab = subject.lab
    lab.join("cafe")
    subject.wait("connected", PATIENCE)
    subject.kill()
    assert "given back to resolvconf" in subject.cli("panic-reset", "--yes")
    assert not lab.laptop.path(RECORDS[package]).exists()
    assert whoami(lab) == lab.plan.cafe.host4(1)
