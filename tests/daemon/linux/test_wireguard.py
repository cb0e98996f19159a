"""The driver without a network: when silence is suspicious, what a device is told, what its answers mean."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path

import pytest

from daemon.host import HostError, TunnelDriver, TunnelError
from daemon.linux import wireguard, wireguard_go
from daemon.linux.wireguard import WireGuard, main_peer
from daemon.linux.wireguard_device import Unsupported
from daemon.linux.wireguard_go import WireGuardGo, configuration, parse_peers, parse_reply
from policies.facts import Endpoint
from policies.states import Cause
from policies.wireguard import WireGuardPeer, WireGuardProfile

PRIVATE, PRESHARED = bytes(range(32)), bytes(range(100, 132))
PEER = WireGuardPeer(
    public_key=bytes(range(50, 82)),
    host="vpn.example",
    port=51820,
    allowed_ips=(ip_network("0.0.0.0/0"), ip_network("::/0")),
    preshared_key=PRESHARED,
    keepalive=25,
    addresses=(ip_address("192.0.2.1"), ip_address("2001:db8::1")),
)
SITE = replace(
    PEER,
    public_key=bytes(range(150, 182)),
    allowed_ips=(ip_network("198.51.100.0/24"),),
    preshared_key=None,
    keepalive=0,
    addresses=(ip_address("2001:db8::9"),),
)
PROFILE = WireGuardProfile(
    name="lab",
    private_key=PRIVATE,
    addresses=(ip_interface("198.51.100.130/26"), ip_interface("2001:db8:5::2/128")),
    resolvers=(),
    search=(),
    peers=(SITE, PEER),
)


def test_wireguard_is_the_tunnel_driver_of_the_host() -> None:
    driver: TunnelDriver = WireGuard()
    assert driver


# --- what a device is told --------------------------------------------------------------------------------------------


def test_the_peer_with_the_widest_networks_stands_for_the_tunnel() -> None:
    assert main_peer(PROFILE) is PEER
    assert main_peer(replace(PROFILE, peers=(SITE, replace(SITE, port=1)))) is SITE
    with pytest.raises(HostError, match="has no peer"):
        main_peer(replace(PROFILE, peers=()))


def test_configuration_is_keys_numbers_and_addresses() -> None:
    assert list(configuration(PROFILE)) == [
        "set=1",
        f"private_key={PRIVATE.hex()}",
        "listen_port=0",
        f"fwmark={0x74756E77}",
        "replace_peers=true",
        f"public_key={SITE.public_key.hex()}",
        "endpoint=[2001:db8::9]:51820",
        "persistent_keepalive_interval=0",
        "replace_allowed_ips=true",
        "allowed_ip=198.51.100.0/24",
        f"public_key={PEER.public_key.hex()}",
        f"preshared_key={PRESHARED.hex()}",
        "endpoint=192.0.2.1:51820",
        "persistent_keepalive_interval=25",
        "replace_allowed_ips=true",
        "allowed_ip=0.0.0.0/0",
        "allowed_ip=::/0",
    ]


def test_e2_no_text_of_the_profile_reaches_the_socket() -> None:
    renamed = replace(
        PROFILE, name="private_key", search=("set.example",), peers=(replace(PEER, host="remove.example"),)
    )
    assert list(configuration(renamed)) == list(configuration(replace(PROFILE, peers=(PEER,))))


def test_a_peer_that_cannot_be_called_is_configured_without_endpoint() -> None:
    silent = replace(SITE, host="", port=0, addresses=())
    assert main_peer(replace(PROFILE, peers=(replace(silent, allowed_ips=PEER.allowed_ips), PEER))) is PEER
    assert wireguard._connectable(silent, False) is silent
    lines = list(configuration(replace(PROFILE, peers=(silent,))))
    assert not any(line.startswith("endpoint") for line in lines)
    with pytest.raises(HostError, match="has no endpoint"):
        wireguard._connectable(silent, True)


class Fake:
    """A device that only fails, at a chosen step."""

    def __init__(self, failing: str = "", error: type[HostError] = HostError) -> None:
        self.failing, self.error, self.calls = failing, error, list[str]()

    def __getattr__(self, name: str) -> object:
        async def method(*_: object) -> None:
            self.calls.append(name)
            if name == self.failing:
                raise self.error(name, f"{self.failing} refused")

        return method


def run_open(driver: WireGuard, profile: WireGuardProfile = PROFILE) -> TunnelError:
    with pytest.raises(TunnelError) as caught:
        asyncio.run(driver.open(profile))
    assert caught.value.cause is Cause.TUNNEL_FAILED
    return caught.value


@pytest.fixture
def no_links(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The driver's own netlink calls only note themselves: these tests run outside any namespace."""
    calls: list[str] = []

    async def delete() -> None:
        calls.append("delete link")

    async def configure(_: object) -> None:
        calls.append("configure link")
        raise HostError("configure the tunnel link", "refused")

    monkeypatch.setattr(wireguard, "delete_link", delete)
    monkeypatch.setattr(wireguard, "configure_link", configure)
    return calls


