"""How long the rules take: the whole table of a connected laptop, applied and verified, and 5,000 subnets of its owner.

Both layers apart, in a network namespace of their own. Each application replaces another table, without those subnets.
`set` applies and reads back; "looked at again" is one `verify` after it. What the last few rulesets compile to is
remembered, for states alternate; "for the first time" are rules that were never sent before. Processor time is that of
user and system.
Peer in the same run: the nft program with the same text, `nft -f`, then `nft list table`.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_interface, ip_network
from pathlib import Path

from bench.common import report, title
from daemon.linux.nft import NftFirewall
from daemon.linux.nft_render import render
from daemon.linux.routes import LinuxRoutes
from lab.hosts import Host
from policies.facts import Endpoint, Tunnel
from policies.firewall import TUNNEL_IFNAME, FirewallPolicy
from policies.states import Phase

ROUNDS, ROUNDS_OF_MANY = 101, 21
GOAL_MS, GOAL_OF_MANY_MS = 4, 100
NFT = "/usr/sbin/nft"
TUNNEL = Tunnel(
    TUNNEL_IFNAME,
    (ip_interface("10.66.0.2/32"), ip_interface("fd66::2/128")),
    (ip_address("10.66.0.1"), ip_address("fd66::1")),
)
FULL = FirewallPolicy(  # everything at once: both families, the local network, subnets, containers and machines
    Phase.CONNECTED,
    servers=(Endpoint(ip_address("203.0.113.7"), 51820), Endpoint(ip_address("2001:db8:7::1"), 51820)),
    tunnel=TUNNEL,
    guarded=tuple(address.ip for address in TUNNEL.addresses),
    lan=frozenset({"wlan0", "eth0"}),
    lan_subnets=(ip_network("100.64.0.0/10"), ip_network("2001:db8:1::/48")),
    inside=(("docker0", ip_network("172.17.0.0/16")), ("virbr0", ip_network("192.168.122.0/24"))),
    capture=True,
)
OTHER = replace(FULL, phase=Phase.RECONNECTING, tunnel=None)


def scattered(count: int, version: int) -> tuple[IPv4Network | IPv6Network, ...]:
    """Networks that do not touch, of the kinds that settings allow and the constant list does not cover."""
    if version == 4:
        return tuple(ip_network((0x64400000 + (number << 9), 24)) for number in range(count))
    return tuple(ip_network(((0x20010DB8 << 96) + (number << 65), 64)) for number in range(count))


class Times:
    """Milliseconds by the wall and by the processor, of this process and the programs it started."""

    def __init__(self) -> None:
        self.wall: list[float] = []
        self.processor: list[float] = []

    @contextmanager
    def one(self, counts: bool) -> Iterator[None]:
        wall, children = time.perf_counter(), sum(os.times()[2:4])
        fine = time.process_time()
        yield
        if not counts:
            return
        self.wall.append((time.perf_counter() - wall) * 1000)
        spent = time.process_time() - fine + sum(os.times()[2:4]) - children
        self.processor.append(spent * 1000)

    def tell(self, what: str, goal: str = "") -> float:
        report(f"{what}, processor", self.processor, "ms")
        return report(what, self.wall, "ms", goal)


Layer = NftFirewall | LinuxRoutes


async def applied(
    layer: Layer, policies: tuple[FirewallPolicy, ...], rounds: int, fresh: bool = False
) -> tuple[Times, Times]:
    """Of `set`, which reads back, and of looking again, for the first policy after the second.

    `fresh` makes each first policy another one, of the same size.
    """
    setting, looking = Times(), Times()
    await layer.set(policies[-1])
    for at in range(2 * rounds):
        policy, counts = policies[at % 2], at % 2 == 0
        if counts and fresh:
            policy = replace(policy, lan_subnets=(scattered(at + 1, 4)[-1], *policy.lan_subnets[1:]))
        with setting.one(counts):
            await layer.set(policy)
        with looking.one(counts):
            assert await layer.verify(policy)
    return setting, looking


def by_program(policies: tuple[FirewallPolicy, ...], rounds: int) -> Times:
    times = Times()
    with tempfile.TemporaryDirectory(prefix="tunwarden-bench-") as folder:
        files = [Path(folder, str(number)) for number in range(2)]
        for file, policy in zip(files, policies, strict=True):
            file.write_text(render(policy), encoding="ascii")
        for at in range(2 * rounds):
            with times.one(at % 2 == 0):
                subprocess.run([NFT, "-f", files[at % 2]], check=True)
                subprocess.run([NFT, "list", "table", "inet", "tunwarden"], check=True, stdout=subprocess.DEVNULL)
    return times


def compare(state: Path, policies: tuple[FirewallPolicy, ...], rounds: int, goal: str) -> None:
    ours = {}
    for name, layer in (("firewall", NftFirewall()), ("routing", LinuxRoutes(state))):
        setting, looking = asyncio.run(applied(layer, policies, rounds))
        ours[name] = setting.tell(f"{name}, applied and read back", goal)
        looking.tell(f"{name}, looked at again")
        if name == "firewall":
            setting, looking = asyncio.run(applied(NftFirewall(), policies, rounds, fresh=True))
            setting.tell("firewall, applied for the first time and read back", goal)
    peer = by_program(policies, rounds).tell("peer: nft -f, nft list table")
    print(f"firewall / peer: {ours['firewall'] / peer:.2f}")


def measure(state: Path) -> None:
    title(f"{ROUNDS} applications of the full table")
    compare(state, (FULL, OTHER), ROUNDS, f"{GOAL_MS} ms")
    for version in (4, 6):
        title(f"{ROUNDS_OF_MANY} applications of 5,000 subnets of IPv{version}")
        compare(
            state, (replace(FULL, lan_subnets=scattered(5000, version)), FULL), ROUNDS_OF_MANY, f"{GOAL_OF_MANY_MS} ms"
        )


def main() -> None:
    with Host("bench") as host, tempfile.TemporaryDirectory(prefix="tunwarden-bench-") as state:
        links = ("wlan0", "eth0", TUNNEL_IFNAME)
        host.ip(
            "link set lo up", *(f"link add {link} type veth peer name {link}x" for link in links),
            *(f"link set {link} up" for link in (*links, *(f"{link}x" for link in links))),
            "address add 10.66.0.2/32 dev tunwarden0", "address add fd66::2/128 dev tunwarden0 nodad",
            *(f"link add {bridge} type bridge" for bridge in ("docker0", "virbr0")),
            "address add 172.17.0.1/16 dev docker0", "address add 192.168.122.1/24 dev virbr0",
            "link set docker0 up", "link set virbr0 up",
        )  # fmt: skip
        host.inside(lambda: measure(Path(state)))


if __name__ == "__main__":
    main()
