"""tunwarden profiles list | import | remove"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from cli.codes import Exit
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
    removed.add_argument("name", metavar="NAME")


def run(options: argparse.Namespace, out: Output) -> int:
    text = _read(options.file) if options.part == "import" else ""
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


def _read(file: str) -> str:
    """The content, which is all that the daemon gets to see."""
    if file == "-":
        raw = sys.stdin.buffer.read(PROFILE_BYTES + 1)
    else:
        with Path(file).open("rb") as source:
            raw = source.read(PROFILE_BYTES + 1)
    if len(raw) > PROFILE_BYTES:
        raise OSError(f"{file}: longer than {PROFILE_BYTES} bytes")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise OSError(f"{file}: not a text in UTF-8") from None


def _list(client: Client, out: Output) -> None:
    profiles = client.list_profiles()
    out.data(plain(profiles))
    if not profiles:
        out.line("No profile. Bring one: tunwarden profiles import NAME FILE")
        return
    rows = [(one.name, one.kind, ", ".join(one.servers), "chosen" if one.chosen else "") for one in profiles]
    out.table(("NAME", "KIND", "SERVERS", ""), rows)
