"""tunwarden known list | add | forget"""

from __future__ import annotations

import argparse

from cli.codes import Exit
from cli.output import Output, safe
from ipc.client import Client
from ipc.errors import Error, ServiceError
from ipc.interface import ACTIONS, SECURITIES, KnownNetwork
from ipc.values import plain


def arguments(parser: argparse.ArgumentParser) -> None:
    parts = parser.add_subparsers(dest="part", metavar="list|add|forget", required=True)
    parts.add_parser("list", help="the saved networks")
    add = parts.add_parser("add", help="save a network; without a name: the one joined now")
    add.add_argument("ssid", nargs="?", metavar="SSID", help="the network's name")
    add.add_argument("--hex", metavar="HEX", help="the name as hexadecimal bytes instead")
    add.add_argument("--security", choices=SECURITIES, metavar="S", help="the weakest to accept, such as wpa2")
    add.add_argument("--action", choices=ACTIONS, metavar="A", help=", ".join(ACTIONS))
    add.add_argument("--profile", metavar="PROFILE", help="the profile to use there")
    add.add_argument("--allow-lan", action="store_true", help="let its local network be reached while protected")
    forget = parts.add_parser("forget", help="forget a saved network")
    forget.add_argument("ssid", metavar="SSID", help="its name as listed, or its bytes in hexadecimal")


def run(options: argparse.Namespace, out: Output) -> int:
    with Client(options.run_folder) as client:
        match options.part:
            case "list":
                _list(client.list_known(), out)
            case "add":
                known = client.add_known(
                    options.ssid,
                    options.hex,
                    options.security,
                    options.action,
                    options.profile,
                    options.allow_lan,
                )
                out.data(plain(known))
                out.line(f"Saved “{safe(known.ssid)}”, at least {safe(known.security)}.")
            case "forget":
                known = _find(client.list_known(), options.ssid)
                client.forget_known(known.ssid_hex)
                out.data(plain(known))
                out.line(f"Forgot “{safe(known.ssid)}”.")
    return Exit.OK


def _list(known: tuple[KnownNetwork, ...], out: Output) -> None:
    out.data(plain(known))
    if not known:
        out.line("No saved network.")
        return
    rows = [
        (
            one.ssid,
            one.ssid_hex,
            one.security,
            one.action or "",
            one.profile or "",
            "yes" if one.allow_lan else "no",
            one.source,
        )
        for one in known
    ]
    out.table(("NETWORK", "BYTES", "AT LEAST", "ACTION", "PROFILE", "LAN", "FROM"), rows)


def _find(known: tuple[KnownNetwork, ...], name: str) -> KnownNetwork:
    found = [one for one in known if name in (one.ssid, one.ssid_hex)]
    if len(found) == 1:
        return found[0]
    why = "several match: give the bytes in hexadecimal." if found else "it is not among the saved ones."
    raise ServiceError(Error.NO_SUCH_NETWORK, f"Network {name}", why, "See: tunwarden known list")
