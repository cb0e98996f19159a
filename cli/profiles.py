"""tunwarden profiles list | import | remove"""

from __future__ import annotations

import argparse

from cli.codes import Exit
from cli.files import read_text
from cli.output import Output, safe
from ipc.client import Client
from ipc.interface import PROFILE_BYTES
from ipc.values import plain


def arguments(parser: argparse.ArgumentParser) -> None:
    parts = parser.add_subparsers(dest="part", metavar="list|import|remove", required=True)
    parts.add_parser("list", help="the stored profiles")
    brought = parts.add_parser("import", help="store a WireGuard configuration")
    brought.add_argument("name", metavar="NAME", help="what to call it; replaces one of that name")
    brought.add_argument("file", metavar="FILE", help="the configuration; - is the standard input")
    removed = parts.add_parser("remove", help="delete a profile and its keys")
    removed.add_argument("name", metavar="NAME", help="as listed")


def run(options: argparse.Namespace, out: Output) -> int:
    text = read_text(options.file, PROFILE_BYTES) if options.part == "import" else ""
    with Client(options.run_folder, timeout=30) as client:
        match options.part:
            case "list":
                _list(client, out)
            case "import":
                notices = client.import_profile(options.name, text)
                out.data(plain(notices))
                out.line(f"Stored the profile {safe(options.name)}.")
                for notice in notices:
                    out.line(f"  line {notice.line}: {safe(notice.directive)} ignored: {safe(notice.reason)}")
            case "remove":
                client.remove_profile(options.name)
                out.data({})
                out.line(f"Removed the profile {safe(options.name)}.")
    return Exit.OK


def _list(client: Client, out: Output) -> None:
    profiles = client.list_profiles()
    out.data(plain(profiles))
    if not profiles:
        out.line("No profile. Bring one: tunwarden profiles import NAME FILE")
        return
    rows = [(one.name, one.kind, ", ".join(one.servers), "chosen" if one.chosen else "") for one in profiles]
    out.table(("NAME", "KIND", "SERVERS", ""), rows)
