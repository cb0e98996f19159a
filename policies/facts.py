"""What is known of the outside world, as plain values. Watchers make them, decisions read them, nobody mutates them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, StrEnum
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface

Address = IPv4Address | IPv6Address
Interface = IPv4Interface | IPv6Interface


class LinkKind(StrEnum):
    LOOPBACK = "loopback"
    WIFI = "wifi"
    WIRED = "wired"
    CELLULAR = "cellular"
    VIRTUAL = "virtual"  # bridges, container and VM links, foreign tunnels: no uplink of their own
    TUNNEL = "tunnel"  # ours


UPLINKS = frozenset({LinkKind.WIFI, LinkKind.WIRED, LinkKind.CELLULAR})


@dataclass(frozen=True, slots=True)
class Link:
    """One network link as the kernel reports it (rtnetlink RTM_NEWLINK, RTM_NEWADDR, RTM_NEWROUTE)."""

    ifindex: int
    ifname: str
    kind: LinkKind
    up: bool = False  # IFF_UP: switched on by the administrator
    carrier: bool = False  # IFF_LOWER_UP: associated, or a cable is in
    carrier_changes: int = 0  # IFLA_CARRIER_CHANGES: another number is another association
    mac: bytes = b""
    addresses: tuple[Interface, ...] = ()
    gateways: tuple[Address, ...] = ()  # of default routes over this link in the main table
    tunnel: str = ""  # which kind of tunnel the kernel says it is (`external.KINDS`); ours, and all else: ""
    external: bool = False  # a profile names it as the tunnel that somebody else brings up

    @property
    def association(self) -> tuple[int, int]:
        """Another value is another carrier: perhaps another network."""
        return self.ifindex, self.carrier_changes

    @property
    def is_uplink(self) -> bool:
        """Whether traffic can leave over it now."""
        return self.kind in UPLINKS and self.up and self.carrier


class Security(Enum):
    """How a Wi-Fi network protects the air, ordered by `strength`; mixed modes count as their weaker half."""

    UNKNOWN = "unknown"
    OPEN = "open"
    OWE_TRANSITION = "owe-transition"
    OWE = "owe"
    WEP = "wep"
    WPA = "wpa"
    WPA2 = "wpa2"
    WPA2_WPA3 = "wpa2-wpa3"
    WPA3 = "wpa3"
    ENTERPRISE = "8021x"
    ENTERPRISE_192 = "8021x-192"

    @property
    def strength(self) -> int:
        """Greater resists more; UNKNOWN is below everything, so it satisfies no minimum."""
        return _STRENGTH[self]


_STRENGTH = {
    Security.UNKNOWN: 0,
    Security.OPEN: 1,
    Security.OWE_TRANSITION: 2,
    Security.WEP: 3,
    Security.OWE: 4,
    Security.WPA: 5,
    Security.WPA2: 6,
    Security.WPA2_WPA3: 7,
    Security.WPA3: 8,
    Security.ENTERPRISE: 9,
    Security.ENTERPRISE_192: 10,
}


class WifiSource(StrEnum):
    NL80211 = "nl80211"
    NETWORKMANAGER = "networkmanager"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the VPN server listens: an exact address, port and protocol."""

    address: Address
    port: int  # 1 to 65535
    protocol: str = "udp"  # "udp" or "tcp"


class Evidence(StrEnum):
    """Something on this network's air or wire that an attacker does, and hardly anybody else."""

    GATEWAY_MOVED = "gateway-moved"  # another hardware address answers ARP for the gateway
    SECOND_DHCP_SERVER = "second-dhcp-server"
    DHCP_ROUTES = "dhcp-routes"  # option 121 pushes routes to more than the local network
    ROGUE_ROUTER = "rogue-router"  # router advertisements of a second router
    EVIL_TWIN = "evil-twin"  # the same name near by, with other security


class Reach(StrEnum):
    """What is behind a link."""

    INTERNET = "internet"
    PORTAL = "portal"  # a captive portal: it wants people to log in first
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Internet:
    """What was found out about a link's way to the Internet."""

    reach: Reach
    source: str  # "dhcp", "ra" (RFC 8910), "probe"
    url: str = ""  # where people log in; checked: http or https, printable ASCII, at most 2,000 characters


@dataclass(frozen=True, slots=True)
class WifiNetwork:
    """The network a Wi-Fi link is associated with, whoever told us."""

    ssid: bytes  # 0 to 32 bytes, any value; empty means hidden or unreadable
    bssid: bytes = b""  # 6 bytes, or empty when unknown
    security: Security = Security.UNKNOWN
    tkip: bool = False  # TKIP allowed as a pairwise or group cipher
    wps: bool = False
    malformed: bool = False  # elements that could not be parsed: never better than unidentified
    source: WifiSource = WifiSource.NETWORKMANAGER
    gateway_mac: bytes = (
        b""  # 6 bytes: who answers for the default gateway, from the neighbour table; empty: unknown yet
    )
    metered: bool | None = None  # whoever manages the card says that traffic costs; None: nobody says
    connectivity: Reach | None = None  # what its manager found behind it: a hint to look, never a verdict
    server_unchecked: bool = False  # 802.1X, and its source says that nobody checks the server's certificate
    beacons: tuple[tuple[Endpoint, bytes], ...] = ()  # see `Facts.beacons`
    evidence: frozenset[Evidence] = frozenset()  # see `Facts.evidence`

    @property
    def offered(self) -> Security:
        """The security it can be held to: where TKIP is allowed, no more than WPA gives."""
        return Security.WPA if self.tkip and self.security.strength > Security.WPA.strength else self.security


