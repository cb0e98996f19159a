"""A member of a group of split tunnelling, on the laptop, that does what it is told."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lab.frames import LEAKS
from lab.meter import Meter
from lab.processes import Process
from lab.topology import Laboratory
from tests.netns.test_portal_login import Seen, seen

MEMBER = str(Path(__file__).with_name("split_member.py"))
OUTSIDE = range(21000, 21900)  # source ports that only members use: so their frames are told from all others
_ports = itertools.cycle(OUTSIDE)

__all__ = ["LEAKS", "OUTSIDE", "Member", "Seen", "members", "seen"]


class Member:
    """A running program. `ask(do=...)`: see split_member.py."""

    def __init__(self, lab: Laboratory, *before: str, python: str = "") -> None:
        """`before`: words in front of the program, such as another user's."""
        self.lab = lab
        read, self._orders = os.pipe()
        try:
            self.process: Process = lab.laptop.start(*before, python or lab.python, "-I", "-S", MEMBER, stdin=read)
        finally:
            os.close(read)
        self._answers = 0
        self.pid = int(str(self._next(20)))  # as the laptop numbers it

    def _next(self, timeout: float) -> object:
        deadline = time.monotonic() + timeout
        while True:
            lines = [line for line in self.process.output().split("\n")[:-1] if line]
            if len(lines) > self._answers:
                self._answers += 1
                return json.loads(lines[self._answers - 1])
            assert time.monotonic() < deadline, self.process.output()
            time.sleep(0.005)

    def ask(self, timeout: float = 30, **task: Any) -> Any:
        """From a port that no other program uses, unless it says otherwise."""
        if task["do"] in ("web", "echo", "open", "hold", "dns") and "from" not in task:
            task["from"] = next(_ports)
        os.write(self._orders, json.dumps(task).encode() + b"\n")
        return self._next(timeout)

    def until(self, wanted: object, timeout: float = 25, **task: Any) -> None:
        """Ask again until that is the answer: a network has just changed."""
        deadline = time.monotonic() + timeout
        while (said := self.ask(**task)) != wanted:
            assert time.monotonic() < deadline, (said, wanted, task)
            time.sleep(0.05)

    def end(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self._orders)
        if self.process.running:
            self.process.send(signal.SIGKILL)
            self.process.wait(20)


@contextlib.contextmanager
def members(lab: Laboratory) -> Iterator[Callable[..., Member]]:
    """`with members(lab) as member: one = member()`; all of them end with it."""
    made: list[Member] = []

    def start(*before: str, python: str = "") -> Member:
        made.append(Member(lab, *before, python=python))
        return made[-1]

    try:
        yield start
    finally:
        for each in made:
            each.end()


def strangers(meter: Meter, resolvers: set[object]) -> list[Seen]:
    """Clear frames of others than members, and than the daemon who asks the network's resolvers for their names."""
    return [
        one
        for one in seen(meter)
        if one.source_port not in OUTSIDE
        and not (
            one.port == 53 and (one.target in resolvers or one.target.is_link_local) and b"leak" not in one.payload
        )
    ]
