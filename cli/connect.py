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
    parser.add_argument("--wait", action="store_true", help="return when the tunnel is up, or cannot be")
    parser.add_argument(
        "--timeout", type=seconds, default=60.0, metavar="S", help="seconds to wait (60); then exit with 5"
    )


def run(options: argparse.Namespace, out: Output) -> int:
    if not options.wait:
        return act(options, out, lambda client: client.connect(options.profile))
    with Client(options.run_folder) as client:
        client.connect(options.profile)
    return until_connected(options.run_folder, options.profile, options.timeout, out)
