"""The routing layer alone, without a firewall: what unmarked and marked packets find, and what is left behind."""

from __future__ import annotations

import asyncio
import errno
import json
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path
from typing import TypeVar

import pytest

from daemon.host import HostError
from daemon.linux import rtnetlink
from daemon.linux.route_plan import THROW, UNICAST, UNREACHABLE, Route, routes
from daemon.linux.routes import LinuxRoutes
from daemon.linux.sysctls import ARP_IGNORE, SRC_VALID_MARK, Sysctls
from lab.hosts import Host
from policies.facts import Tunnel
from policies.firewall import LAN, LAN_MULTICAST, MARK, FirewallPolicy
from policies.states import Phase

T = TypeVar("T")

BOTH = Tunnel(
    "tunwarden0",
    (ip_interface("10.66.0.2/32"), ip_interface("fd66::2/128")),
    (ip_address("10.66.0.1"), ip_address("fd66::1")),
)
BLOCKED = FirewallPolicy(Phase.BLOCKED, capture=True)
CONNECTED = FirewallPolicy(Phase.CONNECTED, tunnel=BOTH, capture=True)
CONNECTED_LAN = replace(CONNECTED, lan=frozenset({"eth0"}))
IDLE = FirewallPolicy(Phase.IDLE, cleared=frozenset({"eth0"}))
LOCAL = (*LAN, *LAN_MULTICAST)


# --- which routes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tunnel", [None, BOTH])
@pytest.mark.parametrize("allow_lan", [False, True])
@pytest.mark.parametrize(("version", "default"), [(4, "0.0.0.0/0"), (6, "::/0")])
def test_the_last_resort_is_always_there_and_first(
    version: int, default: str, allow_lan: bool, tunnel: Tunnel | None
) -> None:
    assert routes(version, tunnel, 9, LOCAL if allow_lan else ())[0] == Route(UNREACHABLE, default, metric=0xFFFFFFFF)


def test_a_tunnel_without_ipv6_leaves_ipv6_unreachable() -> None:
    only4 = replace(BOTH, addresses=BOTH.addresses[:1])
    assert [route.kind for route in routes(6, only4, 9)] == [UNREACHABLE]
    assert [route.kind for route in routes(4, only4, 9)] == [UNREACHABLE, UNICAST]


def test_l8_the_local_network_is_a_constant_list() -> None:
    thrown = {route.network for version in (4, 6) for route in routes(version, BOTH, 9, LOCAL) if route.kind == THROW}
    assert thrown == {
        "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "fe80::/10", "fc00::/7",
        "224.0.0.0/24", "239.0.0.0/8", "255.255.255.255/32",
    }  # fmt: skip


def test_a_resolver_with_a_private_address_is_not_taken_for_the_local_network() -> None:
    assert Route(UNICAST, "10.66.0.1/32", 9) in routes(4, BOTH, 9, LOCAL)
    wide = replace(BOTH, addresses=(ip_interface("10.66.0.2/24"),))
    assert Route(UNICAST, "10.66.0.0/24", 9) in routes(4, wide, 9, LOCAL)


def test_own_subnets_stay_local_and_containers_and_the_tunnel_come_first() -> None:
    own = ip_network("100.64.0.0/10"), ip_network("10.66.0.1/32"), ip_network("2001:db8:1::/48")
    docker = [(7, ip_network("172.17.0.0/16")), (7, ip_network("10.66.0.1/32")), (7, ip_network("fd17::/64"))]
    found = routes(4, BOTH, 9, own, docker)
    assert Route(THROW, "100.64.0.0/10") in found and Route(UNICAST, "172.17.0.0/16", 7) in found
    assert [route for route in found if route.network == "10.66.0.1/32"] == [Route(UNICAST, "10.66.0.1/32", 9)]
    assert Route(THROW, "2001:db8:1::/48", metric=1024) in routes(6, BOTH, 9, own, docker)
    assert Route(UNICAST, "fd17::/64", 7, 1024) in routes(6, None, 0, (), docker), "also while there is no tunnel"


