"""The leak meter: tcpdump on the laptop's wires, every frame that leaves it judged by `frames.py`.

Three things make its zero mean something. The *positive control* shows that a leak would be seen. The *barrier* shows
that everything sent so far has been seen. And tcpdump must report that the kernel dropped nothing.
"""

from __future__ import annotations

import itertools
import os
import re
import secrets
import shutil
import signal
import socket
import struct
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from lab.addresses import SERVER_PORT, Plan
from lab.capture import Captured, CaptureFile
from lab.frames import ETH_IPV4, ETH_IPV6, LEAKS, Expect, Judge, Kind
from lab.hosts import Host
from lab.probes import dns_query, ipv4_udp, ipv6_udp
from lab.processes import LabError, Process

WIRES = {"wlan0": "air-wlan0", "eth0": "air-eth0"}
BARRIER = ("barrier0", "barrier1")  # frames go in at the first and are captured as they come in at the second
ETH_LOCAL = 0x88B5  # IEEE 802 local experimental
BUFFER_KIB = 32768
SEEN_S = 20.0  # until tcpdump has written what it saw: it shares the processors with everything else
SNAP = 320  # bytes: all headers and a DNS question; keeps some 80,000 frames in the ring
NOBODY = bytes.fromhex("02ffffffff01")  # a station that does not exist: a bridge floods it, every router ignores it
STATISTICS = re.compile(r"(\d+) packets? dropped by kernel")
_numbers = itertools.count(1)


def kept_folder() -> Path:
    """Where evidence of failed tests is kept: under $TUNWARDEN_LAB_KEEP, else the folder for temporary files."""
    folder = Path(os.environ.get("TUNWARDEN_LAB_KEEP", tempfile.gettempdir())) / "tunwarden-lab"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class MeterError(LabError):
    """The meter cannot vouch for its counts."""


