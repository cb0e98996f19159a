"""Which saved entries a name stands for: at once, however many are saved.

An entry with the exact name comes before every pattern: whoever saved it knew more. So a network whose own entry does
not hold is an impostor, and no pattern lets it in.
"""

from __future__ import annotations

from collections.abc import Iterator

from policies.known_network import KnownNetwork

Known = tuple[KnownNetwork, ...]
_Found = tuple[int, bytes, KnownNetwork]  # its position among all, and the longest bytes that any match contains


class Names:
    """The saved entries by their names; made once for a list of them."""

    def __init__(self, known: Known) -> None:
        self._exact: dict[bytes, Known] = {}
        self._heads: dict[bytes, list[_Found]] = {}  # patterns by what stands before their first wildcard
        self._tails: dict[bytes, list[_Found]] = {}  # those that begin with one, by what stands behind the last
        for position, entry in enumerate(known):
            if not entry.pattern:
                self._exact[entry.ssid] = (*self._exact.get(entry.ssid, ()), entry)
                continue
            parts = entry.ssid.replace(b"?", b"*").split(b"*")
            found = (position, max(parts, key=len), entry)
            if parts[0]:
                self._heads.setdefault(parts[0], []).append(found)
            else:
                self._tails.setdefault(parts[-1], []).append(found)
        self._head_sizes = sorted({len(head) for head in self._heads})
        self._tail_sizes = sorted({len(tail) for tail in self._tails})

    def find(self, ssid: bytes) -> Known:
        """Those of exactly this name; if there are none, the patterns that match it. In the order they were written."""
        if exact := self._exact.get(ssid):
            return exact
        found = [
            (position, entry)
            for position, inside, entry in self._candidates(ssid)
            if inside in ssid and stands_for(entry, ssid)
        ]
        return tuple(entry for _, entry in sorted(found, key=lambda each: each[0]))

    def _candidates(self, ssid: bytes) -> Iterator[_Found]:
        for size in self._head_sizes:
            if size <= len(ssid):
                yield from self._heads.get(ssid[:size], ())
        for size in self._tail_sizes:
            if size <= len(ssid):
                yield from self._tails.get(ssid[len(ssid) - size :], ())


def matches(pattern: bytes, name: bytes) -> bool:
    """Whether `*` (any bytes) and `?` (any one) make the pattern the name. At most their lengths multiplied of work."""
    at = star = 0
    position, resume = 0, -1
    while position < len(name):
        if at < len(pattern) and pattern[at] == 0x2A:
            star, resume, at = at, position, at + 1
        elif at < len(pattern) and pattern[at] in (0x3F, name[position]):
            at, position = at + 1, position + 1
        elif resume >= 0:  # let the last star take one byte more
            resume += 1
            at, position = star + 1, resume
        else:
            return False
    return not pattern[at:].strip(b"*")


def names(known: Known) -> Names:
    """The index of a list. That of the last list is kept: the daemon has one, and asks it with each event."""
    global _last
    if _last[0] is not known:
        _last = (known, Names(known))
    return _last[1]


_last: tuple[Known, Names] = ((), Names(()))


def stands_for(entry: KnownNetwork, ssid: bytes) -> bool:
    """Whether the name is the entry's, or its pattern matches it."""
    if not entry.pattern:
        return entry.ssid == ssid
    return matches(entry.ssid, ssid) and not any(matches(pattern, ssid) for pattern in entry.exceptions)
