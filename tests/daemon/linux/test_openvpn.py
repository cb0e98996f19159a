"""The OpenVPN driver without a server: what openvpn is told, what is believed of what it says, and when it is asked."""

from __future__ import annotations

import asyncio
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from ipaddress import ip_address, ip_interface
from pathlib import Path

import pytest
from hypothesis import given as given_values
from hypothesis import strategies as st

from daemon.host import HostError, TunnelError
from daemon.linux import openvpn, openvpn_process, openvpn_vigil, tunnels
from daemon.linux.openvpn import MTU_CBC, MTU_UDP, OpenVPN
from daemon.linux.openvpn_process import TAKEN, OpenVPNProcess, configuration
from daemon.linux.openvpn_said import Given, Said, given
from daemon.linux.wireguard_device import PeerState
from daemon.linux.wireguard_go import Process
from policies.facts import Endpoint, Tunnel
from policies.firewall import MARK, TUNNEL_IFNAME
from policies.openvpn import OpenVPNProfile
from policies.profiles import Profile, parse, with_login
from policies.states import Cause
from policies.wireguard import WireGuardProfile
from tests.daemon.profiles_for_tests import CONFIG
from tests.policies.openvpn_texts import corpus

SERVER = Endpoint(ip_address("192.0.2.1"), 1194, "udp")


def profile(name: str = "installer") -> OpenVPNProfile:
    found = parse("home", corpus(name))[0]
    assert isinstance(found, OpenVPNProfile)
    return found


# --- what it is told --------------------------------------------------------------------------------------------------


def test_the_configuration() -> None:
    lines = list(configuration(profile(), SERVER, Path("/run/x/m")))
    for needed in (f"mark {MARK}", f"dev {TUNNEL_IFNAME}", "script-security 0", "ifconfig-noexec", "route-noexec",
                   "allow-compression no", "remap-usr1 SIGTERM", "remote 192.0.2.1 1194 udp4"):  # fmt: skip
        assert lines.count(needed) == 1
    marked = list(configuration(profile(), SERVER, Path("/run/x/m"), marked=True))
    assert [line for line in lines if line not in marked] == [f"mark {MARK}"]  # the kernel marks its packets
    assert "remote 2001:db8::1 443 tcp6-client" in configuration(
        profile(), Endpoint(ip_address("2001:db8::1"), 443, "tcp"), Path("/run/x/m")
    )


def test_of_what_a_server_pushes_little_is_taken() -> None:
    """By the first filter that fits, and the last one fits all."""
    lines = [line for line in configuration(profile(), SERVER, Path("/x")) if line.startswith("pull-filter")]
    filters = [re.fullmatch(r'pull-filter (accept|ignore) "(.*)"', line) for line in lines]
    assert all(filters)

    def taken(option: str) -> bool:
        return next(each[1] for each in filters if each and option.startswith(each[2])) == "accept"

    assert lines[-1] == 'pull-filter ignore ""'
    assert taken("ifconfig 10.8.0.2 255.255.255.0")
    assert taken("dhcp-option DNS6 2001:db8::1")
    for option in ("ifconfigx", "route 0.0.0.0 0.0.0.0", "redirect-gateway def1", "dhcp-option DOMAIN x", "setenv x y",
                   "up x", "pull-filter accept x", "ping-exit 1", "inactive 1", "script-security 3", "echo x",
                   "dns server 1 address 10.0.0.1", "client-nat x", "socket-flags x", "remote 192.0.2.9"):  # fmt: skip
        assert not taken(option)
    assert len(TAKEN) == len(set(TAKEN)) == len(lines) - 1


# --- what it says -----------------------------------------------------------------------------------------------------


def heard(*lines: str) -> Said:
    said = Said()
    for line in lines:
        said.hear(line)
    return said


UP = (
    ">UPDOWN:UP", ">UPDOWN:ENV,ifconfig_local=10.8.0.2", ">UPDOWN:ENV,ifconfig_netmask=255.255.255.0",
    ">UPDOWN:ENV,ifconfig_ipv6_local=fd00::2", ">UPDOWN:ENV,ifconfig_ipv6_netbits=64", ">UPDOWN:ENV,tun_mtu=1500",
    ">UPDOWN:ENV,foreign_option_2=dhcp-option DNS6 fd00::1", ">UPDOWN:ENV,foreign_option_1=dhcp-option DNS 10.8.0.1",
    ">UPDOWN:ENV,END", ">STATE:1,CONNECTED,SUCCESS,10.8.0.2,192.0.2.1,1194,,,fd00::2",
)  # fmt: skip
GIVEN = Given(
    (ip_interface("10.8.0.2/24"), ip_interface("fd00::2/64")), (ip_address("10.8.0.1"), ip_address("fd00::1")), 1500
)


