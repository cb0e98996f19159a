"""An operating system in memory: it remembers what it was asked, in order, and refuses what it is told to refuse."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_interface
from typing import Any

from daemon.host import Announced, Counters, Host, HostError, QuotaSpent, Sleeping, SplitTree, Touch, TunnelError
from policies.counting import Counts
from policies.facts import Address, Endpoint, Internet, Link, LinkKind, Security, Tunnel, WifiNetwork
from policies.firewall import MARK, TUNNEL_IFNAME, FirewallPolicy
from policies.mtu import Answer, Result
from policies.portals import Probe
from policies.resolvers import Manager
from policies.settings_tables import LinkRule
from policies.split import Group, Network, Program
from policies.states import Cause
from policies.wireguard import WireGuardPeer, WireGuardProfile

GATEWAY = ip_address("192.0.2.1")
WLAN = Link(2, "wlan0", LinkKind.WIFI, up=True, carrier=True, carrier_changes=1, gateways=(GATEWAY,))
CABLE = Link(3, "eth0", LinkKind.WIRED, up=True, carrier=True, carrier_changes=1, gateways=(GATEWAY,))
CAFE = WifiNetwork(b"Cafe", b"\x02\0\0\0\0\x01", Security.OPEN)
HOME = WifiNetwork(b"Home", b"\x02\0\0\0\0\x02", Security.WPA2)
SPLIT_DNS = 30054  # and those of programs that never use the tunnel
LOGIN_DNS = 30053  # the port where the names of a login are answered
TAMPERED = Touch("the firewall table was changed by nft (process 4711)", foreign=True)


@dataclass
class FakeHost:
    """`refuses` holds names of operations: links, firewall, routes, reset, resolver, open, established, close ..."""

    links: tuple[Link, ...] = ()
    wifi: dict[str, WifiNetwork] = field(default_factory=dict)
    routers: dict[str, bytes] = field(default_factory=dict)  # hardware addresses of gateways
    refuses: set[str] = field(default_factory=set)
    asked: list[tuple[str, object]] = field(default_factory=list)
    kernel: dict[str, FirewallPolicy | None] = field(default_factory=lambda: {"firewall": None, "routes": None})
    resolvers: Tunnel | None = None
    answers: bool = True  # the VPN server
    tunnels: int = 0  # that are open
    busy: bool = False  # a tunnel is being opened or closed
    boot: FirewallPolicy | None = None  # what would block from the next boot on
    leaked: tuple[str, ...] = ()  # what the leak check finds
    obstacles: tuple[str, ...] = ()
    beacons: dict[tuple[str, Endpoint], bytes] = field(default_factory=dict)  # what each shows; others are silent
    internet: dict[str, Internet | None] = field(default_factory=dict)  # what is behind each link; others tell nothing
    announced: dict[int, Announced] = field(default_factory=dict)  # of captive portals, by ifindex
    looked_through: list[FirewallPolicy | None] = field(default_factory=list)  # the firewall during each look
    touch: Touch | QuotaSpent = TAMPERED
    counters: FakeCounters = field(default_factory=lambda: FakeCounters())
    opened: list[WireGuardProfile] = field(default_factory=list)  # a profile for each attempt
    speeds: dict[Address, float] = field(default_factory=dict)  # of servers, in seconds; others do not answer
    mtus: dict[str, int] = field(default_factory=dict)  # of links, by ifname
    stalls: int = 0  # of TCP connections
    passes: int = 0  # bytes of the largest packet that is answered through the tunnel; 0: nobody answers

    def __post_init__(self) -> None:
        self.changed = {name: asyncio.Event() for name in ("links", "wifi", "tamper", "resolvers")}
        self.died = asyncio.Event()
        self.sleeps: asyncio.Queue[bool] = asyncio.Queue()
        self.host = Host(
            _Links(self), _Wifi(self), _Layer(self, "firewall"), _Layer(self, "routes"), _Driver(self), _Resolver(self),
            _Tamper(self), _Lockdown(self), _Sleep(self), _LeakCheck(self), _Obstacles(self),
            _Beacons(self), _LoginTree(self), portals=_Portals(self), link_counters=self.counters,
            server_probe=_ServerProbe(self), split_groups=FakeSplitGroups(self), path_mtu=_PathMtu(self),
        )  # fmt: skip

    def ask(self, what: str, detail: object = None) -> None:
        self.asked.append((what, detail))
        if what in self.refuses:
            raise HostError(what, "refused")

    @property
    def leaks(self) -> bool:
        """Whether a packet could leave outside a tunnel: both layers must be open for that."""
        return all(policy is None or bool(policy.cleared) for policy in self.kernel.values())

    def order(self, *whats: str) -> list[str]:
        """What was asked, in order, of these operations."""
        return [what for what, _ in self.asked if what in whats]


@dataclass
class FakeCounters:
    """What the kernel has counted, by ifindex; a link that is taken out with `remove` tells its last."""

    counts: dict[int, Counts] = field(default_factory=dict)
    births: dict[str, int] = field(default_factory=dict)
    bits: int = 64
    boot: str = "this boot"
    way: int | None = None
    refuses: bool = False
    gone: list[tuple[int, Counts]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def remove(self, ifindex: int) -> None:
        self.gone.append((ifindex, self.counts.pop(ifindex)))

    def boot_id(self) -> str:
        return self.boot

    def birth(self, ifname: str) -> int:
        return self.births.get(ifname, 1)

    def fileno(self) -> int:
        return self._event

    def read(self, ifindex: int) -> Counts | None:
        if self.refuses:
            raise HostError("read the counters of a link", "refused")
        return self.counts.get(ifindex)

    def removed(self) -> list[tuple[int, Counts]]:
        gone, self.gone = self.gone, []
        return gone

    def way_to(self, address: Address, mark: int = MARK) -> int | None:
        return self.way

    def close(self) -> None:
        if self._event >= 0:
            os.close(self._event)
            self._event = -1


class _PathMtu:
    def __init__(self, fake: FakeHost) -> None:
        self.fake = fake

    def read(self, ifname: str) -> int | None:
        return self.fake.mtus.get(ifname)

    def set(self, ifname: str, mtu: int) -> None:
        self.fake.ask("set mtu", mtu)
        self.fake.mtus[ifname] = mtu

    def stalls(self) -> int:
        return self.fake.stalls

    async def search(self, ifname: str, resolvers: Sequence[Address], tried: tuple[int, ...]) -> Result:
        self.fake.ask("search mtu", (tuple(resolvers), tried))
        await asyncio.sleep(0)
        best = max((size for size in tried if size <= min(self.fake.passes, self.fake.mtus[ifname])), default=0)
        return Result(Answer.FOUND, best) if best else Result(Answer.SILENT)


class _ServerProbe:
    def __init__(self, fake: FakeHost) -> None:
        self.fake = fake

    async def measure(
        self, profile: WireGuardProfile, peers: Sequence[WireGuardPeer], rounds: int
    ) -> Mapping[bytes, tuple[float, ...]]:
        self.fake.ask("measure", tuple(peer.endpoints[0] for peer in peers))
        policy = self.fake.kernel["firewall"]
        assert policy is not None
        assert not policy.capture or set(policy.servers) == {peer.endpoints[0] for peer in peers}
        await asyncio.sleep(0)
        speeds = {peer.public_key: self.fake.speeds.get(peer.addresses[0]) for peer in peers}
        return {key: (speed,) * rounds for key, speed in speeds.items() if speed is not None}

    async def tidy(self) -> None:
        self.fake.ask("tidy probes")


class _Links:
    def __init__(self, fake: FakeHost) -> None:
        self.fake = fake
        self.rules: tuple[LinkRule, ...] = ()

    async def read(self) -> tuple[Link, ...]:
        self.fake.ask("links")
        return self.fake.links

    def gateway_macs(self, links: Iterable[Link]) -> Mapping[str, bytes]:
        return {link.ifname: self.fake.routers[link.ifname] for link in links if link.ifname in self.fake.routers}

    async def watch(self) -> AsyncIterator[None]:
        async for _ in _watch(self.fake, "links"):
            yield


class _Wifi:
    def __init__(self, fake: FakeHost) -> None:
        self.fake = fake

    async def read(self) -> Mapping[str, WifiNetwork]:
        return dict(self.fake.wifi)

    async def watch(self) -> AsyncIterator[None]:
        async for _ in _watch(self.fake, "wifi"):
            yield


async def _watch(fake: FakeHost, name: str) -> AsyncIterator[None]:
    yield
    while True:
        await fake.changed[name].wait()
        fake.changed[name].clear()
        if f"watch {name}" in fake.refuses:
            raise RuntimeError("a watch that never ends has ended")
        yield


class _Layer:
    def __init__(self, fake: FakeHost, name: str) -> None:
        self.fake, self.name = fake, name

    async def set(self, policy: FirewallPolicy) -> None:
        self.fake.ask(self.name, policy)
        self.fake.kernel[self.name] = policy

    async def verify(self, policy: FirewallPolicy) -> bool:
        if self.name in self.fake.refuses:  # whoever may not change it may not look at it either
            raise HostError(self.name, "refused")
        return self.fake.kernel[self.name] == policy

    async def allow(self, left: Callable[[], int]) -> None:
        self.fake.ask("allow", left())

    async def reset(self) -> None:
        self.fake.ask("reset", self.name)
        self.fake.kernel[self.name] = None


class _Tamper:
    def __init__(self, fake: FakeHost) -> None:
        self.fake = fake

    async def watch(self) -> AsyncIterator[Touch | QuotaSpent]:
        while True:
            await self.fake.changed["tamper"].wait()
            self.fake.changed["tamper"].clear()
            yield self.fake.touch


class _Lockdown:
    def __init__(self, fake: FakeHost) -> None:
        self.fake = fake

    async def keep(self, policy: FirewallPolicy | None) -> None:
        self.fake.ask("lockdown", policy)
        self.fake.boot = policy


class _Sleep:
    def __init__(self, fake: FakeHost) -> None:
        self.fake = fake

    async def watch(self) -> AsyncIterator[Sleeping]:
        while True:
            asleep = await self.fake.sleeps.get()
            yield Sleeping(asleep, lambda asleep=asleep: self.fake.ask("ready", asleep))  # type: ignore[misc]


class _LeakCheck:
    excluded: tuple[Network, ...] = ()
    tunnel: str = ""

    def __init__(self, fake: FakeHost) -> None:
        self.fake = fake

    async def check(self, ifnames: Sequence[str]) -> tuple[str, ...]:
        self.fake.ask("leak check", tuple(ifnames))
        return self.fake.leaked


class _Obstacles:
    def __init__(self, fake: FakeHost) -> None:
        self.fake = fake

    async def find(self, servers: Sequence[Endpoint]) -> tuple[str, ...]:
        self.fake.ask("obstacles", tuple(servers))
        return self.fake.obstacles


class _Beacons:
    def __init__(self, fake: FakeHost) -> None:
        self.fake = fake

    async def fingerprint(self, ifname: str, server: Endpoint) -> bytes:
        self.fake.ask("beacon", (ifname, server))
        await asyncio.sleep(0)
        try:
            return self.fake.beacons[ifname, server]
        except KeyError:
            raise HostError("beacon", "silent") from None


class _Portals:
    def __init__(self, fake: FakeHost) -> None:
        self.fake = fake

    def forget(self, ifindex: int) -> None:
        pass

    def announced(self, ifindex: int) -> Announced | None:
        return self.fake.announced.get(ifindex)

    async def look(self, link: Link, probes: Sequence[Probe], announced: Announced | None) -> Internet | None:
        self.fake.ask("look", link.ifname)
        policy = self.fake.kernel["firewall"]
        self.fake.looked_through.append(policy)
        await asyncio.sleep(0)
        return self.fake.internet.get(link.ifname)

    def close(self) -> None:
        pass


class _LoginTree:
    def __init__(self, fake: FakeHost) -> None:
        self.fake = fake

    async def begin(self, process: int, links: Sequence[Link]) -> int:
        self.fake.ask("tree", (process, tuple(link.ifname for link in links)))
        await asyncio.sleep(0)
        return LOGIN_DNS

    async def end(self, patience: float = 0.0) -> None:
        self.fake.ask("no tree", patience)

    async def tidy(self) -> None:
        self.fake.ask("tidy")


class FakeSplitGroups:
    """Implements `daemon.host.SplitGroups`: `owners` are this machine's processes, `inside` who is in a group."""

    def __init__(self, fake: FakeHost) -> None:
        self.fake = fake
        self.owners: dict[int, frozenset[int]] = {}
        self.inside: list[SplitTree] = []
        self.runs: dict[int, str] = {}  # the program of each process
        self.asked: list[tuple[tuple[str, ...], tuple[str, ...]]] = []  # links and resolvers of names

    def take_over(self) -> frozenset[Group]:
        self.fake.ask("take over")
        return frozenset(tree.group for tree in self.inside)

    def open(self, pid: int) -> tuple[int, frozenset[int]]:
        if pid not in self.owners:
            raise HostError("Split", f"there is no process {pid}")
        return os.open(os.devnull, os.O_RDONLY), self.owners[pid]

    def add(self, group: Group, process: int, uid: int) -> SplitTree:
        self.fake.ask("split", (group, uid))
        tree = SplitTree(group, next(iter(self.owners)) + len(self.inside), uid, "program", 1)
        self.inside.append(tree)
        return tree

    def trees(self) -> tuple[SplitTree, ...]:
        return tuple(self.inside)

    def find(self, pid: int) -> SplitTree | None:
        return next((tree for tree in self.inside if tree.pid == pid), None)

    def trees_of(self, program: Program) -> tuple[SplitTree, ...]:
        return tuple(tree for tree in self.inside if self.runs.get(tree.pid) == program.path)

    def remove(self, tree: SplitTree) -> None:
        self.fake.ask("unsplit", tree.pid)
        self.inside.remove(tree)

    def check(self, path: str) -> None:
        self.fake.ask("check program", path)

    def gather(self, programs: Iterable[Program]) -> tuple[SplitTree, ...]:
        added = []
        for program in programs:
            for pid, path in self.runs.items():
                if path == program.path and self.owners[pid] == {program.uid} and self.find(pid) is None:
                    added.append(SplitTree(program.group, pid, program.uid, "program", 1))
        self.inside += added
        return tuple(added)

    async def answer(self, links: Sequence[Link], through: Sequence[Address]) -> int:
        self.fake.ask("answer")
        self.asked.append((tuple(link.ifname for link in links), tuple(map(str, through))))
        return SPLIT_DNS

    async def close(self) -> None:
        return None


