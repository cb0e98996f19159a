"""N2, N4 on the air: the real daemon, hostapd, and the laptop's card managed by each of three programs in turn.

All of this runs in the virtual machine (conftest.py), in this order; everything there is some 20 times slower.
"""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

from lab.frames import Kind
from lab.radio.laboratory import INTERNET, PATIENCE, authorised, run, wait_for
from lab.radio.managers import Supplicant
from lab.radio.networks import ACCESS_POINTS, NETWORKS, bssid
from policies.facts import Security
from tests.radio.tier import Tier, encrypted_control, kernel_says, meter, talk_heard, talking

pytestmark = pytest.mark.radio

PROBE_RESPONSE, BEACON = 5, 8  # IEEE 802.11-2020, table 9-1
VERDICTS = {
    "open": "unsecured",  # though its name is saved: as a network with a password
    "wep": "unsecured",
    "wpa": "unsecured",
    "wpa-wpa2": "unsecured",
    "wpa2": "known",
    "wpa2-tkip": "unsecured",
    "wpa2-wps": "secured",
    "wpa2-sha256": "secured",
    "wpa2-wpa3": "secured",
    "wpa3": "secured",
    "owe": "unsecured",
    "owe-transition": "unsecured",
    "owe-transition-owe": "unsecured",
    "802.1x": "secured",
    "not-utf8": "secured",
    "hidden": "secured",
}
# What each program can join. NetworkManager and iwd want TKIP and WEP no more, and choose in OWE transition themselves.
JOINED = {
    "networkmanager": ("open", "wpa2", "wpa2-wpa3", "wpa3", "owe", "802.1x", "not-utf8", "hidden"),
    "iwd": ("open", "wpa2", "wpa2-sha256", "wpa3", "owe"),
    "wpa_supplicant": tuple(NETWORKS),
}


def test_started_before_the_driver(tier: Tier) -> None:
    """N2: no Wi-Fi in the kernel, so nothing is known, and nothing fails."""
    assert tier.before_the_driver.networks == ()
    assert tier.subject.process is not None
    assert "a Wi-Fi source failed" not in tier.subject.process.output()


@pytest.mark.parametrize(("sign_in", "verdict"), [("its server", "secured"), ("any server", "unsecured")])
def test_a_sign_in_that_checks_no_server(tier: Tier, sign_in: str, verdict: str) -> None:
    """N4: the same network, the same password, and a connection of NetworkManager's without and with its authority.

    The kernel knows the network before NetworkManager is done: not for a moment may it count as secured.
    """
    manager = tier.manager("networkmanager")
    with meter() as air, talking():
        manager.join(f"802.1x, {sign_in}")
        network = tier.joined("802.1x")
        assert (network.security, network.verdict) == ("8021x", verdict)
        assert ("server-unchecked" in [reason.code for reason in network.reasons]) is (verdict == "unsecured")
        if verdict == "unsecured":
            time.sleep(2)
            encrypted_control(air)
            assert talk_heard(air) == 0
            assert tier.subject.status().target == "protected"
        else:
            tier.wait(lambda status: any(each.cleared for each in status.networks))  # nothing has wanted protection yet
            wait_for(lambda: talk_heard(air) > 20, "the same traffic, on a network that is cleared")
        assert air.leaks() == []
    manager.leave()
    tier.wait(lambda status: not status.networks)


@pytest.mark.parametrize(
    ("manager", "name"), [(manager, name) for manager, names in JOINED.items() for name in names], ids=str
)
def test_what_hostapd_was_told_to_be_is_what_the_daemon_says(tier: Tier, manager: str, name: str) -> None:
    """N2, N4: name, access point, security, TKIP, WPS and verdict of each kind of network, whoever joins it."""
    wanted = NETWORKS[name]
    with_card = tier.manager(manager)
    with_card.join(name)
    network = tier.joined(name)
    assert (network.security, network.verdict) == (wanted.security.value, VERDICTS[name])
    found = kernel_says()
    assert found is not None
    assert (found.ssid, found.security) == (wanted.ssid, wanted.security)
    assert (found.tkip, found.wps, found.malformed) == (wanted.tkip, wanted.wps, False)
    assert found.bssid in {bssid(point, name) for point, (_, names) in ACCESS_POINTS.items() if name in names}
    with_card.leave()
    tier.wait(lambda status: not status.networks)


def test_a_wrong_password_never_shows_a_network(tier: Tier, supplicant: Supplicant) -> None:
    """N2: associated is not authorised: nothing is said of a network that has not proven its password."""
    supplicant.ask("wpa2", "wrong horse")
    seen = 0
    deadline = time.monotonic() + PATIENCE
    while "pre-shared key may be incorrect" not in supplicant.output():
        assert time.monotonic() < deadline, supplicant.output()
        for network in tier.subject.status().networks:
            assert (network.ssid, network.verdict, network.cleared) == (None, None, False)
            seen += 1
    assert seen  # it was associated, and looked at


