"""T2: somebody else's tunnel in the two layers and among the links: as text, and as the kernel holds it."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_interface
from pathlib import Path
from typing import TypeVar

import pytest

from daemon.linux.link_kinds import Device, tunnel_kind
from daemon.linux.links import LinuxLinks
from daemon.linux.nft import NftFirewall
from daemon.linux.nft_render import render
from daemon.linux.route_plan import BEHIND, GOTO
from daemon.linux.routes import LinuxRoutes
from lab.external import device
from lab.hosts import Host
from policies.facts import Endpoint, External, Tunnel
from policies.firewall import MARK, PROBE_IFNAME, TUNNEL_IFNAME, FirewallPolicy
from policies.states import Phase
from tests.daemon.linux.test_nft import chain

T = TypeVar("T")
GOLDEN = Path(__file__).parents[2] / "golden" / "nft-external"

SERVERS = (
    Endpoint(ip_address("203.0.113.7"), 51820),
    Endpoint(ip_address("203.0.113.7"), 443, "tcp"),
    Endpoint(ip_address("2001:db8:7::1"), 51820),
)
BY_MARK, BY_USER = External("wg-office", "wireguard", 0xCA6C, None), External("tun0", "", None, 977)
THEIRS = Tunnel("wg-office", (ip_interface("10.2.0.2/24"), ip_interface("fd02::2/64")), (ip_address("10.2.0.1"),))
OPEN_NAMES = replace(THEIRS, resolvers=(), open_names=True)
HOME = frozenset({"wlan0", "eth0"})
AWAY = FirewallPolicy(Phase.BLOCKED, servers=SERVERS, engine=BY_MARK, carriers=HOME, capture=True)
UP = replace(AWAY, phase=Phase.CONNECTED, tunnel=THEIRS, guarded=tuple(each.ip for each in THEIRS.addresses))
CASES = {
    "away-by-mark": AWAY,
    "away-by-user": replace(AWAY, engine=BY_USER),
    "up-by-mark": UP,
    "up-by-user": replace(UP, engine=BY_USER),
    "up-open-names": replace(UP, tunnel=OPEN_NAMES),
    "up-metered-allow-lan": replace(UP, metered=True, lan=HOME),
}


# --- the firewall -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_golden(name: str) -> None:
    path = GOLDEN / f"{name}.nft"
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(render(CASES[name]), encoding="ascii")
    assert render(CASES[name]) == path.read_text(encoding="ascii"), "UPDATE_GOLDEN=1 rewrites; review the difference"
    assert {each.stem for each in GOLDEN.glob("*.nft")} == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_l3_only_the_program_reaches_its_server_and_only_over_uplinks(name: str) -> None:
    whose = "meta mark 0xca6c" if CASES[name].engine == BY_MARK else "meta skuid 977"
    assert chain(CASES[name], "server")[0] == f'oifname {{ "eth0", "wlan0" }} {whose} accept'
    assert chain(CASES[name], "server")[1:] == ['counter name "blocked_out" goto refuse']
    accepts = [rule for rule in chain(CASES[name], "output") if "203.0.113.7" in rule and rule.endswith("accept")]
    assert accepts == [], "its address has no other rule"


def test_over_no_uplink_nobody_reaches_it() -> None:
    for carriers in (frozenset[str](), frozenset({"wg-office"}), frozenset({TUNNEL_IFNAME}), frozenset({"wlan*"})):
        assert chain(replace(UP, carriers=carriers), "server") == ['counter name "blocked_out" goto refuse']


@pytest.mark.parametrize(
    "engine", [External("a", "", -1, None), External("a", "", 1 << 32, None), External("a", "", None, -1)]
)
def test_what_is_neither_a_mark_nor_a_user_is_no_rule(engine: External) -> None:
    with pytest.raises(ValueError, match="neither"):
        render(replace(AWAY, engine=engine))


def test_its_answers_bear_its_mark() -> None:
    """Strict rp_filter looks for the way back with it; where it has none, ours leads to main."""
    for policy, mark in ((AWAY, 0xCA6C), (replace(AWAY, engine=BY_USER), MARK)):
        marks = re.findall(r"saddr (\S+) (\S+) sport \d+ meta mark set (\S+)", render(policy))
        assert marks == [
            ("203.0.113.7", "udp", f"{mark:#x}"), ("203.0.113.7", "tcp", f"{mark:#x}"),
            ("2001:db8:7::1", "udp", f"{mark:#x}"),
        ]  # fmt: skip


# --- the kernel -------------------------------------------------------------------------------------------------------


@pytest.fixture
def host() -> Iterator[Host]:
    """eth0 with default routes; wg-office is a cable that stands for the tunnel."""
    with Host("external") as made:
        made.ip(
            "link set lo up",
            *(f"link add {link} type veth peer name {link}x" for link in ("eth0", "wg-office")),
            *(f"link set {link} up" for link in ("eth0", "eth0x", "wg-office", "wg-officex")),
            "addr add 192.0.2.2/24 dev eth0", "addr add 2001:db8::2/64 dev eth0 nodad",
            "route add default via 192.0.2.1 dev eth0", "route add default via 2001:db8::1 dev eth0",
        )  # fmt: skip
        yield made


def go(host: Host, work: Callable[[], Awaitable[T]]) -> T:
    async def run() -> T:
        return await work()

    return host.inside(lambda: asyncio.run(run()))


def way(host: Host, target: str, *more: str) -> str:
    """Which link a packet takes, or why none."""
    result = host.run("ip", "route", "get", target, *more, check=False)
    words = result.stdout.split()
    return words[words.index("dev") + 1] if "dev" in words else result.stderr.strip()


UNREACHED = "RTNETLINK answers: No route to host"


@pytest.mark.netns
@pytest.mark.parametrize("name", CASES)
def test_the_kernel_takes_the_rules_as_they_are(host: Host, name: str) -> None:
    async def work() -> tuple[bool, bool]:
        firewall = NftFirewall()
        await firewall.set(CASES[name])
        before = await firewall.verify(CASES[name])
        await firewall.set(replace(CASES[name], engine=External("x", "", 7, None)))
        return before, await firewall.verify(CASES[name])

    assert go(host, work) == (True, False), "the control: another mark is another policy"


@pytest.mark.netns
@pytest.mark.parametrize(
    ("policy", "whose", "others"),
    [(AWAY, ("mark", "0xca6c"), UNREACHED), (UP, ("mark", "0xca6c"), "wg-office"),
     (replace(AWAY, engine=BY_USER), ("uid", "977"), UNREACHED),
     (replace(UP, engine=BY_USER), ("uid", "977"), "wg-office")],
    ids=["away, mark", "up, mark", "away, user", "up, user"],
)  # fmt: skip
def test_where_packets_go(
    host: Host, tmp_path: Path, policy: FirewallPolicy, whose: tuple[str, str], others: str
) -> None:
    """Its own to its server by main, all others into the tunnel or nowhere; afterwards everything is as before."""
    before = [host.run("ip", family, "rule", "show").stdout for family in ("-4", "-6")]

    async def work() -> bool:
        layer = LinuxRoutes(tmp_path)
        await layer.set(policy)
        await layer.set(policy)
        return await layer.verify(policy)

    assert go(host, work)
    for target in ("203.0.113.7", "2001:db8:7::1"):
        assert way(host, target, *whose) == "eth0"
        assert way(host, target) == way(host, target, "mark", "0xca6d") == way(host, target, "uid", "978") == others
    for target in ("203.0.113.8", "2001:db8:7::2"):
        assert way(host, target, *whose) == others, "nowhere else"
    assert way(host, "203.0.113.7", "mark", str(MARK)) == "eth0"
    go(host, lambda: LinuxRoutes(tmp_path).reset())
    assert [host.run("ip", family, "rule", "show").stdout for family in ("-4", "-6")] == before
    assert way(host, "203.0.113.7", *whose) == way(host, "203.0.113.8") == "eth0"


@pytest.mark.netns
@pytest.mark.parametrize("policy", [AWAY, UP], ids=["away", "up"])
def test_a_route_to_the_server_that_names_no_link(host: Host, tmp_path: Path, policy: FirewallPolicy) -> None:
    """As openvpn adds it, perhaps after we have seen the link: its gateway is not looked for behind the tunnel."""

    async def work() -> bool:
        await LinuxRoutes(tmp_path).set(policy)
        return await LinuxRoutes(tmp_path).verify(policy)

    assert go(host, work)
    host.run("ip", "route", "add", "203.0.113.7/32", "via", "192.0.2.1")
    assert "via 192.0.2.1 dev eth0" in host.run("ip", "route", "show", "203.0.113.7").stdout
    assert way(host, "203.0.113.7", "mark", "0xca6c") == "eth0"


@pytest.mark.netns
def test_other_servers_another_program_and_none(host: Host, tmp_path: Path) -> None:
    """From any to any policy: what is not wanted any more goes, in whatever order it was added."""
    user = replace(AWAY, engine=BY_USER)
    policies = [
        AWAY, replace(AWAY, servers=SERVERS[:1]), user, replace(user, servers=SERVERS[::-1]),
        replace(AWAY, engine=None, servers=()), UP, replace(UP, only=True),
    ]  # fmt: skip

    async def work() -> None:
        layer = LinuxRoutes(tmp_path)
        for one in policies:
            for other in policies:
                await layer.set(one)
                await layer.set(other)
                assert await layer.verify(other), (one, other)
                assert await layer.verify(one) is (told(one) == told(other)), (one, other)

    def told(policy: FirewallPolicy) -> object:
        return {each.address for each in policy.servers}, policy.engine, policy.tunnel, policy.only

    go(host, work)


@pytest.mark.netns
@pytest.mark.parametrize("lost", ["99", "100", "103"])
def test_a_rule_that_somebody_takes_away_is_missed_and_put_back(host: Host, tmp_path: Path, lost: str) -> None:
    async def set_so() -> None:
        await LinuxRoutes(tmp_path).set(AWAY)

    async def stands() -> bool:
        return await LinuxRoutes(tmp_path).verify(AWAY)

    go(host, set_so)
    assert go(host, stands), "the control"
    host.run("ip", "rule", "del", "priority", lost)
    assert not go(host, stands)
    assert way(host, "203.0.113.8", "mark", "0xca6c") == (UNREACHED if lost != "100" else "eth0")
    go(host, set_so)
    assert go(host, stands)
    assert way(host, "203.0.113.7", "mark", "0xca6c") == "eth0" and way(host, "203.0.113.7") == UNREACHED


def test_the_way_past_our_table_ends_behind_all_our_rules() -> None:
    assert BEHIND.priority > 102 and GOTO == 2


# --- which link may be one --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("link", "kind"),
    [
        (Device(9, "wg0", driver="wireguard"), "wireguard"), (Device(9, "ppp0", driver="ppp"), "ppp"),
        (Device(9, "x0", driver="xfrm"), "xfrm"), (Device(9, "t0", driver="tun", frames=65534), "tun"),
        (Device(9, "t0", driver="tun", frames=1), "tap"), (Device(9, "t0", driver="tun", frames=1, master=4), ""),
        (Device(9, "eth0"), ""), (Device(9, "wlan0", frames=803), ""), (Device(9, "v0", driver="veth"), ""),
        (Device(9, "br0", driver="bridge"), ""), (Device(9, "v.5", driver="vlan", below=2), ""),
        (Device(9, TUNNEL_IFNAME, driver="tun", frames=65534), ""), (Device(9, PROBE_IFNAME, driver="wireguard"), ""),
    ],
)  # fmt: skip
def test_tunnel_kinds(link: Device, kind: str) -> None:
    assert tunnel_kind(link) == kind


@pytest.mark.netns
def test_tunnel_kinds_of_real_links(host: Host) -> None:
    host.ip("link add name br0 type bridge", "tuntap add bridged mode tap", "link set bridged master br0",
            f"tuntap add {TUNNEL_IFNAME} mode tun")  # fmt: skip
    with device(host, "tun0", "10.2.0.2/24"), device(host, "tap0", "10.3.0.2/24", tap=True):
        found = {link.ifname: link for link in go(host, lambda: LinuxLinks().read())}
        assert {name: link.tunnel for name, link in found.items() if link.tunnel} == {"tun0": "tun", "tap0": "tap"}
        assert found["tun0"].up and found["tun0"].carrier and ip_interface("10.2.0.2/24") in found["tun0"].addresses
    assert "tun0" not in {link.ifname for link in go(host, lambda: LinuxLinks().read())}