def test_a_connection() -> None:
    said = heard(">HOLD:Waiting for hold release:0", ">STATE:1,WAIT,,,,,,", ">STATE:1,AUTH,,,,,,", *UP)
    assert (said.connected, said.given, said.wants_hold_released) == (True, GIVEN, True)


CAUSES = {
    "nobody answers": ((">STATE:1,WAIT,,,,,,", ">STATE:1,EXITING,tls-error,,,,,"), Cause.SERVER_UNREACHABLE),
    "refused": ((">STATE:1,TCP_CONNECT,,,,,,", ">STATE:1,EXITING,init_instance,,,,,"), Cause.SERVER_UNREACHABLE),
    "wrong password": ((">STATE:1,AUTH,,,,,,", ">PASSWORD:Verification Failed: 'Auth'"), Cause.CREDENTIALS_REFUSED),
    "their certificate": (
        (">STATE:1,AUTH,,,,,,", ">LOG:1,N,VERIFY ERROR: depth=0, error=certificate has expired: CN=x, serial=1",
         ">LOG:1,N,TLS Error: TLS handshake failed", ">STATE:1,EXITING,tls-error,,,,,"), Cause.CERTIFICATE_REFUSED),
    "ours": ((">LOG:1,W,WARNING: Your certificate has expired!",), Cause.CERTIFICATE_REFUSED),
    "no cipher in common": (
        (">STATE:1,AUTH,,,,,,", ">LOG:1,N,TLS Error: TLS handshake failed", ">STATE:1,EXITING,tls-error,,,,,"),
        Cause.TLS_FAILED),
    "an option it does not know": ((">FATAL:Options error: x", ">STATE:1,EXITING,exit-with-notification,,,,,"),
        Cause.TUNNEL_FAILED),
}  # fmt: skip


@pytest.mark.parametrize("lines, cause", CAUSES.values(), ids=CAUSES.keys())
def test_causes(lines: tuple[str, ...], cause: Cause) -> None:
    said = heard(*lines)
    assert said.cause is cause
    assert not said.connected


def test_what_a_server_writes_is_no_line_of_openvpn() -> None:
    """Names in a certificate come as variables; they are neither addresses nor the end of the list."""
    said = heard(
        ">UPDOWN:UP", ">UPDOWN:ENV,X509_0_CN=x", ">UPDOWN:ENV,X509_0_O=ifconfig_local=127.0.0.1",
        ">UPDOWN:ENV,foreign_option_=dhcp-option DNS 10.0.0.9", ">UPDOWN:ENV,common_name=>UPDOWN:ENV,END", *UP[1:],
    )  # fmt: skip
    assert said.given == GIVEN
    assert not heard(">LOG:1,I,x,>STATE:1,CONNECTED,SUCCESS,").connected


UNUSABLE = (
    {"ifconfig_local": "127.0.0.1"}, {"ifconfig_local": "0.0.0.0"}, {"ifconfig_local": "224.0.0.1"},
    {"ifconfig_local": "10.8.0.2/8"}, {"ifconfig_local": "x"}, {"ifconfig_netmask": "255.0.255.0"},
    {"ifconfig_netmask": "33"}, {"ifconfig_ipv6_local": "::1"}, {"ifconfig_ipv6_local": "ff02::1"},
    {"ifconfig_ipv6_netbits": "129"}, {"ifconfig_ipv6_local": "fd00::2%eth0"}, {"tun_mtu": "68"}, {"tun_mtu": "x"},
    {"tun_mtu": "70000"}, {"tun_mtu": "-1"}, {"ifconfig_local": "255.255.255.255"},
)  # fmt: skip
VARIABLES = {
    "ifconfig_local": "10.8.0.2", "ifconfig_netmask": "255.255.255.0", "ifconfig_ipv6_local": "fd00::2",
    "ifconfig_ipv6_netbits": "64", "tun_mtu": "1500", "foreign_option_1": "dhcp-option DNS 10.8.0.1",
    "foreign_option_2": "dhcp-option DNS6 fd00::1",
}  # fmt: skip


@pytest.mark.parametrize("change", UNUSABLE, ids=str)
def test_a_tunnel_that_cannot_be_used(change: dict[str, str]) -> None:
    assert given(VARIABLES) == GIVEN
    assert given({**VARIABLES, **change}) is None


def test_resolvers_that_cannot_be_used_are_left_out() -> None:
    bad = ("127.0.0.53", "::1", "x", "10.0.0.1 10.0.0.2", "224.0.0.251", "")
    more = {f"foreign_option_{number}": f"dhcp-option DNS {each}" for number, each in enumerate(bad, 3)}
    assert given(VARIABLES | more) == GIVEN
    many = {
        f"foreign_option_{number}": f"dhcp-option DNS 10.1.{number // 250}.{number % 250 + 1}" for number in range(900)
    }
    found = given(VARIABLES | many)
    assert found is not None
    assert len(found.resolvers) == 8


