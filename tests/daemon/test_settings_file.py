"""The administrator's file: where and what is wrong, and what is in force instead."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.settings_file import Loaded, load, over
from daemon.store import Files, Store, StoreError
from policies.settings import Fixed, Settings, parse_files, parse_settings

GOOD = "[protection]\nlockdown = true\n"


def fixed(file: Path, text: str = GOOD) -> Fixed:
    return parse_files([(str(file), text)])


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "state", lambda: 1.0)
    yield store
    store.close()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "etc").mkdir()
    return tmp_path / "etc" / "tunwarden.toml"


def test_no_file_is_a_fresh_install(store: Store, file: Path) -> None:
    assert load(store, file) == Loaded(Settings())


def test_a_good_file_is_kept_for_worse_times(store: Store, file: Path) -> None:
    file.write_text(GOOD)
    assert load(store, file) == Loaded(parse_settings(GOOD), fixed=fixed(file))
    assert store.last_good_settings() == ((str(file), GOOD),)


def test_a_link_is_followed(store: Store, file: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text(GOOD)
    file.symlink_to(tmp_path / "elsewhere")
    assert load(store, file) == Loaded(parse_settings(GOOD), fixed=fixed(file))


WRONG: dict[str, tuple[bytes, str]] = {
    "key": (b"\n[wifi]\nunsecurd = 'prompt'", ":3: wifi.unsecurd: unknown key"),
    "type": (b"[protection]\nkill_switch = 'on'", ":2: protection.kill_switch: "),
    "choice": (b"[wired]\naction = 'maybe'", ":2: wired.action: "),
    "duration": (b"[tunnel]\nconnect_timeout = '15'", ":2: tunnel.connect_timeout: "),
    "range": (b"[tunnel]\nconnect_timeout = '2h'", ":2: tunnel.connect_timeout: "),
    "address": (b"[[known]]\nssid = 'x'\nbssids = ['aa:bb:cc:dd:ee']", ":3: known.bssids: "),
    "relaxes": (b"[[known]]\nssid = 'x'\nsecurity = 'open'\naction = 'ignore'", ":"),
    "newer": (b"version = 2", ":1: version: this file is for a newer tunwarden"),
    "syntax": (b"[wifi]\n= 1", ":2:1: not TOML: "),
    "latin": (b"# ok\n# caf\xe9\n", ":2: not valid UTF-8"),
    "NUL": (b"version = 1\n\0", ":2:"),
    "giant": (b"#" * ((1 << 20) + 1), ":1: cannot be used: longer than 1048576 bytes"),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("last", ["none", "good", "in force", "too old", "unreadable"])
def test_errors(store: Store, file: Path, name: str, last: str, monkeypatch: pytest.MonkeyPatch) -> None:
    content, told = WRONG[name]
    file.write_bytes(content)
    if last == "good":
        store.save_good_settings([(str(file), GOOD)])
    if last == "too old":
        store.save_good_settings([(str(file), "colour = 1")])
    if last == "unreadable":

        def broken() -> Files:
            raise StoreError("tunwarden.db: disk I/O error")

        monkeypatch.setattr(store, "last_good_settings", broken)
    before = None if last == "unreadable" else store.last_good_settings()
    loaded = load(store, file, fixed(file) if last == "in force" else None)
    assert loaded.warning is not None and f"\n{file}{told}" in loaded.warning
    usable = last in ("good", "in force")
    assert loaded.broken is not usable
    assert loaded.settings == (parse_settings(GOOD) if usable else Settings())
    assert ("last good settings are in force" if usable else "nothing may pass") in loaded.warning
    if last != "unreadable":
        assert store.last_good_settings() == before


@pytest.mark.parametrize("way", ["folder", "fifo", "dangling", "loop", "endless", "writable", "group", "somebody's"])
def test_what_is_no_file_of_roots(store: Store, file: Path, way: str) -> None:
    if way in ("writable", "group", "somebody's"):
        file.write_text(GOOD)
    match way:
        case "folder":
            file.mkdir()
        case "fifo":
            os.mkfifo(file)
        case "dangling":
            file.symlink_to("/nowhere/at/all")
        case "loop":
            file.symlink_to(file)
        case "endless":
            file.symlink_to("/dev/zero")
        case "writable":
            file.chmod(0o666)
        case "group":
            file.chmod(0o664)
        case "somebody's":
            if os.geteuid() != 0:
                pytest.skip("needs root")
            os.chown(file, 65534, 65534)
    loaded = load(store, file)
    assert loaded.broken
    assert loaded.warning is not None and f"{file}:1: cannot be used: " in loaded.warning


def test_a_good_file_on_a_full_disk(store: Store, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(files: Files) -> None:
        raise StoreError("disk full")

    monkeypatch.setattr(store, "save_good_settings", full)
    file.write_text(GOOD)
    loaded = load(store, file)
    assert (loaded.settings, loaded.broken) == (parse_settings(GOOD), False)
    assert loaded.warning is not None and loaded.warning.endswith("for the next start: disk full")


# --- drop-ins and users' own ------------------------------------------------------------------------------------------


def drop_in(file: Path, name: str, text: str) -> Path:
    folder = file.parent / "tunwarden.d"
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    return folder / name


def test_drop_ins_in_the_order_of_their_names_the_later_wins(store: Store, file: Path) -> None:
    file.write_text(GOOD + "[wifi]\nsecured = 'prompt'\n[[known]]\nssid = 'Home'\nsecurity = 'wpa2'\n")
    later = drop_in(file, "20-b.toml", "[protection]\nlockdown = false\n[[known]]\nssid = 'Home'\nsecurity = 'wpa3'")
    drop_in(file, "10-a.toml", "[protection]\nlockdown = true\nallow_lan = true\n[[known]]\nssid = 'Work'")
    drop_in(file, ".hidden.toml", "nonsense")
    drop_in(file, "20-b.toml~", "nonsense")
    loaded = load(store, file)
    assert loaded.warning is None
    assert (loaded.settings.protection.lockdown, loaded.settings.protection.allow_lan) == (False, True)
    assert loaded.settings.wifi.secured == "prompt"
    assert [(known.ssid, known.minimum_security.value) for known in loaded.settings.known] == [
        (b"Home", "wpa3"),
        (b"Work", "wpa2"),
    ]
    assert loaded.fixed.places["protection.lockdown"] == (str(later), 2)
    assert loaded.fixed.places["wifi.secured"] == (str(file), 4)


def test_every_problem_names_its_own_file(store: Store, file: Path) -> None:
    file.write_text("[wifi]\nsecurd = 'prompt'\n")
    first = drop_in(file, "1.toml", "[tunnel]\nretry_first = '5'\n")
    second = drop_in(file, "2.toml", "[[[")
    told = load(store, file).warning or ""
    for line in (f"{file}:2: wifi.securd: unknown key", f"{first}:2: tunnel.retry_first: ", f"{second}:1:"):
        assert f"\n{line}" in told


def test_what_is_wrong_between_files_is_told_where_it_was_said(store: Store, file: Path) -> None:
    file.write_text("[wifi]\nunidentified = 'ignore'\nunsecured = 'ignore'\n")
    drop_in(file, "1.toml", "\n[wifi]\nunsecured = 'auto_connect'\n")
    assert f"\n{file}:2: wifi.unidentified: laxer than unsecured" in (load(store, file).warning or "")
    drop_in(file, "2.toml", "[wifi]\nunidentified = 'auto_connect'\n")
    loaded = load(store, file)
    assert (loaded.warning, loaded.settings.wifi.unidentified) == (None, "auto_connect")


def test_a_drop_in_alone_is_enough(store: Store, file: Path) -> None:
    only = drop_in(file, "1.toml", GOOD)
    assert load(store, file) == Loaded(parse_settings(GOOD), fixed=fixed(only))
    only.write_text("[")
    assert not load(store, file).broken
    assert load(store, file).settings == parse_settings(GOOD), "the last good ones"


@pytest.mark.parametrize("way", ["file", "somebody's", "many"])
def test_what_is_no_folder_of_drop_ins(store: Store, file: Path, way: str) -> None:
    folder = file.parent / "tunwarden.d"
    match way:
        case "file":
            folder.write_text(GOOD)
        case "somebody's":
            drop_in(file, "1.toml", GOOD).chmod(0o666)
        case "many":
            for number in range(101):
                drop_in(file, f"{number}.toml", "")
    loaded = load(store, file)
    assert loaded.broken
    assert str(folder) in (loaded.warning or "")


def test_users_settings_are_beneath_the_administrators(store: Store, file: Path) -> None:
    file.write_text("[wifi]\nunsecured = 'prompt'\n")
    store.save_own_settings({"wifi.unsecured": "ignore", "wifi.secured": "auto_connect"})
    loaded = load(store, file)
    assert (loaded.settings.wifi.unsecured, loaded.settings.wifi.secured) == ("prompt", "auto_connect")
    assert loaded.warning is None
    file.unlink()
    assert load(store, file).settings.wifi.unsecured == "ignore", "what the administrator no longer says"


def test_users_settings_survive_a_restart(store: Store, file: Path, tmp_path: Path) -> None:
    store.save_own_settings({"wifi.secured": "auto_connect"})
    store.close()
    again = Store(tmp_path / "state", lambda: 1.0)
    assert (again.trouble, load(again, file).settings.wifi.secured) == (None, "auto_connect")
    again.close()


def test_users_settings_that_do_not_fit_are_told_and_break_nothing(store: Store, file: Path) -> None:
    """What one version or one file of the administrator made impossible: the rest of them counts."""
    file.write_text("[tunnel]\nretry_longest = '10s'\n")
    own = {"tunnel.retry_first": "20s", "wifi.secured": "auto_connect", "no.such": "1", "wired.action": "maybe"}
    store.save_own_settings(own)
    loaded = load(store, file)
    assert not loaded.broken
    assert (loaded.settings.tunnel.retry_first, loaded.settings.wifi.secured) == (1.0, "auto_connect")
    assert loaded.refused.keys() == own.keys() - {"wifi.secured"}
    assert loaded.refused["tunnel.retry_first"].startswith("retry_first is longer than retry_longest")
    assert over(loaded, {}).refused == {}
    file.write_text("[wired]\naction = 'prompt'\n")
    assert over(load(store, file), {"wired.action": "maybe"}).refused == {}, "it would not count anyway"


def test_broken_files_close_whatever_users_set(store: Store, file: Path) -> None:
    store.save_own_settings({"protection.allow_lan": "true"})
    file.write_text("[")
    loaded = load(store, file)
    assert (loaded.broken, loaded.settings) == (True, Settings())
