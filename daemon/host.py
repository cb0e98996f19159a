"""What the daemon needs of an operating system. `adapters.py` picks the one implementation there is."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from policies.counting import Counts
from policies.facts import Address, Endpoint, Internet, Link, Tunnel, WifiNetwork
from policies.firewall import MARK, FirewallPolicy
from policies.hostile import Finding
from policies.mtu import Result
from policies.portals import Probe
from policies.profiles import Profile
from policies.resolvers import Manager
from policies.settings_tables import LinkRule
from policies.split import Group, Network, Program
from policies.states import Cause
from policies.wireguard import WireGuardPeer, WireGuardProfile


class HostError(Exception):
    """The operating system refused. `what` was attempted, `why` it failed; both are shown to people."""

    def __init__(self, what: str, why: str) -> None:
        super().__init__(f"{what}: {why}")
        self.what, self.why = what, why


class TunnelError(HostError):
    """A tunnel could not be set up or died. `cause` is what the state machine needs to know."""

    def __init__(self, cause: Cause, what: str, why: str) -> None:
        super().__init__(what, why)
        self.cause = cause


@dataclass(frozen=True, slots=True)
class Counters:
    """Bytes through the tunnel since it was opened, and the age of the last handshake in seconds (None: never)."""

    rx: int
    tx: int
    handshake_age: float | None


class Links(Protocol):
    rules: tuple[LinkRule, ...]  # the administrator's word on what a link is, where the kernel cannot tell

    async def read(self) -> tuple[Link, ...]:
        """All links, whole, from the kernel."""
        ...

    def gateway_macs(self, links: Iterable[Link]) -> Mapping[str, bytes]:
        """By ifname, who answers for the default gateway; whoever is not told is being asked. Raises HostError."""
        ...

    def watch(self) -> AsyncIterator[None]:
        """Yields at once and then whenever something may have changed; never ends, survives overruns."""
        ...


class Wifi(Protocol):
    async def read(self) -> Mapping[str, WifiNetwork]:
        """The network of each associated Wi-Fi link, by ifname. A link that is not associated is absent."""
        ...

    def watch(self) -> AsyncIterator[None]:
        """Yields at once and then whenever something may have changed; never ends, also while the source is absent."""
        ...


class Firewall(Protocol):
    async def set(self, policy: FirewallPolicy) -> None:
        """Replace our table in one transaction and read it back. Twice is harmless. Raises HostError."""
        ...

    async def verify(self, policy: FirewallPolicy) -> bool:
        """Whether the kernel follows this policy now. Changes nothing. Raises HostError."""
        ...

    async def allow(self, left: Callable[[], int]) -> None:
        """Let so many bytes more pass through a tunnel that is metered; none do before. Raises HostError."""
        ...

    async def reset(self) -> None:
        """Remove our table: the machine is open. Idempotent."""
        ...


class Routes(Protocol):
    async def set(self, policy: FirewallPolicy) -> None:
        """Rules, table and sysctls as the policy wants them. Twice is harmless. Raises HostError."""
        ...

    async def verify(self, policy: FirewallPolicy) -> bool:
        """Whether the kernel follows this policy now. Changes nothing. Raises HostError."""
        ...

    async def reset(self) -> None:
        """Remove our rules and table, restore the sysctls. Idempotent."""
        ...


class TunnelDriver(Protocol):
    async def open(self, profile: Profile) -> Tunnel:
        """Create and configure the tunnel link. Returns before the peer has answered. Raises TunnelError."""
        ...

    async def established(self) -> Tunnel | None:
        """Returns when the first handshake is done: with the tunnel where the server had to say what it is like.

        The caller sets the time limit. Raises TunnelError.
        """
        ...

    async def dead(self) -> TunnelError:
        """Returns when the tunnel no longer works, with the reason."""
        ...

    def moved(self) -> None:
        """The ways to the server have changed: have the tunnel take the new one at once, or `dead` returns."""
        ...

    async def close(self) -> None:
        """Remove the link and end its process, also what an earlier daemon left. Idempotent."""
        ...

    async def counters(self) -> Counters | None:
        """None while there is no tunnel."""
        ...


class Resolver(Protocol):
    manager: Manager  # the administrator's word on who is told

    async def set(self, tunnel: Tunnel) -> None:
        """Use the tunnel's resolvers. Twice is harmless. Raises HostError."""
        ...

    def intact(self) -> bool:
        """Whether what `set` did is still there: DHCP clients write resolv.conf whenever they like."""
        ...

    async def restore(self) -> None:
        """Give back what was there before the first `set`, also after a crash in between. Idempotent."""
        ...

    def watch(self) -> AsyncIterator[None]:
        """Whenever somebody may have changed how names are resolved. Never ends."""
        ...


