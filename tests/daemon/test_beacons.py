"""N5: beacons asked beside the loop: once proven, again while silent, never about another association; and pinned."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from daemon import beacons
from daemon.inbox import Found
from daemon.service import DaemonService
from ipc.errors import Error
from policies.facts import Endpoint, Security
from policies.known_network import KnownNetwork
from policies.states import Phase, Target
from tests.daemon.fake_host import CAFE, HOME, WLAN
from tests.daemon.test_loop import SETTINGS, Running, impatient
from tests.daemon.test_loop import run as run_loop
from tests.daemon.test_service import ROOT, refused, run

__all__ = ["impatient"]  # the fixture is for every test here too

BEACON = Endpoint(ip_address("192.0.2.1"), 443, "tcp")
DIGEST, FOREIGN = bytes(range(32)), bytes(32)
PINNED = SETTINGS.replace('identify_timeout = "100ms"', 'identify_timeout = "2s"') + (
    f'beacon = "192.0.2.1:443"\nbeacon_sha256 = "{DIGEST.hex()}"\n'
)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beacons, "AGAIN_S", 0.01)
    monkeypatch.setattr(beacons, "LONGEST_S", 0.02)


def reasons(here: Running) -> list[str]:
    found = here.loop.decision.judgements[0].classification
    return list(found.reasons) if found else []


def asked(here: Running) -> int:
    return len(here.fake.order("beacon"))


def test_a_proof_makes_the_network_known(tmp_path: Path) -> None:
    async def check(here: Running) -> None:
        here.fake.beacons["wlan0", BEACON] = DIGEST
        await here.at_home()
        await here.until(Phase.IDLE)
        await here.turn()
        assert reasons(here) == ["saved", "saved-beacon"]
        assert asked(here) == 1
        for policy in here.fake.kernel.values():
            assert policy is not None and policy.cleared == {"wlan0"} and not policy.beacons
        order = [what for what, detail in here.fake.asked if what == "beacon" or getattr(detail, "beacons", ())]
        assert {"firewall", "routes"} <= {*order[: order.index("beacon")]}, "asked only when the kernel lets it pass"
        await here.hint("wifi", "links")
        assert asked(here) == 1, "once for an association"

    run_loop(tmp_path, check, PINNED)


def test_an_impostor_is_protected_from(tmp_path: Path) -> None:
    async def check(here: Running) -> None:
        here.fake.beacons["wlan0", BEACON] = FOREIGN
        await here.at_home()
        await here.until(Phase.CONNECTED)
        await here.turn()
        assert reasons(here) == ["impostor-beacon"]
        assert asked(here) == 1
        assert not any(policy is None or policy.beacons for policy in here.fake.kernel.values())

    run_loop(tmp_path, check, PINNED)


def test_silence_is_no_alarm_no_trust_and_a_late_proof_still_counts(tmp_path: Path) -> None:
    async def check(here: Running) -> None:
        await here.at_home()
        await here.until(Phase.HELD)
        await here.until(lambda loop: asked(here) > 2)
        assert (here.loop.state.phase, reasons(here)) == (Phase.HELD, ["beacon-silent"])
        await here.until(lambda loop: "wlan0" in loop.facts.overdue)
        await here.turn()
        assert (here.loop.intent.target, reasons(here)) == (Target.PROTECTED, ["beacon-silent"])
        here.fake.beacons["wlan0", BEACON] = DIGEST
        await here.until(Phase.IDLE)
        await here.turn()
        assert reasons(here) == ["saved", "saved-beacon"]

    run_loop(tmp_path, check, PINNED)


def test_another_association_is_asked_anew(tmp_path: Path) -> None:
    async def check(here: Running) -> None:
        here.fake.beacons["wlan0", BEACON] = DIGEST
        await here.at_home()
        await here.until(Phase.IDLE)
        await here.turn()
        here.fake.beacons["wlan0", BEACON] = FOREIGN
        here.fake.links = (replace(WLAN, carrier_changes=11),)
        await here.hint("links", "wifi")
        await here.until(Phase.CONNECTED)
        await here.turn()
        assert asked(here) == 2 and reasons(here) == ["impostor-beacon"]

    run_loop(tmp_path, check, PINNED)


def test_what_was_found_out_about_a_former_association_is_void(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beacons, "AGAIN_S", 60.0)

    async def check(here: Running) -> None:
        await here.at_home()
        await here.until(lambda loop: reasons(here) == ["beacon-silent"])
        old = replace(here.loop.facts.links[0], carrier_changes=7).association

        def proven(facts: object) -> object:
            return beacons.told(facts, "wlan0", BEACON, DIGEST)  # type: ignore[arg-type]

        here.loop.post(Found("wlan0", old, proven))  # type: ignore[arg-type]
        await here.turn()
        assert reasons(here) == ["beacon-silent"]
        here.loop.post(Found("wlan0", here.loop.facts.links[0].association, proven))  # type: ignore[arg-type]
        await here.until(Phase.IDLE)
        await here.turn()

    run_loop(tmp_path, check, PINNED)


def test_sleep_forgets_the_proof(tmp_path: Path) -> None:
    """It may wake up at the impostor's, and the kernel may not have counted a carrier."""

    async def check(here: Running) -> None:
        here.fake.beacons["wlan0", BEACON] = DIGEST
        await here.at_home()
        await here.until(Phase.IDLE)
        await here.turn()
        here.fake.sleeps.put_nowait(True)
        await here.until(Phase.HELD)
        here.fake.beacons["wlan0", BEACON] = FOREIGN
        here.fake.sleeps.put_nowait(False)
        await here.until(Phase.CONNECTED)
        await here.turn()
        assert reasons(here) == ["impostor-beacon"]

    run_loop(tmp_path, check, PINNED)