def test_the_next_backend_is_taken_where_one_is_missing(no_links: list[str]) -> None:
    first, second = Fake("create", Unsupported), Fake("configure")
    assert run_open(WireGuard([first, second])).why == "configure refused"
    assert second.calls == ["remove", "create", "configure", "remove"]


def test_without_any_backend_each_reason_is_told(no_links: list[str]) -> None:
    devices = [Fake("create", Unsupported), Fake("create", Unsupported)]
    assert run_open(WireGuard(devices)).why == "create refused; create refused"


@pytest.mark.parametrize("step", ["create", "configure", "nothing"])
def test_any_failure_undoes_everything(no_links: list[str], step: str) -> None:
    device = Fake(step)
    driver = WireGuard([device])
    run_open(driver)
    assert device.calls[-1] == "remove"
    assert no_links[-1] == "delete link", "last, whatever was made before"
    assert asyncio.run(driver.counters()) is None


def test_the_link_goes_even_when_the_process_does_not(no_links: list[str]) -> None:
    with pytest.raises(TunnelError, match="remove refused"):
        asyncio.run(WireGuard([Fake("remove")]).close())
    assert no_links == ["delete link"]


def test_a_peer_nobody_resolved_is_refused_before_anything_is_made(no_links: list[str]) -> None:
    device = Fake()
    error = run_open(WireGuard([device]), replace(PROFILE, peers=(replace(PEER, addresses=()),)))
    assert str(error) == "open the tunnel to vpn.example: its name was not resolved"
    assert "create" not in device.calls


def test_without_ipv6_the_next_address_is_taken(no_links: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wireguard, "has_ipv6", lambda *_: False)
    both = replace(PEER, addresses=PEER.addresses[::-1])
    assert wireguard._connectable(both, True).addresses == (ip_address("192.0.2.1"),)
    with pytest.raises(HostError, match="IPv6 addresses only"):
        wireguard._connectable(SITE, False)


def test_the_main_peer_of_a_profile_without_keepalive_sends_one_to_connect(no_links: list[str]) -> None:
    assert wireguard._connectable(replace(PEER, keepalive=0), True).keepalive == 1
    assert wireguard._connectable(replace(PEER, keepalive=0), False).keepalive == 0


# --- what its answers mean --------------------------------------------------------------------------------------------

ANSWER = f"""private_key={PRIVATE.hex()}
listen_port=40000
fwmark=1953787511
public_key={PEER.public_key.hex()}
preshared_key={PRESHARED.hex()}
protocol_version=1
endpoint=[2001:db8::7%3]:443
last_handshake_time_sec=1700000000
last_handshake_time_nsec=500000000
tx_bytes=180
rx_bytes=92
persistent_keepalive_interval=25
allowed_ip=0.0.0.0/0
public_key={SITE.public_key.hex()}
endpoint=192.0.2.9:51820
last_handshake_time_sec=0
last_handshake_time_nsec=0
errno=0

""".encode()


def test_an_answer_becomes_peers_without_secrets() -> None:
    peers = parse_peers(parse_reply("read", ANSWER))
    assert peers[PEER.public_key].handshake == 1_700_000_000.5
    assert (peers[PEER.public_key].rx, peers[PEER.public_key].tx) == (92, 180)
    assert peers[PEER.public_key].endpoint == Endpoint(ip_address("2001:db8::7%3"), 443)
    assert peers[SITE.public_key].handshake == 0.0
    assert no_secret(repr(peers))


@pytest.mark.parametrize(
    ("reply", "sentence"),
    [
        (b"errno=-98\n\n", "Address already in use"),
        (b"errno=22\n\n", "Invalid argument"),
        (b"errno=x\n\n", "unknown error"),
        (b"errno=\n\n", "unknown error"),
        (b"rx_bytes=1\n\n", "incomplete answer"),
        (b"", "incomplete answer"),
        (b"\xff\xfe\n\n", "incomplete answer"),
    ],
)
def test_a_refusal_is_a_sentence(reply: bytes, sentence: str) -> None:
    with pytest.raises(HostError, match=sentence):
        parse_reply("configure the tunnel", reply)


def no_secret(text: str) -> bool:
    """Whether a text is free of the keys, in every form they could have."""
    from base64 import b64encode

    forms = [form for key in (PRIVATE, PRESHARED) for form in (key.hex(), b64encode(key).decode(), repr(key)[2:-1])]
    return not any(form in text for form in forms)


