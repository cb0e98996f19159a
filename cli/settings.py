"""tunwarden settings check. Reads the file itself: it works without the daemon, and the daemon never opens a path."""

from __future__ import annotations

import argparse
from pathlib import Path

from cli.codes import Exit
from cli.output import Output, safe

LONGEST = 1 << 20


def arguments(parser: argparse.ArgumentParser) -> None:
    parts = parser.add_subparsers(dest="part", metavar="check", required=True)
    check = parts.add_parser("check", help="say what is wrong with a settings file")
    check.add_argument("file", metavar="FILE")


def run(options: argparse.Namespace, out: Output) -> int:
    from policies.settings import SettingsError, parse_settings  # pydantic: slow to import, so only here

    with Path(options.file).open("rb") as source:
        raw = source.read(LONGEST + 1)
    if len(raw) > LONGEST:
        raise OSError(f"{options.file}: longer than {LONGEST} bytes")
    try:
        parse_settings(raw.decode(), options.file)
    except UnicodeDecodeError:
        raise OSError(f"{options.file}: not a text in UTF-8") from None
    except SettingsError as error:
        out.data(
            [
                {"line": one.line, "column": one.column, "key": one.key, "problem": one.problem, "allowed": one.allowed}
                for one in error.problems
            ]
        )
        for one in error.problems:
            out.line(safe(str(one)))
        return Exit.FAILED
    out.data([])
    out.line(f"{safe(options.file)}: no errors.")
    return Exit.OK
