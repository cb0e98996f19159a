"""/etc/resolv.conf: into the tunnel and back, exactly, whatever crashes in between (L17)."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import subprocess
import sys
from ipaddress import ip_address
from pathlib import Path

import pytest

from daemon.host import HostError, Resolver
from daemon.linux.resolver_file import ResolvConf, render
from policies.facts import Tunnel

ROOT = Path(__file__).parents[3]
ORIGINAL = b"# from the caf\xc3\xa9\nnameserver 192.0.2.1\nsearch example.net\noptions rotate\n"
TUNNEL = Tunnel("tunwarden0", (), (ip_address("198.51.100.129"), ip_address("2001:db8:5::1")))
OTHER = Tunnel("tunwarden0", (), (ip_address("198.51.100.66"),))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "etc" / "resolv.conf"
    path.parent.mkdir()
    path.write_bytes(ORIGINAL)
    path.chmod(0o664)
    return path


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return tmp_path / "var" / "resolv.conf.saved"


def do(resolver: ResolvConf, *steps: Tunnel | None) -> None:
    """`set` for a tunnel, `restore` for None."""

    async def work() -> None:
        for tunnel in steps:
            await (resolver.restore() if tunnel is None else resolver.set(tunnel))

    asyncio.run(work())


def state(path: Path) -> tuple[str, bytes, int]:
    about = path.lstat()
    if stat.S_ISLNK(about.st_mode):
        return "link", os.fsencode(os.readlink(path)), 0
    return "file", path.read_bytes(), stat.S_IMODE(about.st_mode)


def test_resolv_conf_is_the_resolver_of_the_host(path: Path, saved: Path) -> None:
    adapter: Resolver = ResolvConf(path, saved)
    assert adapter


def test_render_names_the_tunnels_resolvers_and_nothing_else() -> None:
    lines = [line for line in render(TUNNEL).decode().splitlines() if not line.startswith("#")]
    assert lines == ["nameserver 198.51.100.129", "nameserver 2001:db8:5::1"]


def test_render_without_resolvers_has_no_nameserver_and_says_why() -> None:
    text = render(Tunnel("tunwarden0", (), ())).decode()
    assert all(line.startswith("#") for line in text.splitlines())
    assert "names no resolver" in text


@pytest.mark.parametrize(
    "steps",
    [(TUNNEL, None), (TUNNEL, TUNNEL, None), (TUNNEL, OTHER, None, None), (None,), (TUNNEL, None, OTHER, None)],
)
def test_l17_restore_gives_back_exactly_what_was_there(path: Path, saved: Path, steps: tuple[Tunnel | None]) -> None:
    before = state(path)
    do(ResolvConf(path, saved), *steps)
    assert state(path) == before
    assert not saved.exists()
    assert os.listdir(path.parent) == ["resolv.conf"]


def test_set_writes_for_everybody_and_keeps_the_copy_for_root(path: Path, saved: Path) -> None:
    do(ResolvConf(path, saved), TUNNEL)
    assert state(path) == ("file", render(TUNNEL), 0o644)
    assert stat.S_IMODE(saved.stat().st_mode) == 0o600


@pytest.mark.parametrize("target", ["/run/systemd/resolve/stub-resolv.conf", "elsewhere", "../etc/elsewhere"])
def test_a_symbolic_link_is_replaced_not_followed_and_comes_back(path: Path, saved: Path, target: str) -> None:
    (path.parent / "elsewhere").write_bytes(b"theirs")
    path.unlink()
    path.symlink_to(target)
    resolver = ResolvConf(path, saved)
    do(resolver, TUNNEL)
    assert state(path)[0] == "file"
    assert (path.parent / "elsewhere").read_bytes() == b"theirs"
    do(resolver, None)
    assert state(path) == ("link", target.encode(), 0)


def test_no_file_at_all_comes_back_as_none(path: Path, saved: Path) -> None:
    path.unlink()
    resolver = ResolvConf(path, saved)
    do(resolver, TUNNEL)
    assert resolver.intact()
    do(resolver, None)
    assert not path.exists()


def test_the_owner_comes_back(path: Path, saved: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    os.chown(path, 65534, 65534)
    do(ResolvConf(path, saved), TUNNEL, None)
    assert (path.stat().st_uid, path.stat().st_gid) == (65534, 65534)


def test_another_daemon_restores_what_a_killed_one_set(path: Path, saved: Path) -> None:
    before = state(path)
    do(ResolvConf(path, saved), TUNNEL)
    do(ResolvConf(path, saved), OTHER)  # a new process: knows nothing but the files
    do(ResolvConf(path, saved), None)
    assert state(path) == before


def test_what_another_program_wrote_meanwhile_is_kept(path: Path, saved: Path) -> None:
    resolver = ResolvConf(path, saved)
    do(resolver, TUNNEL)
    assert resolver.intact()
    path.write_bytes(b"nameserver 192.0.2.77\n")  # a DHCP client, on the next network
    assert not resolver.intact()
    do(resolver, None)
    assert path.read_bytes() == b"nameserver 192.0.2.77\n"
    assert not saved.exists()


def test_while_connected_set_wins_again_and_gives_the_newest_back(path: Path, saved: Path) -> None:
    resolver = ResolvConf(path, saved)
    do(resolver, TUNNEL)
    path.unlink()
    path.write_bytes(b"nameserver 192.0.2.77\n")
    path.chmod(0o640)
    do(resolver, TUNNEL)
    assert resolver.intact()
    do(resolver, None)
    assert state(path) == ("file", b"nameserver 192.0.2.77\n", 0o640)


def test_intact_sees_removal_links_and_edits(path: Path, saved: Path) -> None:
    resolver = ResolvConf(path, saved)
    assert not resolver.intact(), "nothing was set yet"
    do(resolver, TUNNEL)
    spoilt = (
        lambda: path.unlink(),
        lambda: (path.unlink(), path.symlink_to("/etc/hostname")),
        lambda: path.write_bytes(render(OTHER)),
        lambda: path.write_bytes(render(TUNNEL) + b"nameserver 192.0.2.1\n"),
    )
    for spoil in spoilt:
        assert resolver.intact()
        spoil()
        assert not resolver.intact()
        do(resolver, TUNNEL)
    assert resolver.intact()
    do(resolver, None)
    assert not resolver.intact()


def test_a_lost_or_damaged_copy_is_told_and_nothing_invented(path: Path, saved: Path) -> None:
    resolver = ResolvConf(path, saved)
    do(resolver, TUNNEL)
    for damage in (b"", b"{}", b"[1]", b'{"kind": "file", "content": "%%", "mode": 420, "owner": [0, 0]}', b"\xff"):
        saved.write_bytes(damage)
        with pytest.raises(HostError, match="is damaged"):
            do(resolver, None)
    saved.unlink()
    with pytest.raises(HostError, match="is gone"):
        do(resolver, None)
    assert path.read_bytes() == render(TUNNEL)


def test_a_refusal_of_the_kernel_becomes_a_sentence(path: Path, saved: Path) -> None:
    path.unlink()
    path.mkdir()
    with pytest.raises(HostError, match=r"point name resolution into the tunnel: .*neither a file nor"):
        do(ResolvConf(path, saved), TUNNEL)
    path.rmdir()
    path.write_bytes(b"#" * 100_000)
    with pytest.raises(HostError, match="longer than"):
        do(ResolvConf(path, saved), TUNNEL)
    assert not saved.exists()


def test_e5_the_copy_is_not_read_when_others_could_have_written_it(path: Path, saved: Path) -> None:
    do(ResolvConf(path, saved), TUNNEL)
    saved.chmod(0o666)
    with pytest.raises(HostError, match="somebody else than root"):
        do(ResolvConf(path, saved), None)


SCRIPT = """
import asyncio, json, os, shutil, stat, subprocess, sys
from ipaddress import ip_address
from pathlib import Path
from crash_points import crashes
from daemon.linux.resolver_file import ResolvConf
from policies.facts import Tunnel

