"""K6, in a network namespace: real nft, real ip, the system's own Python without our environment's packages."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path

import pytest

from cli.panic_resolver import restore
from tests.cli.running import tunwarden
from tests.ipc.places import ROOT, STRANGER

PYTHON = (
    f"/usr/bin/python3 -I -S -c 'import sys; sys.path.insert(0, \"{ROOT}\"); import cli.main as m; sys.exit(m.main())'"
)
CLOSED = """
set -e
mount -t tmpfs none /run
mount -t tmpfs none /var/lib
mkdir /var/lib/tunwarden
printf '%s' "$SAVED" > /var/lib/tunwarden/resolv.conf.saved
echo nonsense > /var/lib/tunwarden/lockdown.nft
printf '# tunwarden\\nnameserver 10.2.0.1\\n' > /var/lib/ours
mount --bind /var/lib/ours /etc/resolv.conf
nft add table inet tunwarden
nft add chain inet tunwarden out '{ type filter hook output priority 0; policy drop; }'
nft add table inet foreign
for v in 4 6; do
  ip -$v rule add not fwmark 0x74756e77 table 1953853047 priority 100
  ip -$v rule add not fwmark 0x74756e77 table 1953853047 priority 101
  ip -$v route add unreachable default metric 4294967295 table 1953853047
  ip -$v rule add table 42 priority 200
