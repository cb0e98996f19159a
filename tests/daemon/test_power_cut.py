"""K5: whatever root writes is complete or as before after a power cut, at any moment, never half; and damage is told.

Each test runs the real code once under strace and looks at every folder that a cut could have left.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from daemon import files, panic
from daemon.linux import sysctls
from daemon.linux.lockdown import CLOSED, NAME, LockdownFile
from daemon.linux.nft_render import render
from daemon.linux.resolver_file import HEADER, ResolvConf
from daemon.linux.resolver_file import render as resolvers
from daemon.linux.sysctls import Sysctls
from daemon.store import Store
from policies.decide import decide
from policies.decision import Intent
from policies.facts import Facts, Tunnel
from policies.firewall import TUNNEL_IFNAME
from policies.profiles import to_json
from policies.settings import Settings
from policies.states import Cause, Target
from tests.daemon.power_cut import Tree, cuts, laid_out, recorded, tree
from tests.daemon.profiles_for_tests import OFFICE

pytestmark = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is missing: run lab/install-missing")

IMPORTS = """
import asyncio, sys
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from daemon import files, panic
from daemon.store import Store
from daemon.linux import sysctls
from daemon.linux.lockdown import LockdownFile
from daemon.linux.resolver_file import ResolvConf
from cli import panic_next
from policies.decide import Intent
from policies.facts import Tunnel
from policies.firewall import FirewallPolicy
from policies.profiles import from_json
from policies.states import Phase, Target
folder = Path(sys.argv[1])
"""
WANTED, WANTED_NEXT = Intent(Target.PROTECTED, profile="office"), Intent(Target.UNPROTECTED, kill_switch=False)
OTHER = replace(OFFICE, private_key=bytes(range(32)))


def left(before: Path, code: str, look: Callable[[Path], object], *arguments: str) -> tuple[set[object], set[object]]:
    """What `look` makes of every folder that a cut in the midst of `code` can leave, and of those after its end."""
    original, seen = tree(before), 0
    during: set[object] = set()
    after: set[object] = set()
    for number, done, content in cuts(original, before, recorded(before, IMPORTS + code, str(before), *arguments)):
        found = look(laid_out(content, before.parent / "after the cut"))
        (after if done else during).add(found)
        seen = max(seen, number)
    assert seen >= 2, "nothing was recorded"
    return during, after


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "state"
    folder.mkdir(mode=0o700)
    return folder


def content(path: Path) -> object:
    return files.read(path) if path.exists() else None


@pytest.mark.parametrize(
    "code",
    [
        "files.write(folder / 'file', b'new' * 2000)",
        "files.write(folder / 'file', b'new' * 2000, 0o644, (0, 0))",
    ],
)
def test_a_file(folder: Path, code: str) -> None:
    files.write(folder / "file", b"old" * 3000)
    during, after = left(folder, code, lambda found: content(found / "file"))
    assert during == {b"old" * 3000, b"new" * 2000}
    assert after == {b"new" * 2000}


def test_a_file_that_is_written_as_people_do_would_be_found_torn(folder: Path) -> None:
    """The control: without fsync the very same disk loses content, and without the folder's the name."""
    files.write(folder / "file", b"old" * 3000)
    in_place = "(folder / 'file').write_bytes(b'new' * 2000)"
    during, after = left(folder, in_place, lambda found: content(found / "file"))
    assert (during | after) - {b"old" * 3000, b"new" * 2000}
    unsynced = "(folder / 'new').write_bytes(b'new' * 2000); (folder / 'new').rename(folder / 'file')"
    _, after = left(folder, unsynced, lambda found: content(found / "file"))
    assert b"" in after or after - {b"old" * 3000, b"new" * 2000}


def test_a_link_and_a_removal(folder: Path) -> None:
    files.write(folder / "file", b"old")
    during, after = left(folder, "files.link(folder / 'file', 'target')", lambda found: tree(found).get("file"))
    assert (during, after) == ({b"old", "target"}, {"target"})
    files.write(folder / "file", b"old")
    during, after = left(folder, "files.remove(folder / 'file')", lambda found: content(found / "file"))
    assert (during, after) == ({b"old", None}, {None})


# --- the store --------------------------------------------------------------------------------------------------------


def used(folder: Path) -> Path:
    """A state folder that has been in use."""
    store = Store(folder, lambda: 1.7e9)
    store.save_intent(WANTED)
    store.save_good_settings([("a", "version = 1 # old")])
    store.save_profile(OFFICE)
    store.close()
    return folder


