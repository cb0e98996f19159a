"""The administrator's file: where and what is wrong, and what is in force instead."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.settings_file import Loaded, load
from daemon.store import Store, StoreError
from policies.settings import Settings, parse_settings

GOOD = "[protection]\nlockdown = true\n"


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
    assert load(store, file) == Loaded(parse_settings(GOOD))
    assert store.last_good_settings() == GOOD


def test_a_link_is_followed(store: Store, file: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text(GOOD)
    file.symlink_to(tmp_path / "elsewhere")
    assert load(store, file) == Loaded(parse_settings(GOOD))


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
        store.save_good_settings(GOOD)
    if last == "too old":
        store.save_good_settings("colour = 1")
    if last == "unreadable":

        def broken() -> str:
            raise StoreError("tunwarden.db: disk I/O error")

        monkeypatch.setattr(store, "last_good_settings", broken)
    before = None if last == "unreadable" else store.last_good_settings()
    loaded = load(store, file, parse_settings(GOOD) if last == "in force" else None)
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
    def full(text: str) -> None:
        raise StoreError("disk full")

    monkeypatch.setattr(store, "save_good_settings", full)
    file.write_text(GOOD)
    loaded = load(store, file)
    assert (loaded.settings, loaded.broken) == (parse_settings(GOOD), False)
    assert loaded.warning is not None and loaded.warning.endswith("for the next start: disk full")
