"""Every address of a laboratory, derived from its seed. Documentation ranges only (RFC 5737, RFC 3849)."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_network,
)

SERVER_PORT = 51820  # UDP
OTHER_PORT = 443  # UDP, of the second server: many providers offer it, for it looks like QUIC
WEB_PORT = 80  # TCP: answers a GET with the peer's address
SINK_PORT = 9  # TCP: reads and forgets (discard, RFC 863)
SOURCE_PORT = 19  # TCP: sends until closed (chargen, RFC 864)
ECHO_PORT = 7  # UDP: echoes (RFC 862)


@dataclass(frozen=True, slots=True)
class Subnet:
    """A network of both families, or of IPv6 alone. Host number 1 is the router."""

    v4: IPv4Network | None
    v6: IPv6Network

    def host4(self, number: int) -> IPv4Address:
        assert self.v4 is not None, "an IPv6-only network"
        return self.v4[number]

    def host6(self, number: int) -> IPv6Address:
        return self.v6[number]

    def face4(self, number: int) -> IPv4Interface:
        assert self.v4 is not None, "an IPv6-only network"
        return IPv4Interface((self.v4[number], self.v4.prefixlen))

    def face6(self, number: int) -> IPv6Interface:
        return IPv6Interface((self.v6[number], self.v6.prefixlen))


@dataclass(frozen=True, slots=True)
class Site:
    """A VPN server: its name, its network, the network inside its tunnel, and its UDP port."""

    name: str
    uplink: Subnet
    tunnel: Subnet
    port: int

    @property
    def public4(self) -> IPv4Address:
        """The server's own address, and the one that the internet sees of its clients."""
        return self.uplink.host4(2)

    @property
    def public6(self) -> IPv6Address:
        return self.uplink.host6(2)

    @property
    def inside_server(self) -> tuple[IPv4Address, IPv6Address]:
        """The server inside the tunnel; its DNS resolver listens there and nowhere else."""
        return self.tunnel.host4(1), self.tunnel.host6(1)

    @property
    def inside_client(self) -> tuple[IPv4Address, IPv6Address]:
        """The laptop inside the tunnel."""
        return self.tunnel.host4(2), self.tunnel.host6(2)


class Plan:
    """The addresses of one laboratory. `private_lan` puts the local networks into 192.168.0.0/16, as at home."""

    def __init__(self, seed: int, private_lan: bool = False) -> None:
        self.seed = seed
        local = IPv4Network(f"192.168.{seed % 250 + 1}.0/24" if private_lan else "192.0.2.0/24")
        quarters = list(local.subnets(new_prefix=26))
        quarters = quarters[seed % 4 :] + quarters[: seed % 4]
        self.cafe = Subnet(quarters[0], self._v6(1))
        self.home = Subnet(quarters[1], self._v6(2))
        self.wired = Subnet(quarters[2], self._v6(3))
        self.container = Subnet(quarters[3], self._v6(4))
        self.cafe6 = Subnet(None, self._v6(6))
        third = 16 * (seed % 8)
        self.cafe_uplink = Subnet(IPv4Network(f"203.0.113.{third}/29"), self._v6(0xA))
        self.home_uplink = Subnet(IPv4Network(f"203.0.113.{third + 8}/29"), self._v6(0xB))
        self.server_uplink = Subnet(IPv4Network(f"198.51.100.{8 * (seed % 16)}/29"), self._v6(0xC))
        self.tunnel = Subnet(IPv4Network("198.51.100.128/26"), self._v6(5))
        self.site = Site("server", self.server_uplink, self.tunnel, SERVER_PORT)
        self.other_site = Site(
            "other",
            Subnet(IPv4Network(f"198.51.100.{224 + 8 * (seed % 4)}/29"), self._v6(0xD)),
            Subnet(IPv4Network("198.51.100.192/27"), self._v6(0xE)),
            OTHER_PORT,
        )
        self.internet4 = IPv4Address(f"203.0.113.{128 + seed % 120}")
        self.internet6 = self._v6(0xF)[1]

    def _v6(self, number: int) -> IPv6Network:
        network = ip_network(f"2001:db8:{self.seed & 0xFFFF:x}:{number:x}::/64")
        assert isinstance(network, IPv6Network)
        return network

    @property
    def server4(self) -> IPv4Address:
        """The VPN server's public address."""
        return self.site.public4

    @property
    def server6(self) -> IPv6Address:
        return self.site.public6

    @property
    def tunnel_server(self) -> tuple[IPv4Address, IPv6Address]:
        return self.site.inside_server

    @property
    def tunnel_client(self) -> tuple[IPv4Address, IPv6Address]:
        return self.site.inside_client

    def mac(self, name: str) -> str:
        """A locally administered unicast hardware address, the same for the same seed and name."""
        digest = sha256(f"{self.seed}/{name}".encode()).digest()
        return ":".join(f"{byte:02x}" for byte in (0x02, *digest[:5]))
