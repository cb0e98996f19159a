"""tunwarden watch"""

from __future__ import annotations

import argparse
import select
import time

from cli.output import Output
from cli.traffic import rates
from cli.words import change
from ipc.client import Client
from ipc.structs import Status
from ipc.values import plain


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "First the present state, then every change, until Ctrl-C. Exits with 3 when the daemon ends."
    parser.add_argument("--rates", action="store_true", help="also how fast traffic goes, at most once a second")


class Lines:
    """What is printed: of the statuses, those that differ in a line."""

    def __init__(self, out: Output) -> None:
        self._out, self._shown = out, ""

    def show(self, status: Status) -> None:
        self._out.data(plain(status))
        line = change(status, time.time())
        if line.partition("  ")[2] != self._shown:  # byte counters alone make no line
            self._out.line(line)
        self._shown = line.partition("  ")[2]


def run(options: argparse.Namespace, out: Output) -> int:
    lines = Lines(out)
    with Client(options.run_folder) as client:
        if options.rates:
            _with_rates(client, options.run_folder, lines, out)
        for status in client.watch():
            lines.show(status)
    raise AssertionError("a watch ends with an exception only")


def _with_rates(changes: Client, run_folder: str, lines: Lines, out: Output) -> None:
    """Two streams, each over a connection of its own."""
    with Client(run_folder) as moves:
        statuses, traffics = changes.watch(), moves.follow_traffic()
        lines.show(next(statuses))
        next(traffics)  # rates are of what comes after it
        while True:
            waiting = [client for client in (changes, moves) if client.waits]
            ready = waiting or select.select([changes, moves], [], [])[0]
            if changes in ready:
                lines.show(next(statuses))
            if moves in ready:
                traffic = next(traffics)
                out.data(plain(traffic))
                out.line(f"{time.strftime('%H:%M:%S')}  {rates(traffic)}")
