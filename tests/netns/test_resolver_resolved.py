"""Names through the real systemd-resolved (T6, L17, L18): into the tunnel and back, whoever is killed on the way."""

from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab.frames import Kind
from lab.probes import dns_query, resolve
from lab.processes import LabError
from lab.resolved import NO_DNS, PROGRAMS, STUB, STUB_FILE, UPLINK_FILE, LinkDns, Resolved
from lab.subject import SETTINGS, Subject
from lab.topology import Laboratory
from tests.conftest import next_seed

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(not PROGRAMS, reason="systemd-resolved is not here: run lab/install-missing"),
]

PATIENCE = 25.0  # seconds
# What a network may say: a search domain, one that routes only, everything, and a hostile "test" that would draw names.
DOMAINS = (("cafe.example", False), (".", True), ("test", True))


@pytest.fixture
def lab() -> Iterator[Laboratory]:
    with Laboratory(next_seed(), dhcp_options=NO_DNS) as lab:
        yield lab


@pytest.fixture
def resolved(lab: Laboratory) -> Resolved:
    assert lab.networkmanager is not None
    return Resolved(lab.laptop, lab.networkmanager.client)


@pytest.fixture
def subject(lab: Laboratory) -> Iterator[Subject]:
    subject = Subject(lab)
    subject.start(PATIENCE)
    subject.set_up()
    yield subject
    assert subject.process is not None
    assert "Traceback" not in subject.process.output(), subject.process.output()


