"""The traffic that must not leak is really tried, and really answered where nothing holds it."""

from __future__ import annotations

import time

import pytest

from lab.frames import Kind
from lab.topology import Laboratory

pytestmark = pytest.mark.netns

CLOSED = "table inet closed { chain output { type filter hook output priority 0; policy drop; }; }"


def test_every_kind_is_answered_on_an_open_machine(lab: Laboratory) -> None:
    lab.join("cafe")
    with lab.meter() as meter, lab.traffic(rate=50) as traffic:
        deadline = time.monotonic() + 30
        while meter.counts()[Kind.CLEAR4] < 300:
            assert time.monotonic() < deadline, meter.counts()
            time.sleep(0.1)
        counts = traffic.stop()
        assert all(one.tried >= 10 for one in counts.values()), counts
        assert all(one.answered >= one.tried / 2 for kind, one in counts.items() if kind != "dns"), counts
        assert counts["dns"].answered > 0
        seen = meter.counts()
        assert seen[Kind.CLEAR4] >= counts["udp4"].tried + counts["icmp4"].tried + counts["bound4"].tried
        assert seen[Kind.CLEAR6] >= counts["udp6"].tried + counts["icmp6"].tried + counts["bound6"].tried
        assert seen[Kind.DNS] >= counts["dns"].tried - counts["dns"].refused


def test_goes_on_while_refused(lab: Laboratory) -> None:
    lab.join("cafe")
    lab.laptop.run("nft", CLOSED)
    with lab.meter() as meter, lab.traffic(rate=50) as traffic:
        meter.positive_control()
        time.sleep(0.5)
        counts = traffic.stop()
        # A TCP connect that is dropped without a word is not refused at once.
        assert all(one.refused == one.tried for kind, one in counts.items() if not kind.startswith("tcp")), counts
        assert all(one.answered == 0 for one in counts.values())
        assert meter.leaks() == []