def in_store(look: Callable[[Store], object]) -> Callable[[Path], object]:
    def opened(found: Path) -> object:
        store = Store(found, lambda: 1.8e9)
        try:
            assert (store.trouble, store.unkept, store.warnings) == (None, None, [])
            return look(store)
        finally:
            store.close()

    return opened


OPEN_STORE = "store = Store(folder, lambda: 1.75e9);"


def test_the_intent(folder: Path) -> None:
    """A choice is on the disk before it is acted on, and no cut makes a fresh install of a used one."""
    code = OPEN_STORE + "store.save_intent(Intent(Target.UNPROTECTED, kill_switch=False))"
    during, after = left(used(folder), code, in_store(Store.intent))
    assert (during, after) == ({WANTED, WANTED_NEXT}, {WANTED_NEXT})


def test_the_last_good_settings(folder: Path) -> None:
    code = OPEN_STORE + "store.save_good_settings([('a', 'version = 1 # new')])"
    during, after = left(used(folder), code, in_store(Store.last_good_settings))
    old, new = ((("a", f"version = 1 # {age}"),) for age in ("old", "new"))
    assert (during, after) == ({old, new}, {new})


def test_users_settings(folder: Path) -> None:
    code = OPEN_STORE + "store.save_own_settings({'wifi.secured': 'prompt'})"
    during, after = left(used(folder), code, in_store(lambda store: tuple(store.own_settings().items())))
    assert (during, after) == ({(), (("wifi.secured", "prompt"),)}, {(("wifi.secured", "prompt"),)})


def test_a_migration(folder: Path) -> None:
    """An upgrade that a power cut interrupts begins anew, or has been done."""
    db = sqlite3.connect(used(folder) / "tunwarden.db")
    db.executescript("UPDATE kept SET value = 'version = 1 # old' WHERE name = 'settings'; PRAGMA user_version = 1")
    db.close()

    def version(found: Path) -> object:
        there = in_store(lambda store: (store.intent(), store.last_good_settings()))(found)
        assert there == (WANTED, (("/etc/tunwarden/tunwarden.toml", "version = 1 # old"),))
        return there

    during, after = left(folder, OPEN_STORE, version)
    assert len(during | after) == 1


def test_a_profile(folder: Path) -> None:
    def key(store: Store) -> object:
        return store.profiles()["office"].private_key

    code = OPEN_STORE + "store.save_profile(from_json(sys.argv[2]))"
    during, after = left(used(folder), code, in_store(key), to_json(OTHER))
    assert (during, after) == ({OFFICE.private_key, OTHER.private_key}, {OTHER.private_key})


def closed(store: Store) -> object:
    """Whether what a start makes of this store lets nothing out."""
    facts = Facts(store_broken=store.trouble is not None)
    decision = decide(facts, Settings(), store.intent())
    assert (decision.closed is Cause.STORE_BROKEN) == (store.trouble is not None)
    return "closed and told" if store.trouble else "fresh"


def look_at_any(found: Path) -> object:
    store = Store(found, lambda: 1.8e9)
    try:
        return closed(store)
    finally:
        store.close()


def test_the_first_start(folder: Path) -> None:
    """A store that is cut short as it is made is no store in good health: the next start is closed, or a first one."""
    during, after = left(folder, OPEN_STORE, look_at_any)
    assert during <= {"fresh", "closed and told"}
    assert after == {"fresh"}


@pytest.mark.parametrize("damage", ["garbage", "empty"])
def test_a_damaged_store_is_never_taken_for_a_fresh_install(folder: Path, damage: str) -> None:
    used(folder)
    (folder / "tunwarden.db").write_bytes(b"no database" * 500 if damage == "garbage" else b"")
    during, after = left(folder, OPEN_STORE, look_at_any)
    assert during | after == {"closed and told"}


def test_trouble_ends_only_with_a_decision_that_is_on_the_disk(folder: Path) -> None:
    used(folder)
    (folder / "tunwarden.db").write_bytes(b"no database")
    Store(folder, lambda: 1.75e9).close()
    code = OPEN_STORE + "store.decided(); store.save_intent(Intent(Target.PROTECTED, profile='office'))"

    def look(found: Path) -> object:
        store = Store(found, lambda: 1.8e9)
        try:
            return (closed(store), store.intent().target)
        finally:
            store.close()

    during, after = left(folder, code, look)
    assert after == {("fresh", Target.PROTECTED)}
    assert during <= {("closed and told", Target.UNPROTECTED), ("fresh", Target.UNPROTECTED), *after}


# --- the rest ---------------------------------------------------------------------------------------------------------

TUNNEL = "Tunnel('tunwarden0', (), (ip_address('10.9.0.1'),))"
RESOLV = "resolver = ResolvConf(folder / 'resolv.conf', folder / 'saved');"


