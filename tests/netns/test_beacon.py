"""N5: a network proven by a TLS server inside it, over the held link, through an exception to that server only."""

from __future__ import annotations

import contextlib
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

from ipc.structs import Status
from lab.air import Air
from lab.capture import Captured
from lab.certificates import Certificate, self_signed
from lab.frames import ETH_IPV4, LEAKS
from lab.hosts import Host
from lab.meter import Meter
from lab.probes import exit_address
from lab.processes import Process
from lab.subject import SETTINGS, Subject
from lab.topology import Laboratory
from policies.firewall import MARK
from tests.netns.conftest import Layers

pytestmark = pytest.mark.netns

SERVER = str(Path(__file__).parents[2] / "lab" / "tls_beacon.py")
PORT, OTHER_PORT = 443, 444
SO_MARK, TCP = 36, 6  # <asm-generic/socket.h>
WAIT = 25.0
ENTRY = '[[known]]\nssid = "Home"\nsecurity = "wpa2"\naction = "disconnect"\n'
CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 3)"


def endpoint(address: IPv4Address | IPv6Address) -> str:
    return f"[{address}]:{PORT}" if address.version == 6 else f"{address}:{PORT}"


def pinned(address: IPv4Address | IPv6Address, certificate: Certificate, identify: str = "1m") -> str:
    assert ENTRY in SETTINGS
    text = SETTINGS.replace(
        ENTRY, f'{ENTRY}beacon = "{endpoint(address)}"\nbeacon_sha256 = "{certificate.digest.hex()}"\n'
    )
    return text.replace("[wifi]\n", f'[wifi]\nidentify_timeout = "{identify}"\n')


@pytest.fixture
def home(tmp_path: Path) -> Certificate:
    return self_signed(tmp_path, "home")


@pytest.fixture
def stranger(tmp_path: Path) -> Certificate:
    return self_signed(tmp_path, "stranger")


def serve(
    host: Host, address: object, certificate: Certificate, behaviour: str = "proves", port: int = PORT
) -> Process:
    files = str(certificate.certificate), str(certificate.key)
    process = host.start(sys.executable, "-I", "-S", SERVER, str(address), str(port), *files, behaviour)
    process.wait_output("ready", WAIT)
    return process


def daemon(lab: Laboratory, settings: str) -> Subject:
    subject = Subject(lab, settings)
    subject.start(WAIT)
    subject.set_up()
    return subject


def reasons(status: Status) -> list[str]:
    return [reason.code for network in status.networks for reason in network.reasons]


def is_asking(frame: Captured, address: IPv4Address | IPv6Address) -> bool:
    """TCP to the beacon, its exact address and port."""
    packet = frame.payload
    if address.version == 4:
        header = (packet[0] & 15) * 4
        protocol, goes_to = packet[9], packet[16:20]
    else:
        header, protocol, goes_to = 40, packet[6], packet[24:40]
    family = (frame.ethertype == ETH_IPV4) == (address.version == 4)
    return family and (protocol, goes_to, packet[header + 2 : header + 4]) == (TCP, address.packed, PORT.to_bytes(2))


@contextmanager
def only_the_question_leaves(lab: Laboratory, address: IPv4Address | IPv6Address) -> Iterator[Meter]:
    """Traffic of nine kinds, and of all that may not leave nothing leaves but what is said to the beacon."""
    with lab.meter() as meter:
        with lab.traffic(rate=40.0) as traffic:
            yield meter
        assert sum(each.tried for each in traffic.counts.values()) > 0
        left = [(frame, kind) for frame, kind in meter.frames() if kind in LEAKS]
        assert [meter.describe(*each) for each in left if not is_asking(each[0], address)] == []
        assert left, "and that was seen"
        meter.positive_control()


