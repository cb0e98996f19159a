"""Bad input to the two layers: refused with its reason, and what stood before still does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path
from typing import TypeVar

import pytest

from daemon.enforce import EnforceError, Enforcer
from daemon.linux.libnftables import LibNft
from daemon.linux.nft import NftFirewall
from daemon.linux.nft_render import render
from daemon.linux.routes import LinuxRoutes
from lab.hosts import Host
from policies.facts import Endpoint, Tunnel
from policies.firewall import TUNNEL_IFNAME, FirewallPolicy
from policies.states import Phase

T = TypeVar("T")
SERVER = Endpoint(ip_address("203.0.113.7"), 51820)
TUNNEL = Tunnel(TUNNEL_IFNAME, (ip_interface("10.66.0.2/32"),), (ip_address("10.66.0.1"),))
HELD = FirewallPolicy(Phase.HELD, capture=True)
CONNECTING = FirewallPolicy(Phase.CONNECTING, servers=(SERVER,), capture=True)
CONNECTED = replace(CONNECTING, phase=Phase.CONNECTED, tunnel=TUNNEL)

REFUSED = {
    "port 0": (replace(CONNECTING, servers=(replace(SERVER, port=0),)), "not an endpoint"),
    "port too great": (replace(CONNECTING, servers=(replace(SERVER, port=65536),)), "not an endpoint"),
    "port below": (replace(CONNECTING, servers=(replace(SERVER, port=-1),)), "not an endpoint"),
    "second server": (replace(CONNECTING, servers=(SERVER, replace(SERVER, port=0))), "not an endpoint"),
    "protocol": (replace(CONNECTING, servers=(replace(SERVER, protocol="udp accept #"),)), "not an endpoint"),
    "no protocol": (replace(CONNECTING, servers=(replace(SERVER, protocol=""),)), "not an endpoint"),
    "a tunnel that is not there": (
        replace(CONNECTED, tunnel=replace(TUNNEL, ifname="gone0")),
        "no interface with this name",
    ),
    "a tunnel for every link": (replace(CONNECTED, tunnel=replace(TUNNEL, ifname="*")), "no interface with this name"),
    "a tunnel with a quote": (
        replace(CONNECTED, tunnel=replace(TUNNEL, ifname='x" accept')),
        "no interface with this name",
    ),
    "a tunnel without a name": (replace(CONNECTED, tunnel=replace(TUNNEL, ifname="")), "no interface with this name"),
    "a name too long": (replace(CONNECTED, tunnel=replace(TUNNEL, ifname="x" * 16)), "no interface with this name"),
}


@pytest.fixture
def host() -> Iterator[Host]:
    with Host("policy") as made:
        made.ip(
            "link set lo up", f"link add {TUNNEL_IFNAME} type veth peer name far",
            f"link set {TUNNEL_IFNAME} up", "link set far up",
        )  # fmt: skip
        yield made


def go(host: Host, work: Callable[[], Awaitable[T]]) -> T:
    async def run() -> T:
        return await work()

    return host.inside(lambda: asyncio.run(run()))


def in_force(host: Host) -> str:
    shown = host.run("nft", "--stateless", "list", "ruleset").stdout
    for family in ("-4", "-6"):
        shown += host.run("ip", family, "rule").stdout
        shown += host.run("ip", family, "route", "show", "table", "all").stdout
    return shown


@pytest.mark.netns
@pytest.mark.parametrize(("policy", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_refused_with_the_reason_and_nothing_is_applied(
    host: Host, tmp_path: Path, policy: FirewallPolicy, reason: str
) -> None:
    async def work() -> None:
        enforcer = Enforcer(NftFirewall(LibNft), LinuxRoutes(tmp_path))
        await enforcer.set(HELD)
        before = in_force(host)
        assert "hook output" in before
        with pytest.raises(EnforceError) as caught:
            await enforcer.set(policy)
        assert reason in str(caught.value)
        assert str(caught.value).isprintable()
        assert in_force(host) == before
        assert (enforcer.enforced, enforcer.blocking) == (None, True)
        assert await enforcer.set(CONNECTED), "nothing of it sticks"
        assert enforcer.blocking

    go(host, work)


@pytest.mark.netns
def test_a_ruleset_that_the_kernel_refuses_leaves_the_old_one(host: Host, tmp_path: Path) -> None:
    """A real refusal of a whole transaction, narrowing and widening."""

    class Impossible(LibNft):
        async def run(self, commands: str, *, check: bool = False) -> str:
            more = "" if check or commands.startswith("list") else "add rule inet tunwarden no_such_chain accept\n"
            return await super().run(commands + more, check=check)

    async def work() -> None:
        routes = LinuxRoutes(tmp_path)
        for stands, next_one in ((CONNECTED, HELD), (HELD, CONNECTING), (HELD, replace(HELD, phase=Phase.BLOCKED))):
            firewall = NftFirewall(LibNft)
            enforcer = Enforcer(firewall, routes)
            await enforcer.set(stands)
            before = host.run("nft", "--stateless", "list", "ruleset").stdout
            firewall._nft = Impossible()
            with pytest.raises(EnforceError, match=r"apply the firewall: .*No such file or directory"):
                await enforcer.set(next_one)
            assert host.run("nft", "--stateless", "list", "ruleset").stdout == before
            assert enforcer.blocking, "read back"
            host.run("nft", "insert", "rule", "inet", "tunwarden", "output", "accept")
            assert not await enforcer.intact()
            assert not enforcer.blocking, "read back again"

    go(host, work)


@pytest.mark.parametrize("name", ['wlan0" accept #', "wlan*", "*", "a b", "", "x" * 16, "eth0\n", "é", "$x"])
def test_a_link_name_that_is_none_lets_nothing_pass(name: str) -> None:
    """No reason to refuse everything: that one link stays closed."""
    idle, links = FirewallPolicy(Phase.IDLE), frozenset({name})
    assert render(replace(idle, cleared=links)) == render(idle)
    assert render(replace(HELD, lan=links)) == render(HELD)
    assert render(replace(HELD, inside=((name, ip_network("172.17.0.0/16")),))) == render(HELD)
