"""K8: what of others stops the VPN's own packets, or their answers, is found and named with table, chain and remedy."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import sys
import time
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.linux import obstacles, rtnetlink, way
from daemon.linux.nft_trace import NF_DROP, Step, steps
from daemon.linux.way import Rule, meets
from lab.hosts import Host
from policies.facts import Endpoint
from policies.firewall import MARK

SERVER4 = Endpoint(ip_address("198.51.100.7"), 51820)
SERVER6 = Endpoint(ip_address("2001:db8::7"), 51820)
POLICY, RETURN, RULE = 1, 2, 3


def attribute(kind: int, value: bytes) -> bytes:
    raw = struct.pack("=HH", 4 + len(value), kind) + value
    return raw + b"\0" * (-len(raw) % 4)


def trace(family: int, *attrs: bytes, kind: int = 10 << 8 | 17) -> bytes:
    payload = struct.pack(">BBH", family, 0, 0) + b"".join(attrs)
    return struct.pack("=IHHII", 16 + len(payload), kind, 0, 0, 0) + payload


def verdict(code: int) -> bytes:
    return attribute(5, attribute(1, struct.pack(">i", code)))


WHERE = (attribute(6, b"abcd"), attribute(1, b"filter\0"), attribute(2, b"OUTPUT\0"))
HANDLE = attribute(3, struct.pack(">Q", 17))


@pytest.mark.parametrize(
    "data, told",
    [
        (
            trace(2, *WHERE, HANDLE, attribute(4, struct.pack(">I", RULE)), verdict(0)),
            [Step(b"abcd", "ip filter", "OUTPUT", 17, NF_DROP)],
        ),
        (
            trace(10, *WHERE, attribute(4, struct.pack(">I", POLICY)), attribute(16, struct.pack(">I", 0))),
            [Step(b"abcd", "ip6 filter", "OUTPUT", None, NF_DROP)],
        ),
        (
            trace(1, *WHERE, HANDLE, attribute(4, struct.pack(">I", RULE)), verdict(-3)),
            [Step(b"abcd", "inet filter", "OUTPUT", 17, -3)],
        ),
        (trace(99), [Step(b"", "unknown ", "", None, None)]),
        (
            trace(1, attribute(1, b"a\x1b[31m\n\xff\0"), attribute(5, attribute(1, b"\0"))),
            [Step(b"", "inet a?[31m?\ufffd", "", None, None)],
        ),
        (trace(1, *WHERE, kind=10 << 8 | 15), []),
        (trace(1, *WHERE)[:-30], []),
    ],
)
def test_a_trace(data: bytes, told: list[Step]) -> None:
    assert list(steps(data)) == told


@given(st.binary(max_size=300))
def test_any_bytes_are_survived(data: bytes) -> None:
    list(steps(data))
    list(steps(trace(1, data)))


def test_sentences_tell_what_where_and_what_to_do() -> None:
    by_rule = Step(b"", "inet corporate", "out", 4, NF_DROP)
    assert obstacles.dropped(by_rule, [SERVER6], incoming=False) == (
        "The firewall table `inet corporate` of another program drops the VPN's own packets to [2001:db8::7]:51820: "
        "chain `out`, by its rule with handle 4. Allow them there; see `nft -a list chain inet corporate out`."
    )
    by_ufw = Step(b"", "ip filter", "ufw-user-output", None, NF_DROP)
    assert obstacles.dropped(by_ufw, [SERVER4], incoming=False).endswith(
        "chain `ufw-user-output`, by its policy. ufw is in use: `ufw allow out proto udp to 198.51.100.7 port 51820`, "
        "or see `nft -a list chain ip filter ufw-user-output`."
    )
    by_firewalld = Step(b"", "inet firewalld", "filter_INPUT", 9, NF_DROP)
    told = obstacles.dropped(by_firewalld, [SERVER4, SERVER6], incoming=True)
    assert "drops the answers of the VPN's server (198.51.100.7:51820, [2001:db8::7]:51820)" in told
    assert "firewalld's" in told


def test_iptables_legacy_is_told_by_its_tables(tmp_path: Path) -> None:
    assert obstacles.legacy_tables(tmp_path) == ()
    (tmp_path / "ip_tables_names").write_text("nat\nfilter\n")
    (tmp_path / "ip6_tables_names").write_text("filter\n")
    assert obstacles.legacy_tables(tmp_path) == ("nat", "filter")
    told = obstacles.unseen(SERVER6, ("nat", "filter"))
    assert "iptables-legacy (tables: nat, filter)" in told
    assert "`ip6tables-legacy-save`" in told
    assert "eBPF" in obstacles.unseen(SERVER4, ())


@pytest.mark.parametrize(
    "selector, met",
    [
        ({}, True),
        ({"mark": MARK, "mask": 0xFFFFFFFF}, True),
        ({"mark": MARK, "mask": 0xFFFFFFFF, "inverted": True}, False),  # ours: not fwmark
        ({"mark": 0x80000, "mask": 0xFF0000}, False),  # Tailscale's
        ({"to": ip_network("198.51.100.0/24")}, True),
        ({"to": ip_network("203.0.113.0/24")}, False),
        ({"to": ip_network("203.0.113.0/24"), "inverted": True}, True),
        ({"source": 32}, False),
        ({"iif": "lo"}, True),
        ({"iif": "eth0"}, False),
        ({"oif": "eth0"}, False),
        ({"protocol": 17}, True),
        ({"protocol": 6}, False),
        ({"users": (0, 0)}, True),
        ({"users": (1000, 1000)}, False),
        ({"ports": (51820, 51820)}, True),
        ({"ports": (1, 1023)}, False),
        ({"source_ports": (1, 65535)}, False),
    ],
)
def test_whether_a_routing_rule_takes_the_vpns_packets(selector: dict[str, Any], met: bool) -> None:
    assert meets(Rule(**selector), SERVER4) is met


@pytest.mark.netns
@pytest.mark.parametrize(
    "selectors, read",
    [
        ("fwmark 0x80000/0xff0000 unreachable", Rule(table=0, action=7, mark=0x80000, mask=0xFF0000)),
        ("not fwmark 0x7 lookup 1234567", Rule(table=1234567, inverted=True, mark=7, mask=0xFFFFFFFF)),
        ("from 192.0.2.0/24 to 198.51.100.0/25 lookup 7",
         Rule(table=7, source=24, to=ip_network("198.51.100.0/25"))),
        ("iif lo oif eth7 ipproto udp blackhole", Rule(table=0, action=6, iif="lo", oif="eth7", protocol=17)),
        ("uidrange 1000-2000 ipproto tcp sport 7 dport 8-9 lookup 7",
         Rule(table=7, users=(1000, 2000), protocol=6, source_ports=(7, 7), ports=(8, 9))),
        ("to 2001:db8::/33 prohibit", Rule(table=0, action=8, to=ip_network("2001:db8::/33"))),
    ],
)  # fmt: skip
def test_rules_are_read_as_ip_rule_writes_them(selectors: str, read: Rule) -> None:
    family = socket.AF_INET6 if ":" in selectors else socket.AF_INET
    request = way._HEADER.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)

    def look() -> list[Rule]:
        with rtnetlink.open_socket() as sock:
            return [way._rule(payload) for _, payload in rtnetlink.dump(sock, way.RTM_GETRULE, request)]

    with Host("rules") as host:
        version = "-6" if family == socket.AF_INET6 else "-4"
        host.run("ip", version, "rule", "add", "priority", "50", *selectors.split())
        (found,) = [rule for rule in host.inside(look) if rule.priority == 50]
    assert found == read._replace(priority=50)


OUT = Step(b"1", obstacles.PROBE, "out", 3, None)
REFUSED_BY_US = Step(b"1", "inet tunwarden", "refuse", 5, NF_DROP)
REFUSED_BY_OTHERS = Step(b"1", "inet corporate", "it", 5, NF_DROP)


@pytest.mark.parametrize(
    "told, sent, refused, judged",
    [
        ([], False, "", ""),
        ([OUT, REFUSED_BY_US], False, "", ""),  # the attempt was over already
        ([OUT], True, "refused", "refused"),  # by what nftables does not know of
        ([OUT], True, "", ""),
        ([OUT, REFUSED_BY_OTHERS], False, "", "The firewall table `inet corporate`"),
        ([OUT, REFUSED_BY_US, OUT, REFUSED_BY_OTHERS], False, "", "The firewall table `inet corporate`"),
    ],
)
def test_who_is_to_blame(
    monkeypatch: pytest.MonkeyPatch, told: list[Step], sent: bool, refused: str, judged: str
) -> None:
    sends: list[object] = []

    def send(servers: object) -> str:
        sends.append(servers)
        return refused

    monkeypatch.setattr(obstacles, "send", send)
    for limit in ("WAIT_S", "LISTEN_S", "SETTLE_S"):
        monkeypatch.setattr(obstacles, limit, 0.05)

    async def judge() -> tuple[str, ...]:
        queue: asyncio.Queue[Step] = asyncio.Queue()
        for step in told:
            queue.put_nowait(step)
        return await obstacles._judge(queue, [SERVER4])

    assert " ".join(asyncio.run(judge())).startswith(judged)
    assert bool(sends) is sent
    assert bool(judged) or not refused


def test_our_own_refusal_of_the_probe_accuses_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """The state may change between the attempt's packet and the probe."""
    queue: asyncio.Queue[Step] = asyncio.Queue()

    def send(servers: object) -> str:
        queue.put_nowait(REFUSED_BY_US)
        return "refused"

    monkeypatch.setattr(obstacles, "send", send)
    monkeypatch.setattr(obstacles, "SETTLE_S", 0.05)
    queue.put_nowait(OUT)
    assert asyncio.run(obstacles._judge(queue, [SERVER4])) == ()