LINES = st.sampled_from(
    (">STATE:", ">UPDOWN:", ">UPDOWN:UP", ">UPDOWN:ENV,", ">UPDOWN:ENV,END", ">UPDOWN:ENV,ifconfig_local=", ">LOG:",
     ">UPDOWN:ENV,tun_mtu=", ">UPDOWN:ENV,foreign_option_1=dhcp-option DNS ", ">PASSWORD:", ">HOLD:", ">FATAL:", "")
)  # fmt: skip


@given_values(st.lists(st.tuples(LINES, st.text(max_size=20))))
def test_any_lines(lines: list[tuple[str, str]]) -> None:
    """Nothing is raised, and what is told to people is one printable line."""
    said = heard(*(beginning + rest for beginning, rest in lines))
    assert isinstance(said.cause, Cause)
    assert said.why.isprintable()
    if said.given is not None:
        assert all(not each.ip.is_loopback for each in said.given.addresses)


# --- the driver -------------------------------------------------------------------------------------------------------


def test_packets_that_fit() -> None:
    """They leave in one piece, whatever the cipher; over TCP that is its own business."""
    driver = OpenVPN()
    driver._server = SERVER
    assert driver._mtu(replace(profile(), options=()), GIVEN) == MTU_UDP
    assert driver._mtu(profile("old-cipher"), GIVEN) == MTU_CBC
    assert driver._mtu(profile(), replace(GIVEN, mtu=1400)) == 1400
    driver._server = replace(SERVER, protocol="tcp")
    assert driver._mtu(profile(), GIVEN) == 1500
    assert MTU_UDP + 40 + 8 + 24 == 1500
    assert MTU_CBC >= 1280, "or IPv6 would be off"


def refused(tried: OpenVPNProfile) -> TunnelError:
    with pytest.raises(TunnelError) as caught:
        openvpn._usable(tried)
    return caught.value


def test_what_cannot_be_tried() -> None:
    assert refused(profile("many-ports")).cause is Cause.CREDENTIALS_MISSING
    assert refused(profile("home-server")).cause is Cause.TUNNEL_FAILED  # its name has no address
    ready = with_login(profile("many-ports"), "alice", "sesame")
    assert isinstance(ready, OpenVPNProfile)
    assert openvpn._usable(ready) == Endpoint(ip_address("192.0.2.10"), 80, "udp")


