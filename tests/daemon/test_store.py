"""What outlives the process: kept whole, or set aside and told; and never mistaken for a fresh install."""

from __future__ import annotations

import json
import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from daemon import files
from daemon.store import Store, StoreError
from policies.decision import Intent, Manual
from policies.facts import Security
from policies.known_network import KnownNetwork
from policies.profiles import to_json
from policies.settings_tables import WifiAction
from policies.states import Target
from tests.daemon.profiles_for_tests import OFFICE

ROOT = Path(__file__).parents[2]
WANTED = Intent(Target.PROTECTED, Manual(Target.PROTECTED, "wlan0/41/open"), False, True, "office")
CAFE = KnownNetwork(ssid=b"\x00caf\xe9"[1:], minimum_security=Security.WPA2, action=WifiAction.DISCONNECT)


def opened(folder: Path, now: float = 1_700_000_000.0) -> Store:
    return Store(folder, lambda: now)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A store that has been used and closed."""
    store = opened(tmp_path / "state")
    store.save_intent(WANTED)
    store.save_good_settings([("a.toml", "version = 1")])
    store.save_own_settings({"wifi.secured": "prompt"})
    store.save_known(CAFE)
    store.save_profile(OFFICE)
    store.close()
    return tmp_path / "state"


def test_known_networks_are_saved_together_or_not_at_all(folder: Path) -> None:
    store = opened(folder)
    names = [KnownNetwork(ssid=bytes([letter])) for letter in b"zb"]
    pattern = KnownNetwork(ssid=b"b", pattern=True, action=WifiAction.AUTO_CONNECT)
    store.save_known(*names, pattern)
    assert store.known() == (names[1], CAFE, names[0], pattern), "by their bytes, patterns last"
    store._db.execute(
        "CREATE TRIGGER full BEFORE INSERT ON known WHEN NEW.ssid = '32' BEGIN SELECT RAISE(FAIL, 'no'); END"
    )
    with pytest.raises(StoreError, match="no"):
        store.save_known(KnownNetwork(ssid=b"1"), KnownNetwork(ssid=b"2"))
    assert len(store.known()) == 4
    store.save_known(KnownNetwork(ssid=b"1"))
    assert store.forget_known((True, b"b")) and len(store.known()) == 4
    store.close()


def test_a_fresh_install_wants_nothing(tmp_path: Path) -> None:
    store = opened(tmp_path / "state")
    assert (store.intent(), store.trouble, store.unkept) == (Intent(), None, None)
    assert (store.last_good_settings(), store.known(), dict(store.profiles())) == (None, (), {})
    store.close()
    store = opened(tmp_path / "state")
    assert store.trouble is None, "a start without a single choice is no damage"
    store.close()


def test_everything_is_there_again(folder: Path) -> None:
    store = opened(folder)
    assert (store.trouble, store.unkept, store.warnings) == (None, None, [])
    assert store.intent() == WANTED
    assert store.last_good_settings() == (("a.toml", "version = 1"),)
    assert store.own_settings() == {"wifi.secured": "prompt"}
    assert store.known() == (CAFE,)
    assert store.profiles() == {"office": OFFICE}
    assert store.forget_known(CAFE.key) and not store.forget_known(CAFE.key)
    store.remove_profile("office")
    store.remove_profile("office")
    assert (store.known(), dict(store.profiles())) == ((), {})
    store.close()


def test_e6_it_is_roots_alone_whatever_the_umask(tmp_path: Path) -> None:
    earlier = os.umask(0)
    try:
        store = opened(tmp_path / "state")
        store.save_profile(OFFICE)
    finally:
        os.umask(earlier)
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "state/profiles/office.json").stat().st_mode) == 0o600
    store.close()


def test_a_folder_that_was_moved_elsewhere(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    store = opened(tmp_path / "link")
    assert store.intent() == WANTED
    store.close()


# --- damage -----------------------------------------------------------------------------------------------------------


def sql(statement: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        db = sqlite3.connect(folder / "tunwarden.db", isolation_level=None)
        db.execute(statement)
        db.close()

    return damage


def intent(**changes: object) -> Callable[[Path], None]:
    values = {"target": "protected", "manual": None, "kill_switch": True, "lockdown": False, "profile": None}
    return sql(f"UPDATE kept SET value = '{json.dumps(values | changes)}' WHERE name = 'intent'")


def over(name: str, data: bytes, at: int | None = None) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        content = (folder / name).read_bytes() if at is not None else b""
        (folder / name).write_bytes(data if at is None else content[:at] + data + content[at + len(data) :])

    return damage


def cut(size: int) -> Callable[[Path], None]:
    return lambda folder: os.truncate(folder / "tunwarden.db", size)


def instead(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / "tunwarden.db").unlink()
        make(folder / "tunwarden.db")

    return damage


DAMAGES: dict[str, Callable[[Path], None]] = {
    "empty": cut(0),
    "one byte": cut(1),
    "header only": cut(100),
    "half a page": cut(2048),
    "one page": cut(4096),
    "all but a byte": lambda folder: cut((folder / "tunwarden.db").stat().st_size - 1)(folder),
    "text": over("tunwarden.db", b"this is no database\n"),
    "garbage header": over("tunwarden.db", os.urandom(64), 0),
    "garbage schema": over("tunwarden.db", b"\xff" * 900, 100),
    "garbage page": over("tunwarden.db", b"\xff" * 4096, 4096),
    "garbage WAL": over("tunwarden.db-wal", b"garbage " * 512),
    "WAL folder": lambda folder: (folder / "tunwarden.db-wal").mkdir(),
    "folder": instead(Path.mkdir),
    "fifo": instead(os.mkfifo),
    "link": instead(lambda path: path.symlink_to("/etc/passwd")),
    "dangling link": instead(lambda path: path.symlink_to("/nowhere/at/all")),
    "somebody's database": instead(lambda path: sqlite3.connect(path).executescript("CREATE TABLE t (x)").close()),
    "newer": sql("PRAGMA user_version = 1000"),
    "older": sql("PRAGMA user_version = 0"),
    "no table": sql("DROP TABLE known"),
    "no intent": sql("DELETE FROM kept WHERE name = 'intent'"),
    "intent no JSON": sql("UPDATE kept SET value = '{' WHERE name = 'intent'"),
    "intent a list": sql("UPDATE kept SET value = '[]' WHERE name = 'intent'"),
    "intent too deep": sql(f"UPDATE kept SET value = '{'[' * 100_000}' WHERE name = 'intent'"),
    "target": intent(target="open"),
    "target null": intent(target=None),
    "manual": intent(manual=[]),
    "manual choice": intent(manual={"choice": "x", "network": ""}),
    "kill switch": intent(kill_switch="no"),
    "lockdown": intent(lockdown=0),
    "profile": intent(profile=["x"]),
    "more": intent(another=1),
    "own no JSON": sql("UPDATE kept SET value = '{' WHERE name = 'own'"),
    "own newer": sql("""UPDATE kept SET value = '{"version": 2, "values": {}}' WHERE name = 'own'"""),
    "own no texts": sql("""UPDATE kept SET value = '{"version": 1, "values": {"a": 1}}' WHERE name = 'own'"""),
    "known": sql("INSERT INTO known VALUES ('41', '{}')"),
    "known no JSON": sql("INSERT INTO known VALUES ('41', 'x')"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_set_aside_and_told_until_somebody_decides(folder: Path, name: str) -> None:
    DAMAGES[name](folder)
    file = folder / "tunwarden.db"
    found = file.read_bytes() if file.is_file() and not file.is_symlink() else None
    store = opened(folder)
    assert store.unkept is None
    assert store.trouble is not None and f"a copy is {folder}/tunwarden.db.damaged-1700000000. " in store.trouble
    aside = folder / "tunwarden.db.damaged-1700000000"
    assert os.path.lexists(aside)
    assert found is None or aside.read_bytes() == found, "as it was found"
    assert (store.intent(), store.known()) == (Intent(), ())
    assert store.profiles() == {"office": OFFICE}, "a damaged database loses no keys"
    trouble = store.trouble
    store.save_intent(WANTED)  # a rule wants something: that is no decision of a user's
    store.close()
    store = opened(folder, 1_800_000_000.0)
    assert store.trouble == trouble, "the next start is as closed"
    assert not (folder / "tunwarden.db.damaged-1800000000").exists()
    store.decided()
    store.decided()
    store.close()
    store = opened(folder)
    assert (store.trouble, store.intent()) == (None, WANTED)
    store.close()


def test_a_database_that_has_gone_is_no_fresh_install(folder: Path) -> None:
    for part in folder.glob("tunwarden.db*"):
        part.unlink()
    store = opened(folder)
    assert store.trouble is not None and "has gone" in store.trouble
    store.close()


def test_a_crash_between_setting_aside_and_beginning_anew_is_no_fresh_install(folder: Path) -> None:
    (folder / "profiles/office.json").unlink()
    (folder / "tunwarden.db").rename(folder / "tunwarden.db.damaged-1")
    store = opened(folder)
    assert store.trouble is not None
    store.close()


@pytest.mark.parametrize("now", [1_700_000_000.0, 0.0, -5.0])
def test_a_clock_that_stands_still_or_jumps_overwrites_no_copy(folder: Path, now: float) -> None:
    contents = set()
    for number in range(3):
        content = f"damaged the {number}. time".encode()
        contents.add(content)
        (folder / "tunwarden.db").write_bytes(content)
        (folder / "tunwarden.db-wal").write_bytes(b"")
        store = opened(folder, now)
        assert store.trouble is not None
        store.close()
    kept = {each.read_bytes() for each in folder.glob("*.damaged-*") if not each.name.endswith("-wal")}
    assert kept == contents


def test_a_crash_at_any_moment_of_a_write_keeps_the_old_or_the_new(folder: Path) -> None:
    """What the WAL holds after a SIGKILL counts; and what was confirmed survives the loss of the WAL."""
    code = (
        "import os, sys; from pathlib import Path; from daemon.store import Store\n"
        "from policies.decision import Intent\n"
        "store = Store(Path(sys.argv[1]), lambda: 1.0); store.save_intent(Intent(profile='confirmed')); os._exit(1)"
    )
    for lose_wal in (False, True):
        store = opened(folder)
        store.save_intent(WANTED)
        store.close()
        subprocess.run([sys.executable, "-c", code, str(folder)], env={"PYTHONPATH": str(ROOT)}, check=False)
        if lose_wal:
            (folder / "tunwarden.db-wal").unlink(missing_ok=True)
        store = opened(folder)
        assert (store.trouble, store.intent().profile) == (None, "confirmed")
        store.close()


# --- a disk that refuses ----------------------------------------------------------------------------------------------


def holding(folder: Path) -> Iterator[None]:
    other = sqlite3.connect(folder / "tunwarden.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    yield
    other.close()


def test_a_database_that_another_program_holds_is_not_damaged(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real: Any = sqlite3.connect
    held = holding(folder)
    next(held)
    monkeypatch.setattr(sqlite3, "connect", lambda *args, **options: real(*args, timeout=0.05, **options))
    store = opened(folder)
    assert store.unkept is not None and "locked" in store.unkept
    assert store.trouble is not None and "nothing is kept" in store.trouble
    assert (store.intent(), store.known(), store.last_good_settings()) == (Intent(), (), None)
    writes: list[Callable[[], object]] = [
        lambda: store.save_intent(WANTED), lambda: store.save_known(CAFE), lambda: store.forget_known((False, b"x")),
        lambda: store.save_good_settings([("a", "x")]), store.decided,
    ]  # fmt: skip
    for write in writes:
        with pytest.raises(StoreError, match="locked"):
            write()
    assert not store.trouble, "a decision holds in memory"
    store.close()
    list(held)
    store = opened(folder)
    assert (store.trouble, store.intent()) == (None, WANTED)
    assert not list(folder.glob("*.damaged-*"))
    store.close()


@pytest.mark.parametrize("way", ["others may write", "a file", "profiles is a file"])
def test_a_folder_that_cannot_be_used(tmp_path: Path, way: str) -> None:
    folder = tmp_path / "state"
    if way == "a file":
        folder.write_bytes(b"")
    else:
        folder.mkdir()
        (folder / "profiles").write_bytes(b"") if way == "profiles is a file" else folder.chmod(0o777)
    store = opened(folder)
    assert store.unkept is not None and store.trouble is not None
    assert dict(store.profiles()) == {}
    with pytest.raises(StoreError):
        store.save_intent(WANTED)
    store.close()


def test_a_database_that_turns_bad_while_it_is_open(folder: Path) -> None:
    store = opened(folder)
    store._db.close()
    for read in (store.known, store.last_good_settings, store.intent, lambda: store.save_intent(WANTED)):
        with pytest.raises(StoreError, match=r"tunwarden\.db: "):
            read()


# --- profiles ---------------------------------------------------------------------------------------------------------

SOUND = to_json(OFFICE)
BAD = {
    "empty": "",
    "cut": SOUND[:-9],
    "null": "null",
    "deep": "[" * 100_000,
    "another's": SOUND.replace('"office"', '"other"'),
    "a key more": SOUND[:-1] + ', "up": "id"}',
    "twice": SOUND + SOUND,
    "path": SOUND.replace('"office"', '"../office"'),
}


@pytest.mark.parametrize("name", [*BAD, "binary", "link", "folder", "fifo", "writable", "giant"])
def test_a_damaged_profile_stays_where_it_is_and_is_told(folder: Path, name: str) -> None:
    file = folder / "profiles/office.json"
    if name in BAD:
        files.write(file, BAD[name].encode())
    else:
        sound = file.read_bytes()
        file.unlink()
        match name:
            case "binary":
                files.write(file, b"\xff\xfe\x00")
            case "link":
                file.symlink_to("/etc/passwd")
            case "folder":
                file.mkdir()
            case "fifo":
                os.mkfifo(file, 0o600)
            case "writable":
                files.write(file, sound, 0o666)
            case "giant":
                files.write(file, b" " * ((4 << 20) + 1))
    store = opened(folder)
    assert dict(store.profiles()) == {}
    assert store.damaged_profiles == {"office"}
    assert store.warnings == [f"The profile file {file} is damaged: import or remove it."]
    assert os.path.lexists(file)
    if name != "folder":
        store.save_profile(OFFICE)
        assert (store.profiles(), store.damaged_profiles, store.warnings) == ({"office": OFFICE}, frozenset(), [])
    else:
        with pytest.raises(StoreError):
            store.save_profile(OFFICE)
    store.close()
