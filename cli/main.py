"""`tunwarden`: finds the command, imports that one alone, and turns what goes wrong into words and an exit code."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Protocol, cast

from cli.codes import Exit
from cli.output import Output, safe
from ipc import VERSION

FOLDER = "/run/tunwarden"

COMMANDS = {
    "status": "the state of protection",
    "watch": "every change, as it happens",
    "connect": "ask for protection",
    "disconnect": "give it up",
    "reconnect": "take the tunnel down and up again",
    "networks": "the networks this machine is on, and their verdict",
    "known": "saved networks: list, add, edit, forget, export, import",
    "portal-login": "log in to a captive portal, while everything else stays blocked",
    "traffic": "what was counted: today, by day, network or profile; rates; the allowance",
    "prompts": "questions about networks: answer them here",
    "split": "programs beside the tunnel, or bound to it: list, run, add, remove",
    "profiles": "VPN configurations: list, show, import, login, remove",
    "servers": "the servers of a profile: list, import, favourites",
    "killswitch": "block when the tunnel drops: on, off",
    "lockdown": "block also while disconnected: on, off",
    "settings": "the settings: get, set, reset, export, import, check a file",
    "leak-test": "send packets that must not leave, and watch the links",
    "trace": "write every event in detail for a while: on, off, status",
    "report": "what helps to find a fault, into a file that you read first",
    "doctor": "what is well, what is not, and what to do",
    "completion": "completion for bash, zsh and fish",
    "panic-reset": "reopen the machine without the daemon",
}

EPILOG = "exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 no daemon, 4 not permitted, 5 timed out, 6 alarm"


class Command(Protocol):
    """What a module of a command offers."""

    def arguments(self, parser: argparse.ArgumentParser) -> None: ...
    def run(self, options: argparse.Namespace, out: Output) -> int: ...


def main(argv: Sequence[str] | None = None) -> int:
    """The program. Returns its exit code."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)  # absent when a test has replaced it
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
    words, as_json = _without_json(sys.argv[1:] if argv is None else list(argv))
    first = first_parser().parse_args(words)
    command = cast(Command, import_module(f"cli.{first.command.replace('-', '_')}"))
    parser = argparse.ArgumentParser(prog=f"tunwarden {first.command}", description=COMMANDS[first.command])
    command.arguments(parser)
    options = parser.parse_args(first.rest, argparse.Namespace(run_folder=first.run_folder))
    out = Output(as_json)
    try:
        code = command.run(options, out)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except BrokenPipeError:  # the reader of our output has left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.OK
    except Exception as error:
        return _explain(error, out)
    return code


def first_parser() -> argparse.ArgumentParser:
    """The program's own options; then a command and its words."""
    width = max(map(len, COMMANDS))
    listing = "\n".join(f"  {name:{width}}  {text}" for name, text in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="tunwarden",
        description="Keeps this computer's traffic inside its VPN.",
        epilog=f"commands:\n{listing}\n\n`tunwarden COMMAND --help` tells more.\n{EPILOG}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"tunwarden {VERSION}", help="show the version")
    parser.add_argument("--json", action="store_true", help="for programs: one JSON value a line (with every command)")
    parser.add_argument(
        "--run-folder", metavar="FOLDER", default=FOLDER, help=f"the daemon's sockets are here ({FOLDER})"
    )
    parser.add_argument("command", metavar="COMMAND", choices=COMMANDS)
    parser.add_argument("rest", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


def _without_json(words: list[str]) -> tuple[list[str], bool]:
    """The words without `--json`, which is understood anywhere before `--`, and whether it was there."""
    end = words.index("--") if "--" in words else len(words)
    kept = [word for word in words[:end] if word != "--json"]
    return kept + words[end:], len(kept) < end


def _explain(error: Exception, out: Output) -> int:
    from ipc.client import NotRunningError, ProtocolError
    from ipc.errors import Error, ServiceError

    match error:
        case ServiceError():
            out.data({"error": error.error.wire_name, "what": error.what, "why": error.why, "remedy": error.remedy})
            out.note(f"tunwarden: {safe(str(error))}")
            return Exit.NOT_PERMITTED if error.error is Error.NOT_PERMITTED else Exit.FAILED
        case NotRunningError():
            name, code = "not-running", Exit.NOT_RUNNING
        case TimeoutError():
            error, name, code = TimeoutError("the daemon did not answer in time"), "timed-out", Exit.TIMED_OUT
        case ProtocolError() | OSError() | UnicodeError():
            name, code = "failed", Exit.FAILED
        case _:
            raise error
    out.data({"error": name, "why": str(error)})
    out.note(f"tunwarden: {safe(str(error))}")
    return code


if __name__ == "__main__":
    sys.exit(main())
