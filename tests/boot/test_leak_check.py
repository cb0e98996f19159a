"""K7: the check for leaks may do within its unit's sandbox what it needs: packet sockets, raw sockets, a filter."""

from __future__ import annotations

import pytest

from tests.boot.machine import WATCH, Machine

pytestmark = pytest.mark.boot

# The control frames that a check puts on the link, one before and one after, arrive at the other end of the cable.
COUNTER = """
table arp looked {
    counter seen {
    }
    chain input {
        type filter hook input priority 0
        arp operation request arp daddr ip 169.254.0.0/24 counter name seen
    }
}
"""


def test_it_can_look(fresh: Machine) -> None:
    fresh.box.write("/run/looked.nft", COUNTER)
    fresh.run("ip", "netns", "exec", "neighbour", "nft", "-f", "/run/looked.nft")

    def looked() -> bool:
        shown = fresh.run("ip", "netns", "exec", "neighbour", "nft", "list", "counter", "arp", "looked", "seen").stdout
        return int(shown.partition("packets ")[2].split()[0]) >= 2

    fresh.import_profile()
    fresh.run("tunwarden", "connect", "--wait", "--timeout", "15")
    fresh.wait("the links were looked at", looked, 30)
    status = fresh.status()
    assert (status["state"], status["alarm"], status["warnings"]) == ("connected", None, [])
    found = fresh.run("tunwarden", "leak-test", "--json")
    assert '"leaked": 0, "unable": null' in found.stdout
    assert "uplink" in found.stdout
    fresh.run("tunwarden", "disconnect")
    fresh.wait_state("idle")


def test_without_the_watching_service_it_says_so(fresh: Machine) -> None:
    """It protects as ever. Once its socket is there, it looks again."""
    watch = "tunwarden-watch.socket"
    fresh.run("systemctl", "stop", watch, WATCH)
    try:
        fresh.import_profile()
        fresh.run("tunwarden", "connect", "--wait", "--timeout", "15")
        fresh.wait("it says so", lambda: watch in str(fresh.status()["warnings"]))
        status = fresh.status()
        assert (status["protected"], status["blocking"], status["alarm"]) == (True, True, None)
    finally:
        fresh.run("systemctl", "start", watch)
    assert fresh.run("stat", "--format=%a %U", "/run/tunwarden/watch.sock").stdout == "600 root\n"
    fresh.run("tunwarden", "disconnect")
    fresh.wait_state("idle")
    fresh.run("tunwarden", "connect", "--wait", "--timeout", "15")
    fresh.wait("it looks", lambda: fresh.box.show(WATCH, "ActiveState")["ActiveState"] == "active")
    fresh.wait("it has looked", lambda: fresh.status()["warnings"] == [])
    fresh.run("tunwarden", "disconnect")
    fresh.wait_state("idle")
