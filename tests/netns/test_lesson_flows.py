"""L5, L10: what is forwarded, and what flowed before the block, goes through the tunnel or nowhere.

The cafe's router is hostile: it answers ARP for every address, so that a flow bound to the link gets as far as it can.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, ip_address

import pytest

from lab.addresses import ECHO_PORT, SINK_PORT, SOURCE_PORT
from lab.frames import ETH_IPV4
from lab.hosts import Host
from lab.probes import echoes, exit_address, ipv4_udp, send_frames
from lab.subject import SETTINGS, Subject
from lab.topology import Laboratory
from lab.traffic import Traffic
from policies.firewall import TUNNEL_IFNAME
from tests.netns.conftest import Layers
from tests.netns.open_machine import open_machine, wait_for_leaks

pytestmark = pytest.mark.netns

KINDS = ("upload", "download", "datagrams")
EVERY = {f"{kind}{version}" for kind in KINDS for version in (4, 6)}
BYTES_ACKED = 120  # offset of tcpi_bytes_acked in struct tcp_info, <linux/tcp.h>
IGNORED = SETTINGS.replace('unsecured = "auto_connect"', 'unsecured = "ignore"')


@pytest.fixture
def hostile(lab: Laboratory) -> Laboratory:
    lab.cafe.sysctl(("net/ipv4/conf/lan/proxy_arp", "1"), ("net/ipv4/neigh/lan/proxy_delay", "0"))
    return lab


def lose_the_tunnel(lab: Laboratory, link: str) -> None:
    """At once and for good, as when wireguard-go dies and the server does not answer."""
    lab.block_server()
    lab.laptop.run("ip", "link", "delete", link)


# --- L5: forwarded packets --------------------------------------------------------------------------------------------

L5_HOLDS = {"both": True, "firewall": True, "routing": True}
NETWORKS = ("masqueraded", "routed")  # what Docker does, and what libvirt does with mode="route"


def container(lab: Laboratory, network: str) -> Host:
    """Behind the laptop, with a way back for its answers."""
    host = lab.add_container()
    if network == "routed":
        lab.laptop.run("nft", "delete", "table", "inet", "lab_container")
        own6 = lab.card.address6("wlan0", lab.plan.cafe)
        lab.cafe.ip(
            f"route add {lab.plan.container.v4} via {own_address(lab)}", f"route add {lab.plan.container.v6} via {own6}"
        )
        lab.internet.ip(f"route add {lab.plan.container.v6} via {lab.plan.cafe_uplink.host6(2)}")
    return host


def own_address(lab: Laboratory) -> IPv4Address:
    return IPv4Address(lab.laptop.read("/run/lab/lease-wlan0").strip())


def talking(lab: Laboratory, host: Host) -> Traffic:
    """The nine kinds of traffic, from the container; "bound" is to its own link there."""
    return Traffic(host, lab.plan, lab.python, 30, "eth0")


@pytest.mark.parametrize("network", NETWORKS)
def test_l5_forwarded_packets_go_through_the_tunnel_or_nowhere(layers: Layers, network: str) -> None:
    """Mullvad 2021.4, IVPN #217. While connected, and when the tunnel is lost."""
    lab, subject = layers.lab, layers()
    lab.join("cafe")
    host = container(lab, network)
    subject.wait("connected", 25)
    with lab.meter() as meter:
        with talking(lab, host) as traffic:
            if network == "masqueraded" and layers.name != "firewall":  # which alone leads nothing into the tunnel
                assert exit_address(host, lab.plan.internet4, 15) == lab.plan.server4
                assert exit_address(host, lab.plan.internet6, 15) == lab.plan.server6
            time.sleep(0.5)
            lose_the_tunnel(lab, TUNNEL_IFNAME)
            subject.wait(lambda status: not status.protected, 25)
            time.sleep(1)
        assert min(each.tried for each in traffic.counts.values()) > 10
        assert meter.leaks() == []
        meter.positive_control()


@pytest.mark.parametrize("network", NETWORKS)
def test_l5_control_without_us_they_leave(hostile: Laboratory, subject: Subject, network: str) -> None:
    lab = hostile
    lab.join("cafe")
    host = container(lab, network)
    subject.wait("connected", 25)
    open_machine(subject)
    for internet in (lab.plan.internet4, lab.plan.internet6):
        assert any(echoes(host, internet, 1) for _ in range(20)), internet
    with lab.meter() as meter, talking(lab, host):
        wait_for_leaks(meter)


