"""Changes without holes: another server, another profile, another time of day (L16); not one clear frame leaves."""

from __future__ import annotations

import time
from typing import Any

import pytest

from lab.addresses import SOURCE_PORT
from lab.first_byte import first_byte, protected_again
from lab.subject import PROFILE, SETTINGS, Subject
from lab.topology import Laboratory
from lab.traffic import Traffic
from lab.vpn_server import VpnServer, private_key

pytestmark = pytest.mark.netns

OTHER = "branch"


@pytest.fixture
def other(lab: Laboratory) -> VpnServer:
    return lab.add_server()


@pytest.fixture
def connected(subject: Subject, other: VpnServer) -> Subject:
    """At the cafe, protected by the first of two servers."""
    with subject.client() as client:
        client.import_profile(OTHER, other.client_config())
        client.connect(PROFILE)
    subject.lab.join("cafe")
    subject.wait("connected", 25)
    return subject


def connect(subject: Subject, profile: str) -> None:
    with subject.client() as client:
        client.connect(profile)


# --- another server ---------------------------------------------------------------------------------------------------


def test_another_server_and_back(connected: Subject, other: VpnServer, sealed: Any) -> None:
    lab = connected.lab
    with sealed() as meter:
        for _ in range(3):
            for profile, server in ((OTHER, other), (PROFILE, lab.vpn)):
                connect(connected, profile)
                protected_again(connected, server.site)
                assert meter.leaks() == []
                # The servers that may be talked to are as narrow as that: the former one hears nothing more.
                meter.reset()
                meter.expect = lab.expect(server)
                time.sleep(0.3)
                assert meter.leaks() == []
                meter.expect = lab.expect(*lab.servers)


def test_changed_minds(connected: Subject, other: VpnServer, sealed: Any) -> None:
    """Nobody waits for anything; what was asked for last is what there is."""
    with sealed():
        for _ in range(5):
            for profile in (PROFILE, OTHER):
                connect(connected, profile)
        protected_again(connected, other.site)


def test_the_other_server_is_dead(connected: Subject, other: VpnServer, sealed: Any) -> None:
    """No way back by itself: the user chose this one, and stays blocked until it answers or another is chosen."""
    other.kill()
    with sealed():
        connect(connected, OTHER)
        status = connected.wait(lambda status: status.cause == "server-unreachable", 25)
        assert status.blocking
        assert not status.protected
        connect(connected, PROFILE)
        protected_again(connected)
        connect(connected, OTHER)
        other.start()
        protected_again(connected, other.site)


# --- another profile --------------------------------------------------------------------------------------------------


def test_the_profile_in_use_gets_another_content(subject: Subject, other: VpnServer, sealed: Any) -> None:
    """Other keys, addresses and resolvers under the same name, imported while it is in use."""
    lab = subject.lab
    lab.join("cafe")
    subject.wait("connected", 25)
    with sealed():
        for server in (other, lab.vpn):
            with subject.client() as client:
                client.import_profile(PROFILE, server.client_config())
            protected_again(subject, server.site)
            resolvers = lab.laptop.read("/etc/resolv.conf")
            assert str(server.site.inside_server[0]) in resolvers


def test_the_profile_in_use_gets_other_keys(subject: Subject, sealed: Any) -> None:
    """Server and addresses stay; a key that the server does not know is used all the same, and nobody is protected."""
    lab = subject.lab
    lab.join("cafe")
    subject.wait("connected", 25)
    config = lab.client_config()
    with sealed():
        with subject.client() as client:
            client.import_profile(PROFILE, config.replace(lab.vpn.client_private, private_key(lab.seed, "stranger")))
        status = subject.wait(lambda status: status.cause == "server-unreachable", 25)
        assert status.blocking
        with subject.client() as client:
            client.import_profile(PROFILE, config)
        protected_again(subject)


def test_a_network_with_a_profile_of_its_own(lab: Laboratory, other: VpnServer, sealed: Any) -> None:
    subject = Subject(lab, SETTINGS.replace('action = "disconnect"', f'action = "auto_connect"\nprofile = "{OTHER}"'))
    subject.start()
    subject.set_up()
    with subject.client() as client:
        client.import_profile(OTHER, other.client_config())
        client.connect(PROFILE)
    lab.join("cafe")
    subject.wait("connected", 25)
    with sealed():
        for place, server in (("home", other), ("cafe", lab.vpn), ("home", other)):
            lab.leave()
            lab.join(place)
            protected_again(subject, server.site)


# --- behind the laptop ------------------------------------------------------------------------------------------------


def test_a_container_talks_through_the_change(connected: Subject, other: VpnServer, sealed: Any) -> None:
    """K8, L5: its packets are in flight while the server changes, and a download is: through a tunnel, or nowhere."""
    lab = connected.lab
    container = lab.add_container()
    web = str(lab.plan.internet4)
    download = ("import socket, sys; flow = socket.create_connection((sys.argv[1], int(sys.argv[2])));"
                "print('begun', len(flow.recv(1000)), flush=True);\nwhile flow.recv(65536): pass")  # fmt: skip
    with Traffic(container, lab.plan, lab.python, 40, "eth0") as traffic, sealed() as meter:
        flow = container.start(lab.python, "-I", "-S", "-c", download, web, str(SOURCE_PORT))
        flow.wait_output("begun")
        for profile, server in ((OTHER, other), (PROFILE, lab.vpn), (OTHER, other)):
            connect(connected, profile)
            protected_again(connected, server.site)
            first_byte(container, lab.plan.internet4, server.site.public4, time.monotonic())
            first_byte(container, lab.plan.internet6, server.site.public6, time.monotonic())
        assert meter.leaks() == []
        flow.kill()
    assert traffic.counts["udp4"].answered > 0
    assert traffic.counts["udp6"].answered > 0


# --- another time of day ----------------------------------------------------------------------------------------------


CLOCK, DAY_S = "/run/lab/clock", 86400
JUMP_S = 400 * DAY_S


@pytest.mark.parametrize("jump", [JUMP_S, -JUMP_S], ids=["forwards", "backwards"])
def test_the_wall_clock_jumps(lab: Laboratory, sealed: Any, jump: int) -> None:
    """As a time server sets it some seconds after a start; while protected, and back again while blocked."""
    lab.laptop.write(CLOCK, "0")
    clock = lab.laptop.path(CLOCK)
    subject = Subject(lab, program=("lab.wrong_clock", CLOCK))
    subject.start(25)
    subject.set_up()
    lab.join("cafe")
    before = subject.wait("connected", 25).since
    with sealed():
        clock.write_text(str(jump), encoding="ascii")
        protected_again(subject)
        lab.kill_server()
        status = subject.wait(lambda status: status.cause in ("tunnel-lost", "server-unreachable"), 40)
        assert abs(status.since - before - jump) < DAY_S, "the control: the daemon has seen another time"
        assert status.blocking
        clock.write_text("0", encoding="ascii")
        lab.start_server()
        protected_again(subject)
        assert abs(subject.status().since - before) < DAY_S
