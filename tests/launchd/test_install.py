"""The installer and the uninstaller for macOS, tried against a fake root. No Mac was there: see launchd/README.md."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.boot.conftest import wheels as wheels
from tests.launchd.scripts import LAUNCHD, TOP, install, property_list, uninstall

PLIST = "Library/LaunchDaemons/org.tunwarden.daemon.plist"
FILES = {
    "Library/tunwarden/bin/tunwarden", "Library/tunwarden/commands/tunwarden", PLIST, "etc/paths.d/tunwarden",
    "etc/tunwarden/tunwarden.toml",
}  # fmt: skip


class Launchd:
    """Notes what it is asked; refuses the first `refuses` times to start the job."""

    def __init__(self, refuses: int = 0) -> None:
        self.asked: list[tuple[str, ...]] = []
        self.refuses = refuses

    def __call__(self, command: Sequence[str]) -> int:
        self.asked.append(tuple(command))
        if command[1] == "bootstrap" and self.refuses:
            self.refuses -= 1
            return 5
        return 0


def environment(new: Path) -> None:
    """Stands for the packages, which need an index."""
    (new / "bin").mkdir(parents=True)
    (new / "bin/tunwarden").write_text("#!\n")


def files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir()}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "AGAIN_S", 0.0)


def test_what_is_where(tmp_path: Path, quick: None) -> None:
    launchd = Launchd(refuses=2)
    install.install(tmp_path, launchd, environment)
    assert files(tmp_path) == FILES
    for name in FILES - {"Library/tunwarden/commands/tunwarden"}:
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) in (0o644, 0o600), name
    assert stat.S_IMODE((tmp_path / PLIST).stat().st_mode) == 0o644
    assert stat.S_IMODE((tmp_path / "var/log/tunwarden").stat().st_mode) == 0o700
    assert property_list.problems((tmp_path / PLIST).read_bytes()) == []
    assert (tmp_path / "etc/paths.d/tunwarden").read_text() == "/Library/tunwarden/commands\n"
    assert (tmp_path / "Library/tunwarden/commands/tunwarden").read_text() == "#!\n"
    start = ("/bin/launchctl", "bootstrap", "system", f"/{PLIST}")
    assert launchd.asked == [
        ("/bin/launchctl", "bootout", "system/org.tunwarden.daemon"),
        ("/bin/launchctl", "enable", "system/org.tunwarden.daemon"),
        *[start] * 3,
    ]


def test_an_upgrade_keeps_the_settings_and_drops_the_old_environment(tmp_path: Path) -> None:
    install.install(tmp_path, Launchd(), environment)
    (tmp_path / "etc/tunwarden/tunwarden.toml").write_text("version = 1\n")
    (tmp_path / "Library/tunwarden/old").touch()
    install.install(tmp_path, Launchd(), environment)
    assert (tmp_path / "etc/tunwarden/tunwarden.toml").read_text() == "version = 1\n"
    assert files(tmp_path) == FILES


def test_a_failed_upgrade_changes_nothing(tmp_path: Path) -> None:
    install.install(tmp_path, Launchd(), environment)
    (tmp_path / PLIST).write_bytes(b"as it was")

    def fails(new: Path) -> None:
        environment(new)
        raise install.InstallError("the index is out of reach")

    launchd = Launchd()
    with pytest.raises(install.InstallError):
        install.install(tmp_path, launchd, fails)
    assert files(tmp_path) == FILES
    assert (tmp_path / PLIST).read_bytes() == b"as it was"
    assert launchd.asked == []


def test_a_launchd_that_refuses_is_told(tmp_path: Path, quick: None) -> None:
    with pytest.raises(install.InstallError, match="sudo launchctl bootstrap system /Library/LaunchDaemons/"):
        install.install(tmp_path, Launchd(refuses=1000), environment)


def test_a_link_in_its_way_is_replaced_not_followed(tmp_path: Path) -> None:
    """E5: also the name of the unfinished file may have been taken."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    for name in (PLIST, f"Library/LaunchDaemons/.{Path(PLIST).name}.tunwarden", "etc/paths.d/tunwarden"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).symlink_to(victim)
    install.install(tmp_path, Launchd(), environment)
    assert victim.read_text() == "precious"
    assert not (tmp_path / PLIST).is_symlink()
    assert files(tmp_path) == FILES | {"victim"}


