"""Wakeups of the daemon while nothing happens: protected, but no traffic. Beside the tunnel's own process.

Counted by the kernel: voluntary context switches of every thread, in /proc/PID/task/*/status.
"""

from __future__ import annotations

import time
from pathlib import Path

from lab.subject import Subject
from lab.topology import Laboratory

SECONDS = 40.0


def switches(pid: int) -> int:
    total = 0
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        for line in status.read_text(encoding="ascii").splitlines():
            if line.startswith("voluntary_ctxt_switches"):
                total += int(line.split()[1])
    return total


def main() -> None:
    with Laboratory(43) as lab:
        subject = Subject(lab)
        subject.start()
        subject.set_up()
        lab.join("cafe")
        subject.wait("connected")
        time.sleep(12)  # the busy watch after connecting
        assert subject.process is not None
        assert subject.process.pid is not None
        pid = subject.process.pid
        before, begun = switches(pid), time.monotonic()
        time.sleep(SECONDS)
        count, seconds = switches(pid) - before, time.monotonic() - begun
        assert subject.status().state == "connected"
    print(
        f"idle, connected: {count} wakeups in {seconds:.0f} s, one each {seconds / max(count, 1):.1f} s  (goal: each 5 s)"
    )


if __name__ == "__main__":
    main()
