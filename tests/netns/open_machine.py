"""Takes both of our layers away: the positive controls show what leaves then."""

from __future__ import annotations

import time
from collections.abc import Collection

from lab.hosts import Host
from lab.meter import Meter
from lab.subject import Subject
from policies.firewall import MARK


def take_layers_away(laptop: Host) -> None:
    """The table, and every rule that leads into our routing table."""
    laptop.run("nft", "delete", "table", "inet", "tunwarden", check=False)
    for family in ("-4", "-6"):
        while laptop.run("ip", family, "rule", "del", "table", str(MARK), check=False).returncode == 0:
            continue


def open_machine(subject: Subject) -> None:
    """The daemon dies first, or it would put everything back."""
    subject.kill()
    take_layers_away(subject.lab.laptop)


def wait_for_leaks(meter: Meter, kinds: Collection[str] = ("clear4", "clear6", "dns"), each: int = 1) -> None:
    """Wait until as many frames of each of these kinds have left, however late the traffic comes to it."""
    deadline = time.monotonic() + 20
    while not all(meter.counts()[kind] >= each for kind in kinds):
        assert time.monotonic() < deadline, meter.counts()
        time.sleep(0.02)
