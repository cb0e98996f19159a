"""tcpdump's file as it grows: pcap with "Linux cooked v2" records, because one capture must cover several wires.

Formats: https://www.tcpdump.org/manpages/pcap-savefile.5.txt and https://www.tcpdump.org/linktypes/LINKTYPE_LINUX_SLL2.html
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lab.processes import LabError

LINKTYPE_LINUX_SLL2 = 276
MAGIC_MICROSECONDS = 0xA1B2C3D4
GLOBAL, RECORD, COOKED = struct.Struct("<IHHiIII"), struct.Struct("<IIII"), struct.Struct(">HHIHBB8s")


@dataclass(frozen=True, slots=True)
class Captured:
    """One frame: `time` in seconds of the wall clock, the link it came in by, and what follows the Ethernet header."""

    time: float
    ifindex: int
    ethertype: int
    payload: bytes


class CaptureFile:
    """Read new records since the last call; a record that is still being written waits for the next one."""

    def __init__(self, path: Path) -> None:
        self._path, self._offset = path, 0

    def fresh(self) -> Iterator[Captured]:
        """The records written since. Raises LabError when the file is not what tcpdump was asked for."""
        with self._path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        position = 0
        if self._offset == 0:
            if len(data) < GLOBAL.size:
                return
            magic, *_, linktype = GLOBAL.unpack_from(data)
            if (magic, linktype) != (MAGIC_MICROSECONDS, LINKTYPE_LINUX_SLL2):
                raise LabError(f"{self._path}: magic {magic:#x} and link type {linktype} are not what was asked for")
            position = GLOBAL.size
        while position + RECORD.size <= len(data):
            seconds, micros, stored, _ = RECORD.unpack_from(data, position)
            start, end = position + RECORD.size, position + RECORD.size + stored
            if end > len(data):
                break
            position = end
            if stored >= COOKED.size:
                ethertype, _, ifindex, *_ = COOKED.unpack_from(data, start)
                yield Captured(seconds + micros / 1e6, ifindex, ethertype, data[start + COOKED.size : end])
        self._offset += position
