"""tunwarden trace on | off | status"""

from __future__ import annotations

import argparse
import time

from cli.codes import Exit
from cli.output import Output, safe
from cli.words import duration, size
from ipc.client import Client
from ipc.structs import Trace
from ipc.values import plain

EPILOG = """\
A trace writes every event in detail into files that root alone can read: 8 MiB at most, gone after a week. It ends by
itself after its time, goes on through a restart of the daemon, and never has keys or passwords in it."""


def minutes(text: str) -> int:
    """1 to 1440."""
    value = int(text)
    if not 1 <= value <= 1440:
        raise ValueError
    return value


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog, parser.formatter_class = EPILOG, argparse.RawDescriptionHelpFormatter
    parts = parser.add_subparsers(dest="part", metavar="on|off|status", required=True)
    on = parts.add_parser("on", help="begin, or give a running one another time")
    on.add_argument("--minutes", type=minutes, default=30, metavar="N", help="until it ends by itself (30; up to 1440)")
    on.add_argument("--hide-names", action="store_true", help="also hide names of networks, and addresses")
    parts.add_parser("off", help="end it; what was written stays for a week")
    parts.add_parser("status", help="whether it runs, and where the files are")


def run(options: argparse.Namespace, out: Output) -> int:
    with Client(options.run_folder) as client:
        match options.part:
            case "on":
                trace = client.start_trace(options.minutes, options.hide_names)
            case "off":
                trace = client.stop_trace()
            case _:
                trace = client.get_trace()
    out.data(plain(trace))
    _show(trace, out)
    return Exit.OK


def _show(trace: Trace, out: Output) -> None:
    if trace.on:
        hidden = ", names and addresses are hidden" if trace.hide_names else ""
        out.line(f"A trace is written for another {duration(trace.until - time.time())}{hidden}.")
    else:
        out.line("No trace is written.")
    if trace.trouble:
        out.line(f"  {out.paint(f'It ended before its time: {trace.trouble}', 'yellow')}")
    if trace.bytes or trace.on:
        out.line(f"  {size(trace.bytes)} in {safe(trace.folder)}")
