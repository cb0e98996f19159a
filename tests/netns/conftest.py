"""The daemon in the laboratory: every test here runs the real one against real kernels, tunnels and buses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from lab.meter import Meter
from lab.subject import Subject
from lab.topology import Laboratory


@pytest.fixture
def subject(lab: Laboratory) -> Iterator[Subject]:
    """The daemon, started, with the laboratory's VPN profile imported; nothing is joined yet."""
    subject = Subject(lab)
    subject.start()
    subject.set_up()
    yield subject
    if subject.process is not None and subject.process.running:
        assert "Traceback" not in subject.process.output(), subject.process.output()


Sealed = Callable[[], "contextmanager[Meter]"]


@pytest.fixture
def sealed(lab: Laboratory) -> Callable[..., object]:
    """`with sealed(): ...`: traffic of nine kinds, and not one clear frame may leave. With the positive control."""

    @contextmanager
    def measure(wire: str = "wlan0", rate: float = 40.0) -> Iterator[Meter]:
        with lab.meter() as meter:
            with lab.traffic(rate=rate, device=wire) as traffic:
                yield meter
            assert sum(each.tried for each in traffic.counts.values()) > 0
            assert meter.leaks() == []
            meter.positive_control(wire)  # the same meter, on the same wire, sees what it should

    return measure
