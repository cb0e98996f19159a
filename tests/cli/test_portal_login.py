"""N12: `tunwarden portal-login` against the real Varlink face with the fake service behind it; and its browsers."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest

from cli import portal_browser
from tests.cli.running import Ended, daemon, popen, tunwarden
from tests.ipc import varlink_place
from tests.ipc.places import MEMBER, STRANGER, Who, place_of, public_folder

pytestmark = pytest.mark.netns  # needs root: other users ask, and owners are set


def told(states: list[str], *words: str, who: Who = MEMBER) -> Ended:
    """The program, while the daemon says this of its login."""
    ended: list[Ended] = []

    async def check(here: varlink_place.Place) -> None:
        here.service.logins = states
        ended.append(await asyncio.to_thread(tunwarden, here.folder, "portal-login", *words, who=who))

    varlink_place.run(check)
    return ended[0]


def test_the_command_runs_and_its_status_is_ours() -> None:
    ended = told(["begun"], "--", "/bin/sh", "-c", "id -u; exit 7")
    assert (ended.code, ended.out) == (7, f"{MEMBER.uid}\n")
    first, last = ended.err.splitlines()
    assert first.startswith("The login is open, for this command alone and for ")
    assert last == "The command has ended with status 7, so the login is closed again."


def test_a_command_that_is_killed_or_is_none() -> None:
    assert told(["begun"], "--", "/bin/sh", "-c", "kill -TERM $$").code == 128 + signal.SIGTERM
    ended = told(["begun"], "--", "/no/such\x1bthing")
    assert ended.code == 127
    assert "/no/such\\x1bthing: No such file" in ended.err


@pytest.mark.parametrize(
    ("state", "code", "sentence"),
    [("done", 0, "The portal is open."), ("expired", 5, "The time for the login"), ("withdrawn", 1, "was left")],
)
def test_what_becomes_of_it_ends_the_command(state: str, code: int, sentence: str) -> None:
    ended = told(["begun", state], "--", "/bin/sleep", "1000")
    assert ended.code == code
    assert sentence in ended.err


def test_a_command_that_does_not_listen_is_killed() -> None:
    ended = told(["begun", "done"], "--", "/bin/sh", "-c", "trap '' TERM; while :; do sleep 0.1; done")
    assert ended.code == 0


def test_for_programs() -> None:
    lines = told(["begun", "done"], "--json", "--", "/bin/sleep", "1000").out.splitlines()
    assert [line.partition(", ")[0] for line in lines] == ['{"state": "begun"', '{"state": "done"']


def test_who_may_not_is_told_and_runs_nothing(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    ended = told(["begun"], "--", "/bin/touch", str(mark), who=STRANGER)
    assert ended.code == 4
    assert "this needs root or the group" in ended.err or "read.sock only answers" in ended.err
    assert not mark.exists()


def test_without_a_daemon(tmp_path: Path) -> None:
    ended = tunwarden(tmp_path, "portal-login", "--", "/bin/true")
    assert ended.code == 3
    assert "whether this machine is protected is unknown" in ended.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_one_takes_the_command_along(number: int) -> None:
    command = ("/bin/sh", "-c", "echo $$; exec sleep 1000")
    with daemon() as folder, popen(folder, "portal-login", "--", *command, who=MEMBER) as process:
        assert process.stdout is not None
        pid = os.pidfd_open(int(process.stdout.readline()))
        try:
            process.send_signal(number)
            assert process.wait(30) == 130
            with pytest.raises(ProcessLookupError):  # the command has gone
                signal.pidfd_send_signal(pid, 0)
        finally:
            os.close(pid)
            process.kill()


# --- browsers ---------------------------------------------------------------------------------------------------------

BROWSER = """#!/bin/sh
for word in "$@"; do
    case "$word" in
        --user-data-dir=*) profile="${word#*=}";;
        */tunwarden-login-*) profile="$word";;
    esac
