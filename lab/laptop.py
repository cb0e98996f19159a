"""What a laptop does by itself: carriers, a real DHCP client, SLAAC by the kernel, a container behind it."""

from __future__ import annotations

import fcntl
import signal
import socket
import struct
import time
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from lab.addresses import Subnet
from lab.hosts import Host
from lab.processes import LabError, Process

SCRIPT = Path(__file__).with_name("udhcpc-script")
LINKS = ("wlan0", "eth0")
SIOCGIFFLAGS, IFF_RUNNING = 0x8913, 0x40  # <linux/sockios.h>, <linux/if.h>
IFA_F_TENTATIVE = 0x40  # <linux/if_addr.h>
# Duplicate address detection and solicitation stay on, with every packet they send, but do not wait a second each.
QUICK = (
    ("net/ipv6/conf/{link}/router_solicitation_delay", "0"),
    ("net/ipv6/neigh/{link}/retrans_time_ms", "100"),
    ("net/ipv6/conf/{link}/accept_ra", "2"),  # also while it forwards for a container
    ("net/ipv6/conf/{link}/use_tempaddr", "0"),
)
CONTAINER_NAT = """
table inet lab_container {
    chain postrouting {
        type nat hook postrouting priority srcnat
        iifname "box0" masquerade
    }
}
"""


