"""tunwarden traffic: what was counted, how fast it goes, what is left of the allowance."""

from __future__ import annotations

import argparse
import csv
import shutil
import sys
import time
from collections.abc import Iterable, Sequence

from cli.codes import Exit
from cli.output import Output, safe
from cli.words import duration, size
from ipc.client import Client
from ipc.interface import USAGE_BY
from ipc.structs import Allowance, Traffic, Usage
from ipc.values import plain

WAYS = {"tunnel": "through the VPN", "clear": "outside it", "carrier": "on the links, else"}
SHOWN = ("tunnel", "clear")  # the carrier's packets are those of the tunnel, wrapped: adding them would count twice
EPILOG = """\
"Through the VPN" is what programs sent and got by the tunnel, "outside it" what went over links where that is allowed,
"on the links, else" the tunnel's own packets, the local network, and what keeps a link up: --csv and --json have it,
--by and --plot leave it out, for it is the same traffic once more, wrapped.

In plots, what was received is drawn dark and what was sent light."""
FULL, LIGHT = "▓", "░"
NARROWEST = 10  # columns of the longest bar


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog, parser.formatter_class = EPILOG, argparse.RawDescriptionHelpFormatter
    parser.add_argument("--by", choices=USAGE_BY, help="a line for each minute, hour, day, network or profile")
    parser.add_argument("--since", metavar="DAY", help="from this day on: 2026-11-22; without --by: by day")
    parser.add_argument("--until", metavar="DAY", help="up to and with this day")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--plot", action="store_true", help="draw it; without --by: by hour")
    how.add_argument("--csv", action="store_true", help="all of it, for spreadsheets; without --by: by day")
    how.add_argument("--follow", action="store_true", help="the rates as they change, until Ctrl-C")
    how.add_argument("--grant", action="store_true", help="grant the allowance once more, where the settings say `ask`")


def run(options: argparse.Namespace, out: Output) -> int:
    by = options.by or ("hour" if options.plot else "day" if options.csv or options.since or options.until else None)
    with Client(options.run_folder) as client:
        if options.follow:
            for traffic in client.follow_traffic():
                out.data(plain(traffic))
                out.line(f"{time.strftime('%H:%M:%S')}  {rates(traffic)}")
            raise AssertionError("it ends with an exception only")
        if options.grant:
            client.grant_allowance()
        if by is None:
            traffic = client.get_traffic()
            out.data(plain(traffic))
            today(traffic, out)
            return Exit.OK
        found = client.get_usage(by, options.since, options.until)
    out.data(plain(found))
    if options.csv:
        if not out.as_json:
            write_csv(by, found)
    elif not found:
        out.line("Nothing was counted.")
    elif options.plot:
        plot(by, found, out)
    else:
        shown = [each for each in found if each.way in SHOWN]
        rows = [(label(by, each), WAYS[each.way], size(each.rx_bytes), size(each.tx_bytes)) for each in shown]
        out.table((by.upper(), "WAY", "RECEIVED", "SENT"), rows)
    return Exit.OK


def today(traffic: Traffic, out: Output) -> None:
    """The whole of it, for a glance."""
    rows = [(WAYS.get(each.way, each.way), size(each.rx_bytes), size(each.tx_bytes)) for each in traffic.today]
    out.table(("TODAY", "RECEIVED", "SENT"), rows)
    out.line(f"Now: {rates(traffic)}")
    if traffic.allowance.limited:
        colour, text = allowance_words(traffic.allowance, time.time())
        out.line(out.paint(text, colour))


def rates(traffic: Traffic) -> str:
    """How fast it goes, in one line."""
    text = f"{rate(traffic.rx_rate)} in, {rate(traffic.tx_rate)} out"
    if traffic.clear_rx_rate or traffic.clear_tx_rate:
        text += f"; outside the VPN {rate(traffic.clear_rx_rate)} in, {rate(traffic.clear_tx_rate)} out"
    return text


def rate(per_second: int) -> str:
    return f"{size(per_second)}/s"


def allowance_words(allowance: Allowance, now: float) -> tuple[str, str]:
    """Colour and sentence."""
    used = f"{size(allowance.used)} of {size(allowance.total)} are used"
    until = f"a new {allowance.per} begins in {duration(allowance.resets - now)}"
    if not allowance.used_up:
        scarce = allowance.used >= 0.8 * allowance.total
        return "yellow" if scarce else "green", f"Allowance: {used}, {size(allowance.available)} are left; {until}."
    then = {"ask": "`tunwarden traffic --grant` gives as much again", "disconnect": "the VPN is disconnected"}
    return "red", f"Allowance: {used}; {then.get(allowance.at_limit, 'nothing more passes')}; {until}."


def label(by: str, usage: Usage) -> str:
    """What a line is about."""
    match by:
        case "minute":
            return time.strftime("%Y-%m-%d %H:%M", time.localtime(usage.start))
        case "hour":
            return time.strftime("%Y-%m-%d %H:00", time.localtime(usage.start))
        case "network":
            return usage.name if usage.kind in (None, "wifi") and usage.name else f"{usage.name} ({usage.kind or '?'})"
        case _:
            return usage.name or "(none)"


def write_csv(by: str, found: Iterable[Usage]) -> None:
    """RFC 4180, with a line of names. An apostrophe keeps a spreadsheet from taking a name for a formula."""
    writer = csv.writer(sys.stdout)
    counts = ("rx_bytes", "tx_bytes", "rx_packets", "tx_packets")
    writer.writerow((by, "kind", "way", "start", *counts))
    for each in found:
        name = safe(label(by, each) if by in ("minute", "hour") else each.name)
        writer.writerow((
            f"'{name}" if name[:1] in "=+-@" and name else name, each.kind or "", each.way, each.start,
            *(getattr(each, count) for count in counts),
        ))  # fmt: skip


def plot(by: str, found: Sequence[Usage], out: Output) -> None:
    """A bar for each line, the longest as wide as the terminal lets it be; times run downward."""
    sums: dict[str, tuple[int, int]] = {}
    for each in found:
        if each.way in SHOWN:
            rx, tx = sums.get(label(by, each), (0, 0))
            sums[label(by, each)] = rx + each.rx_bytes, tx + each.tx_bytes
    lines = list(sums.items())
    if by in ("minute", "hour", "day"):
        lines.reverse()
    full, light = (FULL, LIGHT) if can_print(FULL + LIGHT) else ("#", "-")
    width = max((len(safe(name)) for name, _ in lines), default=0)
    room = max(NARROWEST, shutil.get_terminal_size().columns - width - 13)
    most = max((rx + tx for _, (rx, tx) in lines), default=0) or 1
    for name, (rx, tx) in lines:
        filled = -(-(rx + tx) * room // most)  # what is not nothing is seen
        sent = round(filled * tx / (rx + tx)) if rx + tx else 0
        bar = full * (filled - sent) + light * sent
        out.line(f"{safe(name):{width}}  {size(rx + tx):>9}  {bar}".rstrip())


def can_print(text: str) -> bool:
    """Whether the terminal's encoding has these."""
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
