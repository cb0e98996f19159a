"""Processor time of the daemon under 10,000 link events, and how long it takes to know the last one.

Half of them switch a link on and off, half change a name that nobody looks at: each is an RTM_NEWLINK like those of a
busy container host. Peer: `ip monitor link`, which only prints them, in the same run.
"""

from __future__ import annotations

import time

from bench.common import cpu_ms, title
from lab.subject import Subject
from lab.topology import Laboratory

EVENTS = 10_000
SETTLED_S = 0.5


def main() -> None:
    title("storm")
    with Laboratory(48) as lab:
        subject = Subject(lab)
        subject.start()
        subject.set_up()
        lab.join("cafe")
        subject.wait("connected")
        assert subject.process is not None
        lab.laptop.ip("link add box0 type bridge", "link set box0 up")
        peer = lab.laptop.start("ip", "monitor", "link")
        time.sleep(1.0)
        pids = {"daemon": subject.process.pid, "ip monitor": peer.pid}
        before = {name: cpu_ms(pid) for name, pid in pids.items()}
        begun = time.monotonic()
        batch = [
            line
            for number in range(EVENTS // 4)
            for line in (
                "link set box0 down", "link set box0 up", f"link set box0 alias {number}", "link set box0 alias x",
            )
        ]  # fmt: skip
        lab.laptop.ip(*batch)
        storm = time.monotonic() - begun
        last = before["daemon"]
        while (now := cpu_ms(pids["daemon"])) != last:
            last = now
            time.sleep(SETTLED_S)
        cost = {name: cpu_ms(pid) - before[name] for name, pid in pids.items()}
        assert subject.status().state == "connected"
        peer.kill()
    for name, used in cost.items():
        print(f"{name}: {used:.0f} ms of the processor, {used / EVENTS * 1e3:.0f} us an event", flush=True)
    ratio = cost["daemon"] / cost["ip monitor"]
    print(f"the storm of {EVENTS} events itself took {storm * 1000:.0f} ms; ratio {ratio:.1f}")


if __name__ == "__main__":
    main()
