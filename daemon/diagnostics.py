"""What helps to find a fault: the trace, and the content of a report. Nothing is sent, and no key is ever in it."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from daemon import logs
from daemon.loop import Loop
from daemon.settings_keeper import SettingsKeeper
from daemon.trace import LONGEST_MIN, Trace
from ipc import structs
from ipc.errors import Error, ServiceError
from ipc.values import plain
from policies.profiles import facts as profile_facts
from policies.redact import Redactor

PART_BYTES = 150 << 10  # of one part of a report: all of them fit into one answer
TIDY_S = 86400.0


class Diagnostics:
    """The trace belongs to the daemon's life; `status` tells what front-ends are shown."""

    def __init__(self, loop: Loop, keeper: SettingsKeeper, trace: Trace) -> None:
        self._loop, self._keeper, self.trace = loop, keeper, trace

    def begin(self) -> None:
        """Go on with a trace that an earlier daemon began, and keep its folder tidy."""
        self.trace.resume(self._names())
        logs.trace_to(self._write, lambda: bool(self.trace.until))
        self._tidy()

    def _tidy(self) -> None:
        self.trace.tidy()
        if self.trace.until and self.trace.on:
            self._end_later()
        asyncio.get_running_loop().call_later(TIDY_S, self._tidy)

    def _write(self, level: str, fields: Mapping[str, Any]) -> None:
        if self.trace.until:
            self.trace.meet(self._names())
            self.trace.write(level, fields)

    def _names(self) -> set[str]:
        """Of the networks that we are on now, as text and in hexadecimal."""
        found = self._loop.facts.wifi.values()
        return {name for each in found for name in (each.ssid.decode(errors="replace"), each.ssid.hex())}

    # --- the trace ----------------------------------------------------------------------------------------------------

    def told(self) -> structs.Trace:
        """How the trace is."""
        trace = self.trace
        on = trace.on
        return structs.Trace(on, int(trace.until), trace.hide_names, trace.size, str(trace.folder), trace.trouble)

    def start(self, minutes: int, hide_names: bool) -> structs.Trace:
        """Raises ServiceError."""
        if not 1 <= minutes <= LONGEST_MIN:
            why = f"{minutes} minutes; allowed: 1 to {LONGEST_MIN}."
            raise ServiceError(Error.INVALID_ARGUMENT, "StartTrace", why)
        try:
            self.trace.start(minutes, hide_names, self._names())
        except OSError as err:
            remedy = "Free the disk, or look who owns the folder."
            raise ServiceError(Error.NOT_NOW, "StartTrace", f"{self.trace.folder}: {err.strerror}.", remedy) from err
        self._end_later()
        return self.told()

    def stop(self) -> structs.Trace:
        """End it."""
        self.trace.stop()
        return self.told()

    def _end_later(self) -> None:
        left = self.trace.until - datetime.now(UTC).timestamp()
        asyncio.get_running_loop().call_later(max(left, 0.0) + 1.0, lambda: self.trace.on)

    # --- the report ---------------------------------------------------------------------------------------------------

    def report(self, status: structs.Status, hide_names: bool) -> tuple[structs.ReportPart, ...]:
        """Everything in it is redacted in one go, so that a stand-in means the same everywhere."""
        redact = Redactor(hide_names, self._names())
        return tuple(
            structs.ReportPart(name, doc, _cut(content if isinstance(content, str) else _shown(content)))
            for name, doc, content in ((name, doc, redact.value(content)) for name, doc, content in self._parts(status))
        )

    def _parts(self, status: structs.Status) -> Iterator[tuple[str, str, object]]:
        loop, about = self._loop, os.uname()
        yield "System", "Versions of the daemon, of Python and of the kernel.", {
            "tunwardend": status.version, "python": sys.version.split()[0],
            "kernel": about.release, "machine": about.machine,
        }  # fmt: skip
        yield "Status", "What every front-end is shown.", plain(status)
        yield (
            "Settings",
            "Every setting with who said so.",
            [f"{each.key} = {each.value or '(none)'} ({each.place or each.origin})" for each in self._keeper.listed()],
        )
        yield "Saved networks", "How many there are; not which.", {
            "administrator": len(self._keeper.loaded.settings.known), "users": len(loop.known),
        }  # fmt: skip
        yield (
            "Profiles",
            "Names and servers of the VPN configurations; no keys.",
            [profile_facts(profile) for profile in loop.profiles.values()],
        )
        yield "Facts", "The links and networks, as the daemon sees them.", loop.facts
        yield "Decision", "What the daemon has decided, and what is in force.", {
            "intent": loop.intent, "decision": loop.decision, "state": loop.state, "policy": loop.enforcer.enforced,
            "warnings": loop.warnings, "alarms": loop.alarms,
        }  # fmt: skip
        yield "Log", "The last lines of the daemon's log.", "\n".join(logs.recent)
        yield "Trace", "The end of the trace, if there is one.", self.trace.tail(PART_BYTES)


def _shown(content: object) -> str:
    return json.dumps(content, indent=1, ensure_ascii=False)


def _cut(text: str) -> str:
    """The end of what is too long: of a log that is the newest."""
    raw = text.encode(errors="backslashreplace")
    return raw.decode() if len(raw) <= PART_BYTES else f"(cut)\n{raw[-PART_BYTES:].decode(errors='ignore')}"