def until(said: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not said():
        if time.monotonic() > deadline:
            raise LabError(f"after {PATIENCE} s not yet: {what}")
        time.sleep(0.02)


def join(lab: Laboratory, resolved: Resolved) -> LinkDns:
    """The cafe; what resolved knows of its link before anybody connects."""
    lab.join("cafe", dhcp=False)
    resolved.lease("wlan0", [lab.plan.cafe.host4(1)], DOMAINS)
    found = resolved.link("wlan0")
    assert found is not None
    assert found.default_route
    lab.address(lab.networks["cafe"])
    return found


def link_of(lab: Laboratory) -> str:
    """Where /etc/resolv.conf leads; "" for a file."""
    return lab.laptop.run("readlink", "/etc/resolv.conf", check=False).stdout.strip()


def in_tunnel(lab: Laboratory, resolved: Resolved) -> bool:
    """Whether every name goes to the tunnel's resolvers, and none to the network's."""
    tunnel, uplink = resolved.link("tunwarden0"), resolved.link("wlan0")
    return (
        tunnel is not None
        and uplink is not None
        and tunnel.servers == tuple(map(str, lab.plan.tunnel_server))
        and tunnel.domains == ((".", True),)
        and tunnel.default_route
        and (uplink.domains, uplink.default_route) == ((), False)
    )


def test_names_go_into_the_tunnel_and_come_back_as_they_were(resolved: Resolved, subject: Subject) -> None:
    lab = subject.lab
    resolved.start()
    before = join(lab, resolved)
    subject.wait("connected", PATIENCE)
    assert in_tunnel(lab, resolved)
    assert resolved.whoami() == lab.plan.tunnel_server[0]
    assert link_of(lab) == f"..{STUB_FILE}", "nobody touched the file"
    subject.cli("disconnect")
    subject.wait("idle", PATIENCE)
    assert resolved.link("wlan0") == before
    assert resolved.whoami() == lab.plan.cafe.host4(1)
    assert subject.process is not None
    assert "systemd-resolved" in subject.process.output()
    assert "leads to its stub" in subject.process.output(), "the trail of the choice is in the log"


ASKED_ON_THE_WIRE = """
table inet asked {
    counter wire { }
    chain output {
        type filter hook output priority -300
        oifname "wlan0" meta l4proto { tcp, udp } th dport { 53, 853 } counter name wire
    }
}
"""


def asked_on_the_wire(lab: Laboratory) -> int:
    """How many questions resolved tried to send to the network's resolver, before any rule of ours could drop them."""
    found = json.loads(lab.laptop.run("nft", "-j", "list", "counter", "inet", "asked", "wire").stdout)
    return int(found["nftables"][1]["counter"]["packets"])


def test_l18_no_question_is_even_tried_outside_the_tunnel(resolved: Resolved, subject: Subject) -> None:
    """L18: resolved that keeps asking who is dropped spins. It must not ask: counted before the firewall, and on air.

    Also while there is no tunnel: blocked, its questions end at once instead of going to the network's resolver.
    """
    lab = subject.lab
    resolved.start()
    lab.laptop.run("nft", "-f", "-", input=ASKED_ON_THE_WIRE)
    join(lab, resolved)
    subject.wait("connected", PATIENCE)
    until(lambda: in_tunnel(lab, resolved), "names go into the tunnel")
    with lab.meter() as meter:
        before = asked_on_the_wire(lab)
        for name in ("whoami.test", "a.cafe.example", "b.test", "single", "internet.test", "1.0.18.198.in-addr.arpa"):
            ask(lab, name)
        lab.block_server()
        subject.cli("reconnect")
        subject.wait(lambda status: not status.protected, PATIENCE)
        for name in ("c.example", "d.test"):
            ask(lab, name)
        assert asked_on_the_wire(lab) == before
        # Names of the network's own addresses resolved asks there whatever it is told: tried, and dropped.
        ask(lab, lab.plan.cafe.host4(1).reverse_pointer)
        assert meter.leaks() == []
        before = asked_on_the_wire(lab)
        subject.cli("disconnect")
        subject.wait("idle", PATIENCE)
        assert resolved.whoami() == lab.plan.cafe.host4(1)
        assert asked_on_the_wire(lab) > before, "the positive control: a question to the network's resolver is counted"
        meter.flush()
        assert meter.counts()[Kind.DNS] > 0, "and seen on the air"


def ask(lab: Laboratory, name: str) -> None:
    """As a program does; whatever becomes of it."""
    with lab.laptop.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.settimeout(2)
        asker.connect((str(STUB), 53))
        asker.send(dns_query(name, 1))
        try:
            asker.recv(2048)
        except OSError:
            return


@pytest.mark.parametrize("kills", [1, 2])
def test_l17_a_killed_daemon_leaves_nothing_behind(resolved: Resolved, subject: Subject, kills: int) -> None:
    lab = subject.lab
    resolved.start()
    before = join(lab, resolved)
    subject.wait("connected", PATIENCE)
    for _ in range(kills):
        subject.kill()
        subject.start(PATIENCE)
    subject.wait("connected", PATIENCE)
    assert resolved.whoami() == lab.plan.tunnel_server[0]
    subject.kill()
    subject.start(PATIENCE)
    subject.wait("connected", PATIENCE)  # a choice made before the network is identified may be void
    subject.cli("disconnect")
    subject.wait("idle", PATIENCE)
    assert resolved.link("wlan0") == before
    assert resolved.whoami() == lab.plan.cafe.host4(1)


@pytest.mark.parametrize("forget", [True, False], ids=["forgets", "remembers"])
def test_a_resolved_that_restarts_is_told_again(resolved: Resolved, subject: Subject, forget: bool) -> None:
    """Nothing else happens meanwhile: it is heard of on the bus. What it has forgotten of the uplink stays its own."""
    lab = subject.lab
    resolved.start()
    join(lab, resolved)
    subject.wait("connected", PATIENCE)
    resolved.kill(forget)
    resolved.again()
    until(lambda: in_tunnel(lab, resolved), "names go into the tunnel again")
    assert resolved.whoami() == lab.plan.tunnel_server[0]
    until(lambda: link_of(lab) == f"..{STUB_FILE}", "the file, which stood in for it, leads to its stub again")


def test_a_lease_meanwhile_is_kept_for_later(resolved: Resolved, subject: Subject) -> None:
    """The network gives other resolvers and domains while connected: they count after disconnecting, and not before."""
    lab = subject.lab
    resolved.start()
    join(lab, resolved)
    subject.wait("connected", PATIENCE)
    given = [lab.plan.cafe.host4(1), lab.plan.cafe.host6(1)]
    resolved.lease("wlan0", given, [("later.example", False), ("test", True)])
    until(lambda: in_tunnel(lab, resolved), "the network's domains are taken away again")
    assert resolved.whoami() == lab.plan.tunnel_server[0]
    subject.cli("disconnect")
    subject.wait("idle", PATIENCE)
    found = resolved.link("wlan0")
    assert found is not None
    assert found.domains == (("later.example", False), ("test", True))
    assert found.servers == tuple(map(str, given))
    assert found.default_route
    assert resolved.whoami() == lab.plan.cafe.host4(1)


NETWORKD = Path("/usr/lib/systemd/systemd-networkd")


@pytest.mark.skipif(not NETWORKD.exists(), reason="systemd-networkd is not here")
def test_links_of_networkd_are_changed_through_it(resolved: Resolved, subject: Subject) -> None:
    """resolved refuses to change what systemd-networkd manages: the uplink here, and the tunnel's link too."""
    lab, laptop = subject.lab, subject.lab.laptop
    if "systemd-network:" not in laptop.read("/etc/passwd"):
        laptop.write("/etc/passwd", f"{laptop.read('/etc/passwd')}systemd-network:x:64995:64995::/:/usr/sbin/nologin\n")
        laptop.write("/etc/group", f"{laptop.read('/etc/group')}systemd-network:x:64995:\n")
    folders = [f"/run/systemd/netif{part}" for part in ("", "/links", "/leases", "/lldp")]
    laptop.run("install", "-d", "-o", "systemd-network", "-g", "systemd-network", *folders)
    resolved.start()  # it looks for these folders when it starts
    laptop.run("mount", "-o", "remount,ro,bind", "/sys")  # then it waits for no udev
    common = "[Network]\nDHCP=no\nLinkLocalAddressing=no\nIPv6AcceptRA=no\nKeepConfiguration=yes\n"
    own = f"DNS={lab.plan.cafe.host4(1)}\nDomains=cafe.example ~test\nDNSDefaultRoute=yes\n"
    laptop.write("/etc/systemd/network/10-wlan0.network", f"[Match]\nName=wlan0\n{common}{own}")
    laptop.write("/etc/systemd/network/20-tunnel.network", f"[Match]\nName=tunwarden0\n{common}")
    laptop.start(str(NETWORKD))
    resolved.client.wait_owned("org.freedesktop.network1", PATIENCE)
    lab.join("cafe", dhcp=False)
    until(lambda: (found := resolved.link("wlan0")) is not None and bool(found.domains), "networkd has told resolved")
    before = resolved.link("wlan0")
    with pytest.raises(LabError, match="is managed"):
        resolved.call("SetLinkDefaultRoute", "ib", resolved.index("wlan0"), False)
    lab.address(lab.networks["cafe"], wait_ipv6=False)
    subject.wait("connected", PATIENCE)
    until(lambda: in_tunnel(lab, resolved), "names go into the tunnel")
    assert resolved.whoami() == lab.plan.tunnel_server[0]
    subject.cli("disconnect")
    subject.wait("idle", PATIENCE)
    until(lambda: resolved.link("wlan0") == before, "as networkd's files say")
    assert resolved.whoami() == lab.plan.cafe.host4(1)


def test_dns_over_tls_is_as_resolved_has_it(resolved: Resolved, subject: Subject) -> None:
    """The administrator wants TLS: the tunnel's resolver is asked at port 853, inside; nobody sets it back."""
    lab = subject.lab
    resolved.start("DNSOverTLS=opportunistic")
    lab.server.run("nft", "-f", "-", input=TLS_AT_THE_SERVER)
    join(lab, resolved)
    subject.wait("connected", PATIENCE)
    assert resolved.whoami() == lab.plan.tunnel_server[0], "opportunistic: without TLS in the end"
    found = json.loads(lab.server.run("nft", "-j", "list", "counter", "inet", "asked", "tls").stdout)
    assert found["nftables"][1]["counter"]["packets"] > 0
    tunnel = resolved.link("tunwarden0")
    assert tunnel is not None
    assert tunnel.over_tls == "opportunistic"
    resolved.call("SetLinkDNSOverTLS", "is", resolved.index("tunwarden0"), "no")
    resolved.lease("wlan0", [lab.plan.cafe.host4(1)], DOMAINS)
    until(lambda: in_tunnel(lab, resolved), "told again")
    tunnel = resolved.link("tunwarden0")
    assert tunnel is not None
    assert tunnel.over_tls == "no"


TLS_AT_THE_SERVER = """
table inet asked {
    counter tls { }
    chain input {
        type filter hook input priority -300
        iifname "wg*" tcp dport 853 counter name tls
    }
}
"""


@pytest.mark.parametrize("target", [UPLINK_FILE, "/etc/their-own"], ids=["uplink file", "foreign file"])
def test_readers_of_the_file_and_askers_of_resolved_both_come_to_the_tunnel(
    resolved: Resolved, subject: Subject, target: str
) -> None:
    """/etc/resolv.conf does not lead to the stub: programs read it, others (nss-resolve) ask resolved all the same."""
    lab = subject.lab
    lab.laptop.write("/etc/their-own", f"nameserver {lab.plan.cafe.host4(1)}\n")
    resolved.start(target=target)
    before = join(lab, resolved)
    subject.wait("connected", PATIENCE)
    until(lambda: in_tunnel(lab, resolved), "resolved leads into the tunnel")
    assert f"nameserver {lab.plan.tunnel_server[0]}" in lab.laptop.read("/etc/resolv.conf")
    assert asked_by_resolved(resolved) == lab.plan.tunnel_server[0].packed
    subject.cli("disconnect")
    subject.wait("idle", PATIENCE)
    assert link_of(lab) == f"..{target}"
    assert resolved.link("wlan0") == before
    assert asked_by_resolved(resolved) == lab.plan.cafe.host4(1).packed


def asked_by_resolved(resolved: Resolved) -> bytes:
    """Who answers a program that asks resolved itself: the address of `whoami.test`, over D-Bus."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return bytes(resolved.call("ResolveHostname", "isit", 0, "whoami.test", socket.AF_INET, 0)[0][0][2])
        except LabError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def test_a_resolved_that_does_not_answer_keeps_the_machine_closed(resolved: Resolved, subject: Subject) -> None:
    lab = subject.lab
    resolved.start()
    assert resolved.process is not None
    resolved.process.send(signal.SIGSTOP)
    lab.join("cafe", dhcp=False)
    lab.address(lab.networks["cafe"])
    subject.wait(lambda status: status.cause == "resolver-failed", PATIENCE)
    resolved.process.resume()
    subject.wait("connected", PATIENCE)
    until(lambda: (found := resolved.link("tunwarden0")) is not None and found.default_route, "told when it answers")


def test_own_resolvers_are_asked_through_the_tunnel_and_nobody_else(resolved: Resolved, lab: Laboratory) -> None:
    """[dns] resolvers: the firewall's list follows, also when the settings change while connected."""
    subject = Subject(lab, f'{SETTINGS}\n[dns]\nresolvers = ["{lab.plan.internet4}"]\n')
    subject.start(PATIENCE)
    subject.set_up()
    resolved.start()
    join(lab, resolved)
    subject.wait("connected", PATIENCE)
    tunnel = resolved.link("tunwarden0")
    assert tunnel is not None
    assert tunnel.servers == (str(lab.plan.internet4),)
    assert resolved.whoami() == lab.plan.internet4
    with pytest.raises(OSError, match=r"."):  # the profile's own is none of the allowed now
        resolve(lab.laptop, lab.plan.tunnel_server[0], "whoami.test")
    lab.laptop.write("/etc/tunwarden/tunwarden.toml", SETTINGS)
    until(lambda: in_tunnel(lab, resolved), "the profile's resolvers again")
    assert resolve(lab.laptop, lab.plan.tunnel_server[0], "whoami.test") == lab.plan.tunnel_server[0]
    with pytest.raises(OSError, match=r"."):
        resolve(lab.laptop, lab.plan.internet4, "whoami.test")


def test_panic_reset_gives_resolved_back(resolved: Resolved, subject: Subject) -> None:
    """With the system's own programs, and no daemon."""
    lab = subject.lab
    resolved.start()
    before = join(lab, resolved)
    subject.wait("connected", PATIENCE)
    subject.kill()
    said = subject.cli("panic-reset", "--yes")
    assert "systemd-resolved" in said
    assert resolved.link("wlan0") == before
    assert resolved.whoami() == lab.plan.cafe.host4(1)
