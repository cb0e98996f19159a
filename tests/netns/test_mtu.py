"""T7: a way to the server that swallows large packets, and what becomes of transfers. Its decision: test_mtu.py."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import pytest

from lab.addresses import SINK_PORT, SOURCE_PORT
from lab.air import Air
from lab.hosts import Host
from lab.openvpn_server import PROGRAM, OpenVpnServer
from lab.probes import exit_address
from lab.subject import PROFILE, SETTINGS, Subject
from lab.topology import Laboratory

pytestmark = pytest.mark.netns

PATIENCE = 25.0  # seconds
HANGS = 4.0  # seconds in which a transfer that takes 0.2 s is no further: what the control waits
MEGABYTE = 1 << 20
OWN = 1420  # bytes: what the tunnel begins with
# A router that swallows what is too large, and says nothing of it.
SILENT = """
table inet silent {
    chain output {
        type filter hook output priority filter
        icmp type destination-unreachable icmp code frag-needed drop
        icmpv6 type packet-too-big drop
    }
}
"""


def narrow(lab: Laboratory, mtu: int, name: str = "cafe") -> None:
    """The line between that router and the internet carries so many bytes, and nobody tells."""
    for host, link in ((lab.hosts[name], "wan"), (lab.internet, name)):
        host.ip(f"link set {link} mtu {mtu}")
        if mtu < 1500:
            host.run("nft", "-f", "-", input="table inet silent\ndelete table inet silent\n" + SILENT)


def link_mtu(lab: Laboratory) -> int:
    words = lab.laptop.run("ip", "link", "show", "tunwarden0").stdout.split()
    return int(words[words.index("mtu") + 1])


def searched(subject: Subject, mtu: int) -> None:
    """Wait until that has been found, and is what the link has."""
    found = subject.wait(lambda status: status.mtu_source == "search" and status.mtu == mtu, PATIENCE)
    assert found.state == "connected"
    assert link_mtu(subject.lab) == mtu


@contextlib.contextmanager
def connection(
    host: Host, to: IPv4Address | IPv6Address, port: int, patience: float = PATIENCE
) -> Iterator[socket.socket]:
    with host.socket(socket.AF_INET if to.version == 4 else socket.AF_INET6, socket.SOCK_STREAM) as made:
        made.settimeout(patience)
        made.connect((str(to), port))
        yield made


def uploads(host: Host, to: IPv4Address | IPv6Address, patience: float = PATIENCE) -> bool:
    """Whether a megabyte arrives there."""
    with connection(host, to, SINK_PORT, patience) as upload:
        try:
            upload.sendall(bytes(MEGABYTE))
            upload.shutdown(socket.SHUT_WR)
            return int(upload.recv(100)) == MEGABYTE
        except TimeoutError:
            return False


def downloads(host: Host, to: IPv4Address | IPv6Address, patience: float = PATIENCE) -> bool:
    """Whether a megabyte comes from there."""
    with connection(host, to, SOURCE_PORT, patience) as download:
        left = MEGABYTE
        try:
            while left > 0:
                left -= len(download.recv(1 << 16))
        except TimeoutError:
            return False
    return True


def with_mtu(config: str, mtu: int) -> str:
    return config.replace("[Interface]\n", f"[Interface]\nMTU = {mtu}\n")


def without_ipv6(lab: Laboratory) -> str:
    inside6 = lab.plan.site.inside_client[1]
    resolver6 = lab.plan.site.inside_server[1]
    return lab.client_config().replace(f", {inside6}/128", "").replace(f", {resolver6}", "")


def bring(subject: Subject, config: str) -> None:
    with subject.client() as client:
        client.import_profile(PROFILE, config)


def test_t7_the_same_transfer_hangs_without_the_search(subject: Subject) -> None:
    """The positive control, and a profile that says its MTU is left alone."""
    lab = subject.lab
    bring(subject, with_mtu(lab.client_config(), OWN))
    narrow(lab, 1380)
    lab.join("cafe")
    status = subject.wait("connected", PATIENCE)
    assert (status.mtu, status.mtu_source) == (OWN, "profile")
    assert not uploads(lab.laptop, lab.plan.internet4, HANGS)
    assert not downloads(lab.laptop, lab.plan.internet4, HANGS)
    assert link_mtu(lab) == OWN
    assert subject.status().mtu_source == "profile"


@pytest.mark.parametrize(("line", "found"), [(1380, 1312), (1350, 1280), (1492, OWN), (1500, OWN)])
def test_t7_large_packets_pass(subject: Subject, sealed: Any, line: int, found: int) -> None:
    lab = subject.lab
    narrow(lab, line)
    with sealed():
        lab.join("cafe")
        searched(subject, found)
        for internet in (lab.plan.internet4, lab.plan.internet6):
            assert uploads(lab.laptop, internet)
            assert downloads(lab.laptop, internet)
    assert subject.status().warnings == ()


def test_t7_over_ipv6(subject: Subject, sealed: Any) -> None:
    """The tunnel's own headers are 20 bytes longer there, and no router cuts packets into pieces."""
    lab = subject.lab
    bring(subject, lab.client_config(ipv6_endpoint=True))
    narrow(lab, 1400)
    with sealed():
        lab.join("cafe6")
        searched(subject, 1312)  # of 1320
        for internet in (lab.plan.internet4, lab.plan.internet6):
            assert uploads(lab.laptop, internet)
            assert downloads(lab.laptop, internet)