@dataclass(frozen=True, slots=True)
class Touch:
    """Our firewall or routing was changed. `foreign`: certainly not by us, nor by the kernel of its own accord."""

    what: str  # a phrase for people
    foreign: bool


@dataclass(frozen=True, slots=True)
class QuotaSpent:
    """The kernel has refused a packet for the first time since it was told how much of the allowance is left."""


class Tamper(Protocol):
    def watch(self) -> AsyncIterator[Touch | QuotaSpent]:
        """Whenever our firewall or routing may have been changed, by us, by others or by the traffic. Never ends."""
        ...


class Lockdown(Protocol):
    async def keep(self, policy: FirewallPolicy | None) -> None:
        """What blocks from the next boot on, before the network and without us (K2); None: nothing does.

        Checked with the kernel before it replaces the old one, atomically. Twice is harmless. Raises HostError.
        """
        ...


@dataclass(frozen=True, slots=True)
class Sleeping:
    """The machine is about to sleep, or has woken up. Sleep waits, a few seconds at most, until `ready` is called."""

    asleep: bool
    ready: Callable[[], None]


class Sleep(Protocol):
    def watch(self) -> AsyncIterator[Sleeping]:
        """Never ends, also while nobody tells."""
        ...


class LeakCheck(Protocol):
    excluded: tuple[Network, ...]  # networks that may be reached beside the tunnel: no probe goes there
    tunnel: str  # the tunnel's link: what leaves by it is no leak

    async def check(self, ifnames: Sequence[str]) -> tuple[str, ...]:
        """Send harmless probes that must not leave over these links, and watch them (K7).

        A sentence for each link that probes left over: empty is well. Raises HostError when it cannot look.
        """
        ...


class Obstacles(Protocol):
    async def find(self, servers: Sequence[Endpoint]) -> tuple[str, ...]:
        """A sentence for each thing of others that keeps the VPN's own packets from these servers (K8).

        Found by a probe and named, such as another firewall table that drops them. Raises HostError.
        """
        ...


class Beacons(Protocol):
    async def fingerprint(self, ifname: str, server: Endpoint) -> bytes:
        """The SHA-256 of the certificate that the TLS server there proves to hold: 32 bytes.

        Sent over that link alone, with MARK. Bounded in time and memory whatever answers. Raises HostError: nobody
        answers, or it is no proof.
        """
        ...


@dataclass(frozen=True, slots=True)
class Announced:
    """What a network says of its captive portal (RFC 8910): a stranger's word, not yet checked."""

    url: str  # of the portal's API, or "urn:ietf:params:capport:unrestricted": there is no portal
    source: str  # "dhcp" or "ra"


class Portals(Protocol):
    def forget(self, ifindex: int) -> None:
        """Another network is behind this link: what was announced before is void."""
        ...

    def announced(self, ifindex: int) -> Announced | None:
        """What the network of this link has said by itself. Sends nothing."""
        ...

    async def look(self, link: Link, probes: Sequence[Probe], announced: Announced | None) -> Internet | None:
        """What is behind a link: by the portal's API where one is announced, else by probes, in this order.

        Sent over that link alone, with MARK, to DNS, HTTP and HTTPS. Bounded in time and memory whatever answers. None:
        the answers tell nothing. Raises HostError.
        """
        ...

    def close(self) -> None:
        """Listen to nobody any more."""
        ...


class LoginTree(Protocol):
    async def begin(self, process: int, links: Sequence[Link]) -> int:
        """Give LOGIN_MARK to every Internet socket that the process (its pidfd), and what it starts, makes from now on.

        Their DNS is answered with what the resolvers behind these links say, at a port of the loopback: returned. One
        tree at a time: a former one ends. Raises HostError.
        """
        ...

    async def end(self, patience: float = 0.0) -> None:
        """No new marks and names any more; what still runs of the tree after `patience` seconds is killed. Idempotent.

        Also when the daemon is killed, at once.
        """
        ...

    async def tidy(self) -> None:
        """End what an earlier daemon left."""
        ...


@dataclass(frozen=True, slots=True)
class SplitTree:
    """A process that was put into a group of split tunnelling, and what it has started since."""

    group: Group
    pid: int  # of the process that was put there
    uid: int  # for whom
    name: str  # what one of its processes calls itself
    processes: int


