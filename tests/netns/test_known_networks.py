"""N6, N7 with the real daemon and routers: a saved network is itself behind its own router, and learns its places."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from ipc.structs import Status
from lab.air import Air
from lab.subject import SETTINGS, Subject
from lab.topology import Laboratory

pytestmark = pytest.mark.netns

WAIT = 25.0
HOME = b"Home"
PATIENT = SETTINGS.replace('secured = "ignore"', 'secured = "ignore"\nidentify_timeout = "1m"')
DEAF = """\
table arp deaf { chain input { type filter hook input priority 0; arp operation request drop; }; }
table ip6 deaf { chain input { type filter hook input priority 0; icmpv6 type nd-neighbor-solicit drop; }; }
"""
HEARS = "delete table arp deaf; delete table ip6 deaf"


def router(lab: Laboratory, name: str) -> str:
    """The hardware address behind which a network's router is."""
    return lab.hosts[name].run("cat", "/sys/class/net/lan/address").stdout.strip()


@contextmanager
def daemon(lab: Laboratory, settings: str) -> Iterator[Subject]:
    subject = Subject(lab, settings)
    subject.start(20)
    subject.set_up()
    yield subject
    assert subject.process is not None
    assert "Traceback" not in subject.process.output(), subject.process.output()


@pytest.fixture
def behind_its_router(lab: Laboratory) -> Iterator[Subject]:
    """The network Home is saved with the address of its router; nothing is joined yet."""
    with daemon(lab, f'{PATIENT}gateways = ["{router(lab, "home")}"]\n') as subject:
        yield subject


def codes(status: Status) -> list[str]:
    """The reasons of the only network's verdict."""
    return [reason.code for network in status.networks for reason in network.reasons]


def test_home_behind_its_own_router(behind_its_router: Subject) -> None:
    behind_its_router.lab.join("home")
    status = behind_its_router.wait("idle", WAIT)
    assert (status.networks[0].verdict, status.networks[0].cleared) == ("known", True)
    assert codes(status) == ["saved", "saved-gateway"]


def test_the_same_name_and_password_behind_another_router(behind_its_router: Subject, sealed: Any) -> None:
    """Who knows the name and the password of a network has not got its router's address yet."""
    with sealed():
        behind_its_router.lab.join("cafe", ssid=HOME, air=Air.WPA2)
        status = behind_its_router.wait("connected", WAIT)
        assert (status.networks[0].verdict, codes(status)) == ("unsecured", ["impostor-gateway"])
        assert not status.networks[0].cleared


def test_nothing_leaves_before_the_router_has_answered(behind_its_router: Subject, sealed: Any) -> None:
    """It is asked while nothing but that may leave; until it answers, the network is nobody's."""
    lab, home = behind_its_router.lab, behind_its_router.lab.hosts["home"]
    home.run("nft", "-f", "-", input=DEAF)
    with sealed():
        lab.join("home")
        behind_its_router.wait(lambda status: codes(status) == ["gateway-unreadable"], WAIT)
        time.sleep(1)
        status = behind_its_router.status()
        assert (status.state, status.networks[0].cleared) == ("held", False)
    home.run("nft", "-f", "-", input=HEARS)
    status = behind_its_router.wait("idle", WAIT)
    assert codes(status) == ["saved", "saved-gateway"]


def test_a_router_that_never_answers(lab: Laboratory, sealed: Any) -> None:
    """In the end such a network is nobody's for good, and the laptop is protected."""
    with daemon(lab, f'{SETTINGS}gateways = ["02:00:5e:00:53:01"]\n') as subject, sealed():
        lab.hosts["home"].run("nft", "-f", "-", input=DEAF)
        lab.join("home")
        status = subject.wait("connected", WAIT)
        assert (status.networks[0].verdict, codes(status)) == ("unidentified", ["gateway-unreadable"])


def test_access_points_are_learned(lab: Laboratory, sealed: Any) -> None:
    """Each that is met behind a router; kept over a restart; and once learning ends, any other is an imitation."""
    places = ["02:00:5e:00:53:0a", "02:00:5e:00:53:0b"]
    entry = {"ssid": HOME.decode(), "security": "wpa2", "action": "disconnect", "learn": True}
    with daemon(lab, SETTINGS[: SETTINGS.index("[[known]]")]) as subject:
        with subject.client() as client:
            client.import_known(json.dumps(entry))
        for number, place in enumerate(places, 1):
            lab.join("home", bssid=place)
            subject.wait(lambda status: status.state == "idle" and "saved" in codes(status), WAIT)
            wait_known(subject, places[:number])
        subject.cli("known", "edit", HOME.decode(), "--no-learn")
        assert subject.stop() == 0
        subject.start(20)
        lab.join("home", bssid=places[0])
        status = subject.wait(lambda status: "saved-access-point" in codes(status), WAIT)
        assert status.networks[0].verdict == "known"
        lab.leave()
        with sealed():
            lab.join("home", bssid="02:00:5e:00:53:0c")
            status = subject.wait("connected", WAIT)
            assert (status.networks[0].verdict, codes(status)) == ("unsecured", ["impostor-access-point"])
        wait_known(subject, places)


def wait_known(subject: Subject, places: list[str]) -> None:
    deadline = time.monotonic() + WAIT
    with subject.client() as client:
        while (found := [bssid for entry in client.all_known() for bssid in entry.bssids]) != places:
            assert time.monotonic() < deadline, found
            time.sleep(0.02)