# --- with the kernel --------------------------------------------------------------------------------------------------

ECHO = """
import socket
with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as here:
    here.bind(("::", 51820))
    print("ready", flush=True)
    while True:
        data, who = here.recvfrom(100)
        here.sendto(data, who)
"""
FINDER = f"""
import asyncio, contextlib, json, socket, sys
from ipaddress import ip_address
from daemon.linux import obstacles
from policies.facts import Endpoint

async def main():
    server = Endpoint(ip_address(sys.argv[1]), 51820)
    family = socket.AF_INET if server.address.version == 4 else socket.AF_INET6
    obstacles.LISTEN_S = float(sys.argv[2])
    find = asyncio.ensure_future(obstacles.NftObstacles().find([server]))
    with socket.socket(family, socket.SOCK_DGRAM) as vpn:
        vpn.setsockopt(socket.SOL_SOCKET, 36, {MARK})
        while not find.done():
            with contextlib.suppress(OSError):
                vpn.sendto(b"attempt", (sys.argv[1], 51820))
            await asyncio.sleep(0.05)
    print(json.dumps(find.result()))

asyncio.run(main())
"""
# Our own rules as far as they matter here: the VPN's packets leave, and established answers come in.
OURS = f"""
table inet tunwarden {{
    chain input {{ type filter hook input priority 0; policy drop; ct state established accept; }}
    chain output {{ type filter hook output priority 0; policy drop; meta mark {MARK:#x} udp dport 51820 accept; }}
}}
"""