done
stat -c '%a %u' "$profile"
ls "$profile"
echo "$@" > "$profile/history"
mkdir "$profile/locked" && touch "$profile/locked/x" && chmod 0 "$profile/locked"
echo "$profile"
"""


def browser(folder: Path, name: str) -> str:
    """A search path on which that browser, which tells what it was given, is the only one."""
    folder.chmod(0o755)
    program = folder / name
    program.write_text(BROWSER)
    program.chmod(0o755)
    for tool in ("stat", "ls", "mkdir", "touch", "chmod", "sh"):
        (folder / tool).symlink_to(f"/bin/{tool}" if Path(f"/bin/{tool}").exists() else f"/usr/bin/{tool}")
    return str(folder)


@pytest.mark.parametrize("name", ["firefox", "chromium"])
def test_a_browser_gets_a_profile_that_is_thrown_away(
    name: str, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", browser(tmp_path_factory.mktemp("bin"), name))
    monkeypatch.setenv("DISPLAY", ":0")
    with ExitStack() as stack:
        command = portal_browser.command("http://portal.example/", stack)
        assert command[-1] == "http://portal.example/"
        assert ("--no-remote" in command) == (name == "firefox"), "never the browser that runs already"
        assert ("--disable-quic" in command) == (name == "chromium")
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        assert said[0] == f"700 {os.geteuid()}"
        profile = Path(said[-1])
        assert profile.is_dir()
        if name == "firefox":
            assert 'user_pref("network.trr.mode", 5);' in (profile / "user.js").read_text()
            assert 'user_pref("network.http.http3.enable", false);' in (profile / "user.js").read_text()
        assert stat.S_IMODE(profile.stat().st_mode) == 0o700
    assert not profile.exists()


@pytest.mark.parametrize("screen", [True, False])
def test_without_a_browser_the_address_is_told(screen: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path) if screen else os.environ["PATH"])
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setenv("DISPLAY", ":0")
    if not screen:
        monkeypatch.delenv("DISPLAY")
    with ExitStack() as stack:
        assert portal_browser.command("http://portal.example/", stack) == []
    ended = told(["begun"])
    assert ended.code == 1
    assert "tunwarden portal-login -- w3m http://portal.example/login" in ended.err


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("hosts: files dns\n", "hosts: files dns\n"),
        ("hosts:  files resolve [!UNAVAIL=return] dns # x\n", "hosts: files dns\n"),
        ("hosts: mymachines resolve [!UNAVAIL=return] [NOTFOUND=return] files myhostname\n",
         "hosts: mymachines files myhostname dns\n"),
        ("hosts: files mdns4_minimal [NOTFOUND=return] dns\n", "hosts: files mdns4_minimal [NOTFOUND=return] dns\n"),
        ("passwd: files systemd resolve\n", "passwd: files systemd resolve\n"),
    ],
)  # fmt: skip
def test_names_are_asked_for_by_the_program_itself(before: str, after: str) -> None:
    assert portal_browser._without_services(before) == after


SHOWS = """
import sys
from pathlib import Path
from cli import portal_browser
portal_browser.NSSWITCH = Path(sys.argv[1])
portal_browser.plain_names()
print(Path(sys.argv[1]).read_text().strip())
"""


@pytest.mark.parametrize("uid", [0, 65534])
def test_in_a_mount_namespace_of_its_own(uid: int) -> None:
    """Whoever may make one sees another file in its place, nobody else does; who may not goes on with the old one."""
    with public_folder() as folder:
        _mount_namespace(uid, folder / "nsswitch.conf")


def _mount_namespace(uid: int, file: Path) -> None:
    file.write_text("hosts: files resolve [!UNAVAIL=return] dns\n")
    file.chmod(0o644)
    top = str(place_of(STRANGER)[1])
    shown = subprocess.run(
        ["/usr/bin/python3", "-S", "-c", f"import sys; sys.path.insert(0, {top!r})\n{SHOWS}", str(file)],
        capture_output=True, text=True, check=True, user=uid, group=uid, extra_groups=[],
    ).stdout.strip()  # fmt: skip
    may = uid == 0 or subprocess.run(
        ["unshare", "--user", "--mount", "true"], user=uid, group=uid, extra_groups=[], check=False, capture_output=True
    ).returncode == 0  # fmt: skip
    assert shown == ("hosts: files dns" if may else "hosts: files resolve [!UNAVAIL=return] dns")
    assert file.read_text() == "hosts: files resolve [!UNAVAIL=return] dns\n"
