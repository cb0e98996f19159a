"""tunwarden reconnect"""

from __future__ import annotations

import argparse

from cli.acting import act
from cli.output import Output


def arguments(parser: argparse.ArgumentParser) -> None:
    pass


def run(options: argparse.Namespace, out: Output) -> int:
    return act(options, out, lambda client: client.reconnect())
