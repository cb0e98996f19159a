"""N6: known networks over the interface: saved, edited, forgotten, many; in force at once and after a restart."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from daemon import known_service as module
from daemon.known_service import changed_known
from daemon.service import DaemonService
from daemon.store import Store, StoreError
from ipc.errors import Error
from ipc.values import plain
from policies.classify import Verdict, classify
from policies.facts import Endpoint, Security, WifiNetwork
from policies.known_network import KnownNetwork
from policies.settings import Settings, parse_settings
from policies.settings_known import known_from_json, known_to_json
from policies.settings_tables import WifiAction
from policies.states import Phase
from tests.daemon.fake_host import CAFE
from tests.daemon.test_loop import Running
from tests.daemon.test_service import ROOT, refused, run

AP = bytes.fromhex("020000000001")


def line(**keys: object) -> str:
    return json.dumps({"ssid": "Home 2", **keys})


def reread(here: Running) -> tuple[KnownNetwork, ...]:
    """What a restart would find."""
    return here.loop.store.known()


def test_what_is_in_force_is_what_the_store_has(tmp_path: Path) -> None:
    async def check(here: Running, service: DaemonService) -> None:
        names = [b"\xff", b"b", b"a", b"pattern", b"\n", "é".encode()]
        for name in names:
            await service.add_known(ROOT, None, name.hex(), None, None, None)
        await service.import_known(ROOT, '{"pattern": "b*", "action": "auto_connect"}\n' + line())
        assert here.loop.known == reread(here)
        assert [each.ssid for each in here.loop.known] == [*sorted([*names, b"Home 2"]), b"b*"]
        await service.forget_known(ROOT, b"a".hex())
        await service.forget_known(ROOT, b"b*".hex(), True)
        assert here.loop.known == reread(here)
        assert len(here.loop.known) == 6

    run(tmp_path, check)


def test_a_name_is_its_bytes(tmp_path: Path) -> None:
    """Case, spaces, Latin-1, emoji and controls: each is a network of its own, and no output holds a control."""

    async def check(here: Running, service: DaemonService) -> None:
        names = [
            b"Home",
            b"home",
            b"Home ",
            b" Home",
            b"Caf\xe9",
            "Café".encode(),
            "📶".encode(),
            b"a\x1b[31mb\n",
            b"*",
        ]
        names = [name for name in names if name != b"Home"]  # which stands in the settings
        for name in names:
            saved = await service.add_known(ROOT, None, name.hex(), None, None, None)
            assert bytes.fromhex(saved.ssid_hex) == name
        known = [each for each in await service.list_known(ROOT) if each.source == "user"]
        assert len({each.ssid for each in known}) == len(names)
        assert json.dumps(plain(known), ensure_ascii=False).isprintable()
        with refused(Error.INVALID_ARGUMENT, "NUL"):
            await service.add_known(ROOT, None, "610062", None, None, None)

    run(tmp_path, check)


def test_the_joined_network_is_pinned(tmp_path: Path) -> None:
    async def check(here: Running, service: DaemonService) -> None:
        await here.at_the_cafe()
        await here.until(Phase.CONNECTED)
        here.fake.wifi = {"wlan0": replace(CAFE, security=Security.WPA3, bssid=AP)}  # also for who reads anew
        here.loop.facts = replace(here.loop.facts, wifi=here.fake.wifi)
        saved = await service.add_known(ROOT, None, None, None, None, None, False, pin=True)
        assert (saved.bssids, saved.gateways, saved.security) == (("02:00:00:00:00:01",), (), "wpa3")
        here.fake.wifi = {"wlan0": replace(CAFE, security=Security.WPA3, bssid=AP, gateway_mac=AP)}
        here.fake.routers = {"wlan0": AP}
        here.loop.facts = replace(here.loop.facts, wifi=here.fake.wifi)
        saved = await service.add_known(ROOT, None, None, None, None, None, False, pin=True, learn=True)
        assert (saved.bssids, saved.gateways, saved.learn) == ((AP.hex(":"),), (AP.hex(":"),), True)
        with refused(Error.NO_SUCH_NETWORK, "not joined now"):
            await service.add_known(ROOT, "elsewhere", None, None, None, None, False, pin=True)
        here.fake.wifi = {"wlan0": replace(CAFE, bssid=b"")}
        here.loop.facts = replace(here.loop.facts, wifi=here.fake.wifi)
        with refused(Error.NO_SUCH_NETWORK, "access point cannot be read"):
            await service.add_known(ROOT, None, None, None, None, None, False, pin=True)

    run(tmp_path, check)


def test_edit_changes_what_is_named(tmp_path: Path) -> None:
    async def check(here: Running, service: DaemonService) -> None:
        keys = {"security": "wpa3", "action": "ignore", "allow_lan": True, "bssids": [AP.hex(":")], "learn": True}
        await service.import_known(ROOT, line(**keys))
        name = b"Home 2".hex()
        edited = await service.edit_known(ROOT, name, '{"learn": false, "profile": "office"}')
        del keys["learn"]
        assert json.loads(edited.entry) == {"ssid_hex": name, **keys, "profile": "office"}
        (saved,) = here.loop.known
        assert (saved.learn, saved.profile, saved.allow_lan, saved.bssids) == (False, "office", True, frozenset({AP}))
        await service.edit_known(ROOT, name, '{"action": null, "bssids": null, "allow_lan": null}')
        assert here.loop.known == (KnownNetwork(ssid=b"Home 2", minimum_security=Security.WPA3, profile="office"),)
        assert here.loop.known == reread(here)

    run(tmp_path, check)


def full() -> KnownNetwork:
    """Every field with something else than its default, so that a new field is asked for here."""
    network = KnownNetwork(
        ssid=b"Home 2",
        minimum_security=Security.WPA3,
        action=WifiAction.IGNORE,
        profile="office",
        server="country:SE",
        allow_lan=True,
        resolvers=(ip_address("192.0.2.53"), ip_address("2001:db8::53")),
        bssids=frozenset({AP}),
        gateways=frozenset({AP}),
        beacon=Endpoint(ip_address("192.0.2.1"), 443, "tcp"),
        beacon_sha256=bytes(range(32)),
        learn=True,
    )
    left = {key for key, field in KnownNetwork.model_fields.items() if getattr(network, key) == field.default}
    assert left <= {"pattern", "exceptions"}, "of patterns alone"
    return network


@pytest.mark.parametrize("key", sorted(KnownNetwork.model_fields.keys() - {"ssid", "pattern", "exceptions"}))
def test_an_edit_changes_nothing_else(key: str) -> None:
    """Also the network's own resolvers, which no option of `known edit` names."""
    before = full()
    assert known_from_json(known_to_json(before)) == before
    assert changed_known(before, "{}") == before
    name = {"minimum_security": "security"}.get(key, key)
    own = json.loads(known_to_json(before))[name]
    after = changed_known(before, json.dumps({name: own}))
    assert after == before
    optional = name not in ("security", "bssids", "gateways", "beacon", "beacon_sha256")
    if optional:
        without = changed_known(before, json.dumps({name: None}))
        changed = {field for field in KnownNetwork.model_fields if getattr(without, field) != getattr(before, field)}
        assert changed == {key}