# --- what an answer comes to ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [4, 6])
def test_nothing_leaves_before_the_beacon_has_proven_the_network(
    lab: Laboratory, home: Certificate, family: int
) -> None:
    """N10 as well: every frame before the last word to the beacon is a word to the beacon."""
    address = lab.plan.home.host4(1) if family == 4 else lab.plan.home.host6(1)
    subject = daemon(lab, pinned(address, home))
    with lab.meter() as meter, lab.traffic(rate=40.0) as traffic:
        lab.join("home")
        subject.wait(lambda status: "beacon-silent" in reasons(status), WAIT)
        time.sleep(1.0)  # of traffic against the hold
        assert subject.status().state == "held"
        beacon = serve(lab.home, address, home)
        status = subject.wait("idle", WAIT)
        assert reasons(status) == ["saved", "saved-beacon"]
        assert (status.networks[0].verdict, status.networks[0].cleared) == ("known", True)
        assert exit_address(lab.laptop, lab.plan.internet4) == lab.plan.home_uplink.host4(2)
        assert beacon.output().count("asked by") == 1
        left = [(frame, kind) for frame, kind in meter.frames() if kind in LEAKS]
    assert sum(each.tried for each in traffic.counts.values()) > 0
    last = max(number for number, (frame, _) in enumerate(left) if is_asking(frame, address))
    assert [meter.describe(*each) for each in left[:last] if not is_asking(each[0], address)] == []
    assert len(left) > last + 1, "the meter sees what leaves once it may: that is its control"


def test_an_impostor_with_another_certificate(lab: Laboratory, home: Certificate, stranger: Certificate) -> None:
    address = lab.plan.home.host4(1)
    subject = daemon(lab, pinned(address, home))
    beacon = serve(lab.home, address, stranger)
    with only_the_question_leaves(lab, address):
        lab.join("home")
        status = subject.wait("connected", WAIT)
        assert (status.networks[0].verdict, reasons(status)) == ("unsecured", ["impostor-beacon"])
        assert status.networks[0].rule == "rule of the verdict"
        assert exit_address(lab.laptop, lab.plan.internet4) == lab.plan.server4
    assert beacon.output().count("asked by") == 1


@pytest.mark.parametrize("behaviour", ["nobody", "closes", "silent", "drips", "garbage", "keyless"])
def test_silence_is_neither_trusted_nor_an_alarm_and_a_late_proof_counts(
    lab: Laboratory, home: Certificate, behaviour: str
) -> None:
    """Also while connected: the network is known then, and its rule disconnects."""
    address = lab.plan.home.host4(1)
    subject = daemon(lab, pinned(address, home, identify="2s"))
    impostor = serve(lab.home, address, home, behaviour) if behaviour != "nobody" else None
    with only_the_question_leaves(lab, address):
        lab.join("home")
        status = subject.wait("connected", WAIT)
        assert status.networks[0].verdict == "unidentified"
        assert reasons(status) in (["beacon-unseen"], ["beacon-silent"])
        assert exit_address(lab.laptop, lab.plan.internet4) == lab.plan.server4
        assert status.alarm is None
    if impostor is not None:
        impostor.wait_output("asked by", WAIT)
        impostor.kill()
    serve(lab.home, address, home)
    status = subject.wait("idle", 90)  # the pauses between questions have grown, to a minute at most
    assert reasons(status) == ["saved", "saved-beacon"]


# --- the exception ----------------------------------------------------------------------------------------------------


def connects(
    lab: Laboratory, address: IPv4Address, port: int = PORT, *, wanted: bool, marked: bool = False, bound: bool = False
) -> bool:
    """`wanted`: whether it should, and may take its time."""
    with lab.laptop.socket(socket.AF_INET, socket.SOCK_STREAM) as program:
        program.settimeout(WAIT if wanted else 1.5)
        if marked:
            program.setsockopt(socket.SOL_SOCKET, SO_MARK, MARK)
        if bound:
            program.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"wlan0\0")
        with contextlib.suppress(OSError):
            program.connect((str(address), port))
            return True
    return False


def test_the_exception_is_for_our_packets_to_that_server_only(layers: Layers, home: Certificate) -> None:
    """By link, address, port, protocol and mark. A marked program of root is where the hole is: that is the control.

    Routing alone leaves marked packets to the firewall, whoever they go to, and IPv4 that is bound to the link (L11).
    """
    lab, leaks = layers.lab, layers.name == "routing"
    address, beside = lab.plan.home.host4(1), lab.plan.home.host4(60)  # not one that the laptop may be given
    lab.home.ip(f"address add {beside}/26 dev lan")
    subject = layers(pinned(address, home))
    for where, port in ((address, OTHER_PORT), (beside, PORT)):
        serve(lab.home, where, home, port=port)
    beacon = serve(lab.home, address, home, "silent")
    lab.join("home")
    beacon.wait_output("asked by", WAIT)
    assert subject.status().state == "held"
    assert connects(lab, address, wanted=True, marked=True), "the hole is here"
    assert connects(lab, address, wanted=True, marked=True, bound=True)
    assert not connects(lab, address, wanted=False)
    assert connects(lab, address, wanted=leaks, bound=True) is leaks
    assert connects(lab, address, OTHER_PORT, wanted=leaks, marked=True) is leaks
    assert connects(lab, beside, wanted=leaks, marked=True) is leaks
    assert connects(lab, lab.plan.internet4, 80, wanted=leaks, marked=True) is leaks
    user = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable, "-I", "-S", "-c", CONNECT)
    assert lab.laptop.run(*user, str(address), str(PORT), check=False).returncode != 0
    assert subject.status().state == "held", "all this while the exception stood"
    assert connects(lab, address, wanted=True, marked=True)