# --- the kernel ---------------------------------------------------------------------------------------------------


@pytest.fixture
def host() -> Iterator[Host]:
    """eth0 with a default route, as at a café; tunwarden0 is a cable that stands for the tunnel."""
    with Host("routes") as made:
        made.ip(
            "link set lo up",
            *(f"link add {link} type veth peer name {link}x" for link in ("eth0", "tunwarden0")),
            *(f"link set {link} up" for link in ("eth0", "eth0x", "tunwarden0", "tunwarden0x")),
            "addr add 192.0.2.2/24 dev eth0", "addr add 2001:db8::2/64 dev eth0 nodad",
            "addr add 10.66.0.2/32 dev tunwarden0", "addr add fd66::2/128 dev tunwarden0 nodad",
            "route add default via 192.0.2.1 dev eth0", "route add default via 2001:db8::1 dev eth0",
        )  # fmt: skip
        yield made


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


def go(host: Host, work: Callable[[], Awaitable[T]]) -> T:
    async def run() -> T:
        return await work()

    return host.inside(lambda: asyncio.run(run()))


def everything(host: Host) -> str:
    """Every rule, every route of every table and our sysctls."""
    shown = [
        host.run("ip", *family, "rule", "show").stdout + host.run("ip", *family, "route", "show", "table", "all").stdout
        for family in ((), ("-6",))
    ]
    return "\n".join([*shown, *(sysctl(host, name) for name in (ARP_IGNORE, SRC_VALID_MARK))])


def sysctl(host: Host, name: str) -> str:
    return host.inside(lambda: Path("/proc/sys", name).read_text().strip())


def way(host: Host, target: str, *more: str) -> str:
    """Which link a packet takes, or why none."""
    result = host.run("ip", "route", "get", target, *more, check=False)
    words = result.stdout.split()
    return words[words.index("dev") + 1] if "dev" in words else result.stderr.strip()


UNREACHED = "RTNETLINK answers: No route to host"


@pytest.mark.netns
@pytest.mark.parametrize(
    ("policy", "public4", "public6", "home"),
    [
        (IDLE, "eth0", "eth0", "eth0"),
        (BLOCKED, UNREACHED, UNREACHED, UNREACHED),
        (replace(BLOCKED, lan=frozenset({"eth0"})), UNREACHED, UNREACHED, "eth0"),
        (CONNECTED, "tunwarden0", "tunwarden0", "tunwarden0"),
        (CONNECTED_LAN, "tunwarden0", "tunwarden0", "eth0"),
        (replace(CONNECTED, tunnel=replace(BOTH, addresses=BOTH.addresses[:1])), "tunwarden0", UNREACHED, "tunwarden0"),
    ],
)
def test_where_packets_go(
    host: Host, state: Path, policy: FirewallPolicy, public4: str, public6: str, home: str
) -> None:
    async def work() -> bool:
        layer = LinuxRoutes(state)
        await layer.set(policy)
        return await layer.verify(policy)

    assert go(host, work)
    assert way(host, "198.51.100.1") == public4
    assert way(host, "2001:db8:9::1") == public6
    assert way(host, "192.168.1.1") == home
    assert way(host, "198.51.100.1", "mark", str(MARK)) == "eth0", "the VPN's own packets"
    assert way(host, "2001:db8:9::1", "mark", str(MARK)) == "eth0"
    assert way(host, "10.66.0.1") == {IDLE: "eth0"}.get(policy, "tunwarden0" if policy.tunnel else home)
    assert way(host, "127.0.0.1") == way(host, "10.66.0.2") == "lo"


SUBNETS = (ip_network("198.51.100.0/25"), ip_network("2001:db8:9::/48"))
INSIDE = (("box0", ip_network("172.17.0.0/16")), ("box0", ip_network("fd17::/64")))


@pytest.fixture
def with_box(host: Host) -> Host:
    """A bridge for containers, without any."""
    host.ip("link add box0 type bridge", "link set box0 up", "addr add 172.17.0.1/16 dev box0",
            "addr add fd17::1/64 dev box0 nodad")  # fmt: skip
    return host


