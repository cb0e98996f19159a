"""tunwarden watch"""

from __future__ import annotations

import argparse
import time

from cli.output import Output
from cli.words import change
from ipc.client import Client
from ipc.values import plain


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "First the present state, then every change, until Ctrl-C. Exits with 3 when the daemon ends."


def run(options: argparse.Namespace, out: Output) -> int:
    shown = ""
    with Client(options.run_folder) as client:
        for status in client.watch():
            out.data(plain(status))
            line = change(status, time.time())
            if line.partition("  ")[2] != shown:  # byte counters alone make no line
                out.line(line)
            shown = line.partition("  ")[2]
    raise AssertionError("a watch ends with an exception only")
