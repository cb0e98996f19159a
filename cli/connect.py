"""tunwarden connect"""

from __future__ import annotations

import argparse

from cli.acting import act
from cli.output import Output
from cli.waiting import until_connected
from ipc.client import Client


def seconds(text: str) -> float:
    """A positive number of seconds."""
    value = float(text)
    if not 0 < value <= 86400:
        raise ValueError
    return value


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("profile", nargs="?", metavar="PROFILE", help="the profile to use; else the chosen one")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--server", metavar="NAME", help="this server of the profile's list, from now on")
    which.add_argument("--country", metavar="XX", help="a server there, by its code of two letters")
    which.add_argument("--fastest", action="store_true", help="the server that answers fastest: they are all asked")
    which.add_argument("--favourites", action="store_true", help="one of the favourites")
    which.add_argument("--random", action="store_true", help="any server, another one each time")
    which.add_argument("--first", action="store_true", help="the first server of the list again")
    parser.add_argument("--wait", action="store_true", help="return when the tunnel is up, or cannot be")
    parser.add_argument(
        "--timeout", type=seconds, default=60.0, metavar="S", help="seconds to wait (60); then exit with 5"
    )


def choice(options: argparse.Namespace) -> str | None:
    """What `Servers.Connect` is asked for; None: nothing was said of servers."""
    if options.country is not None:
        return f"country:{options.country.upper()}"
    for how in ("fastest", "favourites", "random"):
        if getattr(options, how):
            return how
    return "" if options.first else options.server


def _connect(client: Client, options: argparse.Namespace) -> None:
    server = choice(options)
    if server is None:
        client.connect(options.profile)
    else:
        client.connect_server(options.profile, server)


def run(options: argparse.Namespace, out: Output) -> int:
    if not options.wait:
        return act(options, out, lambda client: _connect(client, options))
    with Client(options.run_folder) as client:
        _connect(client, options)
    return until_connected(options.run_folder, options.profile, options.timeout, out)