@pytest.mark.netns
@pytest.mark.parametrize(
    ("policy", "box", "subnet"),
    [
        (BLOCKED, UNREACHED, UNREACHED),
        (replace(BLOCKED, inside=INSIDE), "box0", UNREACHED),
        (replace(BLOCKED, inside=INSIDE, lan_subnets=SUBNETS), "box0", UNREACHED),
        (replace(BLOCKED, lan=frozenset({"eth0"}), lan_subnets=SUBNETS), "box0", "eth0"),
        (replace(CONNECTED, inside=INSIDE), "box0", "tunwarden0"),
        (replace(CONNECTED_LAN, inside=INSIDE, lan_subnets=SUBNETS), "box0", "eth0"),
    ],
)
def test_where_packets_to_containers_and_own_subnets_go(
    with_box: Host, state: Path, policy: FirewallPolicy, box: str, subnet: str
) -> None:
    async def work() -> bool:
        layer = LinuxRoutes(state)
        await layer.set(policy)
        await layer.set(policy)
        return await layer.verify(policy)

    assert go(with_box, work)
    assert way(with_box, "172.17.0.2") == box
    assert way(with_box, "198.51.100.1") == way(with_box, "2001:db8:9::1") == subnet
    if policy.inside:
        assert way(with_box, "fd17::2") == "box0"
    assert (
        way(with_box, "198.51.100.200")
        == way(with_box, "172.16.0.1" if not policy.lan else "203.0.113.1")
        == ("tunwarden0" if policy.tunnel else UNREACHED)
    )


@pytest.mark.netns
def test_a_container_link_that_goes_leaves_everything_else_standing(with_box: Host, state: Path) -> None:
    policy = replace(CONNECTED, inside=INSIDE)
    with_box.ip("link set box0 down")
    with pytest.raises(HostError, match="apply the routes"):  # the kernel takes no route over a link that is down
        go(with_box, lambda: LinuxRoutes(state).set(policy))
    assert way(with_box, "198.51.100.1") == way(with_box, "2001:db8:9::1") == "tunwarden0"
    assert "100:\tnot from all fwmark" in with_box.run("ip", "rule", "show").stdout
    with_box.ip("link del box0")
    assert go(with_box, lambda: LinuxRoutes(state).set(policy)) is None
    assert go(with_box, lambda: LinuxRoutes(state).verify(policy))


@pytest.mark.netns
def test_five_thousand_subnets(host: Host, state: Path) -> None:
    many = [ip_network((0x64400000 + (number << 9), 24)) for number in range(2500)]
    many6 = [ip_network(((0xFD << 120) + (number << 65), 64)) for number in range(2500)]
    policy = replace(CONNECTED_LAN, lan_subnets=(*many, *many6))

    async def work() -> None:
        layer = LinuxRoutes(state)
        for chosen in (policy, CONNECTED_LAN, policy, replace(policy, lan_subnets=tuple(many[::2]))):
            await layer.set(chosen)
            assert await layer.verify(chosen)
        assert not await layer.verify(policy)
        await layer.set(policy)

    go(host, work)
    assert way(host, "100.64.0.1") == way(host, "fd00:0:0:2::1") == "eth0"
    assert way(host, "100.64.1.1") == "tunwarden0"
    go(host, LinuxRoutes(state).reset)
    assert "1953853047" not in everything(host)


@pytest.mark.netns
def test_l7_routes_that_dhcp_pushes_steer_nothing(host: Host, state: Path) -> None:
    pushed = ["route add 0.0.0.0/1 via 192.0.2.66 dev eth0", "route add 128.0.0.0/1 via 192.0.2.66 dev eth0",
              "route add 198.51.100.1/32 via 192.0.2.66 dev eth0"]  # fmt: skip
    host.ip(*pushed)
    assert way(host, "198.51.100.1") == "eth0", "the control"
    go(host, lambda: LinuxRoutes(state).set(CONNECTED_LAN))
    assert way(host, "198.51.100.1") == way(host, "8.8.8.8") == "tunwarden0"
    go(host, lambda: LinuxRoutes(state).set(BLOCKED))
    assert way(host, "198.51.100.1") == UNREACHED