@pytest.fixture
def machine() -> Iterator[Host]:
    """A machine with both our layers, and a server that answers."""
    with Host("obstacle") as host, Host("server") as server:
        host.ip(
            "link set lo up", f"link add name eth0 type veth peer name eth0 netns {server.pid}", "link set eth0 up",
            "address add 198.51.100.1/24 dev eth0", "address add 2001:db8::1/64 dev eth0 nodad",
        )  # fmt: skip
        server.ip(
            "link set lo up", "link set eth0 up",
            "address add 198.51.100.7/24 dev eth0", "address add 2001:db8::7/64 dev eth0 nodad",
        )  # fmt: skip
        for family in ("-4", "-6"):
            host.run("ip", family, "rule", "add", "priority", "100", "not", "fwmark", str(MARK), "table", str(MARK))
            host.run("ip", family, "route", "add", "unreachable", "default", "table", str(MARK))
        host.run("nft", "-f", "-", input=OURS + NEIGHBOURS)
        echo = server.start(sys.executable, "-I", "-c", ECHO)
        echo.wait_output("ready", 25)
        yield host


NEIGHBOURS = """
insert rule inet tunwarden input meta l4proto icmpv6 accept
insert rule inet tunwarden output meta l4proto icmpv6 accept
"""


def found(host: Host, server: str = "198.51.100.7", listen: float = 20.0) -> list[str]:
    output = host.run(sys.executable, "-I", "-c", FINDER, server, str(listen), timeout=60).stdout
    assert "tunwarden_probe" not in host.run("nft", "list", "ruleset").stdout
    told: list[str] = json.loads(output)
    return told


def chain(hook: str, priority: int, rule: str, policy: str = "accept", name: str = "it") -> str:
    inside = f"type filter hook {hook} priority {priority}; policy {policy}; {rule};"
    return f"table inet corporate {{ chain {name} {{ {inside} }}; }}\n"


MANY = "; ".join(f"udp dport {1 + number} drop" for number in range(10_000))
TO, BACK = (
    "drops the VPN's own packets to 198.51.100.7:51820",
    "drops the answers of the VPN's server (198.51.100.7:51820)",
)
CORPORATE, BY_RULE = "The firewall table `inet corporate` of another program", "chain `it`, by its rule with handle"


