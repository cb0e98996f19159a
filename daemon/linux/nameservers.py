"""The resolvers that a network gave, from where its manager writes them: ours may stand in resolv.conf meanwhile."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from ipaddress import ip_address
from pathlib import Path

from daemon.linux.resolver_file import HEADER, Original
from policies.facts import Address

# Where whoever manages the network writes which resolvers it gave. The first that names one counts.
WRITTEN = tuple(
    Path(path)
    for path in (
        "/etc/resolv.conf", "/var/lib/tunwarden/resolv.conf.saved", "/run/systemd/resolve/resolv.conf",
        "/run/NetworkManager/no-stub-resolv.conf", "/run/NetworkManager/resolv.conf", "/run/resolvconf/resolv.conf",
    )
)  # fmt: skip
# Where resolvconf keeps what each link's manager gave it, a file a link. Only its own program needs to know more.
RECORDS = (Path("/run/resolvconf/interface"), Path("/run/resolvconf/interfaces"))
# What we have told those managers ourselves, which they write too.
NOTES = (Path("/var/lib/tunwarden/networkmanager-dns.json"), Path("/run/tunwarden/resolvconf"))
MOST = 4  # that are asked
LONGEST = 64 << 10  # bytes of a resolv.conf


def of_the_network(
    written: Sequence[Path] = WRITTEN, records: Sequence[Path] = RECORDS, notes: Sequence[Path] = NOTES
) -> list[Address]:
    """Those of the first file that names one on another machine, but for the tunnel's."""
    ours = {address for note in notes for address in _told(note)}
    for path in (*written, *(file for folder in records for file in sorted(folder.glob("*")))):
        if found := [address for address in _nameservers(path) if not (address.is_loopback or address in ours)]:
            return found
    return []


def _told(note: Path) -> Iterator[Address]:
    try:
        told = json.loads(note.read_bytes())["servers"]
        yield from map(ip_address, told)
    except (OSError, ValueError, KeyError, TypeError):
        return


def _nameservers(path: Path) -> Iterator[Address]:
    """resolv.conf(5), also the copy of it that we keep while ours is in its place."""
    try:
        with path.open("rb") as file:
            text = file.read(LONGEST)
        if path.suffix == ".saved":
            text = Original.from_bytes(text).content
    except (OSError, ValueError):
        return
    if text.startswith(HEADER):  # ours leads into the tunnel
        return
    for line in text.decode("utf-8", "replace").splitlines():
        words = line.split()
        if len(words) >= 2 and words[0] == "nameserver":
            with contextlib.suppress(ValueError):
                yield ip_address(words[1])