@dataclass(frozen=True, slots=True)
class Tunnel:
    """A tunnel that is up and has proven its peer (a handshake happened)."""

    ifname: str
    addresses: tuple[Interface, ...]
    resolvers: tuple[Address, ...] = ()
    open_names: bool = False  # somebody else says who is asked for names: anybody may be, through the tunnel


@dataclass(frozen=True, slots=True)
class External:
    """A tunnel that somebody else brings up: how its link is known, and whose packets may reach its server."""

    link: str  # its name; "": any
    kind: str  # as in `Link.tunnel`; "": any
    fwmark: int | None  # exactly one of the two: the mark that the other program sets,
    uid: int | None  # or the user that its sockets belong to


@dataclass(frozen=True, slots=True)
class ProfileFacts:
    """What decisions may know of a stored profile: never its keys."""

    name: str
    endpoints: tuple[Endpoint, ...]
    addresses: tuple[Interface, ...]
    resolvers: tuple[Address, ...]
    one_at_a_time: bool = False  # the endpoints are servers of which one is tried, then the next
    listed: bool = False  # its servers are those of a list, of which the endpoints are the chosen ones
    names: tuple[str, ...] = ()  # of the list's servers, by endpoint
    external: External | None = None  # somebody else brings the tunnel up; None: we do

    def servers(self, turn: int) -> tuple[Endpoint, ...]:
        """Whom the attempt of this turn talks to."""
        if not self.one_at_a_time or not self.endpoints:
            return self.endpoints
        return (self.endpoints[turn % len(self.endpoints)],)


@dataclass(frozen=True, slots=True)
class Picked:
    """Which servers of a profile's list a choice has come to, in the order in which they are tried."""

    profile: str
    choice: str  # see `servers.parse_choice`
    endpoints: tuple[Endpoint, ...] = ()  # none: no server fits
    names: tuple[str, ...] = ()  # of the servers, by endpoint
    addresses: tuple[Interface, ...] = ()  # of this computer, in the tunnel of any of them
    unmeasured: bool = False  # nobody knows yet which of them is the fastest
    probing: tuple[Endpoint, ...] = ()  # those of them that are being measured now


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything `decide` may look at. Watchers re-read the kernel whole, so two equal Facts mean nothing happened."""

    links: tuple[Link, ...] = ()
    wifi: Mapping[str, WifiNetwork] = field(default_factory=dict)  # by ifname; absent: not told yet
    overdue: frozenset[str] = frozenset()  # ifnames of Wi-Fi links nobody identified in time
    # By ifname, for as long as the association lasts: what was found out behind the link.
    beacons: Mapping[str, tuple[tuple[Endpoint, bytes], ...]] = field(default_factory=dict)  # the SHA-256 of the
    # certificate that each proved to hold, b"" where none answered; absent: not asked yet
    internet: Mapping[str, Internet] = field(default_factory=dict)  # absent: nobody has looked
    evidence: Mapping[str, frozenset[Evidence]] = field(default_factory=dict)
    probing: frozenset[str] = frozenset()  # ifnames: marked probes for a captive portal may leave
    login: frozenset[str] = frozenset()  # ifnames: people log in to a captive portal, in one marked process tree
    login_dns: int = 0  # port of the loopback where DNS of that process tree is answered
    never: bool = False  # there is a group of programs that never use the tunnel: their sockets are marked
    never_dns: int = 0  # port of the loopback where their DNS is answered; 0: nobody answers
    only: bool = False  # there is a group of programs that use nothing but the tunnel
    profiles: Mapping[str, ProfileFacts] = field(default_factory=dict)
    profiles_damaged: bool = False  # there is a stored profile that cannot be read
    picked: Picked | None = None  # the servers of one profile's list, as they were chosen last
    agents: int = 0  # programs of people who may answer a prompt, listening now
    settings_broken: bool = False  # no settings could be read at all: everything stays closed
    store_broken: bool = False  # the saved state was unreadable and has been set aside: everything stays closed
    asleep: bool = False  # the machine is about to sleep: where it wakes up, nobody knows yet

    def link(self, ifname: str) -> Link | None:
        """The link of that name, if it exists."""
        return next((link for link in self.links if link.ifname == ifname), None)

    def network(self, ifname: str) -> WifiNetwork | None:
        """The network of that link, with all that was found out about it since."""
        network = self.wifi.get(ifname)
        if network is None:
            return None
        return replace(network, beacons=self.beacons.get(ifname, ()), evidence=self.evidence.get(ifname, frozenset()))

    @property
    def uplinks(self) -> tuple[Link, ...]:
        """The links traffic could leave over now, in kernel order."""
        return tuple(link for link in self.links if link.is_uplink)
