"""The manual pages, from the parsers and the description of the settings: `python -m cli.manual FOLDER` writes them.

tunwarden(1), tunwardend(8), tunwarden.toml(5): roff with the macros of man(7), which mandoc and groff both know.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cli.codes import Exit
from cli.grammar import Argument, Command, commands, program
from ipc import VERSION

CODES = {
    Exit.OK: "Done.",
    Exit.FAILED: "Refused, failed, or something was found wrong.",
    Exit.USAGE: "Wrong usage.",
    Exit.NOT_RUNNING: "No daemon answers: whether the machine is protected is unknown.",
    Exit.NOT_PERMITTED: "Not permitted.",
    Exit.TIMED_OUT: "Timed out: the daemon did not answer, or connect --wait saw no tunnel in time.",
    Exit.ALARM: "Alarm (status, leak-test): packets may be leaving, or did leave, that should not.",
    Exit.INTERRUPTED: "Interrupted with Ctrl-C.",
}
FILES = {
    "/etc/tunwarden/tunwarden.toml, /etc/tunwarden/tunwarden.d/*.toml": "Settings of the administrator.",
    "/run/tunwarden/tunwarden.sock": "For root and the group tunwarden: everything.",
    "/run/tunwarden/read.sock": "For everybody: questions only.",
    "/var/lib/tunwarden": "What the daemon keeps: what is wanted, profiles, saved networks, what users set, traces.",
}


def pages() -> Mapping[str, str]:
    """The text of each page by the name of its file."""
    return {name: "\n".join(page()) + "\n" for name, page in PAGES.items()}


def main(folder: Path) -> None:
    """Write them below `folder`: man1, man5 and man8."""
    for name, text in pages().items():
        place = folder / f"man{name[-1]}"
        place.mkdir(mode=0o755, parents=True, exist_ok=True)
        (place / name).write_text(text, encoding="utf-8")


def _head(name: str, section: int, what: str) -> Iterator[str]:
    now = float(os.environ.get("SOURCE_DATE_EPOCH") or time.time())
    date = time.strftime("%Y-%m-%d", time.gmtime(now))
    yield f'.TH {name.upper()} {section} {date} "tunwarden {VERSION}"'
    yield ".SH NAME"
    yield f"{_text(name)} \\- {_text(what)}"


def _tunwarden() -> Iterator[str]:
    top = program()
    yield from _head("tunwarden", 1, "keeps this computer's traffic inside its VPN")
    yield ".SH SYNOPSIS"
    yield ".B tunwarden"
    yield "[\\fB\\-\\-json\\fR] \\fICOMMAND\\fR [\\fIARGUMENT\\fR ...]"
    yield ".SH DESCRIPTION"
    yield _text(
        "The command line of tunwardend(8), which watches the network links, connects the VPN on networks that "
        "cannot be trusted, and blocks what would leave outside of it. Looking is for everybody; changing needs "
        "root or the group tunwarden; whatever can relax protection needs root."
    )
    yield ".SH OPTIONS"
    yield from _arguments(top)
    yield ".SH COMMANDS"
    for command in commands(top):
        if command.path:
            yield from _command(command)
    yield ".SH OUTPUT"
    yield _text(
        "On a terminal in colour, unless NO_COLOR is set or TERM is dumb. With --json, anywhere before --, one "
        "JSON value a line: what the interface returns, or an object with error, what, why and remedy. "
        "docs/cli.md has its schema."
    )
    yield ".SH EXIT STATUS"
    for code, text in CODES.items():
        yield from _item(f"\\fB{code.value}\\fR", text)
    yield from _files()
    yield ".SH SEE ALSO"
    yield ".BR tunwardend (8),"
    yield ".BR tunwarden.toml (5)"


def _command(command: Command) -> Iterator[str]:
    yield f".SS tunwarden {' '.join(command.path)}"
    if command.parts:
        yield f"{_text(_sentence(command.description))} \\&Its parts are below."
    else:
        synopsis = " ".join(filter(None, map(_synopsis, command.arguments)))
        yield f"\\fBtunwarden {_text(' '.join(command.path))}\\fR {synopsis}".rstrip()
        yield ".PP"
        yield _text(_sentence(command.help or command.description))
    yield from _arguments(command)
    if command.epilog:
        yield ".PP"
        if "\n" in command.epilog:
            yield from (".nf", _text(command.epilog), ".fi")
        else:
            yield _text(command.epilog)


def _synopsis(argument: Argument) -> str:
    if argument.names == ("-h", "--help"):
        return ""
    what = f"\\fI{_text(argument.metavar)}\\fR" if argument.metavar else ""
    name = f"\\fB{_text(argument.names[-1])}\\fR" if argument.names else ""
    both = " ".join(part for part in (name, what) if part) + (" ..." if argument.many else "")
    return f"[{both}]" if argument.optional else both


def _arguments(command: Command) -> Iterator[str]:
    for each in command.arguments:
        if each.names == ("-h", "--help") or not each.help:
            continue
        names = ", ".join(f"\\fB{_text(name)}\\fR" for name in each.names)
        what = f"\\fI{_text(each.metavar)}\\fR" if each.metavar else ""
        yield from _item(" ".join(part for part in (names, what) if part), _sentence(each.help))


def _tunwardend() -> Iterator[str]:
    yield from _head("tunwardend", 8, "the daemon that keeps traffic inside the VPN")
    yield ".SH SYNOPSIS"
    yield ".B /usr/lib/tunwarden/bin/python \\-I \\-m daemon"
    yield ".SH DESCRIPTION"
    yield _text(
        "Started by the service manager as tunwarden.service, without arguments. It keeps two layers of rules in "
        "the kernel: the nftables table inet tunwarden, and a routing table of its own. They stay when it is "
        "killed, and at a restart; while protection is wanted they stay also when it is stopped. "
        "tunwarden-lockdown.service loads the closed rules at boot, before any network. To reopen the machine "
        "without the daemon: tunwarden panic-reset."
    )
    yield ".SH SIGNALS"
    yield from _item("\\fBSIGHUP\\fR", "Read the settings files again. They are also read when they change.")
    yield from _item("\\fBSIGTERM, SIGINT\\fR", "End. What is protected or locked stays closed.")
    yield ".SH LOG"
    yield _text(
        "In the journal, with fields: journalctl -u tunwarden TUNWARDEN_PHASE=blocked. Keys and passwords are "
        "never in it. tunwarden trace on writes every event in detail, for a while."
    )
    yield from _files()
    yield ".SH SEE ALSO"
    yield ".BR tunwarden (1),"
    yield ".BR tunwarden.toml (5)"


def _settings() -> Iterator[str]:
    from policies.settings_schema import schema

    yield from _head("tunwarden.toml", 5, "settings of tunwarden")
    yield ".SH SYNOPSIS"
    yield "/etc/tunwarden/tunwarden.toml"
    yield ".br"
    yield "/etc/tunwarden/tunwarden.d/*.toml"
    yield ".SH DESCRIPTION"
    yield _text(
        "TOML. Everything has a default. Drop-ins are read in the order of their names; a later file wins, key by"
        " key, and in [[links]] and [[known]] name by name. What a file says, users cannot change; what none "
        "says, they can: tunwarden settings. The daemon reads the files again when they change. tunwarden "
        "settings check FILE checks one. With errors, the last good files stay in force; where there were never "
        "any, nothing passes."
    )
    yield ".PP"
    yield _text('Times are a number and a unit: "500ms", "3s", "2m", "1h".')
    yield ".SH KEYS"
    yield from _keys(schema()["properties"], "")
    yield ".SH SEE ALSO"
    yield ".BR tunwarden (1),"
    yield ".BR tunwardend (8)"


def _keys(properties: Mapping[str, Any], table: str) -> Iterator[str]:
    for name, about in properties.items():
        inner = about.get("items", about)
        if "properties" in inner:
            full = f"{table}{name}"
            yield f".SS {_text(f'[[{full}]]' if 'items' in about else f'[{full}]')}"
            yield _text(about["description"])
            yield from _keys(inner["properties"], f"{full}.")
            continue
        default = f" Default: {_value(about['default'])}." if "default" in about else ""
        choices = f" One of {', '.join(inner['enum'])}." if "enum" in inner else ""
        yield from _item(f"\\fB{_text(name)}\\fR", f"{about['description']}{choices}{default}")


def _value(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _files() -> Iterator[str]:
    yield ".SH FILES"
    for name, text in FILES.items():
        yield from _item(f"\\fI{_text(name)}\\fR", text)


def _item(tag: str, text: str) -> Iterator[str]:
    yield ".TP"
    yield tag
    yield _text(text)


def _sentence(text: str) -> str:
    text = text.strip()[:1].upper() + text.strip()[1:]
    return text if not text or text.endswith((".", "!", "?")) else f"{text}."


def _text(text: str) -> str:
    """For roff: no line is a request, dashes are dashes, and so are quotes."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq")
    return "\n".join(f"\\&{line}" if line.startswith(".") else line for line in escaped.split("\n"))


PAGES = {"tunwarden.1": _tunwarden, "tunwarden.toml.5": _settings, "tunwardend.8": _tunwardend}

if __name__ == "__main__":
    main(Path(sys.argv[1]))