@pytest.mark.netns
def test_l11_a_socket_bound_to_the_physical_link_has_no_ipv4_gateway(host: Host, state: Path) -> None:
    """It takes the target for a neighbour, which the firewall refuses, as it does IPv6: `test_what_leaves` binds."""

    def asked() -> str:
        return host.run("ip", "route", "get", "198.51.100.1", "oif", "eth0").stdout.partition(" src")[0].strip()

    assert asked() == "198.51.100.1 via 192.0.2.1 dev eth0", "the control"
    for policy in (CONNECTED, BLOCKED):
        go(host, lambda policy=policy: LinuxRoutes(state).set(policy))  # type: ignore[misc]
        assert asked() == "198.51.100.1 dev eth0"


@pytest.mark.netns
def test_everything_is_as_before_after_reset(host: Host, state: Path) -> None:
    host.ip("rule add from 192.0.2.2 lookup 77 pref 500", "route add 203.0.113.0/24 dev eth0 table 77",
            "rule add fwmark 0x1 lookup 78 pref 90")  # fmt: skip
    deadline = time.monotonic() + 20
    # The kernel makes an address of its own on each link, and a route to it once nobody else turned out to have it.
    while host.run("ip", "-6", "-oneline", "address", "show", "scope", "link", "-tentative").stdout.count("\n") < 4:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    before = everything(host)

    async def work() -> None:
        layer = LinuxRoutes(state)
        await layer.reset()
        for policy in (CONNECTED_LAN, BLOCKED, CONNECTED, IDLE, CONNECTED_LAN):
            await layer.set(policy)
            await layer.set(policy)
            assert await layer.verify(policy)
        await LinuxRoutes(state).reset()  # a daemon that has just started
        await layer.reset()

    go(host, work)
    assert everything(host) == before
    assert not list(state.iterdir())


@pytest.mark.netns
def test_set_twice_never_piles_up(host: Host, state: Path) -> None:
    async def work() -> None:
        for _ in range(5):
            await LinuxRoutes(state).set(CONNECTED_LAN)

    go(host, work)
    for family in ((), ("-6",)):
        shown = host.run("ip", *family, "rule", "show").stdout
        assert shown.count("lookup 1953853047") == 1  # with the local network allowed there is no END
        assert "100:\tnot from all fwmark 0x74756e77 lookup 1953853047" in shown
        assert "suppress_prefixlength" not in shown


@pytest.mark.netns
@pytest.mark.parametrize(
    "tampering",
    [
        ("rule del pref 100",),
        ("rule add pref 100 iif eth0 lookup 1953853047",),
        ("rule add pref 50 lookup 1953853047",),
        ("route del unreachable default table 1953853047 metric 4294967295",),
        ("route del default table 1953853047", "route add default via 192.0.2.66 dev eth0 table 1953853047"),
        ("route add 198.51.100.0/24 via 192.0.2.66 dev eth0 table 1953853047",),
        ("route append default via 192.0.2.66 dev eth0 table 1953853047 metric 5",),
        ("route flush table 1953853047",),
        ("link set tunwarden0 down", "link set tunwarden0 up"),
    ],
)
def test_tampering_is_seen_and_undone(host: Host, state: Path, tampering: tuple[str, ...]) -> None:
    async def work() -> None:
        layer = LinuxRoutes(state)
        await layer.set(CONNECTED)
        host.ip(*tampering)
        assert not await layer.verify(CONNECTED)
        await layer.set(CONNECTED)
        assert await layer.verify(CONNECTED)

    go(host, work)
    assert way(host, "198.51.100.1") == "tunwarden0"
    assert host.run("ip", "rule", "show").stdout.count("1953853047") == 1
    assert host.run("ip", "-6", "rule", "show").stdout.count("1953853047") == 2