def test_a_flow_of_somebody_else_from_before_does_not_use_it(lab: Laboratory, home: Certificate) -> None:
    """L10: a browser that was connected to the beacon itself hears nothing while the link is held again."""
    address = lab.plan.home.host4(1)
    subject = daemon(lab, pinned(address, home))
    beacon = serve(lab.home, address, home)
    lab.join("home")
    subject.wait("idle", WAIT)
    listener = lab.home.socket(socket.AF_INET, socket.SOCK_STREAM)
    beacon.kill()
    with listener, lab.laptop.socket(socket.AF_INET, socket.SOCK_STREAM) as browser:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((str(address), PORT))
        listener.listen()
        browser.settimeout(WAIT)
        browser.connect((str(address), PORT))
        with listener.accept()[0] as other_end:
            other_end.sendall(b"before")
            assert browser.recv(100) == b"before"
            lab.air.ip("link set air-wlan0 down")
            lab.card.wait_carrier("wlan0", False)
            lab.air.ip("link set air-wlan0 up")  # the same network again, without a new address
            # Our listener takes its question, and never answers: after ten seconds it is silent.
            asked = {"beacon-unseen", "beacon-silent"}
            subject.wait(lambda status: status.state == "held" and bool(asked & {*reasons(status)}), WAIT)
            other_end.sendall(b"meanwhile")
            browser.settimeout(2.0)
            with pytest.raises(TimeoutError):
                browser.recv(100)
            assert subject.status().state == "held"


def test_a_beacon_behind_another_link_proves_nothing(lab: Laboratory, home: Certificate) -> None:
    """Somebody else's Wi-Fi of the name, and the cable leads home: the question goes over the Wi-Fi, and only there."""
    address = lab.plan.wired.host4(1)
    subject = daemon(
        lab, pinned(address, home, identify="2s").replace("[wifi]", '[wired]\naction = "ignore"\n\n[wifi]')
    )
    beacon = serve(lab.home, address, home)
    lab.plug()
    subject.wait("idle", WAIT)
    with lab.meter() as meter:
        lab.join("cafe", ssid=b"Home", air=Air.WPA2)
        status = subject.wait(lambda status: "beacon-silent" in reasons(status), 60)
        asking = [frame for frame, _ in meter.frames() if is_asking(frame, address)]
        assert {frame.ifindex for frame in asking} == {meter._links["wlan0"]}
        assert "known" not in [network.verdict for network in status.networks]
    assert "asked by" not in beacon.output()


# --- pinned by people -------------------------------------------------------------------------------------------------


def test_people_pin_what_is_there(lab: Laboratory, home: Certificate, stranger: Certificate) -> None:
    address = lab.plan.home.host4(1)
    subject = daemon(lab, SETTINGS.replace(ENTRY, "").replace("[wifi]\n", '[wifi]\nidentify_timeout = "1m"\n'))
    beacon = serve(lab.home, address, home)
    lab.join("home")
    subject.wait("idle", WAIT)
    subject.cli("known", "add", "--action", "disconnect")
    said = subject.cli("known", "edit", "Home", "--beacon", endpoint(address))
    assert f"Its beacon is {endpoint(address)} with the certificate {home.digest.hex(':')}." in said
    assert f"beacon {endpoint(address)}" in subject.cli("known", "list")
    assert subject.wait(lambda status: "saved-beacon" in reasons(status), WAIT).state == "idle"
    beacon.kill()
    serve(lab.home, address, stranger)
    lab.leave()
    lab.join("home")
    assert reasons(subject.wait("connected", WAIT)) == ["impostor-beacon"]
    exported = subject.cli("known", "export")
    assert home.digest.hex() in exported
    subject.cli("known", "edit", "Home", "--unset", "beacon")
    assert subject.wait("idle", WAIT).networks[0].verdict == "known"
    subject.cli("known", "import", "-", input=exported)
    assert reasons(subject.wait("connected", WAIT)) == ["impostor-beacon"]
