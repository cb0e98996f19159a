"""tunwarden prompts [ask | list | answer]"""

from __future__ import annotations

import argparse
import sys
import termios
import threading
from collections.abc import Sequence
from datetime import datetime

from cli.codes import Exit
from cli.output import Output, safe
from ipc.client import Client, NotRunningError
from ipc.errors import Error, ServiceError
from ipc.structs import Prompt
from ipc.values import plain

WORDS = {"connect": "auto_connect", "ignore": "ignore"}
HELP = "connect: use the VPN; ignore: use the network without it; and `always`: remember that for this network."


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = f"Without a word: ask, until Ctrl-C. {HELP} Remembering `ignore` needs root."
    parts = parser.add_subparsers(dest="part", metavar="ask|list|answer")
    parts.add_parser("ask", help="ask here, now and whenever there is a question")
    parts.add_parser("list", help="the questions that wait")
    answer = parts.add_parser("answer", help="answer one question", epilog=HELP)
    answer.add_argument("id", metavar="ID", help="as listed")
    answer.add_argument("word", choices=WORDS, help="connect or ignore")
    answer.add_argument("always", nargs="?", choices=["always"], help="remember it for this network")


def run(options: argparse.Namespace, out: Output) -> int:
    match options.part:
        case "list":
            with Client(options.run_folder) as client:
                _list(client.waiting_prompts(), out)
        case "answer":
            with Client(options.run_folder) as client:
                client.answer_prompt(options.id, WORDS[options.word], options.always is not None)
            out.line("Answered.")
        case _:
            return Desk(options.run_folder, out).ask()
    return Exit.OK


def _list(prompts: Sequence[Prompt], out: Output) -> None:
    out.data(plain(tuple(prompts)))
    if not prompts:
        out.line("Nothing waits for an answer.")
        return
    rows = [(one.id, _name(one), _reasons(one), _until(one), one.fallback) for one in prompts]
    out.table(("ID", "NETWORK", "WHY", "UNTIL", "THEN"), rows)


class Desk:
    """Asks whoever sits at the terminal. One thread hears of questions, the other reads what is typed."""

    def __init__(self, folder: str, out: Output) -> None:
        self._folder, self._out = folder, out
        self._lock = threading.Lock()
        self._waiting: dict[str, Prompt] = {}  # in the order they were raised; the first is the one being asked
        self._raised = threading.Condition(self._lock)
        self._no_more_input = False

    def ask(self) -> int:
        """Until Ctrl-C, the end of the input, or of the daemon."""
        with Client(self._folder) as client:
            prompts = client.watch_prompts()
            next(prompts)  # from here on the daemon waits for us
            self._out.note("Waiting for questions; Ctrl-C ends it.")
            threading.Thread(target=self._read, args=(client,), daemon=True).start()
            try:
                for prompt in prompts:
                    if prompt is not None:
                        self._heard(prompt)
            except NotRunningError:
                if not self._no_more_input:
                    raise
        self._out.note("tunwarden: nothing more can be typed here, so this ends.")
        return Exit.FAILED

    def _heard(self, prompt: Prompt) -> None:
        self._out.data(plain(prompt))
        with self._raised:
            first = next(iter(self._waiting), None)
            if prompt.state == "raised":
                self._waiting[prompt.id] = prompt
            else:
                self._waiting.pop(prompt.id, None)
                self._out.line(f"{_name(prompt)}: {_became(prompt)}")
            now = next(iter(self._waiting), None)
            if now is not None and (now != first or prompt.id == now):
                self._show(self._waiting[now])
            self._raised.notify()

    def _show(self, prompt: Prompt) -> None:
        if sys.stdin.isatty():  # what was typed before was meant for another question
            termios.tcflush(sys.stdin, termios.TCIFLUSH)
        self._out.line(self._out.paint(f"{_name(prompt)}: {_reasons(prompt)}", "bold"))
        held = "Nothing leaves over it until then. " if prompt.held else ""
        self._out.line(f"  {held}At {_until(prompt)}: {_in_words(prompt.fallback)}.")
        remembered = ", with always to remember it" if prompt.remember else ""
        self._out.line(f"  Use the VPN? Type connect or ignore{remembered}.")

    def _read(self, client: Client) -> None:
        while True:
            with self._raised:
                while not self._waiting:
                    self._raised.wait()
            line = sys.stdin.readline()
            if not line:
                self._no_more_input = True
                client.hang_up()
                return
            with self._lock:
                prompt = next(iter(self._waiting.values()), None)
            if prompt is not None:
                self._answer(prompt, line.split())

    def _answer(self, prompt: Prompt, words: list[str]) -> None:
        if not words or words[0] not in WORDS or words[1:] not in ([], ["always"]):
            self._out.note("connect, ignore, connect always or ignore always?")
            return
        try:
            with Client(self._folder) as client:
                client.answer_prompt(prompt.id, WORDS[words[0]], len(words) == 2)
        except ServiceError as error:
            # That it is over is told to us as a change of the prompt.
            if error.error is not Error.NO_SUCH_PROMPT:
                self._out.note(f"tunwarden: {safe(str(error))}")
        except (NotRunningError, TimeoutError, OSError) as error:
            self._out.note(f"tunwarden: {safe(str(error))}")


def _name(prompt: Prompt) -> str:
    network = prompt.network
    return safe(f"“{network.ssid}” on {network.ifname}" if network.ssid else f"{network.ifname} ({network.kind})")


def _reasons(prompt: Prompt) -> str:
    return " ".join(reason.text for reason in prompt.network.reasons) or f"Its rule is to ask ({prompt.network.rule})."


def _until(prompt: Prompt) -> str:
    return f"{datetime.fromtimestamp(prompt.deadline):%H:%M:%S}"


def _in_words(action: str) -> str:
    return "the VPN is used" if action == "auto_connect" else "the network is used without the VPN"


def _became(prompt: Prompt) -> str:
    match prompt.state:
        case "answered":
            return f"answered, {_in_words(prompt.answer or '')}."
        case "expired":
            return f"nobody answered, {_in_words(prompt.fallback)}."
        case _:
            return "there is nothing to ask any more."
