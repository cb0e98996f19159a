"""The rules as text, and the conversation with nft: one transaction, read back, tampering seen."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_interface, ip_network
from pathlib import Path
from typing import Any, TypeVar

import pytest

from daemon.host import HostError
from daemon.linux.libnftables import LibNft, Nft, NftError, NftProgram, complaint
from daemon.linux.nft import NftFirewall
from daemon.linux.nft_readback import read
from daemon.linux.nft_render import render
from daemon.linux.nft_words import elements
from lab.hosts import Host
from policies.facts import Endpoint, Tunnel
from policies.firewall import FirewallPolicy
from policies.states import Phase

T = TypeVar("T")
GOLDEN = Path(__file__).parents[2] / "golden" / "nft"

HOME = frozenset({"wlan0"})
SERVER4 = Endpoint(ip_address("203.0.113.7"), 51820)
SERVER6 = Endpoint(ip_address("2001:db8:7::1"), 51820)
BOTH = Tunnel(
    "tunwarden0",
    (ip_interface("10.66.0.2/32"), ip_interface("fd66::2/128")),
    (ip_address("10.66.0.1"), ip_address("fd66::1")),
)
ONLY4 = replace(BOTH, addresses=BOTH.addresses[:1], resolvers=BOTH.resolvers[:1])
GUARDED = tuple(address.ip for address in BOTH.addresses)

INSIDE = tuple(
    (link, ip_network(network))
    for link, network in (
        ("docker0", "172.17.0.0/16"), ("virbr0", "192.168.122.0/24"), ("virbr0", "fd12::/64"),
    )
)  # fmt: skip
SUBNETS = tuple(ip_network(text) for text in ("100.64.0.0/10", "100.64.7.0/24", "2001:db8:1::/48", "100.64.0.0/10"))

BEACONS = (
    ("wlan0", Endpoint(ip_address("192.0.2.1"), 443, "tcp")),
    ("wlan1", Endpoint(ip_address("2001:db8:1::1"), 8443, "tcp")),
)
CONNECTED = FirewallPolicy(Phase.CONNECTED, servers=(SERVER4,), tunnel=BOTH, guarded=GUARDED, capture=True)
SPLIT: dict[str, Any] = {
    "never": True, "beside": HOME, "beside_dns": 30054, "subnets": SUBNETS[:3], "subnet_links": HOME, "only": True,
}  # fmt: skip
CASES: dict[str, FirewallPolicy] = {
    "idle-cleared": FirewallPolicy(Phase.IDLE, cleared=frozenset({"eth0", "wlan0", "docker0"}), guarded=GUARDED),
    "idle-nothing-cleared": FirewallPolicy(Phase.IDLE),
    "held": FirewallPolicy(Phase.HELD, guarded=GUARDED, capture=True),
    "connecting-v4": FirewallPolicy(Phase.CONNECTING, servers=(SERVER4,), guarded=GUARDED, capture=True),
    "connecting-v6": FirewallPolicy(Phase.CONNECTING, servers=(SERVER6,), guarded=GUARDED, capture=True),
    "connecting-no-kill-switch": FirewallPolicy(
        Phase.CONNECTING, cleared=frozenset({"wlan0"}), servers=(SERVER4,), guarded=GUARDED
    ),
    "reconnecting-allow-lan": FirewallPolicy(
        Phase.RECONNECTING, servers=(SERVER4, SERVER6), guarded=GUARDED, lan=HOME, capture=True
    ),
    "connected": CONNECTED,
    "connected-v4-only": replace(CONNECTED, tunnel=ONLY4, guarded=GUARDED[:1]),
    "connected-allow-lan": replace(CONNECTED, lan=HOME),
    "connected-tcp-server": replace(CONNECTED, servers=(Endpoint(ip_address("203.0.113.7"), 443, "tcp"),)),
    "blocked": FirewallPolicy(Phase.BLOCKED, guarded=GUARDED, capture=True),
    "blocked-allow-lan": FirewallPolicy(Phase.BLOCKED, guarded=GUARDED, lan=HOME, capture=True),
    "connected-inside-and-subnets": replace(CONNECTED, lan=HOME, lan_subnets=SUBNETS, inside=INSIDE),
    "blocked-inside": FirewallPolicy(Phase.BLOCKED, guarded=GUARDED, inside=INSIDE[:1], capture=True),
    "held-login": FirewallPolicy(Phase.HELD, guarded=GUARDED, login=HOME, capture=True),
    "portal": FirewallPolicy(Phase.PORTAL, guarded=GUARDED, login=frozenset({"wlan0", "eth0"}), capture=True),
    "portal-tree": FirewallPolicy(Phase.PORTAL, guarded=GUARDED, login=HOME, tree=HOME, tree_dns=30053, capture=True),
    "held-beacons": FirewallPolicy(Phase.HELD, guarded=GUARDED, beacons=BEACONS, capture=True),
    "idle-beacon": FirewallPolicy(Phase.IDLE, cleared=frozenset({"eth0"}), beacons=BEACONS[:1]),
    "connected-metered": replace(CONNECTED, metered=True),
    "connected-split": replace(CONNECTED, **SPLIT),
    "blocked-split": FirewallPolicy(Phase.BLOCKED, guarded=GUARDED, inside=INSIDE[:1], capture=True, **SPLIT),
    "idle-split": FirewallPolicy(Phase.IDLE, cleared=frozenset({"eth0"}), never=True, only=True),
    "disconnecting": FirewallPolicy(Phase.DISCONNECTING, guarded=GUARDED, capture=True),
}


# --- the text -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_golden(name: str) -> None:
    path = GOLDEN / f"{name}.nft"
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(render(CASES[name]), encoding="ascii")
    assert render(CASES[name]) == path.read_text(encoding="ascii"), "UPDATE_GOLDEN=1 rewrites; review the difference"


def test_every_golden_file_has_a_case() -> None:
    assert {path.stem for path in GOLDEN.glob("*.nft")} == set(CASES)


def chain(policy: FirewallPolicy, name: str) -> list[str]:
    match = re.search(rf"\tchain {name} {{\n(.*?)\n\t}}", render(policy), re.DOTALL)
    assert match
    return [line.strip() for line in match[1].splitlines()]


def at(rules: list[str], part: str) -> int:
    return next(number for number, rule in enumerate(rules) if part in rule)


REFUSED_DNS = "meta l4proto . th dport @dns counter"


@pytest.mark.parametrize("hook", ["output", "forward"])
def test_l1_dns_is_refused_before_the_local_network_is_allowed(hook: str) -> None:
    rules = chain(CASES["connected-allow-lan"], hook)
    assert at(rules, "jump to_tunnel") < at(rules, REFUSED_DNS) < at(rules, "jump to_lan")


def test_l1_over_the_tunnel_dns_goes_to_its_resolvers_only() -> None:
    returned = "meta l4proto . th dport @dns return"
    resolvers = ["ip daddr { 10.66.0.1 } accept", "ip6 daddr { fd66::1 } accept"]
    assert chain(CONNECTED, "to_tunnel") == [*resolvers, returned, "accept"]


@pytest.mark.parametrize("name", CASES)
def test_l2_the_tunnels_address_is_guarded_before_anything_can_accept(name: str) -> None:
    if CASES[name].guarded:
        rules = chain(CASES[name], "input")
        assert rules[1] == 'iifname "lo" accept'
        assert rules[2] == 'ip daddr { 10.66.0.2 } iifname != "tunwarden0" drop'
        early = 'ip daddr { 10.66.0.2 } iifname != "tunwarden0" iifname != "lo" drop'
        assert chain(CASES[name], "prerouting")[1] == early


def test_l1_dns_is_refused_before_containers_are_reached() -> None:
    rules = chain(CASES["connected-inside-and-subnets"], "output")
    assert at(rules, REFUSED_DNS) < at(rules, "jump inside") < at(rules, "jump to_lan")
    rules = chain(CASES["connected-inside-and-subnets"], "forward")
    assert at(rules, REFUSED_DNS) < at(rules, "jump inside")


@pytest.mark.parametrize("hook", ["input", "output", "forward", "inside", "postrouting"])
def test_k8_links_to_containers_are_named_in_whatever_lets_their_traffic_pass(hook: str) -> None:
    """No rule names a container's network without the link it is behind, so none leaves by an uplink."""
    for rule in chain(CASES["connected-inside-and-subnets"], hook):
        if any(network in rule for network in ("172.17.0.0/16", "192.168.122.0/24", "fd12::/64")):
            assert re.match('(i|o)ifname "(docker0|virbr0|tunwarden0)" ', rule)


