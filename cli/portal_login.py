"""tunwarden portal-login [-- COMMAND]: log in to a captive portal, while everything else stays blocked"""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import NoReturn

from cli import portal_browser
from cli.codes import Exit
from cli.output import Output, safe
from ipc.client import Client, NotRunningError, connect
from ipc.structs import LoginState
from ipc.values import plain

PATIENCE_S = 3.0  # between asking the command to end and ending it
WORD_S = 2.0  # for the daemon to tell why it has ended the command
CANNOT_START = 127  # as in a shell

SENTENCES = {
    "done": "The portal is open. The login is closed again; if protection is wanted, the VPN connects now.",
    "expired": "The time for the login is over: everything is blocked again.",
    "withdrawn": "The network was left, or protection is not wanted any more: the login is closed again.",
}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Without a command: a browser with a profile that is thrown away afterwards, or, where there is none, the "
        "address to open. The command, run by you, and all it starts may reach HTTP and HTTPS on this network and "
        "nothing else; everything else stays blocked. It ends when the portal is open, after ten minutes (setting "
        "portal.login_timeout), or with the command. Exit status: that of the command; 0 when the portal is open, "
        "5 when the time is over, 1 when the network was left; 127 when the command cannot be run."
    )
    parser.add_argument("run", metavar="-- COMMAND", nargs=argparse.REMAINDER, help="instead of a browser")


def run(options: argparse.Namespace, out: Output) -> int:
    words = options.run[1:] if options.run[:1] == ["--"] else options.run
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupted)
    # The daemon takes the process that connected: so that is the candidate, who becomes the command.
    with (
        Candidate(options.run_folder) as candidate,
        Client(options.run_folder, connected=candidate.connection()) as client,
    ):
        return _log_in(client, candidate, words, out)


def _interrupted(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _log_in(client: Client, candidate: Candidate, words: Sequence[str], out: Output) -> int:
    told = client.portal_login()
    begun = next(told)
    out.data(plain(begun))
    minutes = max(1, round((begun.until - time.time()) / 60))
    out.note(f"The login is open, for this command alone and for {minutes} minutes at most. All else stays blocked.")
    with contextlib.ExitStack() as stack:
        command = list(words) or portal_browser.command(begun.url, stack)
        if not command:
            out.note(f"No browser was found that can be kept apart. {_by_hand(begun)}")
            return Exit.FAILED
        candidate.become(command)
        state = _wait(client, told, candidate)
        if state is not None:
            out.data(plain(state))
            out.note(SENTENCES.get(state.state, safe(state.state)))
            candidate.end()
            return {"done": Exit.OK, "expired": Exit.TIMED_OUT}.get(state.state, Exit.FAILED)
        client.close()  # nothing that the command left behind goes on
        code = candidate.code()
        out.note(f"The command has ended{f' with status {code}' if code else ''}, so the login is closed again.")
        return code


def _wait(client: Client, told: Iterator[LoginState], candidate: Candidate) -> LoginState | None:
    """What the daemon says; None when the command ended before it said anything."""
    while True:
        ready, _, _ = select.select([client.fileno(), candidate.fileno()], [], [], 0 if client.waits else None)
        if client.waits or client.fileno() in ready:
            return next(told)
        if ready:
            # Ended by the daemon, or with it? Then it says so in a moment.
            killed = candidate.code() == 128 + signal.SIGKILL
            return next(told) if killed and select.select([client.fileno()], [], [], WORD_S)[0] else None


def _by_hand(begun: LoginState) -> str:
    return f"Log in with a text browser, such as: tunwarden portal-login -- w3m {safe(begun.url)}"


class Candidate:
    """A process that connects to the daemon, hands the connection to us, and becomes the command when it is told to.

    So it is in the login before it runs anything, and nothing of ours is: what we have open gains nothing.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._status: int | None = None

    def __enter__(self) -> Candidate:
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sys.stdout.flush()
        self._pid = os.fork()
        if self._pid == 0:
            self._ours.close()
            _candidate(theirs, self._folder)
        theirs.close()
        self._ended, told = socket.socketpair()
        threading.Thread(target=self._reap, args=(told,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ours.close()
        self.end()
        self._ended.close()

    def fileno(self) -> int:
        """Readable when it has ended."""
        return self._ended.fileno()

    def _reap(self, told: socket.socket) -> None:
        _, status = os.waitpid(self._pid, 0)
        self._status = os.waitstatus_to_exitcode(status)
        told.close()

    def connection(self) -> socket.socket:
        """Raises what connecting raises."""
        _, descriptors, _, _ = socket.recv_fds(self._ours, 1, 1)
        if not descriptors:
            with Client(self._folder) as client:  # the same refusal, in our own words
                next(client.portal_login())
            raise NotRunningError("it could not be connected to")
        return socket.socket(fileno=descriptors[0])

    def become(self, command: Sequence[str]) -> None:
        self._ours.sendall("\0".join(command).encode(errors="surrogateescape"))

    def end(self) -> None:
        """Ask it to end; after some patience, end it. It is gone afterwards."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                if self._status is None:
                    os.kill(self._pid, number)
            if select.select([self._ended], [], [], PATIENCE_S)[0]:
                return

    def code(self) -> int:
        """Its exit status, as a shell tells it; waits for it."""
        select.select([self._ended], [], [])
        status = self._status or 0
        return status if status >= 0 else 128 - status


def _candidate(channel: socket.socket, folder: str) -> NoReturn:
    """The other side of the fork. Whatever happens, it never returns into the program."""
    try:
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        try:
            connection = connect(f"{folder}/tunwarden.sock", 10.0)
        except (NotRunningError, OSError):
            os._exit(0)  # nothing is handed over: that says it
        connection.settimeout(None)
        socket.send_fds(channel, [b"c"], [connection.fileno()])
        connection.close()
        raw = channel.recv(1 << 17)
        if not raw:
            os._exit(0)
        command = raw.decode(errors="surrogateescape").split("\0")
        portal_browser.plain_names()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        try:
            os.execvp(command[0], command)  # noqa: S606  the user's own program, as that user
        except OSError as err:
            print(f"tunwarden: {safe(command[0])}: {err.strerror}", file=sys.stderr, flush=True)
    except BaseException as err:
        print(f"tunwarden: {safe(repr(err))}", file=sys.stderr, flush=True)
    os._exit(CANNOT_START)
