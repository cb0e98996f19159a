"""Each step of the story of `make run`, judged by the leak meter (N4, N8, N10, K1, K3, K5, T2, T3, T6)."""

from __future__ import annotations

import time
from typing import Any

import pytest

from lab.air import Air
from lab.probes import exit_address, resolve
from lab.subject import PATIENT, PROFILE, Subject
from lab.topology import Laboratory
from policies.firewall import TUNNEL_IFNAME
from tests.netns.open_machine import wait_for_leaks

pytestmark = pytest.mark.netns


def test_without_the_daemon_the_same_traffic_leaks(lab: Laboratory) -> None:
    """The positive control of this whole folder: the same laptop and traffic, and nothing that blocks."""
    lab.join("cafe")
    with lab.meter() as meter, lab.traffic(rate=40):
        wait_for_leaks(meter)


def test_nothing_leaves_before_the_network_is_identified(lab: Laboratory, sealed: Any) -> None:
    """N10: held from the first moment of the association, however late the facts come."""
    subject = Subject(lab, PATIENT)
    subject.start(25)
    subject.set_up()
    with sealed() as meter:
        lab.networkmanager.associating()
        lab.associate(lab.networks["cafe"])
        subject.wait("held")
        time.sleep(1.0)
        status = subject.status()
        assert (status.state, status.blocking) == ("held", True)
        meter.positive_control()


def test_a_network_nobody_identifies_is_treated_as_unsecured(subject: Subject, sealed: Any) -> None:
    """N4: NetworkManager never tells; after the time limit the network is unidentified, and protection is wanted."""
    lab = subject.lab
    with sealed():
        lab.networkmanager.associating()
        lab.associate(lab.networks["cafe"])
        status = subject.wait(lambda status: any(each.verdict == "unidentified" for each in status.networks), 25)
        assert status.target == "protected"


def test_an_unsecured_network_is_protected(subject: Subject, sealed: Any) -> None:
    """N4, N8, T2, T6: classified with its reason, connected by its rule, and everything goes through the tunnel."""
    lab, plan = subject.lab, subject.lab.plan
    with sealed():
        lab.join("cafe")
        status = subject.wait("connected")
        (network,) = status.networks
        assert (network.ssid, network.verdict, network.action) == ("Cafe Guest", "unsecured", "auto_connect")
        assert [reason.code for reason in network.reasons] == ["open"]
        assert not network.cleared
        assert (status.protected, status.blocking, status.profile) == (True, True, PROFILE)
        assert exit_address(lab.laptop, plan.internet4) == plan.server4
        assert exit_address(lab.laptop, plan.internet6) == plan.server6
        assert lab.laptop.run("getent", "ahostsv4", "internet.test").stdout.startswith(str(plan.internet4))
        assert str(plan.tunnel_server[0]) in lab.laptop.read("/etc/resolv.conf")


@pytest.mark.parametrize("air", [Air.WEP, Air.WPA, Air.WPA2_TKIP, Air.OPEN], ids=lambda air: air.name)
def test_a_home_that_is_weaker_than_saved_is_an_impostor(subject: Subject, sealed: Any, air: Air) -> None:
    """N7: a saved name does not relax anything where its security is weaker than saved."""
    with sealed():
        subject.lab.join("home", air=air)
        status = subject.wait("connected")
        assert status.networks[0].verdict == "unsecured"


def test_the_server_dies_and_nothing_leaks(subject: Subject, sealed: Any) -> None:
    """K1, T5: a dead server is noticed, traffic stays blocked, and when it is back so is protection."""
    lab = subject.lab
    lab.join("cafe")
    subject.wait("connected")
    with sealed():
        lab.kill_server()
        status = subject.wait(lambda status: not status.protected, 20)
        assert status.blocking
        status = subject.wait("blocked", 20)
        assert (status.cause, status.blocking) == ("server-unreachable", True)
        lab.start_server()
        subject.wait("connected", 20)
    assert exit_address(lab.laptop, lab.plan.internet4) == lab.plan.server4


def test_a_known_network_is_used_without_the_tunnel(subject: Subject) -> None:
    """N6, N8: the rule `disconnect`; resolvers and routing are given back as they were."""
    lab, plan = subject.lab, subject.lab.plan
    lab.join("cafe")
    subject.wait("connected")
    lab.leave()
    lab.join("home")
    status = subject.wait("idle")
    assert (status.networks[0].verdict, status.networks[0].cleared) == ("known", True)
    assert exit_address(lab.laptop, plan.internet4) == plan.home_uplink.host4(2)
    assert str(plan.home.host4(1)) in lab.laptop.read("/etc/resolv.conf")
    assert resolve(lab.laptop, plan.home.host4(1), "internet.test") == plan.internet4
    assert TUNNEL_IFNAME not in lab.laptop.run("ip", "-o", "link").stdout
    assert "lookup 1953853047" not in lab.laptop.run("ip", "rule").stdout


def test_a_users_own_choice_holds_until_the_network_changes(subject: Subject) -> None:
    """N8, K1: an authorised disconnect opens this network and no other."""
    lab = subject.lab
    lab.join("cafe")
    subject.wait("connected")
    subject.cli("disconnect")
    subject.wait("idle")
    assert exit_address(lab.laptop, lab.plan.internet4) == lab.plan.cafe_uplink.host4(2)
    lab.leave()
    lab.join("cafe", ssid=b"Another Cafe")
    subject.wait("connected")


def test_restart_takes_the_block_over_without_opening(subject: Subject, sealed: Any) -> None:
    """K5: SIGKILL while blocked, traffic all the time, and the next daemon begins where the first one ended."""
    lab = subject.lab
    lab.join("cafe")
    subject.wait("connected")
    with sealed():
        lab.kill_server()
        subject.wait("blocked", 30)
        subject.kill()
        time.sleep(0.5)
        subject.start()
        status = subject.wait(lambda status: status.state in ("connecting", "reconnecting", "blocked"))
        assert status.target == "protected"
        lab.start_server()
        subject.wait("connected", 20)