@pytest.mark.parametrize("purge", [False, True])
def test_uninstall(tmp_path: Path, purge: bool) -> None:
    install.install(tmp_path, Launchd(), environment)
    (tmp_path / "Library/tunwarden.old").mkdir()
    for place in ("var/run/tunwarden", "var/lib/tunwarden"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "file").touch()
    (tmp_path / "etc/paths.d/theirs").touch()
    launchd = Launchd()
    assert uninstall.uninstall(tmp_path, launchd, purge) == []
    assert launchd.asked == [
        (f"{tmp_path}/Library/tunwarden/bin/tunwarden", "disconnect"),
        ("/bin/launchctl", "bootout", "system/org.tunwarden.daemon"),
    ]
    kept = {"etc/tunwarden/tunwarden.toml", "var/lib/tunwarden/file"}
    assert files(tmp_path) == {"etc/paths.d/theirs"} | (set() if purge else kept)
    assert uninstall.uninstall(tmp_path, launchd, purge) == []


def test_a_python_that_others_may_write_is_refused(tmp_path: Path) -> None:
    """E4: Homebrew's, for one. Links are followed, for what they lead to is what runs."""
    python = tmp_path / "bin/python3"
    python.parent.mkdir()
    python.touch()
    python.parent.chmod(0o775)
    with pytest.raises(install.InstallError, match=f"others than root may write {python.parent},"):
        install.only_roots(python)
    (tmp_path / "link").symlink_to("/usr/bin/env")
    install.only_roots(tmp_path / "link")
    install.only_roots(Path("/usr/bin/env"))


@pytest.mark.parametrize("script", ["install.py", "uninstall.py"])
def test_it_refuses_what_is_no_mac(script: str) -> None:
    if os.uname().sysname == "Darwin":
        pytest.skip("this is one")
    done = subprocess.run(
        [sys.executable, "-I", str(LAUNCHD / script)], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"{script.removesuffix('.py')}: this needs root, and macOS\n"


def test_the_whole_of_it_into_a_folder(wheels: Path, tmp_path: Path) -> None:
    """The real environment too: what is in it, whose it is, and that the command has a name that will exist."""

    def call(script: str, *arguments: str) -> None:
        settings = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels)}
        subprocess.run(
            ["/usr/bin/python3", "-I", LAUNCHD / script, "--root", tmp_path, *arguments],
            check=True, capture_output=True, timeout=300, env=settings,
        )  # fmt: skip

    call("install.py")
    prefix = tmp_path / "Library/tunwarden"
    assert (prefix / "bin/tunwarden").read_text().splitlines()[0] == "#!/Library/tunwarden/bin/python -I"
    names = {path.name for path in (prefix / "bin").iterdir()}
    assert "tunwarden" in names
    assert all(name.startswith("python") for name in names - {"tunwarden"})
    packages = next((prefix / "lib").glob("python*/site-packages"))
    assert {"daemon", "policies", "ipc", "cli"} <= set(os.listdir(packages))
    assert not {"lab", "pip", "setuptools"} & set(os.listdir(packages))
    writable = [path for path in prefix.rglob("*") if not path.is_symlink() and path.stat().st_mode & 0o022]
    assert writable == []
    code = "import daemon.__main__, cli.main, sys; print(daemon.__main__.__file__, sys.path)"
    shown = subprocess.run(
        [prefix / "bin/python", "-I", "-c", code], check=True, capture_output=True, text=True, cwd="/", timeout=60
    )
    assert str(packages) in shown.stdout
    assert str(TOP) not in shown.stdout
    assert not [path for path in files(tmp_path) if "tunwarden.new" in path or "tunwarden.old" in path]
    call("uninstall.py", "--purge")
    assert files(tmp_path) == set()