def test_t7_a_transfer_that_began_before_goes_on(subject: Subject) -> None:
    """The line becomes narrower in the midst of it. That it hangs is noticed, and what was lost sent again, smaller."""
    lab = subject.lab
    lab.join("cafe")
    searched(subject, OWN)
    with connection(lab.laptop, lab.plan.internet4, SINK_PORT) as upload:
        upload.settimeout(60.0)  # TCP itself waits longer each time
        upload.sendall(bytes(1000))
        narrow(lab, 1380)
        lab.join("cafe")  # anew: the server stays the same, and so does the tunnel
        upload.sendall(bytes(MEGABYTE))
        upload.shutdown(socket.SHUT_WR)
        assert int(upload.recv(100)) == MEGABYTE + 1000


def test_t7_from_one_network_to_another_and_back(subject: Subject, sealed: Any) -> None:
    lab = subject.lab
    narrow(lab, 1380)
    with sealed():
        lab.join("cafe")
        searched(subject, 1312)
        lab.join("home", ssid=b"Hotel", air=Air.OPEN)
        searched(subject, OWN)
        assert downloads(lab.laptop, lab.plan.internet4)
        lab.join("cafe")
        searched(subject, 1312)
        assert downloads(lab.laptop, lab.plan.internet4)


def test_t7_a_narrow_line_and_a_tunnel_without_ipv6(subject: Subject, sealed: Any) -> None:
    """Below what IPv6 needs: only where the tunnel has none."""
    lab = subject.lab
    bring(subject, without_ipv6(lab))
    narrow(lab, 1280)
    with sealed():
        lab.join("cafe")
        searched(subject, 1200)  # of 1220
        assert uploads(lab.laptop, lab.plan.internet4)
        assert downloads(lab.laptop, lab.plan.internet4)


def test_t7_a_line_too_narrow_for_ipv6_is_told(subject: Subject, sealed: Any) -> None:
    lab = subject.lab
    narrow(lab, 1300)
    with sealed():
        lab.join("cafe")
        searched(subject, 1280)
        status = subject.wait(lambda status: bool(status.warnings), PATIENCE)
        assert "IPv6" in status.warnings[0]
    lab.join("home", ssid=b"Hotel", air=Air.OPEN)
    searched(subject, OWN)
    assert subject.status().warnings == ()