class SplitGroups(Protocol):
    def take_over(self) -> frozenset[Group]:
        """The groups that somebody is in since an earlier daemon. Raises HostError."""
        ...

    def open(self, pid: int) -> tuple[int, frozenset[int]]:
        """A pidfd, the caller's to close, and the users that this process is: several, for one with a setuid bit.

        Raises HostError: there is none.
        """
        ...

    def add(self, group: Group, process: int, uid: int) -> SplitTree:
        """Mark every Internet socket that the process (its pidfd), and what it starts, makes from now on.

        With NEVER_MARK or ONLY_MARK, until it is removed or has ended, whatever becomes of the daemon. `uid`: for whom.
        Raises HostError.
        """
        ...

    def trees(self) -> tuple[SplitTree, ...]:
        """Who is in the groups now."""
        ...

    def find(self, pid: int) -> SplitTree | None:
        """The tree that this process is in, or that began with it."""
        ...

    def trees_of(self, program: Program) -> tuple[SplitTree, ...]:
        """The trees with a process of that program."""
        ...

    def remove(self, tree: SplitTree) -> None:
        """No more marks for its processes; what they had made sends nothing any more. Raises HostError."""
        ...

    def check(self, path: str) -> None:
        """Raises HostError where `gather` could not tell the processes of that executable for certain."""
        ...

    def gather(self, programs: Iterable[Program]) -> tuple[SplitTree, ...]:
        """Add the processes of these programs that are in no group yet; those that were added. Raises nothing."""
        ...

    async def answer(self, links: Sequence[Link], through: Sequence[Address]) -> int:
        """Answer DNS at a port of the loopback, which stays the same: returned. Twice is harmless. Raises HostError.

        With what the resolvers behind these links say, asked over them with MARK; or with what those `through` the
        tunnel say.
        """
        ...

    async def close(self) -> None:
        """Answer nobody any more. Whoever is in a group stays there."""
        ...


class LinkWatch(Protocol):
    def follow(self, link: Link, network: WifiNetwork | None) -> None:
        """What is known of the link now: its network and gateways come after it."""
        ...

    def found(self) -> AsyncGenerator[Finding, None]:
        """What speaks for an attacker. Once; ends only when nothing more can come. Raises HostError."""
        ...

    def close(self) -> None: ...


class Lookout(Protocol):
    def watch(self, link: Link) -> LinkWatch:
        """Keep what may speak for an attacker on this link (N13), until `found` is asked. Raises HostError."""
        ...


class ServerProbe(Protocol):
    async def measure(
        self, profile: WireGuardProfile, peers: Sequence[WireGuardPeer], rounds: int
    ) -> Mapping[bytes, tuple[float, ...]]:
        """By public key, in how many seconds each server has answered each handshake that it did answer.

        Sent with MARK, one to each server in a round; nothing else can go to them. Bounded in time. Raises HostError.
        """
        ...

    async def tidy(self) -> None:
        """End what an earlier daemon left. Idempotent. Raises HostError."""
        ...


class PathMtu(Protocol):
    def read(self, ifname: str) -> int | None:
        """The MTU of a link in bytes; None: there is none."""
        ...

    def set(self, ifname: str, mtu: int) -> None:
        """Raises HostError."""
        ...

    def stalls(self) -> int:
        """How often TCP connections of this machine have waited in vain for an answer, so far."""
        ...

    async def search(self, ifname: str, resolvers: Sequence[Address], tried: tuple[int, ...]) -> Result:
        """How large a packet passes through that tunnel and back, of these sizes (`policies.mtu.sizes`).

        Asks the tunnel's resolvers, and nobody else. Bounded in time and packets. Raises HostError.
        """
        ...


class LinkCounters(Protocol):
    bits: int  # of each counter: 64, or 32 where they wrap

    def boot_id(self) -> str:
        """Another one: the machine was started anew, and no counter of before is there any more."""
        ...

    def birth(self, ifname: str) -> int:
        """Names the making of a link: another one of the same name and number has another. 0: not known."""
        ...

    def fileno(self) -> int:
        """Readable when `removed` has something to tell. Raises HostError."""
        ...

    def read(self, ifindex: int) -> Counts | None:
        """What that link has counted; None where there is none. Raises HostError."""
        ...

    def removed(self) -> Sequence[tuple[int, Counts]]:
        """By ifindex, the last that links had counted which have gone since it was asked. Raises HostError."""
        ...

    def way_to(self, address: Address, mark: int = MARK) -> int | None:
        """The ifindex by which packets with that mark go there now; None: there is no way. Raises HostError."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Host:
    lookouts: tuple[Lookout, ...] = field(default=(), kw_only=True)
    link_counters: LinkCounters = field(kw_only=True)
    path_mtu: PathMtu = field(kw_only=True)
    server_probe: ServerProbe = field(kw_only=True)
    links: Links
    wifi: Wifi
    firewall: Firewall
    routes: Routes
    tunnel: TunnelDriver
    resolver: Resolver
    tamper: Tamper
    lockdown: Lockdown
    sleep: Sleep
    leak_check: LeakCheck
    obstacles: Obstacles
    beacons: Beacons
    login_tree: LoginTree
    split_groups: SplitGroups = field(kw_only=True)
    portals: Portals
