"""Counters and state for Prometheus: a file for the textfile collector of its node exporter, where settings name one.

The path is the administrator's (E7), written whole or not at all, and only into a folder that nobody else may write.
Names of networks and profiles are labels, so whoever may read the file learns where this machine has been.
https://github.com/prometheus/docs/blob/main/docs/instrumenting/exposition_formats.md
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from daemon import files
from daemon.accounting import Accounting
from policies.classify import ssid_text
from policies.counting import Counts, Owner
from policies.facts import LinkKind
from policies.quota import QuotaState
from policies.states import Phase

EVERY_S = 30.0
Labels = tuple[tuple[str, str], ...]


def render(
    totals: Iterable[tuple[Owner, Counts]], phase: Phase, protected: bool, blocking: bool, allowance: QuotaState | None
) -> str:
    """The text of the file."""
    owners = sorted(totals)
    lines = [
        *_family("bytes", owners, lambda counts: (counts.rx_bytes, counts.tx_bytes)),
        *_family("packets", owners, lambda counts: (counts.rx_packets, counts.tx_packets)),
        *_head("tunwarden_state", "gauge", "1 for the state that there is."),
        *(_sample("tunwarden_state", (("state", each.value),), int(each is phase)) for each in Phase),
        *_head("tunwarden_protected", "gauge", "Whether traffic leaves through the tunnel, and only there."),
        _sample("tunwarden_protected", (), int(protected)),
        *_head("tunwarden_blocking", "gauge", "Whether nothing leaves beside the tunnel."),
        _sample("tunwarden_blocking", (), int(blocking)),
    ]
    if allowance is not None:
        lines += [
            *_head("tunwarden_allowance_bytes", "gauge", "The allowance of this period."),
            _sample("tunwarden_allowance_bytes", (), allowance.total),
            *_head("tunwarden_allowance_used_bytes", "gauge", "What was used of it."),
            _sample("tunwarden_allowance_used_bytes", (), allowance.used),
        ]
    return "\n".join(lines) + "\n"


def _family(
    what: str, owners: Iterable[tuple[Owner, Counts]], pick: Callable[[Counts], tuple[int, int]]
) -> Iterator[str]:
    name = f"tunwarden_traffic_{what}_total"
    yield from _head(name, "counter", f"{what.capitalize()} that were counted, by way, network, profile and direction.")
    for owner, counts in owners:
        network = owner.network
        if owner.kind == LinkKind.WIFI and network:
            network = ssid_text(bytes.fromhex(network))
        labels = (
            ("way", owner.way.value), ("kind", owner.kind), ("network", network), ("ssid_hex", _hex(owner)),
            ("profile", owner.profile),
        )  # fmt: skip
        for direction, value in zip(("rx", "tx"), pick(counts), strict=True):
            yield _sample(name, (*labels, ("direction", direction)), value)


def _hex(owner: Owner) -> str:
    """Two names may be shown alike: their bytes tell them apart."""
    return owner.network if owner.kind == LinkKind.WIFI else ""


def _head(name: str, kind: str, text: str) -> tuple[str, str]:
    return f"# HELP {name} {text}", f"# TYPE {name} {kind}"


def _sample(name: str, labels: Labels, value: int) -> str:
    said = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels)
    return f"{name}{{{said}}} {value}" if said else f"{name} {value}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


class Exporter:
    """Writes the file at most every 30 seconds, in the background: a slow disk holds nobody up."""

    def __init__(self, accounting: Accounting, warn: Callable[[str | None], None]) -> None:
        self._accounting, self._warn = accounting, warn
        self._written = -EVERY_S
        self._task: asyncio.Task[None] | None = None

    def look(
        self, path: str | None, phase: Phase, protected: bool, blocking: bool, allowance: QuotaState | None
    ) -> None:
        """After a reading: write, if it is time."""
        busy = self._task is not None and not self._task.done()
        if path is None or busy or time.monotonic() - self._written < EVERY_S:
            return
        self._written = time.monotonic()
        try:
            text = render(self._accounting.store.totals(), phase, protected, blocking, allowance)
        except sqlite3.Error as err:
            self._accounting.failed(err)
            return
        self._task = asyncio.get_running_loop().create_task(self._write(Path(path), text))

    async def _write(self, path: Path, text: str) -> None:
        try:
            await asyncio.to_thread(files.write, path, text.encode(), 0o644)
        except OSError as err:
            self._warn(f"The file for Prometheus cannot be written: {path}: {err.strerror or err}")
        else:
            self._warn(None)

    async def end(self) -> None:
        """Wait for the write under way."""
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)
