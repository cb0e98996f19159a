"""A4: the server shakes hands, and nothing that goes into the tunnel is answered: connected, and said to be useless."""

from __future__ import annotations

from typing import Any

import pytest

from lab.subject import Subject
from tests.netns.test_dead_tunnels import asking, until_answered

pytestmark = pytest.mark.netns

PATIENCE = 40.0  # seconds; it is said after 8 s without an answer
# At the server's end everything is swallowed, both ways; the tunnel's own packets come and go.
SWALLOW = """
table inet swallow {
    chain input { type filter hook input priority filter; iifname "wg0" drop; }
    chain forward { type filter hook forward priority filter; drop; }
    chain output { type filter hook output priority filter; oifname "wg0" drop; }
}
"""


def test_a4_nothing_comes_back_is_said_and_ends(subject: Subject, sealed: Any) -> None:
    lab = subject.lab
    with sealed(), asking(lab) as counts:
        lab.join("cafe")
        subject.wait("connected", PATIENCE)
        until_answered(counts)
        assert subject.status().detail is None
        lab.server.run("nft", "-f", "-", input=SWALLOW)
        told = subject.wait(lambda status: status.detail == "nothing-comes-back", PATIENCE)
        assert told.state == "connected"
        assert any("nothing comes back" in warning for warning in told.warnings)
        assert "nothing comes back" in subject.cli("status")
        lab.server.run("nft", "delete", "table", "inet", "swallow")
        counts[1] = 0
        until_answered(counts)
        ended = subject.wait(lambda status: status.state == "connected" and status.detail is None, PATIENCE)
        assert not any("nothing comes back" in warning for warning in ended.warnings)
