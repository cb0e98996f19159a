"""tunwarden report: shows what a report of a problem would contain, then writes it into one file. Nothing is sent."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from cli.codes import Exit
from cli.files import write_new
from cli.output import Output, safe
from cli.words import size
from ipc.client import Client, NotRunningError
from ipc.errors import Error, ServiceError
from ipc.structs import ReportPart
from ipc.values import plain

if TYPE_CHECKING:
    from policies.redact import Redactor

EPILOG = """\
The file is new, yours, and readable by you alone. Read it before you pass it on. Keys and passwords are never in it;
with --hide-names neither names of networks nor addresses. As root it has the daemon's log and trace too."""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog, parser.formatter_class = EPILOG, argparse.RawDescriptionHelpFormatter
    parser.add_argument("file", nargs="?", metavar="FILE", help="a new file; else tunwarden-report-TIME.txt, here")
    parser.add_argument("--hide-names", action="store_true", help="hide names of networks, and addresses")
    parser.add_argument("--show", action="store_true", help="show all of it instead of writing a file")
    parser.add_argument("--yes", action="store_true", help="write it without asking")


def run(options: argparse.Namespace, out: Output) -> int:
    parts = collect(options.run_folder, options.hide_names)
    if options.show or out.as_json:
        out.data(plain(parts))
        out.line(safe_text("\n".join(map(_written, parts))))
        return Exit.OK
    out.table(("PART", "SIZE", "WHAT"), [(each.name, size(len(each.text.encode())), each.doc) for each in parts])
    file = Path(options.file or time.strftime("tunwarden-report-%Y%m%d-%H%M%S.txt"))
    if not options.yes and not _agreed(file):
        out.note("tunwarden: nothing was written")
        return Exit.FAILED
    write_new(file, safe_text("\n".join(map(_written, parts))))  # whoever reads it may do so on a terminal
    out.line(f"Wrote {safe(str(file))}, readable by you alone. Read it before you pass it on; nothing was sent.")
    return Exit.OK


def collect(run_folder: str, hide_names: bool) -> tuple[ReportPart, ...]:
    """The daemon's parts, as far as this user may see them, and what this machine looks like from here."""
    from cli import doctor
    from policies.redact import Redactor  # pydantic: slow to import, so only here

    redact = Redactor(hide_names)
    try:
        with Client(run_folder, timeout=30) as client:
            names = [name for each in client.current() for name in (each.ssid, each.ssid_hex) if name]
            redact.meet(names)
            try:
                told = client.get_report(hide_names)
            except ServiceError as err:
                if err.error is not Error.NOT_PERMITTED:
                    raise
                told = _public(client, redact)
    except NotRunningError as err:
        told = (ReportPart("Daemon", "Why nothing is told of it.", str(err)),)
    _, findings = doctor.look(run_folder)
    words = {True: "well", False: "wrong", None: "note"}
    checked = redact("\n".join(f"{words[each.ok]}: {each.text}" for each in findings))
    return (*told, ReportPart("Doctor", "What `tunwarden doctor` says of this machine.", checked))


def _public(client: Client, redact: Redactor) -> tuple[ReportPart, ...]:
    """What every user may see."""
    parts = (
        ("Status", "What every front-end is shown.", client.get_status()),
        ("Settings", "Every setting with who said so.", client.list_settings()),
        ("Profiles", "Names and servers of the VPN configurations; no keys.", client.list_profiles()),
    )
    note = ReportPart("Note", "What is missing.", "Made without root: the daemon's log, trace and facts are not in it.")
    shown = (
        ReportPart(name, doc, json.dumps(redact.value(plain(value)), indent=1, ensure_ascii=False))
        for name, doc, value in parts
    )
    return (note, *shown)


def _written(part: ReportPart) -> str:
    return f"=== {part.name}: {part.doc}\n\n{part.text.rstrip()}\n"


def safe_text(text: str) -> str:
    """Several lines, made safe for a terminal."""
    return "\n".join(safe(line) for line in text.split("\n"))


def _agreed(file: Path) -> bool:
    if not sys.stdin.isatty():
        raise OSError("nobody can be asked here; --yes writes the file, --show shows all of it")
    sys.stdout.write(f"Write this to {safe(str(file))}? [y/N] ")
    sys.stdout.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")