@pytest.mark.parametrize("ifname", ['x" accept; #', "docker*", "a b", "tunwarden0", "wlan0"])
def test_a_link_that_is_misread_the_tunnel_or_an_uplink_is_not_inside(ifname: str) -> None:
    policy = replace(CONNECTED, lan=HOME)
    assert render(replace(policy, inside=((ifname, ip_network("172.17.0.0/16")),))) == render(policy)


@pytest.mark.parametrize("name", CASES)
def test_l10_no_blanket_established(name: str) -> None:
    for rule in re.findall(r".*ct state established.*", render(CASES[name])):
        of_the_server = "203.0.113.7" in rule or "2001:db8:7::1" in rule
        of_a_login = "ct mark 0x74756e77" in rule and (CASES[name].login or CASES[name].beacons)
        of_a_login = of_a_login or ("ct mark 0x74756e76" in rule and CASES[name].tree)
        excluded = any(part in rule for part in ("ct mark 0x74756e75", "saddr @beside4", "saddr @beside6"))
        excluded |= "ct mark 0x74756e77 udp sport 53" in rule
        assert of_the_server or of_a_login or 'iifname "tunwarden0"' in rule or (excluded and CASES[name].beside)


@pytest.mark.parametrize("ifname", ['x" accept; #', "wlan*", "a b", "tunwarden0"])
def test_no_beacon_is_asked_over_a_link_that_is_misread_or_the_tunnel(ifname: str) -> None:
    policy = replace(CASES["held"], beacons=((ifname, BEACONS[0][1]),))
    assert render(policy) == render(CASES["held"])


