"""What the tests of the radio tier share in the machine: one laboratory, one daemon, who manages the card."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from ipaddress import IPv4Address
from pathlib import Path

from daemon.linux.nl80211 import Nl80211
from ipc.structs import Network, Status
from lab.frames import Expect
from lab.radio.air_meter import AirMeter
from lab.radio.laboratory import GATEWAY, LAPTOP, PATIENCE, PORT, RadioLaboratory, RadioSubject, run, wait_for
from lab.radio.managers import MANAGERS, Manager, Supplicant
from lab.radio.networks import ACCESS_POINTS, NETWORKS, bssid
from policies.facts import WifiNetwork

TALK = b"tunwarden" * 37  # of a length that nothing else in the laboratory has
OVERHEAD = 8 + 20 + 8 + 8 + 8  # CCMP's header, IPv4, UDP, LLC/SNAP, CCMP's checksum
NOBODY = "02:ff:ff:ff:ff:01"  # a gateway that nobody has to ask for, and that never answers
SETTINGS = """\
version = 1

[wifi]
unsecured = "auto_connect"
secured = "ignore"
identify_timeout = "1m"

[tunnel]
connect_timeout = "1m"

[portal]
detect = false

[[known]]
ssid = "Home"
security = "wpa2"
action = "disconnect"

[[known]]
ssid = "Cafe Guest"
security = "wpa2"
action = "disconnect"
"""


class Tier:
    """What lasts: the laboratory, the daemon, and who manages the card now."""

    def __init__(self) -> None:
        self.lab = RadioLaboratory().__enter__()
        self.subject = RadioSubject(self.lab, SETTINGS)
        self.subject.start()
        self.before_the_driver = self.subject.status()
        self.subject.set_up()
        self.lab.load()
        self._manager: Manager | None = None
        self._name = ""

    def manager(self, name: str) -> Manager:
        """Started, and the one before stopped."""
        if name != self._name:
            self.stop_manager()
            self._manager, self._name = MANAGERS[name](self.lab), name
            self._manager.start()
        assert self._manager is not None
        return self._manager

    def stop_manager(self) -> None:
        if self._manager is not None:
            self._manager.stop()
        self._manager, self._name = None, ""

    def close(self) -> None:
        self.stop_manager()
        self.lab.__exit__()

    def wait(self, wanted: Callable[[Status], bool]) -> Status:
        return self.subject.wait(wanted, PATIENCE)

    def joined(self, name: str, ifname: str = "wlan0") -> Network:
        """What the daemon says of a card, once it says that it is on that network."""
        status = self.wait(lambda status: any(_is(each, name, ifname) for each in status.networks))
        return next(each for each in status.networks if _is(each, name, ifname))

    def cleared(self, name: str) -> Network:
        """The same, once it may be used freely: a tunnel that nobody wants any more has to go before."""
        self.wait(lambda status: any(_is(each, name, "wlan0") and each.cleared for each in status.networks))
        return self.joined(name)

    def roam(self, supplicant: Supplicant, name: str) -> bytes:
        """To the other access point of the network, of which the kernel then tells; its address."""
        before = kernel_says()
        assert before is not None
        other = next(point for point in ACCESS_POINTS if bssid(point, name) != before.bssid)
        supplicant.roam(other, name)
        wait_for(lambda: (now := kernel_says()) and now.bssid == bssid(other, name), "the kernel tells of the roam")
        return bssid(other, name)

    def phase_changes(self) -> int:
        assert self.subject.process is not None
        return self.subject.process.output().count("event=state phase=")


def _is(network: Network, name: str, ifname: str) -> bool:
    return network.ifname == ifname and network.ssid_hex == NETWORKS[name].ssid.hex() and network.verdict is not None


def kernel_says(ifname: str = "wlan0") -> WifiNetwork | None:
    """The daemon's own source, in this process."""

    async def read() -> WifiNetwork | None:
        return (await Nl80211().read())[ifname]

    return asyncio.run(read())


@contextmanager
def talking(card: str = "wlan0", rate: float = 50.0) -> Iterator[list[int]]:
    """The laptop sends to the gateway all the time, with a static address: whatever may leave, leaves at once.

    Yields how often it tried, and how often nothing refused it.
    """
    counts, over = [0, 0], threading.Event()

    def talk() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
            out.setsockopt(socket.SOL_SOCKET, 25, card.encode() + b"\0")  # SO_BINDTODEVICE
            while not over.wait(1 / rate):
                counts[0] += 1
                with suppress(OSError):
                    out.sendto(TALK, (GATEWAY, 9))
                    counts[1] += 1

    run("ip", "address", "replace", f"{LAPTOP}/24", "dev", card)
    run("ip", "neigh", "replace", GATEWAY, "lladdr", NOBODY, "dev", card, "nud", "permanent")
    thread = threading.Thread(target=talk)
    thread.start()
    try:
        yield counts
    finally:
        over.set()
        thread.join()
        run("ip", "neigh", "flush", "dev", card, "nud", "permanent", check=False)
        run("ip", "address", "flush", "dev", card, check=False)


def talk_heard(air: AirMeter) -> int:
    """How many packets of `talking` were transmitted on a network with encryption: nobody can read them, all count."""
    return sum(each.encrypted and len(each.payload) == len(TALK) + OVERHEAD for each in air.sent())


def encrypted_control(air: AirMeter, card: str = "wlan0") -> None:
    """The positive control where all is encrypted: a packet put on the card below the firewall, one byte longer."""
    longer = len(TALK) + OVERHEAD + 1
    packet = bytes.fromhex("450001710000400040110000c0000209c6336401").ljust(longer - 8 - 8 - 8, b"\0")
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind((card, 0))
        raw.send(bytes.fromhex(NOBODY.replace(":", "")) + station(card) + b"\x08\0" + packet)
    wait_for(lambda: any(each.encrypted and len(each.payload) == longer for each in air.sent()), "the positive control")


def meter(card: str = "wlan0") -> AirMeter:
    """For what this card transmits."""
    return AirMeter(Expect(frozenset({(IPv4Address(GATEWAY), PORT)})), station(card))


def station(card: str) -> bytes:
    """The card's own address: NetworkManager uses others while it looks for networks."""
    return bytes.fromhex(Path(f"/sys/class/net/{card}/phy80211/macaddress").read_text().strip().replace(":", ""))