DROPS = "table inet deaf {{ chain input {{ type filter hook input priority filter; {}; }}; }}\n"
DEAF = {
    "to echoes": "icmp type echo-request drop; icmpv6 type echo-request drop",
    "to large echoes": "icmp type echo-request meta length > 500 drop; icmpv6 type echo-request meta length > 500 drop",
}


@pytest.mark.parametrize("deaf", DEAF.values(), ids=DEAF)
def test_t7_a_resolver_that_answers_questions_only(subject: Subject, deaf: str) -> None:
    lab = subject.lab
    lab.server.run("nft", "-f", "-", input=DROPS.format(deaf))
    narrow(lab, 1380)
    lab.join("cafe")
    searched(subject, 1312)
    assert uploads(lab.laptop, lab.plan.internet4)


def test_t7_nobody_answers(subject: Subject) -> None:
    """Then nothing is known, and the tunnel keeps what it has."""
    lab = subject.lab
    lab.server.run("nft", "-f", "-", input=DROPS.format('iifname "wg0" drop'))
    lab.join("cafe")
    subject.wait("connected", PATIENCE)
    assert subject.process is not None
    subject.process.wait_output("answer=silent", PATIENCE)
    status = subject.status()
    assert (status.mtu, status.mtu_source) == (OWN, "default")
    assert link_mtu(lab) == OWN


def test_t7_containers(subject: Subject, sealed: Any) -> None:
    """They do not know the tunnel's MTU; what they agree on with their peers is made to fit."""
    lab = subject.lab
    container = lab.add_container()
    narrow(lab, 1380)
    lab.laptop.run("nft", "-f", "-", input=SILENT)  # nor are they told
    with sealed():
        lab.join("cafe")
        searched(subject, 1312)
        assert downloads(container, lab.plan.internet4)
        assert uploads(container, lab.plan.internet4)


@pytest.mark.skipif(not Path(PROGRAM).exists(), reason="openvpn is missing: run lab/install-missing")
def test_t7_openvpn(subject: Subject, tmp_path: Path) -> None:
    """Its server pushes no MTU, and its own `mssfix` knows nothing of the way; what is found is the link's."""
    lab = subject.lab
    server = OpenVpnServer(lab.vpn, lab.plan, tmp_path)
    server.start()
    bring(subject, server.client_config())
    narrow(lab, 1380)
    with lab.meter() as meter:
        meter.expect = server.expect()
        lab.join("cafe")
        searched(subject, 1328)  # 1380 less IPv4 20, UDP 8, opcode and peer 4, packet number 4, tag 16
        for internet in (lab.plan.internet4, lab.plan.internet6):
            assert uploads(lab.laptop, internet)
            assert downloads(lab.laptop, internet)
        assert meter.leaks() == []
        meter.positive_control()


def test_t7_excluded_networks_keep_their_own_size(lab: Laboratory) -> None:
    """What goes beside the tunnel has the size of its link, what goes through it that of the tunnel."""
    beside = lab.plan.internet4
    subject = Subject(lab, f'{SETTINGS}\n[split]\nsubnets = ["{beside}/32"]\n')
    subject.start(PATIENCE)
    subject.set_up()
    narrow(lab, 1380)
    lab.join("cafe")
    searched(subject, 1312)
    assert exit_address(lab.laptop, beside) == lab.plan.cafe_uplink.host4(2)
    assert exit_address(lab.laptop, lab.plan.internet6) == lab.plan.server6
    with connection(lab.laptop, beside, SINK_PORT) as direct:
        assert direct.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG) > 1312
    with connection(lab.laptop, lab.plan.internet6, SINK_PORT) as inside:
        assert inside.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG) <= 1312 - 60
    assert uploads(lab.laptop, lab.plan.internet6)
    assert downloads(lab.laptop, lab.plan.internet6)
    assert link_mtu(lab) == 1312
