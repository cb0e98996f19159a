"""Installs the daemon on this Mac: a private environment, the property list, the command. Once more, it upgrades.

    sudo /Library/Frameworks/Python.framework/Versions/3.12/bin/python3 -I launchd/install.py

The environment is made with the Python that runs this, which nobody but root may be able to write (E4): python.org's
installer makes such a one, Homebrew does not. Whatever fails until the new environment is complete leaves the old one
running. `--root FOLDER` installs into a folder instead, and starts nothing.
"""

from __future__ import annotations

import argparse
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

TOP = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TOP / "launchd"))
import property_list  # noqa: E402

OLDEST = (3, 11)
PACKAGES = ("daemon", "policies", "ipc", "cli")
LABORATORY = (', "lab"', ', "lab.radio"')  # stays here
ENVIRONMENT = {"PATH": property_list.FACTS.path, "LC_ALL": "C"}
LAUNCHCTL = "/bin/launchctl"
TARGET = f"system/{property_list.LABEL}"
TRIES, AGAIN_S = 20, 0.5  # launchd refuses a job while it still ends the former one

PLIST = PurePosixPath("/Library/LaunchDaemons", f"{property_list.LABEL}.plist")
COMMANDS = property_list.PREFIX / "commands"  # what of bin/ is for people
SEARCH = PurePosixPath("/etc/paths.d/tunwarden")  # path_helper(8)
SETTINGS = PurePosixPath("/etc/tunwarden/tunwarden.toml")

Run = Callable[[Sequence[str]], int]  # starts a program; its exit status


class InstallError(Exception):
    """It cannot be done; the text says why, and what to do."""


def place(root: Path, path: PurePosixPath) -> Path:
    """Where a path of the machine is below `root`."""
    return root / path.relative_to("/")


def only_roots(path: Path) -> None:
    """Raises InstallError when anybody but root may write a file or a folder above it, links followed."""
    real = path.resolve(strict=True)
    for step in (real, *real.parents):
        about = step.stat()
        if about.st_uid != 0 or about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise InstallError(
                f"others than root may write {step}, so {path} cannot be what root runs. "
                "Use the Python of python.org's installer."
            )


def make_environment(new: Path) -> None:
    """All that root's process can import: pinned by hash, and our packages. Raises InstallError."""

    def call(*command: str | Path) -> None:
        # pip's own settings, for who has no network; nothing else is taken from whoever runs this.
        offline = {name: os.environ[name] for name in ("PIP_NO_INDEX", "PIP_FIND_LINKS") if name in os.environ}
        if subprocess.run(command, env=ENVIRONMENT | offline, check=False).returncode != 0:
            raise InstallError(f"{' '.join(map(str, command[:6]))} ... failed. What was installed before is as it was.")

    call(sys.executable, "-I", "-m", "venv", "--clear", new)
    pip = (new / "bin/python", "-I", "-m", "pip", "--quiet", "--disable-pip-version-check")
    locks = ("-r", TOP / "requirements.lock", "-r", TOP / "systemd/build.lock")
    call(*pip, "install", "--no-compile", "--only-binary", ":all:", "--require-hashes", *locks)
    with tempfile.TemporaryDirectory() as copy:  # so that no build leftovers appear in the checkout
        for name in PACKAGES:
            shutil.copytree(TOP / name, Path(copy, name), ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(TOP / "README.md", copy)
        project = (TOP / "pyproject.toml").read_text(encoding="utf-8")
        for package in LABORATORY:
            project = project.replace(package, "")
        Path(copy, "pyproject.toml").write_text(project, encoding="utf-8")
        call(*pip, "install", "--no-compile", "--no-deps", "--no-build-isolation", copy)
    call(*pip, "uninstall", "--yes", "setuptools", "pip")  # nothing installs into it any more
    for program in (new / "bin").iterdir():
        if not program.name.startswith("python") and program.name != "tunwarden":
            program.unlink()
    command = new / "bin/tunwarden"
    _, body = command.read_text(encoding="utf-8").split("\n", 1)
    # The name it will have; -I so that no PYTHONPATH of whoever runs it as root is looked at.
    command.write_text(f"#!{property_list.PREFIX}/bin/python -I\n{body}", encoding="utf-8")
    call(new / "bin/python", "-I", "-m", "compileall", "-q", "-s", new, "-p", str(property_list.PREFIX), new / "lib")


def write(path: Path, content: bytes) -> None:
    """A file that all may read, whole or not at all; a link at its place is replaced. Folders above it are made."""
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.tunwarden")
    unfinished.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with os.fdopen(os.open(unfinished, flags, 0o644), "wb") as file:
        file.write(content)
    unfinished.replace(path)


def put_in_place(new: Path, final: Path) -> None:
    """The new environment at its place, by rename; the old one has gone when this returns."""
    old = final.with_name("tunwarden.old")
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        final.rename(old)
    new.rename(final)
    shutil.rmtree(old, ignore_errors=True)


def install(root: Path, run: Run, environment: Callable[[Path], None] = make_environment) -> None:
    """Everything below `root`. Raises InstallError or OSError."""
    content = property_list.to_xml(property_list.property_list())
    if wrong := property_list.problems(content):
        raise InstallError(f"the property list: {'; '.join(wrong)}")
    final = place(root, property_list.PREFIX)
    new = final.with_name("tunwarden.new")
    new.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    try:
        environment(new)
        (new / COMMANDS.name).mkdir(mode=0o755)
        (new / COMMANDS.name / "tunwarden").symlink_to("../bin/tunwarden")
        put_in_place(new, final)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    place(root, property_list.LOG).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write(place(root, SEARCH), f"{COMMANDS}\n".encode())
    if not place(root, SETTINGS).exists():
        write(place(root, SETTINGS), (TOP / "systemd/tunwarden.toml").read_bytes())
    write(place(root, PLIST), content)
    start(run)


def start(run: Run) -> None:
    """The new daemon instead of the old one, whose rules stay in the kernel meanwhile. Raises InstallError."""
    run((LAUNCHCTL, "bootout", TARGET))  # fails where none runs
    run((LAUNCHCTL, "enable", TARGET))
    for _ in range(TRIES):
        if run((LAUNCHCTL, "bootstrap", "system", str(PLIST))) == 0:
            return
        time.sleep(AGAIN_S)
    raise InstallError(f"it is installed, but launchd does not start it: sudo launchctl bootstrap system {PLIST}")


def launchctl(command: Sequence[str]) -> int:
    """Exit status."""
    return subprocess.run(command, env=ENVIRONMENT, check=False).returncode


def nothing(_: Sequence[str]) -> int:
    """In a folder, nothing runs."""
    return 0


def main() -> None:
    """Exit status 1 with a sentence when it cannot be done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, metavar="FOLDER")
    root = parser.parse_args().root
    os.umask(0o022)
    try:
        if sys.version_info < OLDEST:
            raise InstallError(f"Python {'.'.join(map(str, OLDEST))} or newer is needed, not {sys.version.split()[0]}")
        if root is None:
            if os.geteuid() != 0 or os.uname().sysname != "Darwin":
                raise InstallError("this needs root, and macOS")
            if not (TOP / "daemon/macos").is_dir():
                raise InstallError("the daemon has no adapters for macOS yet, so there is nothing to start")
            only_roots(Path(sys.executable))
        install(root or Path("/"), launchctl if root is None else nothing)
    except (InstallError, OSError) as err:
        raise SystemExit(f"install: {err}") from None


if __name__ == "__main__":
    main()