@pytest.mark.netns
@pytest.mark.parametrize("tampering", ["del pref 101", "add pref 50 lookup 1953853047 unreachable"])
def test_tampering_with_the_second_rule_is_seen_and_undone(host: Host, state: Path, tampering: str) -> None:
    async def work() -> None:
        layer = LinuxRoutes(state)
        await layer.set(CONNECTED)
        host.run("ip", "-6", "rule", *tampering.split())
        assert not await layer.verify(CONNECTED)
        await layer.set(CONNECTED)
        assert await layer.verify(CONNECTED)
        await layer.set(CONNECTED_LAN)  # what is local is looked up in main
        assert "101:" not in host.run("ip", "-6", "rule", "show").stdout
        await layer.reset()
        assert "1953853047" not in host.run("ip", "-6", "rule", "show").stdout

    go(host, work)


@pytest.mark.netns
def test_when_the_tunnel_link_vanishes_the_last_resort_remains(host: Host, state: Path) -> None:
    go(host, lambda: LinuxRoutes(state).set(CONNECTED))
    host.ip("link del tunwarden0")
    assert way(host, "198.51.100.1") == way(host, "2001:db8:9::1") == UNREACHED
    with pytest.raises(HostError, match="apply the routes"):
        go(host, lambda: LinuxRoutes(state).set(CONNECTED))
    assert way(host, "198.51.100.1") == way(host, "2001:db8:9::1") == UNREACHED


@pytest.mark.netns
def test_at_no_moment_does_the_main_table_show(host: Host, state: Path) -> None:
    """While the policies change, a second thread asks the kernel for the way: never over the physical link."""
    policies = [CONNECTED, BLOCKED, CONNECTED_LAN, replace(BLOCKED, lan=frozenset({"eth0"}))]

    async def work() -> set[int]:
        layer = LinuxRoutes(state)
        await layer.set(BLOCKED)
        index, asked, answers, end = socket.if_nametoindex("eth0"), 0, set(), False

        def ask() -> int:
            nonlocal asked
            while not end:
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                    refused = probe.connect_ex(("198.51.100.1", 9))
                    answers.add(0 if refused else 1 if probe.getsockname()[0] == "10.66.0.2" else index)
                asked += 1
            return asked

        asking = asyncio.create_task(asyncio.to_thread(ask))
        changes = 0
        while changes < 100 or asked <= 500:  # a change waits for nothing: the thread gets its turn in between
            await layer.set(policies[changes % len(policies)])
            await asyncio.sleep(0)
            changes += 1
        end = True
        await asking
        return answers

    assert go(host, work) == {0, 1}, "unreachable, or with the tunnel's address"


@pytest.mark.netns
def test_ipv6_switched_off_is_reported_and_ipv4_is_complete(host: Host, state: Path) -> None:
    host.sysctl(("net/ipv6/conf/all/disable_ipv6", "1"))

    async def work() -> bool:
        layer = LinuxRoutes(state)
        await layer.set(CONNECTED)
        assert await layer.verify(CONNECTED)
        return layer.ipv6_absent

    assert go(host, work) is True
    assert way(host, "198.51.100.1") == "tunwarden0"


@pytest.mark.netns
def test_a_kernel_without_ipv6(host: Host, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ipv6.disable=1: rtnetlink answers EAFNOSUPPORT, and /proc/sys/net/ipv6 is not there."""
    real = rtnetlink.dump

    def refuse(sock: socket.socket, request: int, body: bytes) -> object:
        if body[0] == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return real(sock, request, body)

    monkeypatch.setattr(rtnetlink, "dump", refuse)

    async def work() -> None:
        layer = LinuxRoutes(state)
        await layer.set(CONNECTED)
        assert await layer.verify(CONNECTED)
        await layer.reset()

    go(host, work)


@pytest.mark.netns
def test_l9_arp_for_the_tunnels_address_is_not_answered(host: Host, state: Path) -> None:
    """MLLVD-CR-24-03: a neighbour asks who has the tunnel's address."""

    def asks() -> bool:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806)) as wire:
            wire.bind(("eth0x", 0))
            mac = wire.getsockname()[4]
            wire.send(
                b"\xff" * 6 + mac + b"\x08\x06" + bytes.fromhex("0001080006040001") + mac
                + socket.inet_aton("192.0.2.1") + b"\0" * 6 + socket.inet_aton("10.66.0.2")
            )  # fmt: skip
            wire.settimeout(0.3)
            try:
                while True:
                    if wire.recv(100)[20:22] == b"\0\x02":
                        return True
            except TimeoutError:
                return False

    # The peer is in the same namespace here: its own address must not make the question local.
    assert host.inside(asks), "the control"
    go(host, lambda: LinuxRoutes(state).set(CONNECTED))
    assert sysctl(host, ARP_IGNORE) == "2"
    assert not host.inside(asks)
    go(host, lambda: LinuxRoutes(state).reset())
    assert host.inside(asks)


