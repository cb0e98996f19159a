"""The story of `make run RADIO=1`: the same daemon on the air, in the virtual machine. Exit 1 if a packet leaked.

Real: radios (mac80211_hwsim), hostapd, wpa_supplicant, the kernel's WireGuard, firewall and routing, the system bus,
the daemon, its command line. Nobody stands in for anything; the laptop has static addresses: nothing waits for DHCP.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, ip_address

from lab.frames import Expect, Kind
from lab.narrator import Narrator
from lab.probes import exit_address
from lab.processes import LabError
from lab.radio.air_meter import AirMeter
from lab.radio.laboratory import (
    GATEWAY,
    INSIDE_CLIENT,
    INTERNET,
    LAPTOP,
    PATIENCE,
    PORT,
    RadioLaboratory,
    RadioSubject,
    wait_for,
)
from lab.radio.machine import RadioMachine, build, why_no_machine
from lab.radio.managers import Supplicant
from lab.story import Telling, tell
from lab.traffic import Talker

INSIDE = "TUNWARDEN_RADIO"  # set in the machine
TIME_LIMIT = 1800.0  # seconds
RATE = 3.0  # tries a second of each of nine kinds of traffic: everything here is 20 times slower
WATCH_S = 4.0  # how long we watch a held or a blocked laptop try
TITLE = """\
Real: radios, access points, wpa_supplicant, kernel, nftables, routing, WireGuard, D-Bus, the daemon, its command line.
The leak meter is a radio that hears every frame. All this is emulated, and some 20 times slower than outside.
"""
SETTINGS = """\
version = 1

[wifi]
unsecured = "auto_connect"
secured = "ignore"
identify_timeout = "1m"

[tunnel]
connect_timeout = "1m"
retry_first = "500ms"
retry_longest = "2s"

[portal]
detect = false

[[known]]
ssid = "Home"
security = "wpa2"
action = "disconnect"
"""


class RadioStory(Telling):
    """`lab`: radios loaded. All of it takes about two minutes under emulation."""

    def __init__(self, lab: RadioLaboratory, meter: AirMeter, narrator: Narrator) -> None:
        super().__init__(RadioSubject(lab, SETTINGS), meter, narrator)
        self.lab, self.meter = lab, meter
        self.supplicant = Supplicant(lab)

    def traffic(self) -> Talker:
        return self.lab.traffic(RATE)

    def tell(self) -> None:
        self.say.chapter("A laptop with tunwarden")
        self.start(PATIENCE)
        self.lab.start_server()
        self.cafe()
        self.server_dies()
        self.daemon_dies()
        self.home()
        self.say.unfollow()
        self.supplicant.stop()

    def cafe(self) -> None:
        self.say.chapter("It joins an open Wi-Fi network")
        with self.phase("joining, identified, connecting"):
            self.lab.address()
            self.supplicant.join("open")
            self.say.line("wpa_supplicant has joined “Cafe Guest”, and all programs send at once")
            self.control()
            self.subject.wait("connected", PATIENCE)
            self.verdicts()
        self.say.chapter("The tunnel is up")
        with self.phase("connected"):
            self.proof()
            wait_for(lambda: self.meter.kinds().count(Kind.TUNNEL) > 20, "the tunnel on the air")
            self.say.line("near by, everybody hears packets of the tunnel, and can read none of them")
            self.control()
        self.say.command("tunwarden status")
        self.say.quote(self.subject.cli("status"))

    def proof(self) -> None:
        seen = exit_address(self.lab.laptop, ip_address(INTERNET), PATIENCE)
        if str(seen) != INSIDE_CLIENT:
            raise LabError(f"the internet sees {seen}, not the tunnel's end")
        self.say.line(f"the internet sees {seen}: the laptop's address inside the tunnel")

    def server_dies(self) -> None:
        self.say.chapter("The VPN server is switched off")
        with self.phase("server dead: noticed, blocked"):
            self.lab.stop_server()
            self.say.line("no packet says goodbye; the laptop's programs go on sending")
            self.subject.wait(lambda status: not status.protected, PATIENCE)
            self.control()
            time.sleep(WATCH_S)

    def daemon_dies(self) -> None:
        self.say.chapter("The daemon itself gets SIGKILL, and starts again")
        with self.phase("no daemon"):
            self.say.unfollow()
            self.subject.kill()
            self.say.line("no daemon runs now; the rules are the kernel's")
            self.control()
            time.sleep(WATCH_S)
        with self.phase("restarted, reconnected"):
            seconds = self.subject.start(PATIENCE)
            self.say.line(f"tunwardend is up after {seconds:.1f} s and takes the block over, without opening")
            self.say.follow(self.subject)
            self.lab.start_server()
            self.subject.wait("connected", PATIENCE)
            self.proof()

    def home(self) -> None:
        self.say.chapter("The laptop walks home, to a known network whose rule is `disconnect`")
        with self.phase("home: by your rule", allowed=True):
            self.supplicant.join("wpa2")
            self.subject.wait("idle", PATIENCE)
            self.verdicts()
            self.lab.address()
            seen = exit_address(self.lab.laptop, ip_address(INTERNET), PATIENCE)
            if str(seen) != LAPTOP:
                raise LabError(f"the internet sees {seen}, not the laptop")
            self.say.line(f"the internet sees {seen}: the laptop's own address, as you asked; the air is encrypted")


@contextmanager
def laboratory(narrator: Narrator) -> Iterator[Telling]:
    begun = time.monotonic()
    with RadioLaboratory() as lab:
        lab.load()
        with AirMeter(Expect(frozenset({(IPv4Address(GATEWAY), PORT)}))) as meter:
            narrator.line(f"five radios, two access points, 16 networks ({time.monotonic() - begun:.0f} s)")
            yield RadioStory(lab, meter, narrator)


def outside() -> int:
    """Boot the machine, and print what is told in it, line by line. The status is the story's."""
    if why := why_no_machine():
        print(f"the story cannot be told on the air here: {why}", file=sys.stderr)
        return 1
    begun = time.monotonic()
    colours = "export FORCE_COLOR=1; " if sys.stdout.isatty() and "NO_COLOR" not in os.environ else ""
    try:
        build()
        print("booting the virtual machine", flush=True)
        with RadioMachine(f"export {INSIDE}=1; {colours}python3 -m lab.radio.story") as machine:
            for text in machine.told_live(TIME_LIMIT):
                print(text, end="", flush=True)
            status = machine.wait(60)
    except KeyboardInterrupt:
        print("interrupted; everything has been cleaned up")
        return 130
    except LabError as err:
        print(err, file=sys.stderr)
        return 1
    print(f"The machine is off, {time.monotonic() - begun:.0f} s after its beginning.")
    return status


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinds, so everything is cleaned up
    return tell(TITLE, laboratory) if INSIDE in os.environ else outside()


if __name__ == "__main__":
    sys.exit(main())