@pytest.mark.netns
@pytest.mark.parametrize(
    "rules, told",
    [
        (chain("output", 10, "udp dport 51820 drop"), (CORPORATE, TO, BY_RULE)),
        (chain("output", -200, "udp dport 51820 reject"), (CORPORATE, TO, BY_RULE)),
        (chain("output", 10, "tcp dport 1 accept", "drop"), (CORPORATE, TO, "chain `it`, by its policy")),
        (chain("postrouting", 0, "meta l4proto udp drop"), (CORPORATE, TO, BY_RULE)),
        (chain("prerouting", -300, "udp sport 51820 drop"), (CORPORATE, BACK, BY_RULE)),
        (chain("input", 10, "ct state established drop"), (CORPORATE, BACK, BY_RULE)),
        (chain("output", 10, MANY + "; udp dport 51820 drop"), (CORPORATE, TO, BY_RULE)),
    ],
    ids=["output", "reject before us", "policy", "postrouting", "prerouting", "input", "10,000 rules"],
)
def test_a_foreign_nftables_chain(machine: Host, rules: str, told: tuple[str, ...]) -> None:
    machine.run("nft", "-f", "-", input=rules)
    (sentence,) = found(machine)
    assert all(part in sentence for part in told), sentence
    assert "see `nft -a list chain inet corporate it`" in sentence


@pytest.mark.netns
@pytest.mark.parametrize(
    "server, program, told",
    [
        ("198.51.100.7", "iptables", "`ip filter`"),
        ("2001:db8::7", "ip6tables", "`ip6 filter`"),
        ("198.51.100.7", "iptables-legacy", "iptables-legacy (tables: filter)"),
        ("2001:db8::7", "ip6tables-legacy", "iptables-legacy (tables: filter)"),
    ],
)
def test_a_rule_of_iptables(machine: Host, server: str, program: str, told: str) -> None:
    if machine.run(program, "-A", "OUTPUT", "-p", "udp", "--dport", "51820", "-j", "DROP", check=False).returncode:
        pytest.skip(f"this kernel has no {program}")
    (sentence,) = found(machine, server)
    assert told in sentence


@pytest.mark.netns
@pytest.mark.parametrize(
    "server, commands, told",
    [
        ("198.51.100.7", ["route add blackhole 198.51.100.7"], ("blackhole route to 198.51.100.7/32", "table main")),
        ("2001:db8::7", ["-6 route add prohibit 2001:db8::7"], ("prohibit route to 2001:db8::7/128", "table main")),
        (
            "198.51.100.7",
            ["rule add priority 50 table 77", "route add unreachable default table 77"],
            ("unreachable route to 0.0.0.0/0 (table 77)", "ip route del unreachable 0.0.0.0/0 table 77"),
        ),
        ("198.51.100.7", ["rule add priority 50 blackhole"], ("(priority 50, blackhole)", "ip rule del")),
        ("2001:db8::7", ["-6 rule add priority 60 to 2001:db8::/64 prohibit"], ("(priority 60, prohibit)", "ip -6 ")),
        (
            "198.51.100.7",
            ["link add other type bridge", "link set other up", "rule add priority 50 table 77",
             "route add default dev other table 77"],
            ("(priority 50)", "through table 77 to the link other"),
        ),
    ],
    ids=["blackhole", "prohibit, IPv6", "table", "rule", "rule, IPv6", "elsewhere"],
)  # fmt: skip
def test_foreign_routing(machine: Host, server: str, commands: list[str], told: tuple[str, ...]) -> None:
    for command in commands:
        machine.run("ip", *command.split())
    (sentence,) = found(machine, server)
    assert all(part in sentence for part in told), sentence


@pytest.mark.netns
def test_the_probe_dies_with_us(machine: Host) -> None:
    """A daemon that was killed leaves no table behind."""

    def there() -> bool:
        return "tunwarden_probe" in machine.run("nft", "list", "tables").stdout

    finder = machine.start(sys.executable, "-I", "-c", FINDER, "198.51.100.7", "60")
    deadline = time.monotonic() + 25
    while not there():
        assert finder.running, finder.output()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    finder.kill()
    assert not there()


@pytest.mark.netns
@pytest.mark.parametrize("server", ["198.51.100.7", "2001:db8::7"])
def test_nothing_of_others_is_in_the_way(machine: Host, server: str) -> None:
    """Rules that do not concern the VPN, Tailscale's among them, and our own drop of what is not the VPN's."""
    unrelated = chain("output", 10, "udp dport 51821 drop") + chain("input", 10, "tcp dport 1 drop", name="in")
    machine.run("nft", "-f", "-", input=unrelated)
    machine.run("ip", "rule", "add", "priority", "50", "fwmark", "0x80000/0xff0000", "unreachable")
    machine.run("ip", "route", "add", "blackhole", "203.0.113.0/24")
    assert found(machine, server, listen=1.0) == []
    machine.run("nft", "insert", "rule", "inet", "tunwarden", "input", "udp", "sport", "51820", "drop")
    assert found(machine, server, listen=1.0) == []
