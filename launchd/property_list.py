"""The daemon's property list for launchd, from the facts that the systemd unit states too.

    python3 -I launchd/property_list.py                  prints it
    python3 -I launchd/property_list.py --check FILE     says what is wrong with a file, one line each; exit status 1

`tests/launchd` compares FACTS with systemd/tunwarden.service. Keys: launchd.plist(5). Not part of any package: the
installer runs it, as root, from the checkout.
"""

from __future__ import annotations

import math
import plistlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

LABEL = "org.tunwarden.daemon"
# Not below /usr/local, which may be Homebrew's, and so a user's to write. No space in it: it stands after #!.
PREFIX = PurePosixPath("/Library/tunwarden")
LOG = PurePosixPath("/var/log/tunwarden/tunwardend.log")


@dataclass(frozen=True)
class Facts:
    """What a service manager must know of the daemon, whichever it is."""

    arguments: tuple[str, ...] = ("-I", "-m", "daemon")  # of the private environment's python
    path: str = "/usr/sbin:/usr/bin:/sbin:/bin"  # the daemon's own PATH: there is nothing else in its environment
    umask: int = 0o077
    restarts_always: bool = True
    restart_s: float = 0.5  # after it ended, until it is started again
    stop_s: int = 10  # after it was asked to end, until it is killed
    children_outlive: bool = True  # the tunnel's process goes on behind the same rules until the next daemon
    open_files: int = 16384  # ipc/varlink.py shares them out among who asks
    core_bytes: int = 0  # its memory holds private keys


FACTS = Facts()


def property_list(facts: Facts = FACTS) -> dict[str, object]:
    """The keys of the property list."""
    return {
        "Label": LABEL,
        "ProgramArguments": [str(PREFIX / "bin/python"), *facts.arguments],
        "EnvironmentVariables": {"PATH": facts.path},
        "WorkingDirectory": "/",
        "UserName": "root",
        "GroupName": "wheel",
        "Umask": facts.umask,  # an integer, so decimal in the file: 63. Octal digits would be another number.
        "RunAtLoad": True,
        "KeepAlive": facts.restarts_always,
        "ThrottleInterval": max(1, math.ceil(facts.restart_s)),  # whole seconds; 10 unless told otherwise
        "ExitTimeOut": facts.stop_s,
        "AbandonProcessGroup": facts.children_outlive,
        "ProcessType": "Interactive",  # the usual throttling of background jobs would delay a block
        "SoftResourceLimits": {"NumberOfFiles": facts.open_files, "Core": facts.core_bytes},
        "HardResourceLimits": {"Core": facts.core_bytes},
        "StandardOutPath": "/dev/null",
        "StandardErrorPath": str(LOG),
    }


def to_xml(keys: dict[str, object]) -> bytes:
    """The file, the same for the same keys."""
    return plistlib.dumps(keys, sort_keys=True)


# --- the schema -------------------------------------------------------------------------------------------------------


def _is(wanted: object) -> Callable[[object], str]:
    return lambda value: "" if value == wanted and type(value) is type(wanted) else f"must be {wanted!r}"


def _integer(least: int, most: int) -> Callable[[object], str]:
    # type() and not isinstance(): True is an int to Python, and <true/> is no number to launchd.
    return lambda value: (
        "" if type(value) is int and least <= value <= most else f"must be an integer from {least} to {most}"
    )


def _umask(value: object) -> str:
    if type(value) is not int or not 0 <= value <= 0o777:
        return "must be an integer from 0 to 511: decimal, 63 for 077"
    return "" if value & 0o077 == 0o077 else f"is {value:03o} in octal: others could read what root writes (63 is 077)"


def _path(value: object) -> str:
    if not isinstance(value, str) or not value.startswith("/") or ".." in value.split("/"):
        return "must be an absolute path"
    return "" if value.isprintable() else "has characters that do not print"


def _arguments(value: object) -> str:
    if not isinstance(value, list) or not value or not all(isinstance(each, str) for each in value):
        return "must be a list of texts"
    if wrong := _path(value[0]):
        return f"its program {wrong}"
    if PurePosixPath(value[0]).name in ("sh", "bash", "zsh", "dash", "env"):
        return "must not start a shell"
    return "" if value[1:2] == ["-I"] else "must run Python isolated (-I)"


def _table(schema: dict[str, Callable[[object], str]]) -> Callable[[object], str]:
    def check(value: object) -> str:
        if not isinstance(value, dict):
            return "must be a dictionary"
        wrong = [f"has no use for {key}" for key in value if key not in schema]
        wrong += [f"{key} {found}" for key in schema if key in value and (found := schema[key](value[key]))]
        wrong += [f"lacks {key}" for key in schema if key not in value]
        return "; ".join(wrong)

    return check


SCHEMA: dict[str, Callable[[object], str]] = {
    "Label": _is(LABEL),
    "ProgramArguments": _arguments,
    "EnvironmentVariables": _table({"PATH": _is(FACTS.path)}),
    "WorkingDirectory": _is("/"),
    "UserName": _is("root"),
    "GroupName": _is("wheel"),
    "Umask": _umask,
    "RunAtLoad": _is(True),
    "KeepAlive": _is(True),
    "ThrottleInterval": _integer(1, 10),
    "ExitTimeOut": _integer(1, 60),  # 0 would wait for ever
    "AbandonProcessGroup": _is(True),
    "ProcessType": _is("Interactive"),
    "SoftResourceLimits": _table({"NumberOfFiles": _integer(1024, 24576), "Core": _is(0)}),
    "HardResourceLimits": _table({"Core": _is(0)}),
    "StandardOutPath": _path,
    "StandardErrorPath": _path,
}


def problems(content: bytes) -> list[str]:
    """What is wrong with a file, in sentences; empty when launchd would do with it what FACTS say.

    launchd ignores keys that it does not know and types that it does not want, so both are errors here. The file must
    also be the one way to write its keys: an editor's or a cut-off copy, or one that says a key twice, is not.
    """
    try:
        keys = plistlib.loads(content, fmt=plistlib.FMT_XML)
    except Exception as err:  # whatever a parser says to a file that is broken in any way
        return [f"it is no property list in XML: {err or type(err).__name__}"]
    if not isinstance(keys, dict):
        return ["it is no dictionary"]
    wrong = _table(SCHEMA)(keys)
    if not wrong and to_xml(keys) != content:
        wrong = "it is not written as it would be here: something in it is said twice, or hidden"
    return wrong.split("; ") if wrong else []


def main(arguments: list[str]) -> int:
    """See above. Exit status 2 for a call that makes no sense."""
    match arguments:
        case []:
            sys.stdout.buffer.write(to_xml(property_list()))
            return 0
        case ["--check", file]:
            try:
                found = problems(Path(file).read_bytes())
            except OSError as err:
                found = [err.strerror or str(err)]
            for each in found:
                print(f"{file}: {each}", file=sys.stderr)
            return 1 if found else 0
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
