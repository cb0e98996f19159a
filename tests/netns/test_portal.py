"""Captive portals and networks without Internet, with the real daemon in front of a real portal (N11).

The probes are the only thing that may leave: DNS questions for the probe's name to the network's own resolvers, HTTP to
where those lead, and the portal's API. Everything else that the meter sees is a leak.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from ipaddress import IPv4Address, ip_address

import pytest

from daemon.linux import nameservers, portals
from daemon.linux.portals import LinuxPortals
from daemon.portals import PATIENCE_S
from ipc.structs import Prompt, Status
from lab.capture import Captured
from lab.frames import ETH_IPV4, ETH_IPV6, LEAKS, Kind
from lab.meter import Meter
from lab.portal import LOGIN, Portal, announcing, cut, mend, probe
from lab.probes import exit_address
from lab.processes import Process
from lab.subject import CLI, SETTINGS, Subject
from lab.topology import Laboratory
from policies.facts import Internet, Link, LinkKind, Reach
from policies.portals import probe as read_probe
from tests.conftest import next_seed

pytestmark = pytest.mark.netns

WAIT = 40.0
ANNOUNCED = pytest.mark.parametrize("announced", [False, True], ids=["by probes", "announced by DHCP"])


def settings(lab: Laboratory, text: str = SETTINGS) -> str:
    return text.replace("detect = false", f'detect = true\nprobes = ["{probe(lab.plan)}"]')


@pytest.fixture
def announced(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def place(request: pytest.FixtureRequest) -> Iterator[Laboratory]:
    """A laboratory whose café announces its portal, if the test is run so."""
    options = announcing() if "announced" in request.fixturenames and request.getfixturevalue("announced") else None
    with Laboratory(next_seed(), dhcp_options=options) as made:
        yield made


def begin(lab: Laboratory, text: str = SETTINGS) -> Subject:
    subject = Subject(lab, settings(lab, text))
    subject.start(20)
    subject.set_up()
    return subject


def well(subject: Subject) -> None:
    assert subject.process is not None
    assert "Traceback" not in subject.process.output(), subject.process.output()


# --- what may leave ---------------------------------------------------------------------------------------------------


def asked(frame: Captured) -> tuple[str, str, int] | None:
    """Protocol, destination and port of a TCP or UDP packet."""
    packet = frame.payload
    if frame.ethertype == ETH_IPV4 and len(packet) >= 24 and packet[9] in (6, 17):
        head = (packet[0] & 15) * 4
        protocol, target, rest = packet[9], str(IPv4Address(packet[16:20])), packet[head:]
    elif frame.ethertype == ETH_IPV6 and len(packet) >= 44 and packet[6] in (6, 17):
        protocol, target, rest = packet[6], str(ip_address(packet[24:40])), packet[40:]
    else:
        return None
    return ("tcp" if protocol == 6 else "udp"), target, struct.unpack_from("!H", rest, 2)[0]


NAMES = tuple(b"".join(bytes([len(part)]) + part for part in name.split(b".")) + b"\0"
              for name in (b"probe.test", b"portal.test"))  # fmt: skip


def is_probe(lab: Laboratory, frame: Captured) -> bool:
    where = asked(frame)
    # The router, which is the portal, and the address of probe.test, which no other traffic of a test is sent to.
    web = {str(address) for net in (lab.plan.cafe, lab.plan.cafe_uplink) for address in (net.host4(1), net.host6(1))}
    match where:
        case ("udp", _, 53):
            return any(name in frame.payload for name in NAMES)
        case ("tcp", target, 80 | 443):
            return target in web
        case _:
            return False


def strangers(lab: Laboratory, meter: Meter) -> list[str]:
    """What left beside the tunnel and is no probe."""
    return [meter.describe(frame, kind) for frame, kind in meter.frames()
            if kind in LEAKS and not is_probe(lab, frame)]  # fmt: skip


def probes(lab: Laboratory, meter: Meter) -> int:
    return sum(kind in LEAKS and is_probe(lab, frame) for frame, kind in meter.frames())


# --- a portal ---------------------------------------------------------------------------------------------------------


@ANNOUNCED
def test_a_portal_is_said_and_nothing_else_leaves(place: Laboratory, announced: bool) -> None:
    """N11: the state is `portal`, with the address of the login; when somebody has logged in, it connects by itself."""
    lab = place
    portal = Portal(lab, api=announced)
    if announced:
        portal.trust(lab.laptop)
    subject = begin(lab)
    with lab.meter() as meter:
        with lab.traffic(rate=20.0) as traffic:
            lab.join("cafe")
            status = subject.wait("portal", WAIT)
            time.sleep(1.0)  # of traffic against the portal
            portal_status = subject.status()
        assert (status.cause, status.blocking, status.protected) == ("portal", True, False)
        assert "tunwarden portal-login" in (status.cause_text or "")
        (network,) = status.networks
        assert (network.internet, network.portal_url) == ("portal", LOGIN)
        assert portal_status.state == "portal"
        assert sum(each.tried for each in traffic.counts.values()) > 0
        assert probes(lab, meter) > 0
        assert strangers(lab, meter) == []
        meter.positive_control()
        assert LOGIN in subject.cli("status")
        portal.log_in()
        subject.wait("connected", WAIT)
        assert strangers(lab, meter) == []
    subject.wait(lambda status: status.networks[0].internet is None, WAIT)  # nobody asks any more
    assert exit_address(lab.laptop, lab.plan.internet4) == lab.plan.server4
    # The first look already says what it is: by the network's word, or by a probe.
    log = subject.process.output() if subject.process else ""
    assert f"source={'dhcp' if announced else 'probe'}" in log.replace("'", ""), log[-3000:]
    well(subject)


def test_where_the_tunnel_comes_up_nothing_is_asked(place: Laboratory) -> None:
    """Quickly: on a busy machine it may take longer than an attempt is waited for, and then it is another story."""
    lab = place
    subject = begin(lab)
    for _ in range(20):
        with lab.meter() as meter:
            begun = time.monotonic()
            lab.join("cafe")
            subject.wait("connected", WAIT)
            quick = time.monotonic() - begun < PATIENCE_S
            time.sleep(1.0)
            if quick:
                assert meter.leaks() == []
                meter.positive_control()
                break
        lab.leave()
        subject.wait(lambda status: not status.protected, WAIT)
    else:
        pytest.fail("the tunnel never came up quickly")
    well(subject)


def test_a_tunnel_that_works_is_not_given_up_for_a_portal(place: Laboratory) -> None:
    """The portal comes (back) while connected: flows that exist go on, and the state stays."""
    lab = place
    subject = begin(lab)
    lab.join("cafe")
    subject.wait("connected", WAIT)
    portal = Portal(lab)
    portal.log_in()  # the tunnel's packets are let out, web and names are led astray
    lab.cafe.run("nft", "insert rule inet lab_portal lead tcp dport 80 redirect to :8080")
    time.sleep(3.0)
    assert subject.status().state == "connected"
    assert exit_address(lab.laptop, lab.plan.internet4) == lab.plan.server4
    well(subject)


def test_a_portal_that_lets_probes_pass_and_blocks_the_vpn(place: Laboratory) -> None:
    """The network has Internet for all we know, so it is tried again and again, and said why."""
    lab = place
    lab.block_server()
    subject = begin(lab)
    lab.join("cafe")
    status = subject.wait(lambda status: bool(status.networks) and status.networks[0].internet == "internet", WAIT)
    assert status.target == "protected"
    status = subject.wait(lambda status: status.cause == "server-unreachable", WAIT)
    assert not status.protected and status.blocking
    lab.unblock_server()
    subject.wait("connected", WAIT)
    well(subject)


@pytest.mark.parametrize("lie", ["slow", "body"])
def test_a_hostile_portal_does_not_keep_the_daemon(place: Laboratory, lie: str) -> None:
    """It answers all the while, does not grow, and connects when the network is well again."""
    lab = place
    portal = Portal(lab)
    portal.lie(lie)
    subject = begin(lab)
    assert subject.process is not None and subject.process.pid is not None
    before = memory(subject.process.pid)
    with lab.meter() as meter:
        lab.join("cafe")
        subject.process.wait_output("behind the link", WAIT)
        # What is not readable is no portal, only a server that cannot be reached. The log comes first.
        subject.wait(lambda status: behind(status) == ("portal" if lie == "body" else None), WAIT)
        assert strangers(lab, meter) == []
        meter.positive_control()
    assert memory(subject.process.pid) - before < 32 << 20
    portal.log_in()
    subject.wait("connected", 2 * WAIT)
    well(subject)


FOUND = {
    "": LOGIN, "loop": "http://probe.test/again", "body": "http://probe.test/",
    # Where it leads cannot be shown: to the probe's own address, then, which the portal answers.
    "script": "http://probe.test/", "file": "http://probe.test/", "control": "http://probe.test/",
    "latin": "http://probe.test/",
    "slow": None, "headers": None, "long": None, "noise": None, "silence": None,
}  # fmt: skip


def test_hostile_portals(place: Laboratory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it answers, a look ends in time, takes little, and finds no address of a login that cannot be shown."""
    lab = place
    portal = Portal(lab)
    lab.join("cafe")
    monkeypatch.setattr(nameservers.of_the_network, "__defaults__", ((lab.laptop.path("/etc/resolv.conf"),), (), ()))
    monkeypatch.setattr(portals, "ANSWER_S", 5.0)
    index = lab.card.index("wlan0")
    link = Link(index, "wlan0", LinkKind.WIFI, up=True, carrier=True, gateways=(lab.plan.cafe.host4(1),))

    def look() -> Internet | None:
        return asyncio.run(LinuxPortals().look(link, [read_probe(probe(lab.plan))], None))

    before = memory(os.getpid())
    for lie, url in FOUND.items():
        portal.lie(lie)
        found = lab.laptop.inside(look)
        assert found == (Internet(Reach.PORTAL, "probe", url) if url else None), lie
    assert memory(os.getpid()) - before < 32 << 20
    portal.lie("")
    portal.log_in()
    assert lab.laptop.inside(look) == Internet(Reach.INTERNET, "probe")
    cut(lab)
    assert lab.laptop.inside(look) == Internet(Reach.NOTHING, "probe")