folder, kind, act, mounted = Path(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4] == "mounted"
path, saved = folder / "etc" / "resolv.conf", folder / "var" / "saved"
tunnel = Tunnel("tunwarden0", (), (ip_address("198.51.100.129"),))
other = Tunnel("tunwarden0", (), (ip_address("198.51.100.66"), ip_address("198.51.100.67")))
CONTENTS = {"short": "#\\n", "empty": "",
            "file": "# theirs, with a comment longer than our two lines together\\n" * 9 + "nameserver 192.0.2.1\\n"}

def prepare():
    shutil.rmtree(folder / "var", ignore_errors=True)
    if mounted:
        path.write_text(CONTENTS[kind])
    else:
        shutil.rmtree(folder / "etc", ignore_errors=True)
        path.parent.mkdir()
        if kind in CONTENTS:
            path.write_text(CONTENTS[kind]); path.chmod(0o640)
        elif kind == "link":
            path.symlink_to("../run/resolv.conf")
    if act != "set":
        asyncio.run(ResolvConf(path, saved).set(tunnel))

def state():
    if path.is_symlink():
        return ["link", os.readlink(path)]
    if not path.exists():
        return ["absent", ""]
    return ["file", path.read_text()]

def work():
    resolver = ResolvConf(path, saved)
    asyncio.run(resolver.restore() if act == "restore" else resolver.set(other if act == "again" else tunnel))

