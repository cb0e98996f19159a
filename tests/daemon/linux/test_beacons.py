"""N5: whose certificate a server proves to hold, asked by the confined child. Whatever else answers is silence.

The servers are real ones at the loopback of a host of their own, so the link that is asked over is `lo`.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path

import pytest

from daemon.host import HostError
from daemon.linux import beacons, confined_tls
from daemon.linux.beacons import LinuxBeacons
from lab.certificates import Certificate, self_signed
from lab.hosts import Host
from lab.processes import Process
from policies.facts import Endpoint
from policies.firewall import MARK

pytestmark = pytest.mark.netns

SERVER = str(Path(__file__).parents[3] / "lab" / "tls_beacon.py")
PORT = 443
LOCAL, LOCAL6 = Endpoint(ip_address("127.0.0.1"), PORT, "tcp"), Endpoint(ip_address("::1"), PORT, "tcp")
FINGERPRINT = """
import daemon  # first, as always
import asyncio, sys
from ipaddress import ip_address
from daemon.linux.beacons import LinuxBeacons
from policies.facts import Endpoint
server = Endpoint(ip_address(sys.argv[2]), int(sys.argv[3]), "tcp")
print(asyncio.run(LinuxBeacons().fingerprint(sys.argv[1], server)).hex())
print("ssl" in sys.modules and sys.modules["ssl"] is not None)
"""


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with Host("beacon") as made:
        made.ip("link set lo up", "link add veth0 type veth peer name veth1", "address add 192.0.2.9/24 dev veth0",
                "link set veth0 up", "link set veth1 up")  # fmt: skip
        yield made


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return self_signed(tmp_path_factory.mktemp("certificates"), "home")


@contextmanager
def served(
    host: Host, certificate: Certificate, behaviour: str = "proves", address: str = "127.0.0.1"
) -> Iterator[Process]:
    files = str(certificate.certificate), str(certificate.key)
    process = host.start(sys.executable, "-I", "-S", SERVER, address, str(PORT), *files, behaviour)
    try:
        process.wait_output("ready", 25)
        yield process
    finally:
        process.kill()


def asked(host: Host, server: Endpoint = LOCAL, ifname: str = "lo") -> bytes:
    return host.inside(lambda: asyncio.run(LinuxBeacons().fingerprint(ifname, server)))


@pytest.mark.parametrize("behaviour", ["proves", "tls12"])
@pytest.mark.parametrize("server", [LOCAL, LOCAL6], ids=["IPv4", "IPv6"])
def test_the_digest_of_the_certificate(host: Host, home: Certificate, behaviour: str, server: Endpoint) -> None:
    with served(host, home, behaviour, str(server.address)) as process:
        assert asked(host, server) == home.digest
        process.wait_output("asked by", 25)
    said = subprocess.run(
        ["openssl", "x509", "-noout", "-fingerprint", "-sha256", "-in", home.certificate],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    assert said.strip().partition("=")[2] == home.digest.hex(":").upper(), "what people are told to write down"


SILENT = {
    "silent": "took longer",
    "drips": "took longer",
    "endless": "",
    "garbage": "",
    "closes": "",
    "keyless": "",
    "tls11": "",
}


@pytest.mark.parametrize("behaviour", SILENT)
def test_nothing_else_is_an_answer(
    host: Host, home: Certificate, behaviour: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each shows, or would show, the right certificate; none of them has proven that it is its own."""
    monkeypatch.setattr(beacons, "ANSWER_S", 3.0)
    with served(host, home, behaviour) as process:
        with pytest.raises(HostError, match=rf"ask the beacon 127.0.0.1:443 over lo: .*{SILENT[behaviour]}"):
            asked(host)
        process.wait_output("forged" if behaviour == "keyless" else "asked by", 25)
    with served(host, home):
        assert asked(host) == home.digest, "and the next one is asked as ever"


def test_old_versions_are_refused_also_where_openssl_would_take_them() -> None:
    assert confined_tls.CONTEXT.minimum_version is ssl.TLSVersion.TLSv1_2


def test_a_huge_certificate_is_refused_or_read_but_not_for_long(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenSSL takes 100 KiB at most; below that it is a certificate like any other."""
    large, huge = self_signed(tmp_path, "large", 2_000), self_signed(tmp_path, "huge", 10_000)
    assert large.certificate.stat().st_size > 50_000 and huge.certificate.stat().st_size > 200_000
    with served(host, large):
        assert asked(host) == large.digest
    with served(host, huge), pytest.raises(HostError):
        asked(host)


def test_nobody_is_there(host: Host) -> None:
    with pytest.raises(HostError, match="Connection refused"):
        asked(host)


def test_nobody_answers(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beacons, "CONNECT_S", 0.5)
    with pytest.raises(HostError, match=r"nobody answers|No route to host"):
        asked(host, Endpoint(ip_address("192.0.2.77"), PORT, "tcp"), "veth0")


def test_another_link_is_not_taken_for_this_one(host: Host, home: Certificate, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is there, on `lo`, and asked for over a link behind which it is not."""
    monkeypatch.setattr(beacons, "CONNECT_S", 1.0)
    with served(host, home):
        assert asked(host) == home.digest
        with pytest.raises(HostError):
            asked(host, ifname="veth1")
        with pytest.raises(HostError, match="No such device"):
            asked(host, ifname="wlan7")


def test_what_it_sends_is_marked(host: Host, home: Certificate) -> None:
    """Of two rules, one that refuses all that has our mark and one that refuses all that has not, one lets it pass."""
    rules = (
        "table inet t {{\nchain c {{\ntype filter hook output priority 0\n"
        "tcp dport 443 meta mark {} {:#x} reject\n}}\n}}\n"
    )
    with served(host, home):
        for operator, passes in (("!=", True), ("==", False)):
            host.run("nft", "-f", "-", input=f"flush ruleset\n{rules.format(operator, MARK)}\n")
            try:
                if passes:
                    assert asked(host) == home.digest
                else:
                    with pytest.raises(HostError):
                        asked(host)
            finally:
                host.run("nft", "flush ruleset")


def test_cancelled_it_leaves_nothing_behind(host: Host, home: Certificate) -> None:
    def children() -> list[str]:
        return Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()

    async def cancelled() -> None:
        asking = asyncio.create_task(LinuxBeacons().fingerprint("lo", LOCAL))
        await asyncio.to_thread(process.wait_output, "asked by", 25)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking

    with served(host, home, "silent") as process:
        before = children()
        host.inside(lambda: asyncio.run(cancelled()))
        assert children() == before


def test_the_daemon_itself_never_loads_tls(host: Host, home: Certificate) -> None:
    """It costs 7 MiB, and is what strangers talk to."""
    with served(host, home):
        said = host.run(sys.executable, "-I", "-c", FINGERPRINT, "lo", "127.0.0.1", str(PORT), timeout=60).stdout
    assert said.split() == [home.digest.hex(), "False"]