def test_a_look_over_ipv6_alone(place: Laboratory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The resolver is the router, at its link-local address, as where nothing else is known."""
    lab = place
    lab.join("cafe6")
    monkeypatch.setattr(nameservers.of_the_network, "__defaults__", ((), (), ()))
    (route,) = json.loads(lab.laptop.run("ip", "-6", "-j", "route", "show", "default", "dev", "wlan0").stdout)
    gateway = ip_address(route["gateway"])
    assert gateway.is_link_local
    link = Link(lab.card.index("wlan0"), "wlan0", LinkKind.WIFI, up=True, carrier=True, gateways=(gateway,))
    right = f"http://probe.test/#{lab.card.address6('wlan0', lab.plan.cafe6)}"
    look = LinuxPortals().look
    found = lab.laptop.inside(lambda: asyncio.run(look(link, [read_probe(right)], None)))
    assert found == Internet(Reach.INTERNET, "probe")


def behind(status: Status) -> str | None:
    return status.networks[0].internet if status.networks else None


def memory(pid: int) -> int:
    """Resident bytes."""
    with open(f"/proc/{pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * 4096


# --- no Internet ------------------------------------------------------------------------------------------------------

ASKS = SETTINGS.replace('unsecured = "auto_connect"', 'unsecured = "prompt"\nprompt_fallback = "ignore"')


def waiting(subject: Subject) -> tuple[Prompt, ...]:
    with subject.client() as client:
        return tuple(client.waiting_prompts())


def test_without_internet_nobody_is_asked_until_there_is_some(place: Laboratory) -> None:
    """N11: quiet and held, and when the line is alive again, people are asked by themselves."""
    lab = place
    cut(lab)
    subject = begin(lab, ASKS)
    person: Process = lab.laptop.start(CLI, "prompts", stdin=subprocess.PIPE)
    person.wait_output("Waiting for questions", WAIT)
    with lab.meter() as meter:
        with lab.traffic(rate=20.0):
            lab.join("cafe")
            status = subject.wait(lambda status: status.cause == "no-internet", WAIT)
            time.sleep(1.0)
        assert (status.state, status.blocking) == ("held", True)
        assert status.networks[0].internet == "nothing"
        assert status.networks[0].rule == "no Internet behind it: nothing to ask yet"
        assert waiting(subject) == ()
        assert strangers(lab, meter) == []
        meter.positive_control()
        mend(lab)
        deadline = time.monotonic() + 2 * WAIT
        while not (asks := waiting(subject)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert asks[0].network.internet == "internet"
        assert strangers(lab, meter) == []
    subject.cli("prompts", "answer", asks[0].id, "connect")
    subject.wait("connected", WAIT)
    well(subject)


def test_without_internet_a_wanted_tunnel_comes_up_when_it_comes_back(place: Laboratory) -> None:
    lab = place
    cut(lab)
    subject = begin(lab)
    lab.join("cafe")
    status = subject.wait(lambda status: behind(status) == "nothing", 2 * WAIT)
    assert (status.target, status.protected, status.blocking) == ("protected", False, True)
    mend(lab)
    subject.wait("connected", 2 * WAIT)
    well(subject)


def test_the_meter_knows_a_probe_from_a_leak(place: Laboratory) -> None:
    """The control of `is_probe`: what looks almost like one is a leak."""
    lab = place
    lab.join("cafe")
    with lab.meter() as meter:
        for family, kind, target, port, data in (
            (socket.AF_INET, socket.SOCK_DGRAM, lab.plan.cafe.host4(1), 53, b"\0" * 12 + b"\4leak\4test\0\0\1\0\1"),
            (socket.AF_INET, socket.SOCK_DGRAM, lab.plan.internet4, 80, b"?"),
            (socket.AF_INET6, socket.SOCK_DGRAM, lab.plan.internet6, 443, b"?"),
        ):
            with lab.laptop.socket(family, kind) as sender:
                sender.sendto(data, (str(target), port))
        assert len(strangers(lab, meter)) >= 3
        assert {kind for _, kind in meter.frames()} >= {Kind.DNS, Kind.CLEAR4, Kind.CLEAR6}