BAD_CHANGES = {
    "no JSON": ("x", Error.INVALID_ARGUMENT, "not a JSON object"),
    "a list": ("[]", Error.INVALID_ARGUMENT, "not a JSON object"),
    "deep": ("[" * 100_000, Error.INVALID_ARGUMENT, "not a JSON object"),
    "unknown": ('{"acton": "ignore"}', Error.INVALID_ARGUMENT, 'did you mean "action"'),
    "relaxing": ('{"security": "open"}', Error.INVALID_ARGUMENT, "relaxes protection"),
    "a second name": ('{"ssid": "x"}', Error.INVALID_ARGUMENT, "exactly one of"),
    "another name": ('{"ssid_hex": "41"}', Error.INVALID_ARGUMENT, "the name stays"),
    "a pattern": (
        '{"ssid_hex": null, "pattern": "H*", "action": "auto_connect"}',
        Error.INVALID_ARGUMENT,
        "the name stays",
    ),
    "no such profile": ('{"profile": "x"}', Error.NO_SUCH_PROFILE, "no profile 'x'"),
}


@pytest.mark.parametrize("changes, error, text", BAD_CHANGES.values(), ids=BAD_CHANGES.keys())
def test_a_refused_edit_changes_nothing(tmp_path: Path, changes: str, error: Error, text: str) -> None:
    async def check(here: Running, service: DaemonService) -> None:
        await service.import_known(ROOT, line(action="disconnect"))
        before = here.loop.known
        with refused(error, text):
            await service.edit_known(ROOT, b"Home 2".hex(), changes)
        assert here.loop.known == before == reread(here)

    run(tmp_path, check)


def test_only_what_users_saved_can_be_edited(tmp_path: Path) -> None:
    async def check(here: Running, service: DaemonService) -> None:
        for ask in (service.edit_known(ROOT, b"Home".hex(), "{}"), service.forget_known(ROOT, b"Home".hex())):
            with refused(Error.LOCKED, "administrator"):
                await ask
        for ask in (service.edit_known(ROOT, "41", "{}"), service.forget_known(ROOT, "41", True)):
            with refused(Error.NO_SUCH_NETWORK, "is not saved"):
                await ask
        for ask in (service.edit_known(ROOT, "4", "{}"), service.forget_known(ROOT, "4")):
            with refused(Error.INVALID_ARGUMENT, "two hexadecimal digits"):
                await ask
        with refused(Error.LOCKED, "administrator"):
            await service.import_known(ROOT, line() + "\n" + line(ssid="Home"))
        assert here.loop.known == reread(here) == ()

    run(tmp_path, check)


