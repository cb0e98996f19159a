"""The daemon in the laboratory: every test here runs the real one against real kernels, tunnels and buses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from lab.meter import Meter
from lab.subject import SETTINGS, Subject
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


# Which layers stand: the whole daemon, or one whose other layer does nothing (lab/one_layer.py).
LAYERS = {
    "both": ("daemon",),
    "firewall": ("lab.one_layer", "firewall", "unchecked"),
    "routing": ("lab.one_layer", "routing", "unchecked"),
}


@dataclass
class Layers:
    """`layers()` starts the daemon with the layers of this run and imports the profile; `name` says which they are."""

    lab: Laboratory
    name: str
    subject: Subject | None = None

    def __call__(self, settings: str = SETTINGS, lab: Laboratory | None = None) -> Subject:
        """Before anything is joined. `lab`: another laboratory than the fixture's."""
        self.subject = Subject(lab or self.lab, settings, LAYERS[self.name])
        self.subject.start(20)
        self.subject.set_up()
        return self.subject


@pytest.fixture(params=LAYERS)
def layers(request: pytest.FixtureRequest, lab: Laboratory) -> Iterator[Layers]:
    """K3: the test runs with both layers, with the firewall alone and with routing alone."""
    layers = Layers(lab, request.param)
    yield layers
    if layers.subject is not None and layers.subject.process is not None and layers.subject.process.running:
        assert "Traceback" not in layers.subject.process.output(), layers.subject.process.output()


Sealed = Callable[[], "contextmanager[Meter]"]


@pytest.fixture
def sealed(lab: Laboratory) -> Callable[..., object]:
    """`with sealed(): ...`: traffic of nine kinds, and not one clear frame may leave. With the positive control."""

    @contextmanager
    def measure(wire: str = "wlan0", rate: float = 40.0, bound: bool = True) -> Iterator[Meter]:
        """`bound=False`: the sockets bound to a link, which routing alone cannot hold (L11), stay on "lo"."""
        with lab.meter() as meter:
            with lab.traffic(rate=rate, device=wire if bound else "lo") as traffic:
                yield meter
            assert sum(each.tried for each in traffic.counts.values()) > 0
            assert meter.leaks() == []
            meter.positive_control(wire)  # the same meter, on the same wire, sees what it should

    return measure


@pytest.fixture
def wg_quick(lab: Laboratory) -> Callable[[], str]:
    """`wg_quick()`: the same VPN by wg-quick(8) instead of the daemon; the name of its link, which it watches not."""

    def up() -> str:
        # Its resolver would need resolvconf; without, it leaves the names to the resolvers of the network as they were.
        lines = [line for line in lab.client_config().splitlines() if not line.startswith("DNS")]
        lab.laptop.write("/etc/wireguard/peer0.conf", "\n".join(lines) + "\n", mode=0o600)
        lab.laptop.run("wg-quick", "up", "peer0")
        return "peer0"

    return up