def test_l5_control_wg_quick_forwards_when_its_tunnel_is_lost(lab: Laboratory, wg_quick: Callable[[], str]) -> None:
    lab.join("cafe")
    host, link = container(lab, "masqueraded"), wg_quick()
    assert exit_address(host, lab.plan.internet4, 15) == lab.plan.server4
    with lab.meter() as meter, talking(lab, host):
        time.sleep(0.3)
        # The cafe's resolver is a neighbour, and wg-quick leaves neighbours to main.
        assert {line.split()[2] for line in meter.leaks()} <= {"dns"}
        lose_the_tunnel(lab, link)
        wait_for_leaks(meter)
    assert exit_address(host, lab.plan.internet4, 15) == lab.plan.cafe_uplink.host4(2)


# --- L10: flows from before the block ---------------------------------------------------------------------------------


class Flow:
    """One flow from the laptop to the internet: "upload" and "download" by TCP, "datagrams" by UDP."""

    def __init__(self, lab: Laboratory, kind: str, version: int, bound: bool) -> None:
        port = {"upload": SINK_PORT, "download": SOURCE_PORT, "datagrams": ECHO_PORT}[kind]
        self.kind, self.name, self.acknowledged = kind, f"{kind}{version}", 0
        stream = socket.SOCK_DGRAM if kind == "datagrams" else socket.SOCK_STREAM
        self.socket = lab.laptop.socket(socket.AF_INET if version == 4 else socket.AF_INET6, stream)
        self.socket.settimeout(10)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # a small window: the wire is captured
        if bound:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"wlan0\0")
        self.socket.connect((str(lab.plan.internet4 if version == 4 else lab.plan.internet6), port))
        self.socket.setblocking(False)

    def heard(self) -> int:
        """Bytes that the other side has sent, or (upload) acknowledged, since the last time."""
        count = 0
        with contextlib.suppress(OSError):
            if self.kind == "upload":
                info = self.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 128)
                before, self.acknowledged = self.acknowledged, struct.unpack_from("Q", info, BYTES_ACKED)[0]
                return self.acknowledged - before
            while count < 1 << 16 and (part := self.socket.recv(65536)):
                count += len(part)
        return count

    def send(self) -> None:
        if self.kind != "download":
            with contextlib.suppress(OSError):
                self.socket.send(b"flow")


@contextlib.contextmanager
def open_flows(lab: Laboratory, bound: bool = False) -> Iterator[list[Flow]]:
    with contextlib.ExitStack() as stack:
        flows = [Flow(lab, kind, version, bound) for kind in KINDS for version in (4, 6)]
        for flow in flows:
            stack.callback(flow.socket.close)
        assert moving(flows, EVERY) == EVERY, "the flows work while nothing blocks them"
        yield flows


def moving(flows: list[Flow], expected: set[str]) -> set[str]:
    """Keep them all busy; which of them go on, once that is what was expected and has been so for a second."""
    for flow in flows:
        flow.heard()  # what was on its way, and what the kernel keeps for the program
    found: set[str] = set()
    begun = time.monotonic()
    while time.monotonic() < begun + (1 if found >= expected else 15):
        for flow in flows:
            flow.send()
        time.sleep(0.05)
        found |= {flow.name for flow in flows if flow.heard()}
    return found


def reaches(lab: Laboratory, flow: Flow, tries: int) -> bool:
    """Whether an answer to a datagram of the flow, of which the router knows the way, still comes in."""
    own, port = flow.socket.getsockname()
    packet = ipv4_udp(lab.plan.internet4, ip_address(own), port, b"late answer", source_port=ECHO_PORT)
    header = lab.plan.mac("wlan0") + lab.plan.mac("cafe/lan")
    frame = bytes.fromhex(header.replace(":", "")) + struct.pack(">H", ETH_IPV4) + packet
    flow.heard()
    for _ in range(tries):
        send_frames(lab.cafe, "lan", frame)
        time.sleep(0.05)
        if flow.heard():
            return True
    return False