@pytest.mark.parametrize("kind", ["file", "link"])
@pytest.mark.parametrize("act", ["set", "restore"])
def test_resolv_conf(folder: Path, kind: str, act: str) -> None:
    """Theirs or ours, whole; and theirs can be given back in each case."""
    theirs: Tree = {"resolv.conf": b"nameserver 192.0.2.53\n" if kind == "file" else "../run/stub.conf"}
    laid_out(theirs, folder)
    code = RESOLV
    if act == "restore":
        before = ResolvConf(folder / "resolv.conf", folder / "saved")
        asyncio.run(before.set(Tunnel(TUNNEL_IFNAME, (), (ip_address("10.9.0.1"),))))
        code += "asyncio.run(resolver.restore())"
    else:
        code += f"asyncio.run(resolver.set({TUNNEL}))"
    ours = resolvers(Tunnel(TUNNEL_IFNAME, (), (ip_address("10.9.0.1"),)))
    assert ours.startswith(HEADER)

    def look(found: Path) -> object:
        now = tree(found)["resolv.conf"]
        asyncio.run(ResolvConf(found / "resolv.conf", found / "saved").restore())
        assert tree(found) == theirs, "given back, and nothing is left over"
        return "ours" if now == ours else "theirs" if now == theirs["resolv.conf"] else now

    during, after = left(folder, code, look)
    assert during == {"ours", "theirs"}
    assert after == {"ours" if act == "set" else "theirs"}


@pytest.mark.parametrize("act", ["protect", "restore"])
def test_former_sysctls(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, act: str) -> None:
    """The saved values are all there or none, and the kernel's are changed only after they are on the disk."""
    proc = tmp_path / "proc"
    for name, value in ((sysctls.SRC_VALID_MARK, "0"), (sysctls.ARP_IGNORE, "1")):
        (proc / name).parent.mkdir(parents=True, exist_ok=True)
        (proc / name).write_text(value)
    monkeypatch.setattr(sysctls, "PROC", proc)
    if act == "restore":
        Sysctls(folder / "sysctls.json").protect()
    code = f"sysctls.PROC = Path({str(proc)!r}); sysctls.Sysctls(folder / 'sysctls.json').{act}()"

    def look(found: Path) -> object:
        saved = content(found / "sysctls.json")
        Sysctls(found / "sysctls.json").restore()  # whatever was left: no error
        assert not (found / "sysctls.damaged").exists()
        assert isinstance(saved, bytes | None)
        return json.dumps(json.loads(saved), sort_keys=True) if saved else None

    whole = json.dumps({sysctls.SRC_VALID_MARK: ["0", "1"], sysctls.ARP_IGNORE: ["1", "2"]}, sort_keys=True)
    during, after = left(folder, code, look)
    assert during == {None, whole}
    assert after == {whole if act == "protect" else None}


def test_what_panic_reset_leaves(folder: Path) -> None:
    """Once a start has taken it, no cut brings it back: it would open the machine again."""
    code = "assert panic_next.leave_marker(folder)[0]"
    during, after = left(folder, code, lambda found: panic.taken(found) is not None)
    assert (during, after) == ({False, True}, {True})
    (folder / panic.NAME).write_text("2026-01-01T00:00:00Z\n")
    (folder / panic.NAME).chmod(0o600)
    during, after = left(folder, "assert panic.taken(folder)", lambda found: (found / panic.NAME).exists())
    assert (during, after) == ({False, True}, {False})


class Takes:
    """A kernel that would take any rules."""

    async def run(self, commands: str, *, check: bool = False) -> str:
        return ""

    async def counters(self, table: str) -> str:
        return ""


@pytest.mark.parametrize("act", ["first", "another", "removed"])
def test_the_rules_of_the_next_boot(folder: Path, act: str) -> None:
    """Complete or as before: a half file would not be loaded."""
    old = None
    if act != "first":
        old = (render(CLOSED) + "# of another version\n").encode()
        files.write(folder / NAME, old)
    taker = "async def run(self, text, *, check=False): return ''"
    code = f"class Takes:\n {taker}\n"
    policy = "None" if act == "removed" else "FirewallPolicy(Phase.BLOCKED)"
    code += f"asyncio.run(LockdownFile(folder, Takes).keep({policy}))"
    new = None if act == "removed" else render(CLOSED).encode()
    during, after = left(folder, code, lambda found: content(found / NAME))
    assert (during, after) == ({old, new}, {new})
    asyncio.run(LockdownFile(folder, Takes).keep(CLOSED))
    assert tree(folder) == {NAME: render(CLOSED).encode()}, "what a cut left over is gone after the next time"
