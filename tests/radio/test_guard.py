"""N10 on the air: nothing leaves before the verdict, wherever the laptop goes, and what may go on goes on.

All of this runs in the virtual machine (conftest.py). The leak meter hears the radio; each test has its control.
"""

from __future__ import annotations

import asyncio
import json
import time

import pytest

from daemon.linux.links import LinuxLinks
from ipc.structs import Status
from lab.radio.laboratory import run, wait_for
from lab.radio.managers import Supplicant
from lab.radio.networks import NETWORKS
from lab.radio.speaker import Speaker
from policies.facts import LinkKind
from tests.radio.tier import Tier, encrypted_control, kernel_says, meter, talk_heard, talking

pytestmark = pytest.mark.radio


def test_nothing_leaves_before_the_verdict(tier: Tier, supplicant: Supplicant) -> None:
    """N10: an open network, a static address, and a program that sends all the time: the fastest possible leak."""
    with meter() as air, talking():
        supplicant.join("open")
        network = tier.joined("open")
        assert (network.verdict, network.cleared) == ("unsecured", False)
        time.sleep(2)
        air.positive_control()
        assert air.leaks() == []


def test_the_same_program_is_heard_on_a_network_that_is_cleared(tier: Tier, supplicant: Supplicant) -> None:
    """The positive control of the one before, with the same socket: encrypted on the air, on the way at all."""
    with meter() as air, talking():
        supplicant.join("wpa2")
        tier.cleared("wpa2")
        wait_for(lambda: talk_heard(air) > 20, "traffic on a cleared network")
        assert air.leaks() == []  # nobody near by can read any of it


def test_a_roam_stays_on_the_network(tier: Tier, supplicant: Supplicant) -> None:
    """N10: another access point of the same network: found again by itself, and nothing readable leaves meanwhile."""
    with meter() as air, talking():
        supplicant.join("wpa2")
        tier.wait(lambda status: status.state == "idle" and bool(status.networks))
        tier.roam(supplicant, "wpa2")
        tier.wait(lambda status: status.state == "idle" and all(each.cleared for each in status.networks))
        assert tier.joined("wpa2").verdict == "known"
        heard = talk_heard(air)
        wait_for(lambda: talk_heard(air) > heard + 10, "traffic goes on")
        assert air.leaks() == []


def test_a_connection_survives_roams(tier: Tier, supplicant: Supplicant) -> None:
    """N10: a TCP connection over a cleared network lasts, however much is said while the link is held."""
    supplicant.join("wpa2")
    tier.cleared("wpa2")
    tier.lab.address()
    try:
        with tier.lab.echo() as server, Speaker(server) as speaker:
            for _ in range(5):
                tier.roam(supplicant, "wpa2")
                speaker.wait(20)
                tier.cleared("wpa2")
            assert speaker.interrupted == 0
    finally:
        tier.lab.forget()


def test_two_cards(tier: Tier, supplicant: Supplicant) -> None:
    """N2, N10: each has its own network and verdict; one that is not secured is enough to want protection.

    Of neither card can anybody read a packet: the second joins an open network, and by the first one everything left
    until then, encrypted.
    """
    with meter() as first_air, meter("wlan1") as second_air, talking(), talking("wlan1"):
        supplicant.join("wpa2")
        tier.joined("wpa2")
        wait_for(lambda: talk_heard(first_air) > 20, "traffic on a cleared network")
        with Supplicant(tier.lab, "wlan1") as second:
            second.join("open")
            assert tier.joined("open", "wlan1").verdict == "unsecured"
            assert tier.joined("wpa2").verdict == "known"
            assert tier.subject.status().target == "protected"
            assert not any(network.cleared for network in tier.subject.status().networks)
            time.sleep(2)
            second_air.positive_control("wlan1")
            assert (first_air.leaks(), second_air.leaks()) == ([], [])
            second.leave()
            tier.wait(lambda status: [each.ifname for each in status.networks] == ["wlan0"] and status.state == "idle")


