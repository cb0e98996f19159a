"""Takes both of our layers away: the positive controls show what leaves then."""

from __future__ import annotations

from lab.hosts import Host
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