done
set +e
"""
SHOW = (
    "nft list tables; ip -4 rule; ip -6 rule; ip -4 route show table all type unreachable; cat /etc/resolv.conf; "
    "ls /var/lib/tunwarden\n"
)
SAVED = json.dumps(
    {"kind": "file", "content": base64.b64encode(b"nameserver 192.0.2.53\n").decode(), "mode": 0o644, "owner": [0, 0]}
)


def in_namespace(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/usr/bin/unshare", "--net", "--mount", "/bin/sh", "-c", script],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "SAVED": SAVED}, capture_output=True, text=True, timeout=60,
        check=False, cwd="/",
    )  # fmt: skip


@pytest.mark.netns
def test_it_reopens_the_machine_and_leaves_others_things() -> None:
    done = in_namespace(f"{CLOSED}{PYTHON} panic-reset --yes; echo code $?; {SHOW}")
    said, _, left = done.stdout.partition("code 0\n")
    assert said.splitlines()[:7] == [
        "Daemon: does not run.",
        "Next start of the daemon: it stays open, unless the settings file says otherwise or has errors.",
        "Next boot: the rules that block from its beginning were removed.",
        "Firewall table inet tunwarden: removed.",
        "IPv4 routing rules: 2 removed.",
        "IPv6 routing rules: 2 removed.",
        "Name resolution: /etc/resolv.conf given back.",
    ], done
    assert "  nft delete table inet tunwarden" in said
    assert "table inet foreign" in left
    assert left.count("lookup 42") == 2
    assert "nameserver 192.0.2.53" in left
    assert left.splitlines()[-1] == "panic-reset"
    for ours in ("tunwarden", "1953853047", "0x74756e77", "unreachable"):
        assert ours not in left
    assert done.stderr == ""


@pytest.mark.netns
def test_twice_is_harmless() -> None:
    done = in_namespace(f"{CLOSED}{PYTHON} panic-reset --yes >/dev/null; {PYTHON} panic-reset --yes --json; echo $?")
    report, code = done.stdout.splitlines()
    assert code == "0", done
    steps = json.loads(report)
    assert (steps["open"], steps["stays_open"], steps["daemon_running"]) == (True, True, False)
    assert steps["steps"][2:4] == [
        "Next boot: there were no rules that block from its beginning.",
        "Firewall table inet tunwarden: was not there.",
    ]


@pytest.mark.netns
def test_a_failure_is_told() -> None:
    broken = "mount -t tmpfs none /usr/sbin"  # nft and ip are gone
    done = in_namespace(f"{CLOSED}{broken}; {PYTHON} panic-reset --yes; echo code $?")
    assert done.stdout.count("FAILED:") == 3, done
    assert done.stdout.endswith("code 1\n")


@pytest.mark.netns
def test_it_asks_first() -> None:
    done = in_namespace(f"{CLOSED}echo no | {PYTHON} panic-reset; echo code $?; {SHOW}")
    assert done.stdout.startswith("code 1\n")
    assert "table inet tunwarden" in done.stdout
    done = in_namespace(f"{CLOSED}echo yes | {PYTHON} panic-reset; echo code $?")
    assert "removed." in done.stdout


RUNNING = """
mkdir /run/tunwarden
echo 4711 >/run/tunwarden/daemon.pid
flock /run/tunwarden/daemon.pid sleep 60 & daemon=$!
while flock --nonblock /run/tunwarden/daemon.pid true; do sleep 0.01; done
"""
# What systemctl would do: it is asked in just these words, in an environment of ours, and the daemon ends.
SYSTEMD = """
mkdir -p /run/systemd/system
cat >/run/systemctl <<'END'
#!/bin/sh
echo "$@" >/run/asked
env >>/run/asked
pkill --parent "$(cat /run/daemon)" sleep
flock /run/tunwarden/daemon.pid true
END
chmod 755 /run/systemctl
mount --bind /run/systemctl /usr/bin/systemctl
echo $daemon >/run/daemon
"""


@pytest.mark.netns
def test_a_daemon_that_runs_without_systemd_is_told_of() -> None:
    """It may hang: its lock says that it lives, not its socket."""
    done = in_namespace(f"{CLOSED}{RUNNING}{PYTHON} panic-reset --yes; echo code $?; pkill --parent $daemon")
    assert "FAILED: Daemon: process 4711 still runs" in done.stdout, done
    assert "systemctl stop tunwarden; tunwarden panic-reset" in done.stdout
    assert "Firewall table inet tunwarden: removed." in done.stdout
    assert done.stdout.endswith("code 1\n")


@pytest.mark.netns
def test_systemd_is_asked_to_stop_it() -> None:
    done = in_namespace(f"{CLOSED}{RUNNING}{SYSTEMD}EVIL=1 {PYTHON} panic-reset --yes; echo code $?; cat /run/asked")
    said, _, asked = done.stdout.partition("code 0\n")
    assert said.splitlines()[0] == "Daemon: stopped.", done
    assert asked.splitlines()[0] == "stop tunwarden.socket tunwarden-read.socket tunwarden.service"
    assert {line.split("=")[0] for line in asked.splitlines()[1:]} <= {"LC_ALL", "PATH", "PWD", "_", "SHLVL", "OLDPWD"}
    assert "hangs" in done.stderr


@pytest.mark.netns
@pytest.mark.parametrize("missing", ["/var/lib/tunwarden", "/var/lib/tunwarden/* /run/tunwarden"])
def test_with_half_of_it_gone(missing: str) -> None:
    show = "ls -ld /var/lib/tunwarden; ls /var/lib/tunwarden"
    done = in_namespace(f"{CLOSED}rm -rf {missing}; {PYTHON} panic-reset --yes; echo code $?; {show}")
    assert "code 0\ndrwx" in done.stdout, done
    assert done.stdout.endswith("\npanic-reset\n")


@pytest.mark.netns
def test_a_disk_that_refuses_keeps_nothing_closed() -> None:
    read_only = "cd /var/lib/tunwarden; mount --bind . .; mount -o remount,bind,ro /var/lib/tunwarden"
    done = in_namespace(f"{CLOSED}{read_only}; {PYTHON} panic-reset --yes --json; echo code $?; {SHOW}")
    report, rest = done.stdout.split("\ncode 1\n")
    steps = json.loads(report)
    assert (steps["open"], steps["stays_open"], steps["daemon_running"]) == (True, False, False), done
    assert "To prevent that: systemctl disable tunwarden" in steps["steps"][1]
    assert "To prevent that: systemctl disable tunwarden-lockdown" in steps["steps"][2]
    given_back = "Name resolution: /etc/resolv.conf given back; /var/lib/tunwarden/resolv.conf.saved stays"
    assert steps["steps"][6] == f"{given_back} (Read-only file system)."
    assert "table inet tunwarden" not in rest
    assert "nameserver 192.0.2.53" in rest


@pytest.mark.netns
def test_it_needs_root(tmp_path: Path) -> None:
    ended = tunwarden(tmp_path, "panic-reset", "--yes", who=STRANGER)
    assert ended.code == 4
    assert "sudo" in ended.err


def saved(kind: str, content: bytes, mode: int = 0o640) -> str:
    return json.dumps({"kind": kind, "content": base64.b64encode(content).decode(), "mode": mode, "owner": [0, 0]})


def test_resolv_conf_of_each_kind(tmp_path: Path) -> None:
    copy, target = tmp_path / "saved", tmp_path / "resolv.conf"
    for kind, content in (("file", b"nameserver 192.0.2.53\n"), ("link", b"/run/other"), ("absent", b"")):
        target.unlink(missing_ok=True)
        target.write_bytes(b"# tunwarden\n")
        copy.write_text(saved(kind, content))
        assert restore(copy, target) == (True, f"Name resolution: {target} given back.")
        assert not copy.exists()
        match kind:
            case "file":
                assert (target.read_bytes(), target.stat().st_mode & 0o777) == (content, 0o640)
            case "link":
                assert target.readlink() == Path("/run/other")
            case _:
                assert not target.exists()


@pytest.mark.parametrize("content", ["", "{}", "[]", "nonsense", '{"kind": "x", "content": "", "mode": 1}', "\xff"])
def test_a_damaged_copy_is_told_and_kept(tmp_path: Path, content: str) -> None:
    copy, target = tmp_path / "saved", tmp_path / "resolv.conf"
    target.write_bytes(b"# tunwarden\n")
    copy.write_text(content)
    worked, text = restore(copy, target)
    assert not worked, text
    assert copy.exists()
    assert target.read_bytes() == b"# tunwarden\n"


def test_a_file_that_is_not_ours_stays(tmp_path: Path) -> None:
    copy, target = tmp_path / "saved", tmp_path / "resolv.conf"
    target.write_bytes(b"nameserver 203.0.113.9\n")
    copy.write_text(saved("file", b"old"))
    assert restore(copy, target)[0]
    assert target.read_bytes() == b"nameserver 203.0.113.9\n"


def test_the_numbers_are_those_of_policies() -> None:
    from cli import panic_reset
    from policies.firewall import MARK

    assert str(MARK) == panic_reset.TABLE


def test_the_copy_is_the_one_the_daemon_makes() -> None:
    from cli import panic_resolver
    from daemon.linux import resolver_file as resolver

    original = resolver.Original(resolver.Kind.FILE, b"nameserver 192.0.2.1\n", 0o644, (0, 0))
    assert json.loads(original.to_bytes()) == json.loads(saved("file", b"nameserver 192.0.2.1\n", 0o644))
    assert panic_resolver.OURS == resolver.HEADER
