"""tunwarden split list | run | add | remove: programs that never use the tunnel, and programs that use nothing else"""

from __future__ import annotations

import argparse
import contextlib
import os
import pwd
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from cli import portal_browser
from cli.codes import Exit
from cli.output import Output, safe
from ipc.client import Client
from ipc.errors import Error, ServiceError
from ipc.structs import SplitEntry
from ipc.values import plain

CANNOT_START = 127  # as in a shell
WORDS = {"never": "beside the tunnel", "only": "through the tunnel only"}
EPILOG = """\
Beside the tunnel needs sudo: it is a way out. `sudo tunwarden split run -- COMMAND` runs the command as you, not as
root, and --program means your processes. Connections that a process has already stay where they are: run or restart
it. What a program asks others to do for it (a service, another browser window) is not in its group."""


def arguments(parser: argparse.ArgumentParser) -> None:
    parts = parser.add_subparsers(dest="part", metavar="list|run|add|remove", required=True)
    parts.add_parser("list", help="who is in a group; with sudo: everybody's")
    run = _part(parts, "run", "run a command beside the tunnel, with all that it starts")
    run.add_argument("--only", action="store_true", help="through the tunnel or not at all, also while disconnected")
    run.add_argument("command", metavar="-- COMMAND", nargs=argparse.REMAINDER, help="the command and its words")
    add = _part(parts, "add", "put processes, and what they start from now on, beside the tunnel")
    add.add_argument("--only", action="store_true", help="through the tunnel or not at all, also while disconnected")
    remove = _part(parts, "remove", "take them out again; their connections end")
    for part in (add, remove):
        part.add_argument("pids", metavar="PID", type=int, nargs="*", help="a process")
        part.add_argument("--program", metavar="FILE", help="all your processes of this program, now and later")


def _part(parts: argparse._SubParsersAction[argparse.ArgumentParser], name: str, text: str) -> argparse.ArgumentParser:
    return parts.add_parser(name, help=text, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)


def run(options: argparse.Namespace, out: Output) -> int:
    group = "only" if getattr(options, "only", False) else "never"
    match options.part:
        case "list":
            with Client(options.run_folder) as client:
                _list(client.list_split(), out)
            return Exit.OK
        case "run":
            words = options.command[1:] if options.command[:1] == ["--"] else options.command
            if not words:
                raise ServiceError(Error.INVALID_ARGUMENT, "split run", "no command is given.", "Put it behind `--`.")
            return _run(options.run_folder, group, words, out)
        case part:
            return _change(options, part, group, out)


def _list(entries: Sequence[SplitEntry], out: Output) -> None:
    out.data(plain(tuple(entries)))
    if not entries:
        out.line("No program is beside the tunnel or bound to it.")
        return
    rows = [
        (
            WORDS.get(one.group, one.group),
            str(one.pid) if one.pid else "program",
            str(one.uid),
            str(one.processes) if one.pid else "",
            one.name,
        )
        for one in entries
    ]
    out.table(("WHERE", "PROCESS", "USER", "PROCESSES", "NAME"), rows)


def _change(options: argparse.Namespace, part: str, group: str, out: Output) -> int:
    if not options.pids and not options.program:
        raise ServiceError(
            Error.INVALID_ARGUMENT, f"split {part}", "nothing is named.", "Name a PID, or --program FILE."
        )
    with Client(options.run_folder) as client:
        for pid in options.pids:
            if part == "add":
                client.add_split(group, pid)
            else:
                client.remove_split(pid)
        if options.program:
            # A program that is gone can still be removed, under the name that it is listed by.
            path = _program(options.program) if part == "add" else str(Path(options.program).absolute())
            uid = int(os.environ["SUDO_UID"]) if os.geteuid() == 0 and "SUDO_UID" in os.environ else -1
            if part == "add":
                client.add_split_program(group, path, uid)
            else:
                client.remove_split_program(path, uid)
    done = f"added, {WORDS[group]}" if part == "add" else "removed"
    named = [*map(str, options.pids), *([options.program] if options.program else [])]
    out.data({"named": named})
    out.line(f"{', '.join(map(safe, named))}: {done}.")
    return Exit.OK


def _program(name: str) -> str:
    """Where the program itself is. Raises ServiceError for a script: its processes run the interpreter."""
    path = Path(name).resolve(strict=True)
    with path.open("rb") as file:
        if file.read(2) == b"#!":
            why = f"{path} is a script, and its processes are those of its interpreter."
            raise ServiceError(Error.INVALID_ARGUMENT, "split add", why, "Use `split run`.")
    return str(path)


def _run(folder: str, group: str, words: Sequence[str], out: Output) -> int:
    """The command waits until it is in the group: no socket of it is from before."""
    with Client(folder) as client:
        read, write = os.pipe()
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            os.close(write)
            _become(read, words)
        os.close(read)
        try:
            client.add_split(group, pid)
        except BaseException:
            os.close(write)  # it ends, having run nothing
            os.waitpid(pid, 0)
            raise
    out.data({"group": group, "pid": pid})

    def hand_on(number: int, frame: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, hand_on)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to both
    os.write(write, b"go")
    os.close(write)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return status if status >= 0 else 128 - status


def _become(go: int, words: Sequence[str]) -> NoReturn:
    """The other side of the fork. Whatever happens, it never returns into the program."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        _leave_root()
        if os.read(go, 2) != b"go":
            os._exit(0)
        os.close(go)
        portal_browser.plain_names()
        try:
            os.execvp(words[0], list(words))  # noqa: S606  the user's own program, as that user
        except OSError as err:
            print(f"tunwarden: {safe(words[0])}: {err.strerror}", file=sys.stderr, flush=True)
    except BaseException as err:
        print(f"tunwarden: {safe(repr(err))}", file=sys.stderr, flush=True)
    os._exit(CANNOT_START)


def _leave_root() -> None:
    """Who used sudo for the group alone wants the command to be his own."""
    if os.geteuid() != 0 or not os.environ.get("SUDO_UID", "0").isdigit():
        return
    uid = int(os.environ.get("SUDO_UID", "0"))
    if uid == 0:
        return
    user = pwd.getpwuid(uid)
    os.initgroups(user.pw_name, user.pw_gid)
    os.setgid(user.pw_gid)
    os.setuid(uid)
    for name in ("SUDO_UID", "SUDO_GID", "SUDO_USER", "SUDO_COMMAND"):
        os.environ.pop(name, None)
    os.environ |= {"HOME": user.pw_dir, "USER": user.pw_name, "LOGNAME": user.pw_name, "SHELL": user.pw_shell}