@pytest.mark.parametrize(
    "text, words",
    [
        (line() + "\n\n" + line(ssid="x", security="wpa4"), "ImportKnown, line 3: security: 'wpa4'"),
        (line() + "\n" + line(), "ImportKnown, line 2: an earlier line has the same name"),
        ("[]", "line 1: not a JSON object"),
        ("\n".join([line()] * 501), "501 networks at once"),
        (line(pattern="x*"), "exactly one of"),
    ],
)
def test_an_import_is_whole_or_nothing(tmp_path: Path, text: str, words: str) -> None:
    async def check(here: Running, service: DaemonService) -> None:
        with refused(Error.INVALID_ARGUMENT, words):
            await service.import_known(ROOT, text)
        with refused(Error.NO_SUCH_PROFILE, "'gone'"):
            await service.import_known(ROOT, line() + "\n" + line(ssid="x", profile="gone"))
        assert here.loop.known == reread(here) == ()

    run(tmp_path, check)


def test_a_full_disk_imports_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(here: Running, service: DaemonService) -> None:
        def full(*_: object) -> None:
            raise StoreError("disk full")

        monkeypatch.setattr(here.loop.store, "save_known", full)
        for ask in (service.import_known(ROOT, line()), service.add_known(ROOT, "x", None, None, None, None)):
            with refused(Error.NOT_NOW, "disk full"):
                await ask
        assert here.loop.known == ()

    run(tmp_path, check)


def test_there_is_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(here: Running, service: DaemonService) -> None:
        monkeypatch.setattr(module, "MOST", 2)
        await service.import_known(ROOT, line() + "\n" + line(ssid="b"))
        with refused(Error.NOT_NOW, "2 networks are saved already"):
            await service.add_known(ROOT, "c", None, None, None, None)
        await service.add_known(ROOT, "b", None, "wpa3", None, None)
        assert [each.minimum_security for each in here.loop.known] == [Security.WPA2, Security.WPA3]

    run(tmp_path, check)


def many(count: int) -> Iterator[str]:
    for number in range(count):
        keys = {"pattern": f"Net {number} *", "security": "8021x"} if number % 10 == 0 else {"ssid": f"Net {number}"}
        yield json.dumps({**keys, "action": "ignore"})


def test_ten_thousand_networks(tmp_path: Path) -> None:
    """Imported in portions, listed in pages, there after a restart, and the right one is found."""

    async def check(here: Running, service: DaemonService) -> None:
        lines = list(many(10_000))
        for start in range(0, len(lines), 500):
            assert await service.import_known(ROOT, "\n".join(lines[start : start + 500])) == 500
        listed: list[str] = []
        while page := await service.list_known(ROOT, len(listed)):
            assert len(page) <= 200
            assert len(json.dumps(plain(page))) < 200 << 10
            listed += [each.ssid_hex for each in page]
        assert len(set(listed)) == 10_001  # and Home, of the settings
        assert await service.list_known(ROOT, -1) == await service.list_known(ROOT)

    run(tmp_path, check)
    store = Store(tmp_path / "state", lambda: 0.0)
    known = store.known()
    store.close()
    assert len(known) == 10_000
    settings = Settings(known=known)
    office = WifiNetwork(b"Net 9990 Berlin", security=Security.ENTERPRISE)
    assert classify(office, settings).known is known[-1]
    assert classify(WifiNetwork(b"Net 77", security=Security.WPA2), settings).verdict is Verdict.KNOWN
    assert classify(WifiNetwork(b"Net 70", security=Security.WPA2), settings).verdict is Verdict.SECURED


def test_ten_thousand_networks_in_the_settings_file() -> None:
    text = "".join(f'[[known]]\nssid = "Net {number}"\naction = "ignore"\n' for number in range(10_000))
    assert len(parse_settings(text).known) == 10_000


def test_a_listed_entry_is_a_line_to_import(tmp_path: Path) -> None:
    async def check(here: Running, service: DaemonService) -> None:
        lines = [
            line(ssid="a\\b\n", allow_lan=False, bssids=[AP.hex(":")], gateways=[AP.hex(":")], learn=True),
            json.dumps({"ssid_hex": "ff", "security": "8021x-192", "action": "disconnect"}),
            json.dumps({"pattern": "Bü?ro*", "except": ["*\u202e\\", "📶"], "action": "auto_connect"}),
        ]
        await service.import_known(ROOT, "\n".join(lines))
        before = here.loop.known
        listed = [each for each in await service.list_known(ROOT) if each.source == "user"]
        for each in before:
            await service.forget_known(ROOT, each.ssid.hex(), each.pattern)
        assert here.loop.known == ()
        await service.import_known(ROOT, "\n".join(each.entry for each in listed))
        assert here.loop.known == before == reread(here)
        assert [known_to_json(each) for each in before] == [each.entry for each in listed]

    run(tmp_path, check)