def test_a_program_that_others_may_write(tmp_path: Path) -> None:
    """E4."""
    program = tmp_path / "openvpn"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o777)
    for path in (program, tmp_path / "missing"):
        with pytest.raises(HostError):
            asyncio.run(start(path, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


async def start(program: Path, folder: Path) -> None:
    await OpenVPNProcess(program, folder).start(profile(), SERVER)


# --- when it is asked -------------------------------------------------------------------------------------------------


class Resolver:
    """One on the loopback, which answers for as long as `answers` is true."""

    def __init__(self, port: socket.socket, answers: bool) -> None:
        self._port, self.answers, self.asked = port, answers, asyncio.Event()
        self._serving = asyncio.ensure_future(self._serve())

    async def _serve(self) -> None:
        while True:
            question, asker = await asyncio.get_running_loop().sock_recvfrom(self._port, 512)
            self.asked.set()
            if self.answers:
                self._port.sendto(question[:2] + b"\x80\x80", asker)

    async def is_asked(self) -> None:
        self.asked.clear()
        await asyncio.wait_for(self.asked.wait(), 25)


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    monkeypatch.setattr(openvpn_vigil, "TUNNEL_IFNAME", "lo")
    monkeypatch.setattr(openvpn_vigil, "FIRST_WAITS", (5.0,))
    monkeypatch.setattr(openvpn_vigil, "WAITS", (0.1, 5.0))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as port:
        port.bind(("127.0.0.1", 0))
        port.setblocking(False)
        monkeypatch.setattr(openvpn_vigil, "DNS_PORT", port.getsockname()[1])
        yield port


HERE = ip_address("127.0.0.1")


def test_a_tunnel_whose_way_has_changed_is_asked(port: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer is life, none is death."""

    async def run() -> str:
        resolver, moved = Resolver(port, True), asyncio.Event()
        watching = asyncio.ensure_future(openvpn_vigil.silent([HERE], PeerState, moved))
        await resolver.is_asked()
        for _ in range(2):
            await asyncio.sleep(0.1)  # until it has heard the answer
            moved.set()
            await resolver.is_asked()
            assert not watching.done()
        await asyncio.sleep(0.1)
        resolver.answers = False
        monkeypatch.setattr(openvpn_vigil, "WAITS", (0.1, 0.1))
        moved.set()
        return await asyncio.wait_for(watching, 25)

    assert "does not answer" in asyncio.run(run())


def test_a_resolver_that_never_answered_proves_nothing(port: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvpn_vigil, "FIRST_WAITS", (0.1, 0.1))

    async def run() -> str:
        resolver, moved = Resolver(port, False), asyncio.Event()
        watching = asyncio.ensure_future(openvpn_vigil.silent([HERE], PeerState, moved))
        await resolver.is_asked()
        await asyncio.sleep(0.5)
        assert not watching.done()
        moved.set()
        return await asyncio.wait_for(watching, 25)

    assert asyncio.run(run()) == "the way to the server has changed"


def test_what_is_no_answer(port: socket.socket) -> None:
    """Another number is another question's."""

    async def run() -> bool:
        async def serve() -> None:
            question, asker = await asyncio.get_running_loop().sock_recvfrom(port, 512)
            port.sendto(bytes(each ^ 255 for each in question[:2]) + question[2:], asker)

        serving = asyncio.ensure_future(serve())
        answered = await openvpn_vigil.answers(HERE, (0.3,))
        await serving
        return answered

    assert not asyncio.run(run())


# --- which driver -----------------------------------------------------------------------------------------------------


class Recorder:
    def __init__(self, name: str, calls: list[str]) -> None:
        self.name, self.calls = name, calls

    async def open(self, profile: Profile) -> Tunnel:
        self.calls.append(f"{self.name} open")
        return Tunnel(TUNNEL_IFNAME, ())

    async def close(self) -> None:
        self.calls.append(f"{self.name} close")

    async def established(self) -> None:
        self.calls.append(f"{self.name} established")


def test_one_tunnel_at_a_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The other kind is taken down before one is made, also what an earlier daemon left of it."""
    calls: list[str] = []
    monkeypatch.setattr(openvpn, "OpenVPN", lambda: Recorder("openvpn", calls))
    monkeypatch.setattr(tunnels, "OPENVPN_PID", tmp_path / "pid")
    wireguard = parse("home", CONFIG)[0]
    assert isinstance(wireguard, WireGuardProfile)

    async def run() -> None:
        both = tunnels.Tunnels(Recorder("wireguard", calls))  # type: ignore[arg-type]
        await both.open(wireguard)
        await both.established()
        assert calls == ["wireguard open", "wireguard established"]
        calls.clear()
        await both.open(profile())
        await both.established()
        assert calls == ["wireguard close", "openvpn open", "openvpn established"]
        calls.clear()
        await both.open(profile())
        assert calls == ["openvpn open"]
        calls.clear()
        await both.open(wireguard)
        await both.close()
        assert calls == ["openvpn close", "wireguard open", "openvpn close", "wireguard close"]
        calls.clear()
        (tmp_path / "pid").touch()
        await tunnels.Tunnels(Recorder("wireguard", calls)).close()  # type: ignore[arg-type]
        assert calls == ["openvpn close", "wireguard close"]

    asyncio.run(run())


def test_what_is_not_used_is_not_loaded() -> None:
    """It takes memory, and most machines have no such profile."""
    code = "import sys, daemon.__main__, daemon.linux.host; print([name for name in sys.modules if 'openvpn' in name])"
    told = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True).stdout
    assert told == "[]\n"


# --- the rights of the process ------------------------------------------------------------------------------------


def capabilities() -> int:
    """Of the calling thread, in force."""
    said = re.search(r"^CapEff:\s*([0-9a-f]+)$", Path("/proc/thread-self/status").read_text(), re.M)
    assert said is not None
    return int(said[1], 16)


def test_the_program_has_no_rights_and_we_keep_ours() -> None:
    async def check() -> str:
        script = "import re; print(re.findall(r'(?:CapEff|CapPrm|NoNewPrivs):.*', open('/proc/self/status').read()))"
        process = Process([sys.executable, "-I", "-c", script], give_up=partial(openvpn_process._give_up, True))
        async with asyncio.timeout(20):
            await process.wait()
        return process.last_words()

    before = capabilities()
    said = asyncio.run(check())
    assert before, "the control: there is something to give up"
    assert f"CapPrm:\\t{0:016x}" in said and f"CapEff:\\t{0:016x}" in said and "NoNewPrivs:\\t1" in said
    assert capabilities() == before


def test_what_cannot_give_up_its_rights_is_not_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail closed, and our own rights are untouched."""

    class Refusing:
        def prctl(self, *_: int) -> int:
            return 0

        def capset(self, *_: bytes) -> int:
            return -1

    async def check(begun: Path) -> None:
        with pytest.raises(OSError, match="rights"):
            Process(["/usr/bin/touch", str(begun)], give_up=partial(openvpn_process._give_up, True))

    monkeypatch.setattr(openvpn_process, "_libc", Refusing())
    before = capabilities()
    asyncio.run(check(tmp_path / "begun"))
    assert not (tmp_path / "begun").exists()
    assert capabilities() == before