# What goes on after the block: nothing, but for bound flows of IPv4, which routing alone cannot hold (L11).
GO_ON: dict[tuple[str, bool], set[str]] = {
    ("both", False): set(), ("both", True): set(),
    ("firewall", False): set(), ("firewall", True): set(),
    ("routing", False): set(), ("routing", True): {name for name in EVERY if name.endswith("4")},
}  # fmt: skip
INBOUND_HOLDS = {"both": True, "firewall": True, "routing": False}


@pytest.mark.parametrize("bound", [False, True], ids=["free", "bound"])
def test_l10_flows_from_before_the_block_die_with_it(hostile: Laboratory, layers: Layers, bound: bool) -> None:
    """Uploads, downloads and datagrams of both families: an established flow has no right of its own."""
    lab, subject = hostile, layers(IGNORED)
    lab.join("cafe")
    subject.wait_cleared()
    expected = GO_ON[layers.name, bound]
    with lab.meter() as meter, open_flows(lab, bound) as flows:
        assert {"clear4", "clear6"} <= {kind.value for kind, number in meter.counts().items() if number}
        subject.cli("connect")
        subject.wait("connected", 25)
        meter.reset()
        # Routing lets what comes in come in; the answers to it go into the tunnel, so a download soon ends.
        tolerated = set() if INBOUND_HOLDS[layers.name] else {"download4", "download6"}
        assert moving(flows, expected) - tolerated == expected - tolerated
        assert bool(meter.leaks()) is bool(expected)
        meter.positive_control()
        (datagrams,) = (flow for flow in flows if flow.name == "datagrams4")
        held = INBOUND_HOLDS[layers.name]
        assert reaches(lab, datagrams, 10 if held else 200) is not held


def test_l10_control_without_us_they_go_on(hostile: Laboratory) -> None:
    """They only hang in the tunnel, with the wrong source: once the block is gone, they are where they were."""
    lab, subject = hostile, Subject(hostile, IGNORED)
    subject.start()
    subject.set_up()
    lab.join("cafe")
    subject.wait_cleared()
    with lab.meter() as meter, open_flows(lab) as flows:
        # An acknowledgement is delayed by up to 200 ms (TCP_DELACK_MAX). One that is refused while the machine closes
        # ends its connection, and then nothing would go on.
        time.sleep(0.5)
        subject.cli("connect")
        subject.wait("connected", 25)
        meter.reset()
        assert moving(flows, set()) == set()
        assert meter.leaks() == []
        open_machine(subject)
        assert moving(flows, EVERY) == EVERY
        assert meter.leaks()


def test_l10_control_wg_quick_lets_them_go_on(hostile: Laboratory, wg_quick: Callable[[], str]) -> None:
    """Bound ones at once, all others as soon as its tunnel is lost: they only wait for it."""
    lab = hostile
    lab.join("cafe")
    with lab.meter() as meter, open_flows(lab) as free, open_flows(lab, bound=True) as bound:
        link = wg_quick()
        meter.reset()
        assert moving(bound, EVERY) == EVERY
        assert meter.leaks()
        lose_the_tunnel(lab, link)
        assert moving(free, EVERY) == EVERY


def test_l10_flows_of_the_tunnel_do_not_go_on_beside_it(layers: Layers) -> None:
    """And the other way round: what began inside the tunnel is not continued outside when the tunnel is lost."""
    lab, subject = layers.lab, layers()
    lab.join("cafe")
    subject.wait("connected", 25)
    if layers.name == "firewall":
        # Alone it leads nothing into the tunnel: a route does. It goes with the link, and the next one is the open one.
        for target in (lab.plan.internet4, lab.plan.internet6):
            lab.laptop.ip(f"route add {target} dev {TUNNEL_IFNAME}")
    with lab.meter() as meter, open_flows(lab) as flows:
        assert meter.leaks() == []
        lose_the_tunnel(lab, TUNNEL_IFNAME)
        subject.wait(lambda status: not status.protected, 25)
        assert moving(flows, set()) == set()
        assert meter.leaks() == []
        meter.positive_control()


def test_l10_control_wg_quick_continues_them_in_the_clear(lab: Laboratory, wg_quick: Callable[[], str]) -> None:
    """The connection drop, which wg-quick does not claim to hold: datagrams take the next route."""
    lab.join("cafe")
    link = wg_quick()
    with lab.meter() as meter, open_flows(lab) as flows:
        assert meter.leaks() == []
        lose_the_tunnel(lab, link)
        moving(flows, set())
        wait_for_leaks(meter, ("clear4", "clear6"))
