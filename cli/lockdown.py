"""tunwarden lockdown on | off"""

from __future__ import annotations

import argparse

from cli.acting import turn
from cli.output import Output


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("position", choices=("on", "off"), nargs="?", help="the new position; else the present one")


def run(options: argparse.Namespace, out: Output) -> int:
    return turn(options, out, "Lockdown", lambda client, on: client.set_lockdown(on), lambda status: status.lockdown)
