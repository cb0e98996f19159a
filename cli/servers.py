"""tunwarden servers | servers import | servers remove | servers favourite"""

from __future__ import annotations

import argparse
import time

from cli.codes import Exit
from cli.files import read_text
from cli.output import Output, safe
from ipc.client import Client
from ipc.interface import SERVERS_BYTES
from ipc.structs import Server
from ipc.values import plain


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--profile", metavar="PROFILE", help="the profile; else the chosen one")
    parser.add_argument("--country", metavar="XX", help="only the servers there, by its code of two letters")
    parts = parser.add_subparsers(dest="part", metavar="import|remove|favourite")
    brought = parts.add_parser("import", help="give a WireGuard profile a list of servers: TOML or JSON")
    brought.add_argument("name", metavar="PROFILE", help="the profile, as `profiles list` shows it")
    brought.add_argument("file", metavar="FILE", help="the list; - is the standard input")
    removed = parts.add_parser("remove", help="take the list away: the profile has its own server again")
    removed.add_argument("name", metavar="PROFILE", help="the profile, as `profiles list` shows it")
    favourite = parts.add_parser("favourite", help="add a server to the favourites, or remove it")
    favourite.add_argument("change", choices=("add", "remove"), help="what to do")
    favourite.add_argument("name", metavar="SERVER", help="the server, as listed")


def run(options: argparse.Namespace, out: Output) -> int:
    text = read_text(options.file, SERVERS_BYTES) if options.part == "import" else ""
    with Client(options.run_folder, timeout=30) as client:
        match options.part:
            case "import":
                count = client.import_servers(options.name, text)
                out.data({"imported": count})
                out.line(f"The profile {safe(options.name)} has {count} server{'' if count == 1 else 's'} now.")
            case "remove":
                client.remove_servers(options.name)
                out.data({})
                out.line(f"The profile {safe(options.name)} has its own server again.")
            case "favourite":
                client.set_favourite(options.profile, options.name, options.change == "add")
                out.data({})
                now = "is" if options.change == "add" else "is no longer"
                out.line(f"{safe(options.name)} {now} a favourite.")
            case _:
                country = options.country.upper() if options.country else None
                _list(client.all_servers(options.profile, country), out)
    return Exit.OK


def _list(servers: tuple[Server, ...], out: Output) -> None:
    out.data(plain(servers))
    if not servers:
        out.line("No server there.")
        return
    rows = [
        (
            each.name,
            ", ".join(part for part in (each.city, each.country) if part),
            " ".join(each.tags),
            speed(each),
            ", ".join(
                word
                for word, so in (("in use", each.used), ("chosen", each.chosen), ("favourite", each.favourite))
                if so
            ),
        )
        for each in servers
    ]
    out.table(("NAME", "PLACE", "TAGS", "ANSWERS", ""), rows)


def speed(server: Server, now: float | None = None) -> str:
    """How it answered, and how long ago; nothing where it was not asked."""
    if not server.measured:
        return ""
    answer = f"in {server.latency_ms} ms" if server.latency_ms else "not"
    lost = f", {server.loss_percent} % lost" if server.latency_ms and server.loss_percent else ""
    minutes = max(0, int((time.time() if now is None else now) - server.measured)) // 60
    return f"{answer}{lost}, {minutes} min ago" if minutes else f"{answer}{lost}"