def test_the_access_point_sends_the_laptop_away(tier: Tier, supplicant: Supplicant) -> None:
    """N2: the link is held again from the disassociation on, and found again when the client returns."""
    supplicant.join("wpa2")
    tier.joined("wpa2")
    found = kernel_says()
    assert found is not None
    changes = tier.phase_changes()
    tier.lab.deauthenticate(found.bssid[4] - 0xA0, "wpa2")
    wait_for(lambda: tier.phase_changes() > changes, "the daemon has noticed")
    tier.joined("wpa2")


def announcement(kind: int, receiver: bytes, sender: bytes, ssid: bytes, channel: int) -> bytes:
    """A frame of an access point that announces WPA2, behind an empty radiotap header."""
    rates, tim = bytes.fromhex("010882848b960c121824"), bytes.fromhex("050400010000") if kind == BEACON else b""
    rsn = bytes.fromhex("30140100000fac040100000fac040100000fac020000")
    head = bytes([0, 0, 8, 0, 0, 0, 0, 0, kind << 4, 0, 0, 0]) + receiver + sender + sender + b"\0\0"
    interval_and_capability = bytes.fromhex("64001104")
    elements = bytes([0, len(ssid)]) + ssid + rates + bytes([3, 1, channel]) + tim + rsn
    return head + bytes(8) + interval_and_capability + elements


def test_beacons_that_lie_after_the_association(tier: Tier, supplicant: Supplicant) -> None:
    """N4, N7: an open network with a saved name that begins to announce WPA2 stays open, and is not known."""
    ear = "liar"
    run("ip", "link", "set", "wlan4", "down")
    run("iw", "dev", "wlan4", "interface", "add", ear, "type", "monitor", check=False)
    run("ip", "link", "set", ear, "up")
    run("iw", "dev", ear, "set", "channel", "1")
    try:
        supplicant.join("open")
        assert tier.joined("open").verdict == "unsecured"
        found = kernel_says()
        assert found is not None
        channel = ACCESS_POINTS[found.bssid[4] - 0xA0][0]
        run("iw", "dev", ear, "set", "channel", str(channel))
        ssid = NETWORKS["open"].ssid
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as liar:
            liar.bind((ear, 0))

            def taken_for_encrypted() -> bool:
                """The true announcements come in between, so that the kernel's picture is mixed most of the time."""
                liar.send(announcement(BEACON, b"\xff" * 6, found.bssid, ssid, channel))
                liar.send(announcement(PROBE_RESPONSE, b"\x02\0\0\0\0\0", found.bssid, ssid, channel))
                seen = kernel_says()
                assert seen is not None
                assert seen.security.strength <= Security.WEP.strength, seen
                return seen.malformed and seen.security is Security.OPEN  # announced all over, and there is no key

            wait_for(taken_for_encrypted, "the kernel has taken the lie for what the access point says")
        for network in tier.subject.status().networks:
            assert network.verdict not in ("known", "secured")
            assert not network.cleared
    finally:
        run("iw", "dev", ear, "del", check=False)


def test_the_vpn_over_the_air(tier: Tier, supplicant: Supplicant) -> None:
    """The main job: an open network, the kernel's WireGuard, and whoever listens hears the tunnel only."""
    tier.lab.start_server()
    try:
        with meter() as air:
            supplicant.join("open")
            tier.lab.address()
            tier.wait(lambda status: status.state == "connected")
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
                for _ in range(20):
                    out.sendto(b"secret", (INTERNET, 9))
            wait_for(lambda: air.kinds().count(Kind.TUNNEL) > 20, "the tunnel on the air")
            air.positive_control()
            assert air.leaks() == []
            assert not any(b"secret" in each.payload for each in air.sent())
    finally:
        tier.lab.stop_server()
        tier.lab.forget()


def test_an_interface_that_is_made_anew(tier: Tier) -> None:
    """N2: another ifindex under the same name, as iwd does when it starts."""
    tier.stop_manager()
    phy = Path("/sys/class/net/wlan0/phy80211/name").read_text().strip()
    before = socket.if_nametoindex("wlan0")
    run("iw", "dev", "wlan0", "del")
    run("iw", "phy", phy, "interface", "add", "wlan0", "type", "managed")
    assert socket.if_nametoindex("wlan0") != before
    manager = tier.manager("wpa_supplicant")
    manager.join("wpa3")
    assert tier.joined("wpa3").verdict == "secured"


def test_a_driver_that_is_unloaded_and_loaded_again(tier: Tier) -> None:
    """N2: radios that disappear and appear; the kernel's number for nl80211's groups may be another one."""
    tier.stop_manager()
    tier.lab.unload()
    tier.wait(lambda status: not status.networks)
    tier.lab.load()
    manager = tier.manager("wpa_supplicant")
    manager.join("wpa2")
    assert tier.joined("wpa2").verdict == "known"
    assert authorised()