# --- sysctls ------------------------------------------------------------------------------------------------------


@pytest.mark.netns
def test_former_values_survive_a_crash_and_are_restored(host: Host, state: Path) -> None:
    saved = state / "sysctls.json"
    host.sysctl((ARP_IGNORE, "1"))
    host.inside(Sysctls(saved).protect)
    assert saved.stat().st_mode & 0o777 == 0o600
    assert json.loads(saved.read_text()) == {ARP_IGNORE: ["1", "2"], SRC_VALID_MARK: ["0", "1"]}
    host.inside(Sysctls(saved).protect)  # after a crash: the present values are ours and must not be saved as former
    assert json.loads(saved.read_text())[ARP_IGNORE] == ["1", "2"]
    assert (sysctl(host, ARP_IGNORE), sysctl(host, SRC_VALID_MARK)) == ("2", "1")
    host.inside(Sysctls(saved).restore)
    assert (sysctl(host, ARP_IGNORE), sysctl(host, SRC_VALID_MARK)) == ("1", "0")
    assert not saved.exists()
    host.inside(Sysctls(saved).restore)


@pytest.mark.netns
def test_a_value_that_somebody_else_changed_is_not_overwritten(host: Host, state: Path) -> None:
    sysctls = Sysctls(state / "sysctls.json")
    host.inside(sysctls.protect)
    host.sysctl((ARP_IGNORE, "8"))
    host.inside(sysctls.protect)
    assert sysctl(host, ARP_IGNORE) == "8", "stricter than ours"
    host.inside(sysctls.restore)
    assert (sysctl(host, ARP_IGNORE), sysctl(host, SRC_VALID_MARK)) == ("8", "0")


@pytest.mark.netns
@pytest.mark.parametrize("damage", ["", "{", "[]", '{"kernel/core_pattern": ["|/tmp/x", "1"]}', '{"a": 1}'])
def test_a_damaged_save_is_set_aside(host: Host, state: Path, damage: str) -> None:
    saved = state / "sysctls.json"
    state.mkdir()
    saved.write_text(damage)
    host.inside(Sysctls(saved).protect)
    assert sysctl(host, ARP_IGNORE) == "2"
    assert saved.with_suffix(".damaged").read_text() == damage
    host.inside(Sysctls(saved).restore)
    assert sysctl(host, ARP_IGNORE) == "0"


@pytest.mark.netns
def test_e5_a_planted_link_is_not_followed(host: Host, state: Path, tmp_path: Path) -> None:
    state.mkdir()
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (state / "sysctls.new").symlink_to(victim)
    host.inside(Sysctls(state / "sysctls.json").protect)
    assert victim.read_text() == "precious"


@pytest.mark.netns
def test_setting_is_quick(host: Host, state: Path) -> None:
    """Far looser than the goal (5 ms, see the reports): this only notices an accident."""

    async def work() -> float:
        layer = LinuxRoutes(state)
        times = []
        for number in range(21):
            begin = time.perf_counter()
            await layer.set((CONNECTED, BLOCKED)[number % 2])
            times.append(time.perf_counter() - begin)
        return sorted(times)[10]

    assert go(host, work) < 0.05