@pytest.mark.parametrize("name", ["held-beacons", "idle-beacon"])
def test_a_beacon_is_named_by_link_address_port_and_mark_wherever_it_passes(name: str) -> None:
    for hook, direction in (("output", "oifname"), ("input", "iifname")):
        rules = [rule for rule in chain(CASES[name], hook) if "443" in rule and rule.endswith("accept")]
        assert len(rules) == len(CASES[name].beacons)
        for rule, (link, beacon) in zip(rules, CASES[name].beacons, strict=True):
            assert rule.startswith(f'{direction} "{link}" ') and f" {beacon.address} tcp " in rule
            assert f"port {beacon.port} " in rule and " mark 0x74756e77 " in rule
        neighbours = [rule for rule in chain(CASES[name], hook) if "2001:db8:1::1 icmpv6" in rule]
        assert len(neighbours) == len([link for link, beacon in CASES[name].beacons if beacon.address.version == 6])
        assert all(rule.startswith(f'{direction} "wlan1" ') for rule in neighbours)
    assert not any("443" in rule for rule in chain(CASES[name], "forward"))


@pytest.mark.parametrize("ifname", ['x" accept; #', "wlan*", "a b", "tunwarden0"])
def test_nobody_logs_in_over_a_link_that_is_misread_or_the_tunnel(ifname: str) -> None:
    policy = replace(CASES["portal"], login=frozenset({ifname}))
    assert render(policy) == render(replace(policy, login=frozenset()))


