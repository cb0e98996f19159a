"""The story of `make run`: the real daemon protects a laptop in the laboratory, told live. Exit 1 if a packet leaked.

Real: the kernel's firewall and routing, WireGuard, DHCP, DNS, the system bus, the daemon, its command line. The one
stand-in is NetworkManager's word about the Wi-Fi network, for there is no radio here.
"""

from __future__ import annotations

import signal
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol

from lab.addresses import SOURCE_PORT
from lab.meter import Meter
from lab.narrator import Narrator
from lab.probes import exit_address
from lab.processes import LabError
from lab.subject import PATIENT, PROFILE, Subject
from lab.topology import Laboratory
from lab.traffic import Talker

TITLE = """\
Real: kernel, nftables, routing, WireGuard, DHCP, DNS, D-Bus, the daemon, its command line.
Stand-in: NetworkManager's word about the Wi-Fi network, for there is no radio here.
"""
RATE = 50.0  # tries a second of each of nine kinds of traffic
BLOCKED_S = 4.0  # how long we watch a blocked laptop try


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table at the end."""

    phase: str
    seconds: float
    tried: int
    answered: int
    clear: int  # frames that left outside the tunnel
    allowed: bool = False  # whether the user's own rule let them


class LeakMeter(Protocol):
    def reset(self) -> None: ...
    def leaks(self) -> list[str]: ...
    def positive_control(self) -> None: ...


class Telling(ABC):
    """A story that tells itself once. `rows` is the table so far."""

    def __init__(self, subject: Subject, meter: LeakMeter, narrator: Narrator) -> None:
        self.subject, self._leaks, self.say = subject, meter, narrator
        self.rows: list[Row] = []

    @abstractmethod
    def tell(self) -> None: ...

    @abstractmethod
    def traffic(self) -> Talker:
        """Of nine kinds, all the time."""

    @contextmanager
    def phase(self, name: str, allowed: bool = False) -> Iterator[None]:
        """Whatever leaves in clear meanwhile is in the table."""
        self._leaks.reset()
        begun = time.monotonic()
        with self.traffic() as traffic:
            yield
        counts = traffic.counts.values()
        leaks = self._leaks.leaks()
        tried, answered = sum(each.tried for each in counts), sum(each.answered for each in counts)
        self.rows.append(Row(name, time.monotonic() - begun, tried, answered, len(leaks), allowed))
        self.say.counted(tried, answered, len(leaks), allowed)
        if leaks and not allowed:
            for leak in leaks[:5]:
                self.say.alarm(leak)

    def start(self, timeout: float = 10.0) -> None:
        """The daemon, its profile, and from now on its states as it tells them."""
        seconds = self.subject.start(timeout)
        self.say.line(f"tunwardend is up after {seconds * 1000:.0f} ms and takes {self.resident_mib():.0f} MiB")
        self.say.command("tunwarden profiles import office wg.conf")
        self.subject.cli("profiles", "import", PROFILE, "-", input=self.subject.lab.client_config())
        self.say.follow(self.subject)

    def verdicts(self) -> None:
        for each in self.subject.status().networks:
            self.say.line(f"“{each.ssid}” is {each.verdict}: {' '.join(reason.text for reason in each.reasons)}")

    def control(self) -> None:
        """A zero means nothing from a meter that cannot see."""
        self._leaks.positive_control()
        self.say.aside("the leak meter saw its positive control: it is not blind")

    def resident_mib(self) -> float:
        assert self.subject.process is not None
        with open(f"/proc/{self.subject.process.pid}/status", encoding="ascii") as file:
            return next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmRSS"))


class Story(Telling):
    """Of the network laboratory."""

    def __init__(self, lab: Laboratory, meter: Meter, narrator: Narrator) -> None:
        super().__init__(Subject(lab, PATIENT), meter, narrator)
        self.lab, self.meter = lab, meter

    def traffic(self) -> Talker:
        return self.lab.traffic(rate=RATE)

    def tell(self) -> None:
        self.set_up()
        self.cafe()
        self.server_dies()
        self.daemon_dies()
        self.recovery()
        self.home()

    def set_up(self) -> None:
        self.say.chapter("A laptop with tunwarden")
        self.start()

    def cafe(self) -> None:
        self.say.chapter("It joins an open Wi-Fi network in a cafe")
        network = self.lab.networks["cafe"]
        with self.phase("joining: held until identified"):
            assert self.lab.networkmanager is not None
            self.lab.networkmanager.associating()
            self.lab.associate(network)
            self.control()
            self.say.line("the card is associated; for 1.5 s nobody knows what network this is")
            self.subject.wait("held")
            time.sleep(1.5)
        with self.phase("identified, connecting"):
            self.lab.networkmanager.associated(network.point)
            self.lab.address(network)
            self.subject.wait("connected")
            self.verdicts()
        self.say.chapter("The tunnel is up")
        with self.phase("connected"):
            self.proof()
            self.control()
        self.say.command("tunwarden status")
        self.say.quote(self.subject.cli("status"))

    def proof(self) -> None:
        plan, laptop = self.lab.plan, self.lab.laptop
        seen = exit_address(laptop, plan.internet4), exit_address(laptop, plan.internet6)
        if seen != (plan.server4, plan.server6):
            raise LabError(f"the internet sees {seen}, not the VPN server")
        self.say.line(f"the internet sees {seen[0]} and {seen[1]}: the VPN server's addresses")
        found = laptop.run("getent", "ahostsv4", "internet.test").stdout.split()[0]
        resolver = laptop.read("/etc/resolv.conf").split("nameserver ")[1].split()[0]
        self.say.line(f"internet.test is {found}, says {resolver}, a resolver that exists only inside the tunnel")
        rate, engine = self.throughput_mbit(), self.lab.vpn.engine
        self.say.line(f"throughput by the tunnel: {rate:.0f} Mbit/s ({engine}, both ends on this machine)")

    def server_dies(self) -> None:
        self.say.chapter("The VPN server is killed")
        with self.phase("server dead: noticed, blocked"):
            self.lab.kill_server()
            self.say.line("no packet says goodbye; the laptop's programs go on sending")
            self.subject.wait("blocked", 30)
        with self.phase("blocked"):
            self.control()
            time.sleep(BLOCKED_S)

    def daemon_dies(self) -> None:
        self.say.chapter("The daemon itself gets SIGKILL")
        with self.phase("blocked, no daemon"):
            self.say.unfollow()
            self.subject.kill()
            self.say.line("no daemon runs now; the rules are the kernel's")
            self.control()
            time.sleep(BLOCKED_S)

    def recovery(self) -> None:
        self.say.chapter("It starts again, and the server comes back")
        with self.phase("restarted, reconnected"):
            seconds = self.subject.start()
            self.say.line(f"tunwardend is up after {seconds * 1000:.0f} ms and takes the block over, without opening")
            self.say.follow(self.subject)
            self.lab.start_server()
            self.subject.wait("connected", 30)
            self.proof()

    def home(self) -> None:
        self.say.chapter("The laptop walks home, to a known network whose rule is `disconnect`")
        network = self.lab.networks["home"]
        assert self.lab.networkmanager is not None
        with self.phase("on the way, and held at home"):
            self.lab.leave()
            self.subject.wait(lambda status: not status.protected)
            self.lab.networkmanager.associating()
            self.lab.associate(network)
            self.subject.wait("held")
            time.sleep(1.0)
            self.control()
        with self.phase("home: by your rule", allowed=True):
            self.lab.networkmanager.associated(network.point)
            self.lab.address(network)
            self.subject.wait("idle")
            time.sleep(1.5)
            seen = exit_address(self.lab.laptop, self.lab.plan.internet4)
            self.say.line(f"the internet sees {seen}: the home router's address, as you asked")
        self.say.unfollow()

    # --- the pieces ---------------------------------------------------------------------------------------------------

    def throughput_mbit(self, seconds: float = 1.5) -> float:
        """Received from a server on the internet that sends as fast as it can."""
        import socket

        with self.lab.laptop.socket(socket.AF_INET, socket.SOCK_STREAM) as source:
            source.settimeout(5)
            source.connect((str(self.lab.plan.internet4), SOURCE_PORT))
            begun, received = time.monotonic(), 0
            while (now := time.monotonic()) < begun + seconds:
                received += len(source.recv(1 << 16))
        return received * 8 / 1e6 / (now - begun)


@contextmanager
def laboratory(narrator: Narrator) -> Iterator[Telling]:
    begun = time.monotonic()
    with Laboratory(seed=7) as lab, lab.meter() as meter:
        narrator.line(f"the laboratory is built: {', '.join(lab.hosts)} ({time.monotonic() - begun:.1f} s)")
        yield Story(lab, meter, narrator)


def tell(title: str, stage: Callable[[Narrator], AbstractContextManager[Telling]]) -> int:
    """0: nothing leaked; 1: something did, or the story could not be told."""
    narrator = Narrator()
    narrator.title(title)
    begun = time.monotonic()
    try:
        with stage(narrator) as story:
            try:
                story.tell()
            finally:
                narrator.unfollow()
    except KeyboardInterrupt:
        narrator.alarm("interrupted; everything has been cleaned up")
        return 130
    except LabError as err:
        narrator.alarm(str(err))
        return 1
    return narrator.table(story.rows, time.monotonic() - begun)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinds, so everything is cleaned up
    sys.exit(tell(TITLE, laboratory))
