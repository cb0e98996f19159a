"""tunwarden panic-reset: reopen the machine with nothing but the system's own programs. No daemon, no library."""

from __future__ import annotations

import argparse
import fcntl
import os
import subprocess
import sys
from pathlib import Path

from cli import panic_managers
from cli.codes import Exit
from cli.output import Output
from cli.panic_next import forget_lockdown, leave_marker
from cli.panic_resolver import restore

NFT, IP, SYSTEMCTL = "/usr/sbin/nft", "/usr/sbin/ip", "/usr/bin/systemctl"
BOOTED_BY_SYSTEMD = Path("/run/systemd/system")  # sd_booted(3)
UNITS = ("tunwarden.socket", "tunwarden-read.socket", "tunwarden.service")  # a question at a socket would start it
STOPPED_WITHIN = 30.0  # seconds: systemd kills a daemon that does not end within 10
TABLE = "1953853047"  # 0x74756e77, "tunw": the mark, and the number of the routing table
MOST_RULES = 64  # of ours in one family, before we stop wondering
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}

TWIN = f"""\
The same by hand, while no daemon runs (systemctl stop 'tunwarden*'), for it would put everything back:
  nft delete table inet tunwarden
  ip rule flush table {TABLE}; ip -6 rule flush table {TABLE}"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Stops the daemon and removes tunwarden's firewall table and routing rules: traffic leaves unprotected "
        "afterwards, also after the next boot and on other networks, until somebody connects or disconnects."
    )
    parser.epilog = TWIN
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--yes", action="store_true", help="do not ask")


def run(options: argparse.Namespace, out: Output) -> int:
    if os.geteuid() != 0:
        out.data({"error": "not-permitted"})
        out.note("tunwarden: panic-reset needs root: sudo tunwarden panic-reset")
        return Exit.NOT_PERMITTED
    if not options.yes and not _confirmed(out):
        out.data({"error": "not-confirmed"})
        out.note("tunwarden: nothing was changed")
        return Exit.FAILED
    stopped = _stop_daemon(options.run_folder, out)
    later = [leave_marker(), forget_lockdown()]
    opened = [_delete_table(), *(_delete_routes(family) for family in ("-4", "-6"))]
    opened += [restore(), *panic_managers.restore(_call)]
    steps = [stopped, *later, *opened]
    out.data(
        {
            "steps": [text for _, text in steps],
            "open": all(worked for worked, _ in opened),
            "stays_open": all(worked for worked, _ in later),
            "daemon_running": not stopped[0],
        }
    )
    for worked, text in steps:
        out.line(text if worked else out.paint(f"FAILED: {text}", "red"))
    out.line(TWIN)
    return Exit.OK if all(worked for worked, _ in steps) else Exit.FAILED


def _confirmed(out: Output) -> bool:
    out.note("This removes all protection: traffic will leave outside the tunnel. Type yes to go on:")
    return sys.stdin.readline().strip() == "yes"


def _stop_daemon(folder: str, out: Output) -> tuple[bool, str]:
    """It would put everything back. Also one that hangs is stopped, and one that systemd is about to start again."""
    was = _daemon(folder)
    why = ""
    if BOOTED_BY_SYSTEMD.is_dir():
        if was is not None:
            out.note("Stopping the daemon. One that hangs takes some ten seconds.")
        _, why = _call(SYSTEMCTL, "stop", *UNITS, time_limit=STOPPED_WITHIN)
    if (still := _daemon(folder)) is None:
        return True, "Daemon: does not run." if was is None else "Daemon: stopped."
    return False, (
        f"Daemon: process {still} still runs and may close the machine again{f' ({why})' if why else ''}. "
        "Stop it, then do this again: systemctl stop tunwarden; tunwarden panic-reset"
    )


def _daemon(folder: str) -> str | None:
    """The process id of the running daemon, which holds a lock as long as it lives, hanging or not."""
    try:
        file = os.open(f"{folder}/daemon.pid", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return os.read(file, 20).decode("ascii", "replace").strip()
    else:
        return None
    finally:
        os.close(file)


def _delete_table() -> tuple[bool, str]:
    code, errors = _call(NFT, "delete", "table", "inet", "tunwarden")
    if code == 0:
        return True, "Firewall table inet tunwarden: removed."
    if code > 0 and "No such file or directory" in errors:
        return True, "Firewall table inet tunwarden: was not there."
    return False, f"Firewall table inet tunwarden: {errors}"


def _delete_routes(family: str) -> tuple[bool, str]:
    """Rules first: without them the table means nothing."""
    version, removed = f"IPv{family[1]}", 0
    while removed < MOST_RULES:
        code, errors = _call(IP, family, "rule", "del", "table", TABLE)
        if code != 0:
            break
        removed += 1
    else:
        return False, f"{version} routing rules: more than {MOST_RULES}; do it again."
    if code < 0 or ("No such file or directory" not in errors and "not supported" not in errors):
        return False, f"{version} routing rules: {errors}"
    _call(IP, family, "route", "flush", "table", TABLE)  # fails when the table does not exist, which is as good
    return True, f"{version} routing rules: {removed} removed." if removed else f"{version} routing rules: none."


def _call(*command: str, time_limit: float = 10.0) -> tuple[int, str]:
    """Exit code (negative: it did not end by itself) and errors. Absolute paths, no shell, an environment of ours."""
    try:
        done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=time_limit, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return -1, str(error)
    return done.returncode, done.stderr.strip()