class Laptop:
    """The laptop's own housekeeping; the plug and the air are `Laboratory`'s."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self._clients: dict[str, Process] = {}

    def prepare(self) -> None:
        """Switch the links on, without a network."""
        self.host.ip("link set lo up")
        for link in LINKS:
            self.switch_on(link)

    def switch_on(self, link: str) -> None:
        """A link that is new."""
        self.host.sysctl(*((key.format(link=link), value) for key, value in QUICK))
        self.host.ip(f"link set {link} up")

    def index(self, link: str) -> int:
        """The link's interface index."""
        return self.host.inside(lambda: socket.if_nametoindex(link))

    def has_carrier(self, link: str) -> bool:
        """Whether the link is up and its other end as well (IFF_RUNNING)."""
        with self.host.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            answer = fcntl.ioctl(any_socket, SIOCGIFFLAGS, struct.pack("16sH22x", link.encode(), 0))
        return bool(struct.unpack_from("16sH", answer)[1] & IFF_RUNNING)

    def wait_carrier(self, link: str, wanted: bool, timeout: float = 20.0) -> None:
        """The kernel reports a carrier late (linkwatch): by milliseconds, or by a second. Raises LabError."""
        _wait(lambda: self.has_carrier(link) is wanted, timeout, f"carrier of {link} is not {wanted}")

    def configure(self, link: str, subnet: Subnet, *, metric: int, wait_ipv6: bool, timeout: float) -> None:
        """DHCP (unless the network has no IPv4) and, if wished, wait for an address by SLAAC. Raises LabError."""
        if subnet.v4 is not None:
            self.lease(link, metric=metric, timeout=timeout)
        else:
            # The kernel leaves RDNSS (RFC 8106) to user space; NetworkManager would write the router's announcement.
            self.host.write("/etc/resolv.conf", f"# {link}\nnameserver {subnet.host6(1)}\n")
        if wait_ipv6:
            self.wait_address6(link, subnet, timeout)

    def wait_address6(self, link: str, subnet: Subnet, timeout: float = 20.0) -> None:
        """Wait for an address by SLAAC. Raises LabError."""
        _wait(lambda: self.address6(link, subnet) is not None, timeout, f"no IPv6 address by SLAAC on {link}")

    def lease(self, link: str, *, metric: int, identity: bytes | None = None, timeout: float = 25.0) -> IPv4Address:
        """Start the DHCP client, in place of the one that runs, and wait; another identity gets another address.

        A client that starts takes the old address away first. Raises LabError.
        """
        self._end_client(link)
        self._clients[link] = self.host.start(
            # Interface, foreground, 50 tries a second apart, our script, options 121 (RFC 3442) and 114 (RFC 8910).
            "udhcpc", "-i", link, "-f", "-t", "50", "-T", "1", "-s", str(SCRIPT), "-O", "staticroutes", "-O", "114",
            *(("-x", f"0x3d:{identity.hex()}") if identity else ()), env={"METRIC": str(metric)},
        )  # fmt: skip
        lease = self.host.path(f"/run/lab/lease-{link}")
        _wait(lease.exists, timeout, f"no DHCP lease on {link}", self._clients[link].output)
        return IPv4Address(lease.read_text(encoding="ascii").strip())

    def renew(self, link: str, timeout: float = 15.0) -> None:
        """Have the DHCP client renew its lease now, as it does when half of its time is over. Raises LabError."""
        lease = self.host.path(f"/run/lab/lease-{link}")
        before = lease.stat().st_mtime_ns
        self._clients[link].send(signal.SIGUSR1)
        _wait(lambda: lease.stat().st_mtime_ns != before, timeout, f"no renewal on {link}", self._clients[link].output)

    def solicit(self, link: str) -> None:
        """Ask for router advertisements (RFC 4861, 4.1), as a network manager does when it configures a link."""
        with self.host.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as raw:
            raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
            raw.sendto(struct.pack(">BBHI", 133, 0, 0, 0), ("ff02::2", 0, 0, self.index(link)))

    def forget(self, link: str) -> None:
        """After the carrier is gone: end the DHCP client without a word and take the addresses away."""
        self._end_client(link)
        self.host.run("ip", "-4", "address", "flush", "dev", link)
        # The kernel solicits routers once in a link's life, not once a carrier: it must start IPv6 afresh.
        disable = f"net/ipv6/conf/{link}/disable_ipv6"
        self.host.sysctl((disable, "1"), (disable, "0"))

    def _end_client(self, link: str) -> None:
        if link in self._clients:
            self._clients.pop(link).kill()
        self.host.path(f"/run/lab/lease-{link}").unlink(missing_ok=True)

    def address6(self, link: str, subnet: Subnet) -> IPv6Address | None:
        """The link's usable address in that network."""
        text = self.host.inside(lambda: Path("/proc/thread-self/net/if_inet6").read_text(encoding="ascii"))
        for line in text.splitlines():
            digits, _, _, _, flags, name = line.split()
            address = IPv6Address(bytes.fromhex(digits))
            if name == link and address in subnet.v6 and not int(flags, 16) & IFA_F_TENTATIVE:
                return address
        return None

    def attach(self, container: Host, subnet: Subnet) -> None:
        """Forward and masquerade for a container, as container engines do: its gateway is the bridge `box0`."""
        self.host.ip("link add box0 type bridge forward_delay 0")
        container.ip(
            f"link add name eth0 type veth peer name box0-port netns {self.host.pid}",
            f"address add {subnet.face4(2)} dev eth0", f"address add {subnet.face6(2)} dev eth0 nodad",
            "link set lo up", "link set eth0 up",
        )  # fmt: skip
        self.host.ip(
            f"address add {subnet.face4(1)} dev box0", f"address add {subnet.face6(1)} dev box0 nodad",
            "link set box0-port master box0 up", "link set box0 up",
        )  # fmt: skip
        container.ip(
            f"route add default via {subnet.host4(1)}",
            f"route add default via {subnet.host6(1)}",
        )
        self.host.sysctl(("net/ipv4/ip_forward", "1"), ("net/ipv6/conf/all/forwarding", "1"))
        self.host.run("nft", "-f", "-", input=CONTAINER_NAT)


def _wait(done: Callable[[], bool], timeout: float, complaint: str, detail: Callable[[], str] = str) -> None:
    deadline = time.monotonic() + timeout
    while not done():
        if time.monotonic() > deadline:
            raise LabError(f"{complaint} after {timeout} s\n{detail()}")
        time.sleep(0.003)
