"""tunwarden panic-reset: reopen the machine with nothing but the system's own programs. No daemon, no library."""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys

from cli.codes import Exit
from cli.output import Output
from cli.panic_resolver import restore

NFT, IP = "/usr/sbin/nft", "/usr/sbin/ip"
TABLE = "1953853047"  # 0x74756e77, "tunw": the mark, and the number of the routing table
MOST_RULES = 64  # of ours in one family, before we stop wondering
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}

TWIN = f"""\
The same by hand:
  nft delete table inet tunwarden
  ip -4 rule del table {TABLE}; ip -4 route flush table {TABLE}
  ip -6 rule del table {TABLE}; ip -6 route flush table {TABLE}"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Removes tunwarden's firewall table and routing rules: traffic leaves unprotected afterwards."
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
    done = [_delete_table(), *(_delete_routes(family) for family in ("-4", "-6")), restore()]
    running = _daemon_runs(options.run_folder)
    open_now = all(worked for worked, _ in done)
    out.data({"steps": [text for _, text in done], "open": open_now, "daemon_running": running})
    for worked, text in done:
        out.line(text if worked else out.paint(f"FAILED: {text}", "red"))
    if running:
        out.note("The daemon is running and repairs its rules. Stop it, then do this again:")
        out.note("  systemctl stop tunwarden; tunwarden panic-reset")
    out.line(TWIN)
    return Exit.OK if open_now and not running else Exit.FAILED


def _confirmed(out: Output) -> bool:
    out.note("This removes all protection: traffic will leave outside the tunnel. Type yes to go on:")
    return sys.stdin.readline().strip() == "yes"


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


def _call(*command: str) -> tuple[int, str]:
    """Exit code (negative: it did not end by itself) and errors. Absolute paths, no shell, an environment of ours."""
    try:
        done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return -1, str(error)
    return done.returncode, done.stderr.strip()


def _daemon_runs(folder: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        return probe.connect_ex(f"{folder}/tunwarden.sock") == 0