def test_nobody_is_asked_any_more_when_the_network_is_left(tmp_path: Path) -> None:
    async def check(here: Running) -> None:
        await here.at_home()
        await here.until(lambda loop: asked(here) > 0)
        await here.at_the_cafe()
        await here.until(Phase.CONNECTED)
        await here.turn()
        before = asked(here)
        await asyncio.sleep(0.2)
        assert asked(here) == before

    run_loop(tmp_path, check, PINNED)


def test_a_defect_of_ours_is_silence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(here: Running) -> None:
        here.fake.beacons["wlan0", BEACON] = DIGEST

        def broken(what: str, detail: object = None) -> None:
            if what == "beacon" and len(failures) < 3:
                failures.append(what)
                raise RuntimeError("a defect")

        failures: list[str] = []
        monkeypatch.setattr(here.fake, "ask", broken)
        await here.at_home()
        await here.until(Phase.IDLE)
        await here.turn()
        assert len(failures) == 3

    run_loop(tmp_path, check, PINNED)


# --- pinned by users --------------------------------------------------------------------------------------------------

OTHER = replace(HOME, ssid=b"Home 2", security=Security.WPA2)


async def saved(here: Running, service: DaemonService) -> str:
    await service.import_known(ROOT, '{"ssid": "Home 2", "action": "disconnect"}')
    here.fake.links, here.fake.wifi = (WLAN,), {"wlan0": OTHER}
    await here.hint("links", "wifi")
    await here.until(Phase.IDLE)
    await here.turn()
    return b"Home 2".hex()


def test_what_is_there_now_is_pinned(tmp_path: Path) -> None:
    async def check(here: Running, service: DaemonService) -> None:
        name = await saved(here, service)
        here.fake.beacons["wlan0", BEACON] = DIGEST
        edited = await service.edit_known(ROOT, name, '{"beacon": "192.0.2.1:443"}')
        assert (edited.beacon, edited.beacon_sha256) == ("192.0.2.1:443", DIGEST.hex(":"))
        (known,) = here.loop.known
        assert (known.beacon, known.beacon_sha256, known) == (BEACON, DIGEST, here.loop.store.known()[0])
        assert (here.loop.state.phase, reasons(here)) == (Phase.IDLE, ["saved", "saved-beacon"])
        assert asked(here) == 1, "what was just proven is not asked again, with the link held meanwhile"
        await service.edit_known(ROOT, name, '{"beacon": null, "beacon_sha256": null}')
        assert here.loop.known[0].beacon is None
        await service.import_known(ROOT, edited.entry)
        assert here.loop.known == (known,)

    run(tmp_path, check)


def test_a_certificate_that_is_named_is_taken_without_asking(tmp_path: Path) -> None:
    async def check(here: Running, service: DaemonService) -> None:
        await service.import_known(ROOT, '{"ssid": "Home 2"}')
        wanted = json.dumps({"beacon": "192.0.2.1:443", "beacon_sha256": DIGEST.hex()})
        assert (await service.edit_known(ROOT, b"Home 2".hex(), wanted)).beacon_sha256 == DIGEST.hex(":")
        assert asked(here) == 0

    run(tmp_path, check)


def test_what_cannot_be_pinned_now(tmp_path: Path) -> None:
    async def check(here: Running, service: DaemonService) -> None:
        wanted = '{"beacon": "192.0.2.1:443"}'
        name = await saved(here, service)
        before = here.loop.known
        with refused(Error.NOT_NOW, "silent"):
            await service.edit_known(ROOT, name, wanted)
        with refused(Error.INVALID_ARGUMENT, "not an address and a port"):
            await service.edit_known(ROOT, name, '{"beacon": "router.home:443"}')
        with refused(Error.INVALID_ARGUMENT, "not an address and a port"):
            await service.edit_known(ROOT, name, '{"beacon": 443}')
        with refused(Error.INVALID_ARGUMENT, "without beacon_sha256"):
            await service.edit_known(ROOT, name, '{"beacon": "192.0.2.1:443", "beacon_sha256": null}')
        await service.connect(ROOT, None)
        await here.until(Phase.CONNECTED)
        await here.turn()
        with refused(Error.NOT_NOW, "nothing but the tunnel passes"):
            await service.edit_known(ROOT, name, wanted)
        here.fake.wifi = {"wlan0": CAFE}
        await here.hint("wifi")
        with refused(Error.NOT_NOW, "not joined now"):
            await service.edit_known(ROOT, name, wanted)
        assert here.loop.known == before
        assert asked(here) == 1, "only the one question was sent"

    run(tmp_path, check)


def test_with_a_pattern_too(tmp_path: Path) -> None:
    async def check(here: Running, service: DaemonService) -> None:
        await service.import_known(ROOT, '{"pattern": "Home ?", "security": "8021x", "action": "disconnect"}')
        here.fake.links, here.fake.wifi = (WLAN,), {"wlan0": replace(OTHER, security=Security.ENTERPRISE)}
        here.fake.beacons["wlan0", BEACON] = DIGEST
        await here.hint("links", "wifi")
        await here.until(Phase.IDLE)
        await here.turn()
        edited = await service.edit_known(ROOT, b"Home ?".hex(), '{"beacon": "192.0.2.1:443"}', True)
        assert edited.beacon_sha256 == DIGEST.hex(":")
        assert here.loop.known == (
            KnownNetwork(
                ssid=b"Home ?", pattern=True, minimum_security=Security.ENTERPRISE,
                action=here.loop.known[0].action, beacon=BEACON, beacon_sha256=DIGEST,
            ),
        )  # fmt: skip

    run(tmp_path, check)