class _Driver:
    def __init__(self, fake: FakeHost) -> None:
        self.fake = fake

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Two operations at once would take each other's link away."""
        assert not self.fake.busy, "two at once"
        self.fake.busy = True
        try:
            yield
        finally:
            self.fake.busy = False

    async def open(self, profile: WireGuardProfile) -> Tunnel:
        """As the real one: what is there is closed first, and a failure or a cancellation undoes it."""
        with self._alone():
            self.fake.opened.append(profile)
            self._ask("open", profile.name)
            try:
                for _ in range(3):
                    await asyncio.sleep(0)
                self.fake.tunnels = 1
                await asyncio.sleep(0)
            except BaseException:
                await asyncio.sleep(0.002)
                self.fake.tunnels = 0
                raise
        self.fake.died.clear()
        return Tunnel(TUNNEL_IFNAME, (ip_interface("10.9.0.2/32"),), profile.resolvers)

    async def established(self) -> None:
        self._ask("established")
        while not self.fake.answers:  # noqa: ASYNC110 - a plain flag is what tests set
            await asyncio.sleep(0.001)

    async def dead(self) -> TunnelError:
        await self.fake.died.wait()
        return TunnelError(Cause.TUNNEL_LOST, "keep the tunnel up", "it fell silent")

    def moved(self) -> None:
        self.fake.ask("moved")

    async def close(self) -> None:
        with self._alone():
            await asyncio.sleep(0.001)
            self.fake.tunnels = 0
            self._ask("close")

    async def counters(self) -> Counters | None:
        self._ask("counters")
        return Counters(7, 8, 1.0) if self.fake.tunnels else None

    def _ask(self, what: str, detail: Any = None) -> None:
        try:
            self.fake.ask(what, detail)
        except HostError as err:
            raise TunnelError(Cause.TUNNEL_FAILED, err.what, err.why) from err


class _Resolver:
    manager = Manager.AUTO

    def __init__(self, fake: FakeHost) -> None:
        self.fake = fake

    async def set(self, tunnel: Tunnel) -> None:
        self.fake.ask("resolver", tunnel)
        self.fake.resolvers = tunnel

    def intact(self) -> bool:
        return self.fake.resolvers is not None

    async def restore(self) -> None:
        self.fake.ask("restore")
        self.fake.resolvers = None

    async def watch(self) -> AsyncIterator[None]:
        async for _ in _watch(self.fake, "resolvers"):
            yield
