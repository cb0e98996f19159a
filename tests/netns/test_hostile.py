"""N13: attackers on the local network, each with its tool's own frames; evidence is shown and raises what is done.

The cafe is protected by a password here, or open, and the settings would leave it alone: so whatever happens is the
evidence's doing. Each test first sees that the same network without its attacker is left alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ipc.structs import Network, Status
from lab.addresses import Plan
from lab.air import Air
from lab.processes import Process
from lab.subject import SETTINGS, Subject
from lab.topology import Laboratory

pytestmark = pytest.mark.netns

ATTACKERS = str(Path(__file__).with_name("attackers.py"))
LAX = SETTINGS.replace('unsecured = "auto_connect"', 'unsecured = "ignore"\nunidentified = "ignore"')
SEED = 1013
CALM_S = 4.0  # an attacker is noticed sooner
LONG_S = 25.0
READER = "frame_reader"
Attack = Callable[[str], Process]


@pytest.fixture
def watching(lab: Laboratory) -> Subject:
    """The daemon, with settings that leave every Wi-Fi network alone."""
    subject = Subject(lab, LAX)
    subject.start(20)
    subject.set_up()
    return subject


@pytest.fixture
def attack(lab: Laboratory) -> Attack:
    """`attack("arp")`: a device of the cafe that attacks, until the laboratory is closed."""

    def begin(kind: str) -> Process:
        lab.air.ip("link add plug type veth peer name socket", "link set socket master br-cafe up", "link set plug up")
        own = str(lab.plan.cafe.host4(60))  # not one that the laptop may be given
        process = lab.air.start(lab.python, ATTACKERS, kind, "plug", str(lab.plan.cafe.host4(1)), own)
        process.wait_output("ready", LONG_S)
        return process

    return begin


def wifi(status: Status) -> Network:
    return next(network for network in status.networks if network.ifname == "wlan0")


def reasons(status: Status) -> set[str]:
    """Of the Wi-Fi network; none where there is none yet."""
    return {reason.code for each in status.networks if each.ifname == "wlan0" for reason in each.reasons}


def stays_calm(subject: Subject, seconds: float = CALM_S) -> None:
    """For so long nothing is found, while somebody is looking."""
    wait_for(lambda: bool(readers(subject)))
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        status = subject.status()
        assert not {reason for reason in reasons(status) if reason.startswith("evidence")}, status
        # On a busy machine the stand-in may take its time to say which network it is.
        assert (status.target, wifi(status).action) in (("unprotected", "ignore"), ("unprotected", None))
        time.sleep(0.1)
    wait_for(lambda: bool(readers(subject)))


def readers(subject: Subject) -> list[str]:
    """The confined children: their pids, as the laptop numbers them."""
    found = subject.lab.laptop.run("pgrep", "--full", "daemon/linux/confinement.py", check=False).stdout
    return found.split()


def protects(subject: Subject, evidence: str) -> None:
    status = subject.wait(lambda status: evidence in reasons(status), LONG_S)
    assert (wifi(status).verdict, wifi(status).action) == ("unsecured", "auto_connect")
    assert wifi(status).rule == "evidence of an attacker"
    sentence = next(reason.text for reason in wifi(status).reasons if reason.code == evidence)
    assert sentence.endswith(".")
    subject.wait("connected", LONG_S)
    assert subject.process is not None
    assert "evidence of an attacker" in subject.process.output()


@pytest.mark.parametrize("air", [Air.WPA2, Air.OPEN], ids=["secured", "open"])
def test_arp_spoofing_of_the_gateway(lab: Laboratory, watching: Subject, attack: Attack, air: Air) -> None:
    lab.join("cafe", air=air)
    stays_calm(watching)
    attack("arp")
    protects(watching, "evidence-gateway-moved")


def test_a_second_dhcp_server(lab: Laboratory, watching: Subject, attack: Attack) -> None:
    lab.join("cafe", air=Air.WPA2)
    stays_calm(watching)
    lab.leave()
    attack("dhcp")
    lab.join("cafe", air=Air.WPA2)
    protects(watching, "evidence-second-dhcp-server")


def test_a_rogue_router(lab: Laboratory, watching: Subject, attack: Attack) -> None:
    lab.join("cafe", air=Air.WPA2)
    stays_calm(watching)
    attack("router")
    protects(watching, "evidence-rogue-router")


@pytest.fixture
def hostile_cafe() -> Iterator[Laboratory]:
    """A cafe whose own DHCP server pushes routes (TunnelVision); its routes at home are an organisation's."""
    plan = Plan(SEED)
    gateway, own = plan.cafe.host4(1), plan.home.host4(1)
    options = {
        "cafe": [f"121,0.0.0.0/0,{gateway},0.0.0.0/1,{gateway},128.0.0.0/1,{gateway}"],
        "home": [f"121,0.0.0.0/0,{own},10.0.0.0/8,{own},172.16.0.0/12,{own}"],
    }
    with Laboratory(SEED, dhcp_options=options) as lab:
        yield lab


def test_routes_by_dhcp(hostile_cafe: Laboratory) -> None:
    subject = Subject(hostile_cafe, LAX)
    subject.start(20)
    subject.set_up()
    hostile_cafe.join("home", ssid=b"Office", air=Air.WPA2)
    stays_calm(subject)
    hostile_cafe.join("cafe", air=Air.WPA2)
    protects(subject, "evidence-dhcp-routes")


def test_it_lasts_as_long_as_the_association(lab: Laboratory, watching: Subject, attack: Attack) -> None:
    """Also when the attacker rests; and nobody looks where there is nothing to look at."""
    lab.join("cafe", air=Air.WPA2)
    attacker = attack("router")
    protects(watching, "evidence-rogue-router")
    attacker.kill()
    lab.card.renew("wlan0")
    time.sleep(CALM_S)
    assert "evidence-rogue-router" in reasons(watching.status())
    lab.leave()
    watching.wait(lambda status: not status.networks, LONG_S)
    wait_for(lambda: not readers(watching))
    lab.join("cafe", air=Air.WPA2)
    status = watching.wait(lambda status: bool(status.networks) and wifi(status).verdict == "secured", LONG_S)
    assert reasons(status) == {"encrypted"}


def test_known_networks_are_not_watched(lab: Laboratory, watching: Subject) -> None:
    lab.join("home")
    watching.wait(lambda status: bool(status.networks) and wifi(status).verdict == "known", LONG_S)
    wait_for(lambda: not readers(watching))  # of the moment before its name was known
    time.sleep(1.0)
    assert not readers(watching)


def wait_for(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LONG_S
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_damaged_frames_by_the_thousand(lab: Laboratory, watching: Subject, attack: Attack) -> None:
    """The daemon answers meanwhile and does what the sound ones among them call for; the child is bounded."""
    lab.join("cafe", air=Air.WPA2)
    stays_calm(watching, 1.0)
    attacker = attack("noise")
    sent = counted(lab)
    largest = 0
    while counted(lab) < sent + 30_000:
        assert watching.status().alarm is None
        for pid in readers(watching):
            status = lab.laptop.run("cat", f"/proc/{pid}/status", check=False).stdout
            resident = [int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")]
            largest = max([largest, *resident])
        time.sleep(0.2)
    assert attacker.running
    assert 0 < largest < 60 << 10  # KiB; an interpreter takes 15 MiB
    protects(watching, "evidence-gateway-moved")
    assert "not looked for" not in watching.process.output()  # the child has survived all of it


def counted(lab: Laboratory) -> int:
    """The frames that the attacker has sent."""
    return int(lab.air.read("/sys/class/net/plug/statistics/tx_packets"))
