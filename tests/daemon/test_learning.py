"""N7: access points are learned, and a network whose router is not known yet waits for it, shut, and not for ever."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from daemon.service import DaemonService
from daemon.store import StoreError
from policies.facts import Security, WifiSource
from policies.settings import parse_settings
from policies.states import Phase
from tests.daemon.fake_host import CAFE, HOME, WLAN
from tests.daemon.test_loop import SETTINGS, Running, impatient
from tests.daemon.test_service import ROOT, run

__all__ = ["impatient"]
AP, OTHER, ROUTER, STRANGER = (bytes.fromhex(f"02000000000{number}") for number in (1, 2, 9, 8))
THERE = replace(CAFE, security=Security.WPA2, bssid=AP, source=WifiSource.NL80211)
LEARNING = json.dumps({"ssid_hex": CAFE.ssid.hex(), "action": "ignore", "learn": True})


def test_access_points_are_learned(tmp_path: Path) -> None:
    async def check(here: Running, service: DaemonService) -> None:
        await service.import_known(ROOT, LEARNING)
        await here.at_the_cafe()  # open: an imitation
        assert here.loop.known[0].bssids == frozenset()
        for bssid in (AP, OTHER, AP):
            here.fake.wifi = {"wlan0": replace(THERE, bssid=bssid)}
            await here.hint("wifi")
        await here.until(lambda loop: loop.known[0].bssids == {AP, OTHER})
        assert here.loop.store.known() == here.loop.known
        await service.edit_known(ROOT, CAFE.ssid.hex(), '{"learn": false}')
        here.fake.wifi = {"wlan0": replace(THERE, bssid=STRANGER)}
        await here.hint("wifi")
        await here.until(lambda loop: loop.facts.wifi["wlan0"].bssid == STRANGER)
        await here.turn()
        assert here.loop.known[0].bssids == {AP, OTHER}
        (judged,) = here.loop.decision.judgements
        assert judged.classification and judged.classification.known is None

    run(tmp_path, check)


def test_an_association_alone_teaches_nothing(tmp_path: Path) -> None:
    """NetworkManager may tell of an access point before its password is proven; a router is proof enough."""

    async def check(here: Running, service: DaemonService) -> None:
        await service.import_known(ROOT, LEARNING)
        here.fake.links = (replace(WLAN, gateways=()),)
        here.fake.wifi = {"wlan0": replace(THERE, source=WifiSource.NETWORKMANAGER)}
        await here.hint("links", "wifi")
        await here.until(lambda loop: "wlan0" in loop.facts.wifi)
        await here.turn()
        assert here.loop.known[0].bssids == frozenset()

    run(tmp_path, check)


def test_a_full_disk_learns_nothing_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(here: Running, service: DaemonService) -> None:
        def full(*_: object) -> None:
            raise StoreError("disk full")

        await service.import_known(ROOT, LEARNING)
        monkeypatch.setattr(here.loop.store, "save_known", full)
        here.fake.links, here.fake.wifi = (WLAN,), {"wlan0": THERE}
        await here.hint("links", "wifi")
        await here.until(lambda loop: "disk full" in loop.warnings.get("known", ""))
        assert here.loop.known[0].bssids == frozenset()

    run(tmp_path, check)


BEHIND = SETTINGS + f'gateways = ["{ROUTER.hex(":")}"]\n'
PATIENT = BEHIND.replace('"100ms"', '"1m"', 1)


@pytest.mark.parametrize("mac, phase", [(ROUTER, Phase.IDLE), (STRANGER, Phase.CONNECTED)])
def test_the_router_settles_it(tmp_path: Path, mac: bytes, phase: Phase) -> None:
    async def check(here: Running, service: DaemonService) -> None:
        here.loop.configuration.take(parse_settings(PATIENT))
        here.fake.links, here.fake.wifi = (replace(WLAN, carrier_changes=9, gateways=()),), {"wlan0": HOME}
        await here.hint("links", "wifi")
        await here.until(lambda loop: loop.decision.held == {"wlan0"} and "wlan0" in loop.facts.wifi)
        (judged,) = here.loop.decision.judgements
        assert judged.action is None
        here.fake.links = (replace(here.fake.links[0], gateways=(ip_address("192.0.2.1"),)),)
        here.fake.routers = {"wlan0": mac}
        await here.hint("links")
        await here.until(phase)
        assert here.loop.decision.held == frozenset()
        here.fake.routers = {}  # silent for a while: still the one that was told
        await here.hint("wifi")
        await here.turn()
        assert here.loop.facts.wifi["wlan0"].gateway_mac == mac

    run(tmp_path, check, PATIENT)


def test_a_router_that_answers_late_is_asked_again(tmp_path: Path) -> None:
    """Nobody announces its answer."""

    async def check(here: Running, service: DaemonService) -> None:
        here.loop.configuration.take(parse_settings(PATIENT))
        await here.at_home()
        here.fake.routers = {"wlan0": ROUTER}
        await here.until(lambda loop: loop.decision.held == frozenset())

    run(tmp_path, check, PATIENT)


def test_another_association_is_another_router(tmp_path: Path) -> None:
    async def check(here: Running, service: DaemonService) -> None:
        here.fake.routers = {"wlan0": ROUTER}
        await here.at_home()
        await here.until(lambda loop: bool(loop.facts.wifi["wlan0"].gateway_mac))
        here.fake.routers = {}
        here.fake.links = (replace(here.fake.links[0], carrier_changes=11),)
        await here.hint("links", "wifi")
        await here.until(lambda loop: "wlan0" in loop.facts.wifi and not loop.facts.wifi["wlan0"].gateway_mac)

    run(tmp_path, check, PATIENT)


def test_a_router_that_never_answers_is_a_strange_network(tmp_path: Path) -> None:
    async def check(here: Running, service: DaemonService) -> None:
        await here.at_home()
        await here.until(Phase.CONNECTED)  # unidentified is treated like unsecured: auto_connect
        await here.hint("wifi")
        assert here.loop.decision.held == frozenset(), "reading again does not begin the wait anew"
        here.fake.routers = {"wlan0": ROUTER}
        await here.hint("wifi")
        await here.until(Phase.IDLE)

    run(tmp_path, check, BEHIND)


def test_the_list_is_made_once(tmp_path: Path) -> None:
    """Its index of names takes milliseconds to make."""

    async def check(here: Running, service: DaemonService) -> None:
        await service.import_known(ROOT, LEARNING)
        before = here.loop.configuration.in_force().known
        await here.at_home()
        await here.turn()
        assert here.loop.configuration.in_force().known is before and len(before) == 2
        await service.forget_known(ROOT, CAFE.ssid.hex())
        assert len(here.loop.configuration.in_force().known) == 1

    run(tmp_path, check)