@contextmanager
def listening(path: Path, *answers: bytes) -> Iterator[None]:
    """A socket that gives one answer a connection, whatever it is asked, and closes. It is this process."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()

        def serve() -> None:
            for answer in answers:
                connection, _ = server.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield
        thread.join()


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WireGuardGo:
    """A device whose process is this one."""
    device = WireGuardGo("t0", sockets=tmp_path, pid_file=tmp_path / "pid")
    monkeypatch.setattr(device, "_process", type("Ours", (), {"pid": os.getpid()}))
    return device


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (b"", "incomplete answer"),
        (f"private_key={PRIVATE.hex()}\n".encode(), "incomplete answer"),
        (b"x" * 9000, "incomplete answer"),
        (f"public_key={PRIVATE.hex()}z\nerrno=0\n\n".encode(), "unreadable answer"),
        (b"public_key=00\nrx_bytes=many\nerrno=0\n\n", "unreadable answer"),
        (b"public_key=00\nendpoint=nowhere:1\nerrno=0\n\n", "unreadable answer"),
    ],
)
def test_a_bad_answer_is_an_error_that_quotes_none_of_it(
    device: WireGuardGo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: bytes, sentence: str
) -> None:
    monkeypatch.setattr(wireguard_go, "REPLY_LONGEST", 4096)
    with listening(tmp_path / "t0.sock", answer), pytest.raises(HostError, match=sentence) as caught:
        asyncio.run(device.read())
    chain: BaseException | None = caught.value
    while chain is not None:
        assert no_secret(repr(chain) + str(vars(chain)))
        chain = chain.__cause__ or chain.__context__


def test_silence_is_an_error_after_a_limit(
    device: WireGuardGo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wireguard_go, "REPLY_TIME", 0.05)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "t0.sock"))
        server.listen()
        with pytest.raises(HostError, match="did not answer within"):
            asyncio.run(device.configure(PROFILE))


def test_keys_are_told_to_our_own_process_only(device: WireGuardGo, tmp_path: Path) -> None:
    script = """
import socket, sys
server = socket.socket(socket.AF_UNIX); server.bind(sys.argv[1]); server.listen()
print("ready", flush=True)
print(server.accept()[0].recv(65536), flush=True)
"""
    impostor = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "t0.sock")], stdout=subprocess.PIPE)
    with impostor:
        assert impostor.stdout is not None
        assert impostor.stdout.readline() == b"ready\n"
        with pytest.raises(HostError, match="another program listens"):
            asyncio.run(device.configure(PROFILE))
        assert impostor.stdout.readline() == b"b''\n"


def test_e4_a_program_others_could_have_written_is_not_started(tmp_path: Path) -> None:
    program = tmp_path / "wireguard-go"
    program.write_text("#!/bin/sh\ntouch started\n")
    program.chmod(0o755)
    with pytest.raises(HostError, match="somebody else than root"):
        asyncio.run(WireGuardGo("t0", program=program, sockets=tmp_path, pid_file=tmp_path / "pid").create())


def test_a_machine_without_wireguard_go_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="is not installed"):
        asyncio.run(WireGuardGo("t0", program=Path("/usr/bin/no-such-wireguard"), sockets=tmp_path).create())


def test_a_program_that_ends_at_once_tells_its_last_words(tmp_path: Path) -> None:
    device = WireGuardGo("t0", program=Path("/bin/false"), sockets=tmp_path, pid_file=tmp_path / "pid")

    async def work() -> None:
        with pytest.raises(HostError, match=r"wireguard-go ended \(exit status 1\)"):
            await device.create()
        await device.remove()

    asyncio.run(work())
    assert not (tmp_path / "pid").exists()


def test_a_stale_pid_file_ends_nobody(tmp_path: Path) -> None:
    """The number is in use again, by another process: its start time tells."""
    bystander = subprocess.Popen(["sleep", "60"])
    try:
        pid_file = tmp_path / "pid"
        started = wireguard_go.start_time(bystander.pid)
        for content in (f"{bystander.pid} {started - 1}\n", f"{bystander.pid}\n", "x y\n", "", "1 1 1"):
            pid_file.write_text(content)
            asyncio.run(WireGuardGo("t0", sockets=tmp_path, pid_file=pid_file).remove())
            assert bystander.poll() is None
        pid_file.write_text(f"{bystander.pid} {started}\n")
        asyncio.run(WireGuardGo("t0", sockets=tmp_path, pid_file=pid_file).remove())
        assert bystander.wait(30) == -15
    finally:
        bystander.kill()
        bystander.wait()


def test_a_profile_shows_no_key() -> None:
    assert no_secret(repr(PROFILE))
