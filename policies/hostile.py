"""What the frames of one link amount to: evidence of an attacker, and what would have to be asked to be sure.

Whatever an attacker can do, some network does without malice. So what counts is what one does and the other does not:

- *A gateway that moves.* Of a pair of routers one takes the address over (VRRP, CARP, HSRP): the hardware address
  changes once, or not at all. An attacker has to say it again and again, because the gateway is still there and says
  the opposite. So both have to claim it: in answer to a question, twice, or in turns, more often than a pair would.
- *A second DHCP server.* A fail-over pair says the same about the way out, and so do all relays of one server. An
  attacker says something else, or he would have no use for it.
- *Routes by DHCP.* Organisations push routes to their own private networks. To public ones, or to halves of
  everything, they push them for the same reason as an attacker: to have that traffic for themselves.
- *A second router.* Its backup advertises the same networks, and no louder. What tells a router from itself after it
  was given another address is its hardware address.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address

from policies.facts import Evidence
from policies.frames import ArpClaim, DhcpAnswer, Route, RouterAdvertisement, parse

# Nothing there is reached over the internet: RFC 1918, 3927, 6598, multicast and broadcast.
LOCAL4 = tuple(
    IPv4Network(text)
    for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "100.64.0.0/10", "224.0.0.0/3")
)
LOCAL6 = (IPv6Network("fc00::/7"), IPv6Network("fe80::/10"))
GLBP = b"\x00\x07\xb4"  # Cisco's: several routers share one address and answer by turns; the last byte is whose turn

# Asked once, and once more after ASK_TWICE_S: that two answer in the moment of a fail-over is no evidence. From one
# round of answers to the next, both in seconds since the question:
ASK_TWICE_S, ROUNDS, ASK_AGAIN_S = 3.5, (3.0, 8.0), 8.0
CHANGES, CHANGES_S = 5, 60.0  # in turns without a question: a pair that fails over and back, twice, makes four
ROUTER_CHANGES, ROUTER_CHANGES_S = 3, 1800.0  # advertisements come minutes apart
MOST = 8  # gateways, servers and routers that are kept


@dataclass(frozen=True, slots=True)
class Finding:
    evidence: Evidence
    what: str  # for the log: addresses and numbers only


@dataclass(frozen=True, slots=True)
class Question:
    """Have everybody on the link asked who has this address, now and after ASK_TWICE_S. The answers are seen here."""

    address: bytes  # 4 bytes


@dataclass(slots=True)
class _Gateway:
    mac: bytes
    changes: deque[float] = field(default_factory=lambda: deque(maxlen=CHANGES))
    asked: float = float("-inf")
    answers: list[set[bytes]] = field(default_factory=list)  # to the last question, by round


@dataclass(slots=True)
class _Router:
    said: RouterAdvertisement
    until: float
    macs: set[bytes]
    changes: deque[float] = field(default_factory=lambda: deque(maxlen=ROUTER_CHANGES))


class Watch:
    """The frames of one link since it was joined, in order. Bounded, whatever comes; no clock of its own."""

    def __init__(self) -> None:
        self._gateways: dict[bytes, _Gateway] = {}
        self._servers: dict[bytes, DhcpAnswer] = {}  # by hardware address
        self._routers: dict[bytes, _Router] = {}  # in the order they were met
        self._found: set[Evidence] = set()

    def seen(self, frame: bytes, now: float) -> list[Finding | Question]:
        """What this frame adds; each kind of evidence is told once. `now`: seconds of a clock that never goes back."""
        claim = parse(frame)
        match claim:
            case ArpClaim():
                said = self._gateway(claim, now)
            case DhcpAnswer():
                said = self._dhcp(claim)
            case RouterAdvertisement():
                said = self._advertised(claim, now)
            case _:
                return []
        new = [each for each in said if isinstance(each, Question) or each.evidence not in self._found]
        self._found.update(each.evidence for each in new if isinstance(each, Finding))
        return new

    def _gateway(self, claim: ArpClaim, now: float) -> list[Finding | Question]:
        """The caller lets nothing but claims to gateways through."""
        mac = claim.mac[:5] if claim.mac.startswith(GLBP) else claim.mac
        known = self._gateways.get(claim.address)
        if known is None:
            if len(self._gateways) < MOST:
                self._gateways[claim.address] = _Gateway(mac)
            return []
        former, known.mac = known.mac, mac
        if former != mac:
            known.changes.append(now)
        for answers, until in zip(known.answers, ROUNDS, strict=False):
            if now - known.asked < until:
                if len(answers) < MOST:
                    answers.add(mac)
                break
        both_there = len(known.answers) == len(ROUNDS) and all(len(answers) > 1 for answers in known.answers)
        in_turns = len(known.changes) == CHANGES and now - known.changes[0] <= CHANGES_S
        if both_there or in_turns:
            return [Finding(Evidence.GATEWAY_MOVED, f"{_ip(claim.address)} at {_mac(former)} and {_mac(mac)}")]
        if former != mac and now - known.asked >= ASK_AGAIN_S:
            known.asked, known.answers = now, [set() for _ in ROUNDS]
            return [Question(claim.address)]
        return []

    def _dhcp(self, answer: DhcpAnswer) -> list[Finding | Question]:
        found: list[Finding | Question] = []
        if steering := [route for route in answer.routes if _steers(route, answer)]:
            found.append(Finding(Evidence.DHCP_ROUTES, f"{_ip(answer.server)}: {_route(steering[0])}"))
        for other in self._servers.values():
            if other.mac != answer.mac and _disagree(other, answer):
                what = f"{_ip(other.server)} at {_mac(other.mac)}, {_ip(answer.server)} at {_mac(answer.mac)}"
                found.append(Finding(Evidence.SECOND_DHCP_SERVER, what))
                break
        if answer.mac in self._servers or len(self._servers) < MOST:
            self._servers[answer.mac] = answer
        return found

    def _advertised(self, said: RouterAdvertisement, now: float) -> list[Finding | Question]:
        for router in [router for router, kept in self._routers.items() if kept.until <= now]:
            del self._routers[router]
        known = self._routers.get(said.router)
        found: list[Finding | Question] = []
        if known and known.said.mac != said.mac and said.lifetime == 0 and said.mac in known.macs:
            return []  # of a pair that shares an address, the one that steps back
        if known and known.said.mac != said.mac:
            known.changes.append(now)
            ends = said.lifetime == 0
            in_turns = len(known.changes) == ROUTER_CHANGES and now - known.changes[0] <= ROUTER_CHANGES_S
            if ends or in_turns:
                what = f"{_ip(said.router)} at {_mac(known.said.mac)} and {_mac(said.mac)}"
                found.append(Finding(Evidence.ROGUE_ROUTER, what))
        for router, other in self._routers.items():
            if router == said.router:
                break  # those met later are measured by this one
            if other.said.mac != said.mac and _overrules(said, other.said):
                what = f"{_ip(said.router)} at {_mac(said.mac)} beside {_ip(router)} at {_mac(other.said.mac)}"
                found.append(Finding(Evidence.ROGUE_ROUTER, what))
                break
        if known:
            known.said, known.until = said, now + said.lifetime
            if len(known.macs) < MOST:
                known.macs.add(said.mac)
        elif said.lifetime and len(self._routers) < MOST:
            self._routers[said.router] = _Router(said, now + said.lifetime, {said.mac})
        return found


def _steers(route: Route, answer: DhcpAnswer) -> bool:
    """Whether a route takes more than the local network's traffic to where it would not go without the route.

    A default route belongs into option 121, for clients pass the option for routers over then (RFC 3442): it is
    nothing new where it says the same as that one.
    """
    if route.length == 0:
        return bool(answer.routers) and route.router not in answer.routers
    network = IPv4Network((route.network, route.length))
    return not any(network.subnet_of(local) for local in LOCAL4)


def _disagree(one: DhcpAnswer, other: DhcpAnswer) -> bool:
    """About the way out or the resolvers, where both name some: what a client did not ask for, it is not told."""
    pairs = (one.routers, other.routers), (one.resolvers, other.resolvers)
    return any(first and second and first != second for first, second in pairs)


def _overrules(said: RouterAdvertisement, former: RouterAdvertisement) -> bool:
    """Whether a second router takes what the one met before it does not offer, or takes it first."""
    public = {
        (network, length)
        for network, length in said.routes
        if not any(IPv6Address(network) in local and length >= local.prefixlen for local in LOCAL6)
    }
    if public - former.routes or said.resolvers - former.resolvers:
        return True
    return said.lifetime > 0 and (bool(said.prefixes - former.prefixes) or said.preference > former.preference)


def _ip(address: bytes) -> str:
    return str(ip_address(address))


def _mac(mac: bytes) -> str:
    return mac.hex(":")


def _route(route: Route) -> str:
    return f"{_ip(route.network.to_bytes(4, 'big'))}/{route.length} by {_ip(route.router)}"
