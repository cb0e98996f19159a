"""K7: the probes and the verdicts of `leak-test`, without a network. scapy is the second reading of every packet."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.dns import DNS
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, ICMPv6ND_NS, IPv6
from scapy.layers.l2 import ARP
from scapy.packet import Raw

from cli import leak_test
from cli.leak_probes import (
    ETH_ARP,
    ETH_IPV4,
    ETH_IPV6,
    PORTS,
    Frame,
    Kind,
    Probe,
    Verdict,
    control,
    payload,
    probes,
    recognises,
)
from cli.leak_test import TUNNEL, Result, judge, open_by_choice, summary
from cli.leak_wire import Sent
from ipc.structs import Network, Status
from policies.firewall import TUNNEL_IFNAME
from tests.cli.running import tunwarden
from tests.ipc.places import STRANGER, public_folder

TARGET4, TARGET6 = ip_address("203.0.113.7"), ip_address("2001:db8::7")
NETWORKS = (IPv4Network("203.0.113.0/24"), IPv6Network("2001:db8::/32"))
PORT = 40000


def packet(probe: Probe, target: str | None = None, port: int = PORT, hops: int = 64) -> Frame:
    """The probe as a frame over wlan0, built by scapy."""
    six = probe.target.version == 6
    head = (IPv6 if six else IP)(dst=target or str(probe.target), src="2001:db8::1" if six else "192.0.2.1")
    setattr(head, "hlim" if six else "ttl", hops)
    match probe.kind:
        case Kind.UDP | Kind.DNS:
            whole = head / UDP(sport=port, dport=PORTS[probe.kind]) / Raw(payload(probe))
        case Kind.TCP:
            whole = head / TCP(sport=port, dport=PORTS[probe.kind])
        case Kind.ICMP:
            whole = head / Raw(payload(probe))
    return Frame("wlan0", ETH_IPV6 if six else ETH_IPV4, bytes(whole))


def probe_of(kind: Kind, version: int = 4, link: str | None = None) -> Probe:
    return Probe(kind, TARGET4 if version == 4 else TARGET6, link)


EACH = [probe_of(kind, version) for kind in Kind for version in (4, 6)]
NAMES = [f"{probe.kind.value}{probe.target.version}" for probe in EACH]


def test_which_probes_there_are() -> None:
    made = probes(["wlan0", "eth0"], NETWORKS)
    assert len(made) == len(Kind) * 2 * 3
    assert {(probe.kind, probe.target.version, probe.link) for probe in made} == {
        (kind, version, link) for kind in Kind for version in (4, 6) for link in (None, "wlan0", "eth0")
    }
    assert all(any(probe.target in network for network in NETWORKS) for probe in made)
    assert len({probe.token for probe in made}) == len(made)
    single = probes([], [IPv4Network("192.0.2.9/32"), IPv6Network("2001:db8::/127")])
    assert {str(probe.target) for probe in single} <= {"192.0.2.9", "2001:db8::", "2001:db8::1"}


@pytest.mark.parametrize("probe", EACH, ids=NAMES)
def test_a_probe_is_what_it_says(probe: Probe) -> None:
    """Read by scapy: valid packets of their kind, with the mark where one fits."""
    six = probe.target.version == 6
    read: Any = (IPv6 if six else IP)(packet(probe).packet)
    match probe.kind:
        case Kind.DNS:
            question = read[DNS].qd[0] if isinstance(read[DNS].qd, list) else read[DNS].qd
            assert question.qname == probe.token.hex().encode() + b".invalid."
            assert (read[DNS].rd, read[DNS].qdcount, question.qtype) == (1, 1, 1)
        case Kind.ICMP if six:
            assert ICMPv6EchoRequest(payload(probe)).data == probe.token
        case Kind.ICMP:
            echo = ICMP(payload(probe))
            assert (echo.type, echo[Raw].load) == (8, probe.token)
            whole = bytes(echo)
            del echo.chksum
            assert bytes(echo) == whole, "the checksum is right"
        case Kind.UDP:
            assert read[Raw].load.endswith(probe.token)
        case Kind.TCP:
            assert read[TCP].flags == "S"
            assert payload(probe) == b""


@pytest.mark.parametrize("probe", EACH, ids=NAMES)
def test_a_probe_is_recognised_and_no_other(probe: Probe) -> None:
    elsewhere = "192.0.2.9" if probe.target.version == 4 else "2001:db8::9"
    assert recognises(probe, packet(probe), PORT)
    for other in EACH:
        stranger = replace(other, token=bytes(16))
        if other.kind is not Kind.TCP or probe.kind is not Kind.TCP or other.target.version != probe.target.version:
            assert not recognises(probe, packet(stranger), PORT)
    if probe.kind is Kind.TCP:  # without a payload, its addresses and ports must be its own
        assert not recognises(probe, packet(probe, port=PORT + 1), PORT)
        assert not recognises(probe, packet(probe), None)
        assert recognises(probe, packet(probe, elsewhere, hops=1), PORT)
        assert not recognises(probe, packet(probe, elsewhere), PORT)
    else:  # the mark is found wherever somebody redirects the packet to
        assert recognises(probe, packet(probe, elsewhere, 1))


def test_a_question_for_the_way_is_recognised() -> None:
    """With an answer, the packet itself would follow."""
    asks4 = Frame("wlan0", ETH_ARP, bytes(ARP(op=1, psrc="192.0.2.1", pdst=str(TARGET4))))
    asks6 = Frame(
        "wlan0", ETH_IPV6, bytes(IPv6(dst="ff02::1:ff00:7", src="2001:db8::1") / ICMPv6ND_NS(tgt=str(TARGET6)))
    )
    other4 = Frame("wlan0", ETH_ARP, bytes(ARP(op=1, psrc=str(TARGET4), pdst="192.0.2.2")))
    other6 = Frame("wlan0", ETH_IPV6, bytes(IPv6(dst="ff02::1:ff00:7") / ICMPv6ND_NS(tgt="fe80::7")))
    for probe in EACH:
        six = probe.target.version == 6
        assert recognises(probe, asks6 if six else asks4)
        assert not any(recognises(probe, frame) for frame in (asks4 if six else asks6, other4, other6))


@given(st.sampled_from(EACH), st.sampled_from([ETH_IPV4, ETH_IPV6, ETH_ARP, 0x88B5]), st.binary(max_size=80))
def test_nothing_else_is_recognised(probe: Probe, ethertype: int, junk: bytes) -> None:
    assert not recognises(probe, Frame("wlan0", ethertype, junk), PORT) or probe.target.packed in junk


def test_the_control_frame_tells_nothing() -> None:
    """An ARP probe (RFC 5227) that names no address of ours and asks for one that nobody has."""
    own, token = bytes.fromhex("020304050607"), bytes(range(16))
    data = control(own, token)
    read: Any = ARP(data)
    assert (read.op, read.hwsrc, read.psrc, read.hwdst) == (1, "02:03:04:05:06:07", "0.0.0.0", "00:00:00:00:00:00")
    assert read.pdst.startswith("169.254.0.")
    assert len(data) + 14 <= 60  # within the shortest Ethernet frame: the mark lies in what is padding anyway
    assert data.endswith(token)
    assert len(control(b"", token)) == len(data)  # a link without hardware addresses


# --- verdicts --------------------------------------------------------------------------------------------------------


def verdict(probe: Probe, *frames: Frame, refused: str | None = None, cleared: frozenset[str] = frozenset()) -> Result:
    sent = Sent(probe, refused, PORT)
    return judge(sent, frames, [sent], cleared)


def over(ifname: str, probe: Probe) -> Frame:
    return replace(packet(probe), ifname=ifname)


def test_verdicts(monkeypatch: pytest.MonkeyPatch) -> None:
    probe = probe_of(Kind.UDP, link="wlan0")
    leak, inside, gone = over("wlan0", probe), over(TUNNEL, probe), over("", probe)
    monkeypatch.setattr(leak_test, "has_address", lambda link, version: version == 4)
    assert TUNNEL == TUNNEL_IFNAME
    assert verdict(probe, leak) == Result(probe, Verdict.LEAKED, "over wlan0", (leak,))
    assert verdict(probe, leak, refused="refused").verdict is Verdict.LEAKED, "what was seen counts, not what was said"
    assert verdict(probe, inside, leak).verdict is Verdict.LEAKED
    assert verdict(probe, inside).verdict is Verdict.TUNNEL
    assert verdict(probe, over("tailscale0", probe)).verdict is Verdict.LEAKED, "somebody else's tunnel is not ours"
    assert verdict(probe, gone).verdict is Verdict.UNTESTED
    assert verdict(probe).how == "silently dropped"
    assert verdict(probe, refused="refused (x)") == Result(probe, Verdict.KEPT, "refused (x)")
    six = probe_of(Kind.UDP, 6, "wlan0")
    assert verdict(six, refused="refused (x)") == Result(six, Verdict.UNTESTED, "no IPv6 address")
    assert verdict(six, over("wlan0", six), refused="refused (x)").verdict is Verdict.LEAKED
    # By choice only where somebody chose so.
    assert verdict(probe, leak, cleared=frozenset({"wlan0"})).verdict is Verdict.CHOICE
    assert verdict(probe, leak, over("eth0", probe), cleared=frozenset({"wlan0"})).verdict is Verdict.LEAKED


def test_a_shared_target() -> None:
    """A question for the one address that was named is laid to the probe that is bound to the link."""
    free, bound = (Sent(probe_of(Kind.UDP, link=link)) for link in (None, "wlan0"))
    asks = Frame("wlan0", ETH_ARP, bytes(ARP(op=1, psrc="192.0.2.1", pdst=str(TARGET4))))
    assert judge(bound, [asks], [free, bound], frozenset()).verdict is Verdict.LEAKED
    assert judge(free, [asks], [free, bound], frozenset()).verdict is Verdict.KEPT
    assert judge(free, [asks], [free], frozenset()).verdict is Verdict.LEAKED


STATUS = Status(
    state="idle", target="unprotected", protected=False, blocking=False, cause=None, cause_text=None, profile=None,
    server=None, since=0, networks=(), kill_switch=True, lockdown=False, warnings=(), alarm=None, rx_bytes=0,
    tx_bytes=0, lists=0, sequence=0, version="0",
)  # fmt: skip
WLAN0 = Network("wlan0", "wifi", "x", "78", "open", "known", (), None, None, True)


@pytest.mark.parametrize(
    "changes, chosen",
    [
        ({}, True),
        ({"lockdown": True}, False),
        ({"blocking": True}, False),
        ({"target": "protected"}, False),  # an alarm: it should block and does not
        ({"target": "protected", "protected": True, "state": "connected"}, False),
        ({"target": "protected", "kill_switch": False, "state": "reconnecting"}, True),
        ({"target": "protected", "kill_switch": False, "state": "connected", "protected": True}, False),
    ],
)
def test_what_is_open_by_choice(changes: dict[str, Any], chosen: bool) -> None:
    status = replace(STATUS, networks=(WLAN0, replace(WLAN0, ifname="eth0", cleared=False)), **changes)
    assert open_by_choice(status) is chosen
    assert leak_test._cleared(status) == (frozenset({"wlan0"}) if chosen else frozenset())
    assert leak_test._cleared(None) == frozenset()


def test_evidence_with_and_without_scapy(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = packet(probe_of(Kind.TCP))
    leak_test._decoders.cache_clear()
    assert summary(frame) == "IP / TCP 192.0.2.1:40000 > 203.0.113.7:https S"
    assert summary(Frame("wlan0", 0x88B5, b"")) == "type 0x88b5"
    leak_test._decoders.cache_clear()
    monkeypatch.setitem(sys.modules, "scapy.layers", None)
    assert summary(frame) == "IPv4"
    monkeypatch.undo()
    leak_test._decoders.cache_clear()


# --- the program -----------------------------------------------------------------------------------------------------


@pytest.mark.netns
def test_it_needs_root() -> None:
    with public_folder() as folder:
        ended = tunwarden(folder, "leak-test", who=STRANGER)
        assert (ended.code, ended.out) == (4, "")
        assert "sudo tunwarden leak-test" in ended.err
        assert json.loads(tunwarden(folder, "leak-test", "--json", who=STRANGER).out)["error"] == "not-permitted"


@pytest.mark.netns
@pytest.mark.parametrize(
    "words",
    [
        ("--target4", "2001:db8::1"), ("--target6", "203.0.113.1"), ("--target4", "203.0.113.1/24"), ("--wait", "0"),
        ("--wait", "nan"), ("--wait", "x"), ("--hops", "64"), ("--link",), ("stray",),
    ],
)  # fmt: skip
def test_bad_arguments(words: tuple[str, ...]) -> None:
    with public_folder() as folder:
        ended = tunwarden(folder, "leak-test", *words)
    assert ended.code == 2
    assert "Traceback" not in ended.err
    assert words[0] in ended.err
