"""tunwarden profiles list | show | import | login | remove"""

from __future__ import annotations

import argparse
import getpass
import sys
from pathlib import Path

from cli.codes import Exit
from cli.files import read_text
from cli.output import Output, safe
from ipc.client import Client
from ipc.interface import PROFILE_BYTES
from ipc.values import plain

LONGEST_LOGIN = 1024  # bytes of both lines


def arguments(parser: argparse.ArgumentParser) -> None:
    parts = parser.add_subparsers(dest="part", metavar="list|show|import|login|remove", required=True)
    parts.add_parser("list", help="the stored profiles")
    looked_at = parts.add_parser("show", help="what a profile says, without its secrets")
    looked_at.add_argument("name", metavar="NAME", help="as listed")
    brought = parts.add_parser("import", help="store a WireGuard or OpenVPN configuration, or what to guard")
    brought.add_argument(
        "name", metavar="NAME", nargs="?", help="what to call it, else as the file; replaces one of that name"
    )
    brought.add_argument("file", metavar="FILE", help="the configuration; - is the standard input")
    let_in = parts.add_parser("login", help="store the user name and the password that the server asks for")
    let_in.add_argument("name", metavar="NAME", help="as listed; both are asked for, or read as two lines")
    removed = parts.add_parser("remove", help="delete a profile and its keys")
    removed.add_argument("name", metavar="NAME", help="as listed")


def run(options: argparse.Namespace, out: Output) -> int:
    text = read_text(options.file, PROFILE_BYTES) if options.part == "import" else ""
    user, password = _login() if options.part == "login" else ("", "")
    with Client(options.run_folder, timeout=30) as client:
        match options.part:
            case "list":
                _list(client, out)
            case "import":
                name = options.name or Path(options.file).stem
                notices = client.import_profile(name, text)
                out.data(plain(notices))
                out.line(f"Stored the profile {safe(name)}.")
                for notice in notices:
                    place = f"line {notice.line}: " if notice.line else ""
                    out.line(f"  {place}{safe(notice.directive)}: {safe(notice.reason)}")
            case "show":
                fields = client.show_profile(options.name)
                out.data(plain(fields))
                out.table(("", ""), [(one.name, one.value) for one in fields])
            case "login":
                client.set_login(options.name, user, password)
                out.data({})
                out.line(f"Stored the login of {safe(options.name)}.")
            case "remove":
                client.remove_profile(options.name)
                out.data({})
                out.line(f"Removed the profile {safe(options.name)}.")
    return Exit.OK


def _login() -> tuple[str, str]:
    """Raises OSError."""
    if sys.stdin.isatty():
        return input("User name: "), getpass.getpass("Password: ")
    lines = read_text("-", LONGEST_LOGIN).splitlines()
    if len(lines) != 2:
        raise OSError("two lines are needed on the standard input: the user name, then the password")
    return lines[0], lines[1]


def _list(client: Client, out: Output) -> None:
    profiles = client.list_profiles()
    out.data(plain(profiles))
    if not profiles:
        out.line("No profile. Bring one: tunwarden profiles import NAME FILE")
        return
    rows = [(one.name, one.kind, ", ".join(one.servers), "chosen" if one.chosen else "") for one in profiles]
    out.table(("NAME", "KIND", "SERVERS", ""), rows)
