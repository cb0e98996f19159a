"""The real systemd-resolved on the laptop's own bus, told what the networks gave as NetworkManager would."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

from lab.bus import BusClient
from lab.hosts import Host
from lab.probes import resolve
from lab.processes import LabError, Process

# Unpacked by lab/install-missing, not installed: installing it would take this machine's own /etc/resolv.conf.
PROGRAMS = tuple(
    Path(place)
    for place in ("/usr/lib/systemd/systemd-resolved", "/usr/local/lib/tunwarden-lab/systemd-resolved")
    if Path(place).exists()
)
NAME, PATH = "org.freedesktop.resolve1", "/org/freedesktop/resolve1"
MANAGER = f"{NAME}.Manager"
STUB = IPv4Address("127.0.0.53")
STUB_FILE, UPLINK_FILE = "/run/systemd/resolve/stub-resolv.conf", "/run/systemd/resolve/resolv.conf"
SETTINGS = ("LLMNR=no", "MulticastDNS=no", "DNSSEC=no", "FallbackDNS=")
# For the networks' DHCP servers: the laptop's DHCP client would write resolved's file, so it gets no resolvers.
NO_DNS = {"cafe": ["option:dns-server"], "home": ["option:dns-server"]}
ACCOUNTS = (
    ("/etc/passwd", "systemd-resolve:x:64996:64996::/:/usr/sbin/nologin"),
    ("/etc/group", "systemd-resolve:x:64996:"),
)


@dataclass(frozen=True)
class LinkDns:
    """What resolved knows of a link."""

    servers: tuple[str, ...]
    domains: tuple[tuple[str, bool], ...]
    default_route: bool
    over_tls: str


class Resolved:
    """`start` it, and ask."""

    def __init__(self, host: Host, client: BusClient) -> None:
        self.host, self.client = host, client
        self.process: Process | None = None

    def start(self, *settings: str, target: str = STUB_FILE) -> None:
        """Start it and have /etc/resolv.conf lead to `target`. `settings`: more lines of resolved.conf(5)."""
        for path, line in ACCOUNTS:
            if "systemd-resolve:" not in self.host.read(path):
                self.host.write(path, f"{self.host.read(path)}{line}\n")
        self.host.run("install", "-d", "-o", "systemd-resolve", "-g", "systemd-resolve", "/run/systemd/resolve")
        self.host.write("/etc/systemd/resolved.conf", "\n".join(("[Resolve]", *SETTINGS, *settings)) + "\n")
        self.host.run("ln", "-sfn", f"..{target}", "/etc/resolv.conf")
        self.again()

    def again(self) -> None:
        """Start it once more, after `kill`."""
        self.process = self.host.start(str(PROGRAMS[0]))
        self.client.wait_owned(NAME, 20)

    def kill(self, forget: bool = True) -> None:
        """SIGKILL; `forget` takes what it remembers of links along, as a stop without RuntimeDirectoryPreserve does."""
        assert self.process is not None
        self.process.kill()
        deadline = time.monotonic() + 20
        while self.client.owned(NAME):
            if time.monotonic() > deadline:
                raise LabError("systemd-resolved is killed and still on the bus")
            time.sleep(0.005)
        if forget:
            self.host.run("rm", "-rf", "/run/systemd/resolve/netif")

    def index(self, link: str) -> int:
        return int(self.host.read(f"/sys/class/net/{link}/ifindex"))

    def lease(
        self, link: str, servers: Sequence[IPv4Address | IPv6Address], domains: Sequence[tuple[str, bool]] = ()
    ) -> None:
        """What NetworkManager tells it when a network has given these: the default route, domains, and servers.

        In this order: of another default route alone, resolved tells nobody.
        """
        number = self.index(link)
        spoken = [[2 if address.version == 4 else 10, address.packed] for address in servers]
        self.call("SetLinkDefaultRoute", "ib", number, True)
        self.call("SetLinkDomains", "ia(sb)", number, [list(domain) for domain in domains])
        self.call("SetLinkDNS", "ia(iay)", number, spoken)

    def link(self, link: str) -> LinkDns | None:
        """None for a link that is not there."""
        with contextlib.suppress(LabError):
            path = self.call("GetLink", "i", self.index(link))[0]
            found = self.client.call(NAME, path, "org.freedesktop.DBus.Properties.GetAll", "s", f"{NAME}.Link")[0]
            read = {name: value.value for name, value in found.items()}
            addresses = (IPv4Address(each) if family == 2 else IPv6Address(each) for family, each in read["DNS"])
            domains = tuple((name, only) for name, only in read["Domains"])
            return LinkDns(tuple(map(str, addresses)), domains, read["DefaultRoute"], read["DNSOverTLS"])
        return None

    def call(self, member: str, signature: str, *body: object) -> list[Any]:
        """Call a method of its Manager. Raises LabError."""
        return self.client.call(NAME, PATH, f"{MANAGER}.{member}", signature, *body)

    def whoami(self, timeout: float = 20.0) -> IPv4Address | IPv6Address | None:
        """Which resolver a program's question comes to."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                if (found := resolve(self.host, STUB, "whoami.test")) is not None:
                    return found
            except OSError:
                pass
            if time.monotonic() > deadline:
                return None
            time.sleep(0.05)
