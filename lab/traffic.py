"""Continuous traffic from the laptop while a test moves the world: `with lab.traffic(): ...`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from lab.addresses import ECHO_PORT, WEB_PORT, Plan
from lab.hosts import Host
from lab.processes import LabError, Process

TALKER = Path(__file__).with_name("talker.py")


@dataclass(frozen=True, slots=True)
class Tried:
    """What became of one kind of traffic, in packets (TCP: connections)."""

    tried: int
    refused: int  # the kernel refused the send: nothing left by that try
    answered: int  # the internet answered


class Talker:
    """The program `talker.py` with that plan, on the laptop.

    A context manager; `counts` holds what was tried once it has been left (or `stop()` was called).
    """

    def __init__(self, laptop: Host, python: str, plan: Mapping[str, object]) -> None:
        self.counts: dict[str, Tried] = {}
        self._laptop = laptop
        self._argv = (python, "-I", "-S", str(TALKER), json.dumps(plan))
        self._process: Process | None = None

    def __enter__(self) -> Talker:
        self._process = self._laptop.start(*self._argv)
        self._process.wait_output("running", 60)
        return self

    def stop(self) -> dict[str, Tried]:
        """End the traffic and return the counts by kind. Raises LabError when it died before."""
        if self._process is not None:
            process, self._process = self._process, None
            if process.stop(60) != 0:
                raise LabError(f"the traffic died: {process.output()}")
            counts = json.loads(process.output().splitlines()[-1])
            self.counts = {kind: Tried(**one) for kind, one in counts.items()}
        return self.counts

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, _: TracebackType | None) -> None:
        self.stop()


class Traffic(Talker):
    """Nine kinds of traffic, `rate` tries a second each: UDP, TCP and ICMP of both families, DNS to every resolver
    there is, and UDP from sockets bound to the physical link.
    """

    def __init__(self, laptop: Host, plan: Plan, python: str, rate: float, device: str) -> None:
        resolvers = (plan.cafe.host4(1), plan.cafe.host6(1), plan.home.host4(1), plan.internet4, plan.internet6)
        inside = (*plan.site.inside_server, *plan.other_site.inside_server)
        super().__init__(
            laptop, python,
            {
                "rate": rate, "device": device, "target4": str(plan.internet4), "target6": str(plan.internet6),
                "resolvers": [str(address) for address in (*resolvers, *inside)],
                "echo_port": ECHO_PORT, "web_port": WEB_PORT,
            },
        )  # fmt: skip