def test_asleep_at_home_and_awake_in_a_cafe(tier: Tier, supplicant: Supplicant) -> None:
    """N10, T5: systemd-logind's own sleep. The card is on an open network before anybody tells that it is over."""
    with meter() as air, talking():
        supplicant.join("wpa2")
        tier.cleared("wpa2")
        wait_for(lambda: talk_heard(air) > 20, "traffic on a cleared network")
        with tier.lab.night():
            assert tier.subject.status().state == "held"  # since before it slept
            encrypted_control(air)  # so what was still on its way has been heard
            heard = talk_heard(air)
            supplicant.join("open")
            time.sleep(2)
            air.positive_control()
            assert tier.subject.status().state == "held"
        network = tier.joined("open")
        assert (network.verdict, network.cleared) == ("unsecured", False)
        air.positive_control()
        assert air.leaks() == []
        assert talk_heard(air) == heard


def test_awake_where_it_fell_asleep(tier: Tier, supplicant: Supplicant) -> None:
    """The control of the one before: what was cleared at home is cleared there again, and its traffic flows."""
    with meter() as air, talking():
        supplicant.join("wpa2")
        tier.cleared("wpa2")
        with tier.lab.night():
            heard = talk_heard(air)
        tier.wait(lambda status: status.state == "idle" and all(each.cleared for each in status.networks))
        wait_for(lambda: talk_heard(air) > heard + 20, "traffic on the network that is cleared again")


def test_access_points_are_learned_on_the_air(tier: Tier, supplicant: Supplicant) -> None:
    """N7: a saved network learns the access points it meets; what has learned, and no longer does, knows no other."""
    ssid = NETWORKS["wpa3"].ssid.hex()
    with tier.subject.client() as client:

        def known() -> set[str]:
            (entry,) = (each for each in client.all_known() if each.ssid_hex == ssid)
            return set(entry.bssids)

        client.import_known(json.dumps({"ssid_hex": ssid, "security": "wpa3", "action": "disconnect", "learn": True}))
        try:
            supplicant.join("wpa3")
            assert tier.joined("wpa3").verdict == "known"
            met = kernel_says()
            assert met is not None
            first = met.bssid.hex(":")
            wait_for(lambda: known() == {first}, "the first access point is learned")
            client.edit_known(ssid, '{"learn": false}')
            tier.roam(supplicant, "wpa3")
            stranger = tier.wait(lambda status: "impostor-access-point" in codes(status))
            assert (stranger.networks[0].verdict, stranger.networks[0].cleared) == ("unsecured", False)
            client.edit_known(ssid, '{"learn": true}')
            wait_for(lambda: len(known()) == 2, "the second access point is learned")
            client.edit_known(ssid, '{"learn": false}')
            first = tier.roam(supplicant, "wpa3").hex(":")
            tier.wait(lambda status: codes(status) == ["saved", "saved-access-point"])
            tier.cleared("wpa3")
            assert first in known()
        finally:
            client.forget_known(ssid)


def codes(status: Status) -> list[str]:
    """The reasons of the only network's verdict."""
    return [reason.code for network in status.networks for reason in network.reasons]


def test_a_monitor_is_no_way_out(tier: Tier) -> None:
    """N2: a card that only listens has no network to be identified, and nothing waits for one."""
    run("ip", "link", "set", "wlan4", "down")
    run("iw", "dev", "wlan4", "set", "type", "monitor")
    run("ip", "link", "set", "wlan4", "up")
    try:
        links = {link.ifname: link for link in asyncio.run(LinuxLinks().read())}
        assert (links["wlan4"].kind, links["wlan4"].up, links["wlan4"].carrier) == (LinkKind.VIRTUAL, True, True)
        assert links["hwsim0"].kind is LinkKind.VIRTUAL
        tier.wait(lambda status: status.state == "idle")
        assert tier.subject.status().networks == ()
    finally:
        run("ip", "link", "set", "wlan4", "down")
        run("iw", "dev", "wlan4", "set", "type", "managed")