class Meter:
    """`with lab.meter() as meter:` then `positive_control()`, the deed, `counts()`.

    Entering takes about 40 ms, `counts()` about 10 ms. Leaving the context by an exception keeps the capture file and
    prints its path. Frames before `__enter__` and after the last `counts()` are not judged.
    """

    def __init__(self, laptop: Host, air: Host, plan: Plan) -> None:
        self._laptop, self._air, self._plan = laptop, air, plan
        self.expect = Expect(frozenset({(plan.server4, SERVER_PORT), (plan.server6, SERVER_PORT)}))
        self._token = secrets.token_bytes(12)  # marks our own frames
        self._frames: list[tuple[Captured, Kind]] = []
        self._controls: Counter[Kind] = Counter()
        self._barriers: set[bytes] = set()
        self._judges: defaultdict[int, Judge] = defaultdict(Judge)  # one a wire
        self._kept: Path | None = None

    # --- life ---------------------------------------------------------------------------------------------------------

    def __enter__(self) -> Meter:
        self._links = {name: self._ifindex(self._air, peer) for name, peer in WIRES.items()}
        self._barrier_in = self._ifindex(self._air, BARRIER[1])
        name = f"/run/lab/meter-{next(_numbers)}.pcap"
        self._path = self._air.path(name)
        wires = " or ".join(f"ifindex {number}" for number in (*self._links.values(), self._barrier_in))
        # "any" instead of one link: a capture on a link that goes down is over, and going down is what we test.
        self._tcpdump: Process = self._air.start(
            "tcpdump", "-i", "any", "-y", "LINUX_SLL2", "-Q", "in", "-n", "-U", "--immediate-mode", "-Z", "root",
            "-B", str(BUFFER_KIB), "-s", str(SNAP), "-w", name, wires,
        )  # fmt: skip
        self._tcpdump.wait_output("listening on")
        self._file = CaptureFile(self._path)
        self.flush()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, _: TracebackType | None) -> None:
        if self._tcpdump.running:
            self._tcpdump.send(signal.SIGINT)
            self._tcpdump.wait()
        if kind is not None:
            print(f"the meter's capture is kept at {self.keep()}")
        elif dropped := self._dropped(self._tcpdump.output()):
            raise MeterError(f"tcpdump lost {dropped} frames: the counts mean nothing; capture at {self.keep()}")

    def keep(self) -> Path:
        """Copy the capture to where it survives the laboratory; `tcpdump -r` and Wireshark read it."""
        if self._kept is None:
            self._kept = kept_folder() / f"{time.strftime('%H%M%S')}-{os.getpid()}-{self._path.name}"
            shutil.copyfile(self._path, self._kept)
        return self._kept

    # --- measuring ----------------------------------------------------------------------------------------------------

    def counts(self) -> Counter[Kind]:
        """How many frames of each kind have left the laptop, on both wires, up to this moment, without controls.

        Exact: flushes first. Raises MeterError when the capture is dead or lost frames.
        """
        self.flush()
        self._no_drops()
        return Counter(kind for _, kind in self._frames)

    def leaks(self) -> list[str]:
        """One line for each frame that no policy of a protected laptop allows; empty is what tests want."""
        self.counts()
        return [self.describe(frame, kind) for frame, kind in self._frames if kind in LEAKS]

    def frames(self) -> list[tuple[Captured, Kind]]:
        """All judged frames so far, oldest first, with their times; flushes first."""
        self.counts()
        return list(self._frames)

    def reset(self) -> None:
        """Flush and forget what was counted so far."""
        self.counts()
        self._frames.clear()

    def describe(self, frame: Captured, kind: Kind) -> str:
        wire = next((name for name, index in self._links.items() if index == frame.ifindex), "?")
        return f"{frame.time:.6f} {wire} {kind} {frame.ethertype:#06x} {frame.payload[:64].hex()}"

    def flush(self, timeout: float = SEEN_S) -> None:
        """Wait until every frame that was sent before this call has been read. Raises MeterError.

        A veth link hands each frame to the queue of the processor it was sent on, and each queue keeps its order, for
        all links. So one marked frame is sent on every processor, over a wire of the meter's own that is captured by
        the same tcpdump: once all have been seen, everything before them has.
        """
        processors = os.sched_getaffinity(0)
        marks = {self._token + b"barrier" + secrets.token_bytes(8) for _ in processors}

        def send() -> None:
            with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
                wire.bind((BARRIER[0], 0))
                for processor, mark in zip(processors, marks, strict=True):
                    os.sched_setaffinity(0, {processor})  # of this thread only, which ends with the call
                    wire.send(NOBODY + NOBODY + struct.pack(">H", ETH_LOCAL) + mark)

        self._air.inside(send)
        self._await(lambda: marks <= self._barriers, timeout, "the barrier was not captured")

    def positive_control(self, wire: str = "wlan0", timeout: float = SEEN_S) -> None:
        """Show that the meter sees a clear IPv4, a clear IPv6 and a DNS packet of the laptop, and judges them right.

        The packets are put on the laptop's link from a packet socket, below its firewall and routing, so this also
        works while the daemon holds the link. They are not part of `counts()`. Raises MeterError, also without carrier.
        """
        source4, source6 = self._plan.cafe_uplink.host4(6), self._plan.cafe.host6(0xC0)
        target4, target6 = self._plan.internet4, self._plan.internet6
        query = dns_query("control.test", 1)
        probes = {
            Kind.CLEAR4: (ETH_IPV4, ipv4_udp(source4, target4, 7, self._token)),
            Kind.CLEAR6: (ETH_IPV6, ipv6_udp(source6, target6, 7, self._token)),
            Kind.DNS: (ETH_IPV4, ipv4_udp(source4, target4, 53, query + self._token)),
        }
        before = dict(self._controls)

        def send() -> None:
            with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
                raw.bind((wire, 0))
                for ethertype, packet in probes.values():
                    raw.send(NOBODY + NOBODY + struct.pack(">H", ethertype) + packet)

        try:
            self._laptop.inside(send)
        except OSError as err:
            raise MeterError(f"positive control: nothing can leave by {wire}: {err}") from err
        self._await(
            lambda: all(self._controls[kind] == before.get(kind, 0) + 1 for kind in probes),
            timeout, "the positive control was not seen: this meter is blind",
        )  # fmt: skip

    def socket_control(self, timeout: float = SEEN_S) -> None:
        """The same with real sockets of the laptop, through its routing and firewall; only before protection starts.

        Needs a joined network with both families. The packets do count: `reset()` forgets them. Raises MeterError.
        """
        before = self.counts()
        target4, target6 = str(self._plan.internet4), str(self._plan.internet6)
        # To closed ports: an answer to a socket that is gone would make the laptop send an ICMP error of its own.
        probes = (
            (socket.AF_INET, target4, 9, b"control"),
            (socket.AF_INET6, target6, 9, b"control"),
            (socket.AF_INET, str(self._plan.server4), 53, dns_query("control.test", 1)),
        )
        try:
            for family, target, port, payload in probes:
                with self._laptop.socket(family, socket.SOCK_DGRAM) as sender:
                    sender.sendto(payload, (target, port))
        except OSError as err:
            raise MeterError(f"socket control: the laptop cannot send: {err}") from err
        wanted = (Kind.CLEAR4, Kind.CLEAR6, Kind.DNS)
        self._await(
            lambda: all(Counter(kind for _, kind in self._frames)[kind] > before[kind] for kind in wanted),
            timeout, "the packets of real sockets were not seen: this meter is blind",
        )  # fmt: skip

    # --- the pieces ---------------------------------------------------------------------------------------------------

    def _await(self, done: Callable[[], bool], timeout: float, complaint: str) -> None:
        deadline = time.monotonic() + timeout
        while True:
            self._read()
            if done():
                return
            if not self._tcpdump.running or time.monotonic() > deadline:
                raise MeterError(f"{complaint}\n{self._tcpdump.output()}")
            time.sleep(0.001)

    def _read(self) -> None:
        for frame in self._file.fresh():
            if frame.ifindex == self._barrier_in:
                self._barriers.add(frame.payload[: len(self._token) + 15])
                continue
            kind = self._judges[frame.ifindex](frame.ethertype, frame.payload, self.expect)
            if self._token in frame.payload:
                self._controls[kind] += 1
            else:
                self._frames.append((frame, kind))

    def _no_drops(self) -> None:
        before = len(STATISTICS.findall(self._tcpdump.output()))
        self._tcpdump.send(signal.SIGUSR1)  # tcpdump(1): report the counts so far
        self._await(lambda: len(STATISTICS.findall(self._tcpdump.output())) > before, SEEN_S, "tcpdump does not answer")
        if dropped := self._dropped(self._tcpdump.output()):
            raise MeterError(f"tcpdump lost {dropped} frames: the counts mean nothing")

    @staticmethod
    def _dropped(output: str) -> int:
        return max((int(number) for number in STATISTICS.findall(output)), default=0)

    @staticmethod
    def _ifindex(host: Host, link: str) -> int:
        return host.inside(lambda: socket.if_nametoindex(link))