@pytest.mark.parametrize("name", CASES)
def test_every_chain_ends_closed(name: str) -> None:
    for hook in ("input", "output", "forward"):
        rules = chain(CASES[name], hook)
        assert rules[0] == f"type filter hook {hook} priority 0; policy drop;"
        assert rules[-1].endswith("drop" if hook == "input" else "goto refuse")


@pytest.mark.parametrize("ifname", ['x" accept; #', "eth*", "a b", "", "x" * 16, "eth0\n", "é", "*"])
def test_e3_a_link_name_that_nft_could_misread_is_never_cleared(ifname: str) -> None:
    assert elements({ifname, "eth0"}) == ('"eth0"',)
    assert render(FirewallPolicy(Phase.IDLE, cleared=frozenset({ifname, "eth0"}))) == render(
        FirewallPolicy(Phase.IDLE, cleared=frozenset({"eth0"}))
    )


def test_an_unsafe_tunnel_or_endpoint_is_refused() -> None:
    for policy in (
        replace(CONNECTED, tunnel=replace(BOTH, ifname="tun*")),
        replace(CONNECTED, servers=(replace(SERVER4, port=0),)),
        replace(CONNECTED, servers=(replace(SERVER4, protocol="udp dport 1 accept"),)),
    ):
        with pytest.raises(HostError, match="apply the firewall"):
            asyncio.run(NftFirewall(NftProgram).set(policy))


@pytest.mark.parametrize(
    ("errors", "said"),
    [
        ("/dev/stdin:3:5-9: Error: syntax error, unexpected xyz\nxyz\n^^^\n", "syntax error, unexpected xyz"),
        ("<cmdline>:1:1-9: Error: No such file or directory\n", "No such file or directory"),
        ("internal:0:0-0: Error: Could not process rule: Operation not permitted\n", "Could not process rule: "
         "Operation not permitted"),
        ("netlink: Error: cache initialization failed: Operation not permitted\n", "cache initialization failed: "
         "Operation not permitted"),
        ("", "nft failed without a message"),
    ],
)  # fmt: skip
def test_complaints_are_one_line_for_people(errors: str, said: str) -> None:
    assert complaint(errors) == said


# --- the kernel ---------------------------------------------------------------------------------------------------

ENGINES: dict[str, Callable[[], Nft]] = {"library": LibNft, "program": NftProgram}


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with Host("nft") as made:
        made.ip("link set lo up")
        yield made


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest, host: Host) -> Iterator[Callable[[], Nft]]:
    yield ENGINES[request.param]
    host.run("nft", "flush ruleset")


def go(host: Host, work: Callable[[], Awaitable[T]]) -> T:
    async def run() -> T:
        return await work()

    return host.inside(lambda: asyncio.run(run()))


@pytest.mark.netns
@pytest.mark.parametrize("name", CASES)
def test_golden_files_load_twice(host: Host, name: str) -> None:
    """As the boot unit loads them: with the nft program, whether or not the table is there."""
    text = (GOLDEN / f"{name}.nft").read_text(encoding="ascii")
    for options in (["-c"], [], []):
        host.run("nft", *options, "-f", "-", input=text)
    assert "policy drop" in host.run("nft", "list", "chain", "inet", "tunwarden", "output").stdout
    host.run("nft", "flush ruleset")


@pytest.mark.netns
def test_set_reads_back_and_twice_is_harmless(host: Host, engine: Callable[[], Nft]) -> None:
    async def work() -> None:
        firewall = NftFirewall(engine)
        await firewall.reset()
        for policy in CASES.values():
            assert not await firewall.verify(policy)
            await firewall.set(policy)
            assert await firewall.verify(policy)
            await firewall.set(policy)
            assert firewall.policy == policy
        assert await NftFirewall(engine).verify(policy), "a daemon that has just started can tell as well"
        assert not await NftFirewall(engine).verify(CONNECTED)
        await firewall.reset()
        await firewall.reset()
        assert not await firewall.verify(policy)

    go(host, work)
    assert host.run("nft", "list", "ruleset").stdout == ""


