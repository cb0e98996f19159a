"""L14: rules outlive the link they are about. The kernel's own events tell in which order things were done."""

from __future__ import annotations

import contextlib
import itertools
import re
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from lab.frames import LEAKS
from lab.subject import Subject
from lab.topology import Laboratory
from policies.firewall import TUNNEL_IFNAME
from tests.netns.chatter import chatter

pytestmark = pytest.mark.netns

# <linux/netlink.h>, <linux/netfilter/nfnetlink.h>, <linux/rtnetlink.h>: read without the daemon's own parser
SOL_NETLINK, ADD_MEMBERSHIP, NETLINK_NETFILTER, SO_RCVBUFFORCE = 270, 1, 12, 33
NFNLGRP_NFTABLES, RTNLGRP_LINK, RTNLGRP_IPV4_RULE, RTNLGRP_IPV6_RULE = 7, 1, 8, 19
NEW_TABLE, DEL_RULE, NEW_GENERATION, GET_GENERATION = (10 << 8 | number for number in (0, 8, 15, 16))  # of nftables
RTM_NEWLINK, RTM_DELLINK, RTM_NEWRULE, RTM_DELRULE = 16, 17, 32, 33
LEAVING = ("table disconnecting", "link gone", "rule removed", "table idle")
COMING = ("table connecting", "link", "table connected")
PHASE = re.compile(rb"([a-z]+) [0-9a-f]{32}")  # the comment of our table: the phase and the digest of its rules


@dataclass(frozen=True)
class Seen:
    """`after`: when the kernel had not yet told it; `before`: when it had. Whoever reads late knows only that much."""

    what: str
    after: float
    before: float


@dataclass
class Order:
    """What the kernel says of links, rules and nftables, in order; `link` is the one that counts."""

    lab: Laboratory
    link: str = TUNNEL_IFNAME
    seen: list[Seen] = field(default_factory=list)
    told: int = 0  # which generation of the rules the last notice was about

    def first(self, what: str) -> Seen:
        return next(each for each in self.seen if each.what == what)

    def wait(self, what: str, timeout: float = 20.0) -> Seen:
        deadline = time.monotonic() + timeout
        while all(each.what != what for each in list(self.seen)):
            assert time.monotonic() < deadline, (what, self.seen)
            time.sleep(0.005)
        return self.first(what)

    @contextlib.contextmanager
    def __call__(self) -> Iterator[Order]:
        stop, ready = threading.Event(), threading.Event()
        self.seen.clear()
        thread = threading.Thread(target=lambda: self.lab.laptop.inside(lambda: self._listen(stop, ready)))
        thread.start()
        try:
            ready.wait()
            yield self
        finally:
            stop.set()
            thread.join()

    def _listen(self, stop: threading.Event, ready: threading.Event) -> None:
        nft = _subscribed(NETLINK_NETFILTER, NFNLGRP_NFTABLES)
        routing = _subscribed(socket.NETLINK_ROUTE, RTNLGRP_LINK, RTNLGRP_IPV4_RULE, RTNLGRP_IPV6_RULE)
        with nft, routing:
            empty = {nft: time.time(), routing: time.time()}  # when nothing waited there for the last time
            self.told = generation()
            ready.set()
            while not stop.is_set():
                for one, words in ((nft, self._nft), (routing, self._routing)):
                    found: list[str] = []
                    looked, present = time.time(), generation()
                    with contextlib.suppress(BlockingIOError):
                        while True:
                            found += words(one.recv(1 << 16, socket.MSG_DONTWAIT))
                    self.seen += [Seen(what, empty[one], time.time()) for what in found]
                    if one is routing or present == self.told:  # rules are in force a moment before they are told of
                        empty[one] = looked
                select.select([nft, routing], [], [], 0.001)

    def _nft(self, data: bytes) -> Iterator[str]:
        for kind, payload in messages(data):
            if kind == NEW_TABLE:
                yield from (f"table {phase.decode()}" for phase in PHASE.findall(payload))
            if kind == DEL_RULE:
                yield "firewall rule removed"
            if kind == NEW_GENERATION:
                self.told = int.from_bytes(payload[8:12])

    def _routing(self, data: bytes) -> Iterator[str]:
        for kind, payload in messages(data):
            if kind in (RTM_NEWRULE, RTM_DELRULE):
                yield "rule added" if kind == RTM_NEWRULE else "rule removed"
            if kind in (RTM_NEWLINK, RTM_DELLINK) and self.link.encode() + b"\0" in payload:
                yield "link" if kind == RTM_NEWLINK else "link gone"


def messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(type, payload) of each netlink message."""
    while len(data) >= 16:
        length, kind = struct.unpack_from("=IH", data)
        yield kind, data[16:length]
        data = data[(length + 3) & ~3 :]


def generation() -> int:
    """Which generation of all rules is in force, or about to be; asked, so that it is not late."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as sock:
        sock.sendto(struct.pack("=IHHII4x", 20, GET_GENERATION, 1, 0, 0), (0, 0))  # NLM_F_REQUEST; struct nfgenmsg
        return int.from_bytes(sock.recv(4096)[24:28])  # behind both headers and that of the first attribute


def _subscribed(protocol: int, *groups: int) -> socket.socket:
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol)
    sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 24)
    sock.bind((0, 0))
    for group in groups:
        sock.setsockopt(SOL_NETLINK, ADD_MEMBERSHIP, group)
    return sock


def in_order(order: Order, *whats: str) -> bool:
    """Whether they are known to have come in that order; False: it may have been. Fails when it was another."""
    found = list(itertools.pairwise(order.first(what) for what in whats))
    assert not [each for each in found if each[1].before <= each[0].after], order.seen
    return all(one.before <= other.after for one, other in found)


def test_l14_the_block_stands_before_the_link_goes(subject: Subject) -> None:
    """Disconnecting under traffic: closed, then no link, then open; connecting: closed, then a link.

    At no moment does a rule about the tunnel meet a missing link, and nothing leaves before the state is idle.
    """
    lab = subject.lab
    order = Order(lab)
    lab.join("cafe")
    subject.wait("connected", 25)
    certain = [False, False]
    for _ in range(40):
        with lab.meter() as meter, chatter(lab):
            with order():
                subject.cli("disconnect")
                for what in LEAVING:
                    order.wait(what)
                subject.wait("idle")
            certain[0] |= in_order(order, *LEAVING)
            opened = order.first("table idle").after
            deadline = time.monotonic() + 15
            while not meter.leaks():  # the positive control: idle is open here, and this meter sees it
                assert time.monotonic() < deadline
            early = [meter.describe(frame, kind) for frame, kind in meter.frames() if frame.time < opened]
            assert not [line for line in early if any(f" {kind} " in line for kind in LEAKS)]
            with order():
                subject.cli("connect")
                for what in COMING:
                    order.wait(what, 25)
                subject.wait("connected", 25)
            certain[1] |= in_order(order, *COMING)
            meter.reset()
        if all(certain):
            return
    pytest.fail("the order was never certain")


def test_l14_the_kill_switch_of_wg_quicks_manual_goes_before_its_link(lab: Laboratory) -> None:
    """PreDown removes the rule while the link is still there: the same observer sees the other order."""
    mark = ("!", "-o", "%i", "-m", "mark", "!", "--mark", "$(wg show %i fwmark)", "-m", "addrtype", "!", "--dst-type")
    rule = " ".join((*mark, "LOCAL", "-j", "REJECT"))
    lines = [line for line in lab.client_config().splitlines() if not line.startswith("DNS")]
    at = lines.index("") if "" in lines else 1
    lines[at:at] = [f"PostUp = iptables -I OUTPUT {rule}", f"PreDown = iptables -D OUTPUT {rule}"]
    lab.laptop.write("/etc/wireguard/peer0.conf", "\n".join(lines) + "\n", mode=0o600)
    lab.join("cafe")
    lab.laptop.run("wg-quick", "up", "peer0")
    for _ in range(40):
        with Order(lab, link="peer0")() as order:
            lab.laptop.run("wg-quick", "down", "peer0")
            order.wait("link gone")
            order.wait("firewall rule removed")
        if in_order(order, "firewall rule removed", "link gone"):
            return
        lab.laptop.run("wg-quick", "up", "peer0")
    pytest.fail("the order was never certain")


def test_l14_stopping_the_program_drops_no_rule(subject: Subject) -> None:
    """SIGTERM while protected: the link may go, the table and the rules stay as closed as they were."""
    lab = subject.lab
    lab.join("cafe")
    subject.wait("connected", 25)
    with lab.meter() as meter, chatter(lab), Order(lab)() as order:
        assert subject.stop() == 0
        lab.laptop.run("ip", "link", "del", TUNNEL_IFNAME, check=False)
        order.wait("link gone")
        time.sleep(0.2)
        assert not {"rule removed", "table idle"} & {each.what for each in order.seen}
        assert meter.leaks() == []
        meter.positive_control()
