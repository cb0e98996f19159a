"""What the tests of the radio tier share in the machine: one laboratory, one daemon, who manages the card."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address
from typing import Any, cast

from daemon.linux.nl80211 import Nl80211
from ipc.interface import Network, Status
from lab.frames import Expect
from lab.radio.air_meter import AirMeter
from lab.radio.laboratory import GATEWAY, LAPTOP, PORT, RadioLaboratory, run
from lab.radio.managers import MANAGERS, Manager
from lab.radio.networks import NETWORKS
from lab.subject import Subject
from policies.facts import WifiNetwork

PATIENCE = 60.0  # seconds
# `hwsim0` is a laptop's link to the daemon; there is no such thing outside of a laboratory.
SETTINGS = """\
version = 1

[[links]]
name = "hwsim*"
kind = "virtual"

[wifi]
unsecured = "auto_connect"
secured = "ignore"
identify_timeout = "30s"

[tunnel]
connect_timeout = "30s"

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
        self.subject = Subject(cast(Any, self.lab), SETTINGS)
        self.seconds = self.subject.start(PATIENCE)
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
def talking(rate: float = 50.0) -> Iterator[list[int]]:
    """The laptop sends to the gateway all the time, with a static address: whatever may leave, leaves at once."""
    sent, over = [0], threading.Event()

    def talk() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
            out.setsockopt(socket.SOL_SOCKET, 25, b"wlan0\0")  # SO_BINDTODEVICE
            while not over.wait(1 / rate):
                try:
                    out.sendto(b"talk", (GATEWAY, 9))
                    sent[0] += 1
                except OSError:
                    pass  # refused by a rule, or no route

    run("ip", "address", "replace", f"{LAPTOP}/24", "dev", "wlan0")
    run("ip", "neigh", "replace", GATEWAY, "lladdr", "02:ff:ff:ff:ff:01", "dev", "wlan0", "nud", "permanent")
    thread = threading.Thread(target=talk)
    thread.start()
    try:
        yield sent
    finally:
        over.set()
        thread.join()
        run("ip", "neigh", "flush", "dev", "wlan0", "nud", "permanent", check=False)
        run("ip", "address", "flush", "dev", "wlan0", check=False)


def meter() -> AirMeter:
    return AirMeter(Expect(frozenset({(IPv4Address(GATEWAY), PORT)})))