@pytest.mark.netns
def test_foreign_tables_are_untouched(host: Host, engine: Callable[[], Nft]) -> None:
    host.run("nft", "table ip foreign { chain c { type filter hook output priority 5; policy accept; counter; }; }")

    async def work() -> None:
        firewall = NftFirewall(engine)
        await firewall.set(CONNECTED)
        await firewall.reset()

    go(host, work)
    assert "table ip foreign" in host.run("nft", "list", "ruleset").stdout


@pytest.mark.netns
def test_cleared_alone_is_an_exchange_of_elements(host: Host, engine: Callable[[], Nft]) -> None:
    idle = [FirewallPolicy(Phase.IDLE, cleared=frozenset(names)) for names in (["eth0"], [], ["eth0", "wlan0"], ["x1"])]
    handles: set[str] = set()

    async def work() -> None:
        firewall = NftFirewall(engine)
        for policy in idle:
            await firewall.set(policy)
            assert await firewall.verify(policy)
            assert await NftFirewall(engine).verify(policy)
            handles.add(host.run("nft", "-a", "list", "chain", "inet", "tunwarden", "output").stdout)

    go(host, work)
    assert len(handles) == 1, "the rules stayed, with their handles"


def subnets(count: int) -> tuple[IPv4Network | IPv6Network, ...]:
    """Of both families, none touching another."""
    v4 = [ip_network((0x64400000 + (number << 9), 24)) for number in range(count // 2)]
    return (*v4, *(ip_network(((0x20010DB8 << 96) + (number << 65), 64)) for number in range(count - len(v4))))


def test_elements_of_the_table_that_goes_are_not_those_sent() -> None:
    """nft prints them first where it must look for overlaps itself (recorded from 1.0.6, with `auto-merge`)."""
    text = (
        "inet tunwarden @lan_subnets4\n"
        "\telement 000a4064  : 1 [end]\n\telement 00094064  : 0 [end]\n"
        "inet tunwarden @gone\n"
        "\telement 00000000  : 1 [end]\n"
        "lan_subnets4 tunwarden 4\n"
        "lan_subnets4 tunwarden 0\n"
        "\telement 00004064  : 0 [end]\telement 00024064  : 1 [end]\n"
    )
    assert read("", text).sets == {"lan_subnets4": frozenset({"00004064  : 0", "00024064  : 1"})}


@pytest.mark.netns
def test_the_administrators_subnets_are_exchanged_whole(host: Host, engine: Callable[[], Nft]) -> None:
    """While it replaces a table, nft prints elements of the old one too: they must not be taken for those sent."""

    async def work() -> None:
        firewall = NftFirewall(engine)
        many = subnets(5000)
        for chosen in (many, many[:2], many[-2:], (), SUBNETS, many[::2]):
            policy = replace(CONNECTED, lan=HOME, lan_subnets=chosen)
            await firewall.set(policy)
            assert await firewall.verify(policy)
            assert await NftFirewall(engine).verify(policy)
            assert not await NftFirewall(engine).verify(replace(policy, lan_subnets=(*chosen, ip_network("3fff::/64"))))

    go(host, work)


@pytest.mark.netns
@pytest.mark.parametrize("what", ["add element inet tunwarden lan4 { 8.8.8.0/24 }",
                                  "flush set inet tunwarden lan4"])  # fmt: skip
def test_l13_a_subnet_that_somebody_added_is_seen_and_undone(host: Host, engine: Callable[[], Nft], what: str) -> None:
    policy = CASES["connected-inside-and-subnets"]

    async def work() -> None:
        firewall = NftFirewall(engine)
        await firewall.set(policy)
        host.run("nft", what)
        assert not await firewall.verify(policy)
        await firewall.set(policy)
        assert await firewall.verify(policy)

    go(host, work)


TAMPERING = {
    "a rule deleted": "flush chain inet tunwarden refuse",
    "a rule added": "insert rule inet tunwarden output accept",
    "a rule exchanged": "replace rule inet tunwarden output handle {last} accept",
    "an element added": 'add element inet tunwarden cleared { "evil0" }',
    "a policy changed": "chain inet tunwarden output { policy accept; }",
    "a chain added": "add chain inet tunwarden other",
    "a table asleep": "add table inet tunwarden { flags dormant; }",
    "the table gone": "delete table inet tunwarden",
    "everything flushed": "flush ruleset",
}


@pytest.mark.netns
@pytest.mark.parametrize("how", TAMPERING)
def test_l13_tampering_is_seen_and_undone(host: Host, engine: Callable[[], Nft], how: str) -> None:
    async def work() -> None:
        firewall = NftFirewall(engine)
        await firewall.set(CONNECTED)
        listing = host.run("nft", "-a", "list", "chain", "inet", "tunwarden", "output").stdout
        last = re.findall(r"# handle (\d+)", listing)[-1]
        host.run("nft", TAMPERING[how].replace("{last}", last))
        assert not await firewall.verify(CONNECTED)
        assert not await NftFirewall(engine).verify(CONNECTED)
        await firewall.set(CONNECTED)
        assert await firewall.verify(CONNECTED)

    go(host, work)


class Garbled:
    """An nft whose transactions break at their end, or a kernel that forgets what it acknowledged."""

    def __init__(self, inner: Nft, suffix: str = "", forget: str = "") -> None:
        self.inner, self.suffix, self.forget = inner, suffix, forget

    async def run(self, commands: str, *, check: bool = False) -> str:
        changes = not check and not commands.startswith("list")
        output = await self.inner.run(commands + (self.suffix if changes else ""), check=check)
        if changes and self.forget:
            await self.inner.run(self.forget)
        return output


@pytest.mark.netns
def test_a_refused_transaction_leaves_the_old_rules(host: Host, engine: Callable[[], Nft]) -> None:
    async def work() -> None:
        nft = Garbled(engine())
        firewall = NftFirewall(lambda: nft)
        await firewall.set(CASES["blocked"])
        nft.suffix = "add rule inet tunwarden nochain accept\n"
        with pytest.raises(HostError, match=r"apply the firewall: .*No such file or directory") as refused:
            await firewall.set(CASES["idle-cleared"])
        assert "\n" not in str(refused.value)
        assert await firewall.verify(CASES["blocked"])
        assert await NftFirewall(engine).verify(CASES["blocked"])

    go(host, work)


@pytest.mark.netns
def test_an_acknowledged_but_ignored_rule_is_an_error(host: Host, engine: Callable[[], Nft]) -> None:
    async def work() -> None:
        firewall = NftFirewall(lambda: Garbled(engine(), forget="flush chain inet tunwarden forward"))
        with pytest.raises(HostError, match="other rules than were sent: chain forward: 0 rules instead of"):
            await firewall.set(CASES["blocked"])

    go(host, work)


@pytest.mark.netns
def test_a_missing_program_is_an_error_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daemon.linux.libnftables.PROGRAM", Path("/nonexistent/nft"))
    with pytest.raises(HostError, match="/nonexistent/nft: No such file or directory"):
        asyncio.run(NftFirewall(NftProgram).set(CONNECTED))


@pytest.mark.netns
def test_without_the_library_the_program_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    from daemon.linux import libnftables

    assert isinstance(libnftables.best(), LibNft)
    monkeypatch.setattr(libnftables, "LIBRARY", "libnothing.so.1")
    assert isinstance(libnftables.best(), NftProgram)


@pytest.mark.netns
def test_errors_of_the_library_do_not_stick(host: Host) -> None:
    async def work() -> str:
        nft = LibNft()
        with pytest.raises(NftError, match="syntax error"):
            await nft.run("nonsense\n")
        return await nft.run("table inet t\ndelete table inet t\n")

    assert "syntax" not in go(host, work)
