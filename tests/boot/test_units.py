"""What systemd reads of ours, tried without booting: into a fake root, and offline."""

from __future__ import annotations

import grp
import json
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

SYSTEMD = Path(__file__).parents[2] / "systemd"
UNITS = sorted(path.name for path in SYSTEMD.glob("tunwarden*") if path.suffix in (".service", ".socket"))
# From 0 to 10. README.md says what is left of the first and why.
WORST_EXPOSURE = {"tunwarden.service": 2.0, "tunwarden-watch.service": 1.8, "tunwarden-lockdown.service": 1.8}


def run(program: str, *arguments: str | Path) -> str:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not here: run lab/install-missing")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A fake root with our files where `install` puts them."""
    for kind in ("sysusers", "tmpfiles"):
        (tmp_path / f"usr/lib/{kind}.d").mkdir(parents=True)
        shutil.copy(SYSTEMD / f"tunwarden.{kind}", tmp_path / f"usr/lib/{kind}.d/tunwarden.conf")
    units, presets = tmp_path / "etc/systemd/system", tmp_path / "usr/lib/systemd/system-preset"
    for folder in (units, presets, tmp_path / "var/lib", tmp_path / "run"):
        folder.mkdir(parents=True)
    shutil.copy(SYSTEMD / "tunwarden.preset", presets / "80-tunwarden.preset")
    for name in UNITS:
        shutil.copy(SYSTEMD / name, units)
    return tmp_path


def test_sysusers(root: Path) -> None:
    run("systemd-sysusers", f"--root={root}")
    groups = (root / "etc/group").read_text().splitlines()
    assert [line.split(":")[0] for line in groups] == ["tunwarden"]
    assert "tunwarden" not in (root / "etc/passwd").read_text() if (root / "etc/passwd").exists() else True
    run("systemd-sysusers", f"--root={root}")
    assert (root / "etc/group").read_text().splitlines() == groups


def mode(path: Path) -> str:
    about = path.stat()
    return f"{stat.S_IMODE(about.st_mode):o} {about.st_uid} {grp.getgrgid(about.st_gid).gr_name}"


def test_tmpfiles(root: Path) -> None:
    """As a boot does it. /var/lib/tunwarden is never made: that it is missing says that /var has not come."""
    create = ("systemd-tmpfiles", "--create", f"--root={root}", "tunwarden.conf")
    run(*create)
    assert mode(root / "run/tunwarden") == mode(root / "run/wireguard") == "755 0 root"
    assert not (root / "var/lib/tunwarden").exists()
    (root / "var/lib/tunwarden").mkdir(mode=0o755)
    (root / "run/tunwarden").chmod(0o777)
    run(*create)
    assert mode(root / "var/lib/tunwarden") == "700 0 root"
    assert mode(root / "run/tunwarden") == "755 0 root"


def test_the_preset_enables_every_unit_but_the_one_that_is_asked(root: Path) -> None:
    (root / "etc/systemd/system-preset").mkdir()
    run("systemctl", f"--root={root}", "--quiet", "preset", *UNITS)
    wanted = {path.name for path in (root / "etc/systemd/system").glob("*.wants/*")}
    assert wanted == set(UNITS) - {"tunwarden-watch.service"} == {
        "tunwarden.service", "tunwarden.socket", "tunwarden-read.socket", "tunwarden-watch.socket",
        "tunwarden-lockdown.service",
    }  # fmt: skip


def test_a_distribution_that_enables_nothing(root: Path) -> None:
    """Where the preset of last resort says `disable *`, ours is what counts; an administrator's wins over it."""
    presets = root / "usr/lib/systemd/system-preset"
    (presets / "99-default.preset").write_text("disable *\n")
    run("systemctl", f"--root={root}", "--quiet", "preset", *UNITS)
    assert len([*(root / "etc/systemd/system").glob("*.wants/*")]) == 5
    administrators = root / "etc/systemd/system-preset"
    administrators.mkdir()
    (administrators / "10-mine.preset").write_text("disable tunwarden*\n")
    run("systemctl", f"--root={root}", "--quiet", "preset", *UNITS)
    assert [*(root / "etc/systemd/system").glob("*.wants/*")] == []


@pytest.mark.parametrize("name", WORST_EXPOSURE)
def test_exposure_offline(name: str) -> None:
    worst = f"--threshold={round(WORST_EXPOSURE[name] * 10)}"
    shown = run("systemd-analyze", "security", "--offline=true", "--no-pager", "--json=short", worst, SYSTEMD / name)
    counted = {each["name"] for each in json.loads(shown) if float(each["exposure"] or 0) > 0}
    assert counted, "it looked"
    assert not any("CHOWN" in name for name in counted)


def test_packet_sockets_are_somebody_elses() -> None:
    """Not root's: of a user of its own that has no other right, and none over the network."""
    packets = {"RestrictAddressFamilies=~AF_PACKET", "CapabilityBoundingSet=~CAP_NET_(BIND_SERVICE|BROADCAST|RAW)"}
    administers = "CapabilityBoundingSet=~CAP_NET_ADMIN"

    def counted(name: str) -> set[str]:
        shown = run("systemd-analyze", "security", "--offline=true", "--no-pager", "--json=short", SYSTEMD / name)
        return {each["name"] for each in json.loads(shown) if float(each["exposure"] or 0) > 0}

    daemon, watch = counted("tunwarden.service"), counted("tunwarden-watch.service")
    assert administers in daemon and not packets & daemon
    assert packets <= watch and not {administers, "User=/DynamicUser="} & watch


def test_the_bare_service_would_not_pass(tmp_path: Path) -> None:
    """The control of the figures above."""
    bare = tmp_path / "tunwarden.service"
    bare.write_text("[Service]\nExecStart=/bin/true\n")
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=20", bare]
    assert subprocess.run(command, capture_output=True, check=False, timeout=60).returncode != 0