if mounted:
    path.parent.mkdir()
    for name in (path, folder / "source"):
        name.write_text("")
    subprocess.run(["mount", "--bind", folder / "source", path], check=True)
left = []
prepare()
for number in crashes(work):
    crashed = state()
    asyncio.run(ResolvConf(path, saved).restore())
    left.append([number, crashed, state(), saved.exists(), sorted(os.listdir(path.parent))])
    prepare()
print(json.dumps(left))
"""


def crash_everywhere(tmp_path: Path, kind: str, act: str, mounted: bool = False) -> list[list[object]]:
    env = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'daemon'}", "PATH": os.environ["PATH"]}
    unshare = ["unshare", "--mount"] if mounted else []
    argv = [*unshare, sys.executable, "-c", SCRIPT, str(tmp_path), kind, act, "mounted" if mounted else "plain"]
    result = subprocess.run(argv, capture_output=True, text=True, env=env)
    assert result.returncode == 0, result.stderr
    left: list[list[object]] = json.loads(result.stdout)
    assert len(left) >= 8, "the crashes happened"
    assert left[-1][0] == 0
    return left


@pytest.mark.parametrize("act", ["set", "again", "restore"])
@pytest.mark.parametrize("kind", ["file", "short", "empty", "link", "absent"])
def test_a_crash_anywhere_leaves_one_whole_file_and_restore_works(tmp_path: Path, kind: str, act: str) -> None:
    left = crash_everywhere(tmp_path, kind, act)
    original = left[-1][2]
    for number, crashed, restored, copy, folder in left:
        assert crashed == original or complete(crashed), f"torn at operation {number}"
        assert restored == original, f"not restored after a crash at operation {number}"
        assert not copy
        assert folder == ([] if kind == "absent" else ["resolv.conf"])


@pytest.mark.netns
@pytest.mark.parametrize("act", ["set", "again", "restore"])
@pytest.mark.parametrize("kind", ["file", "empty"])
def test_a_mounted_file_is_written_in_place_and_restore_works_after_any_crash(
    tmp_path: Path, kind: str, act: str
) -> None:
    """Containers mount /etc/resolv.conf: rename gives EBUSY. In place nothing is atomic, but all is recoverable."""
    left = crash_everywhere(tmp_path, kind, act, mounted=True)
    original = left[-1][2]
    for number, _, restored, copy, _ in left:
        assert restored == original, f"not restored after a crash at operation {number}"
        assert not copy


def complete(state: object) -> bool:
    """Whether it is one of our files, whole."""
    return isinstance(state, list) and state[0] == "file" and state[1] in (TUNNEL_TEXT, AGAIN_TEXT)


TUNNEL_TEXT = render(Tunnel("tunwarden0", (), (ip_address("198.51.100.129"),))).decode()
AGAIN_TEXT = render(Tunnel("tunwarden0", (), (ip_address("198.51.100.66"), ip_address("198.51.100.67")))).decode()
