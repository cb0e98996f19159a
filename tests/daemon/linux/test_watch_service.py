"""The service that watches links: the real one, with CAP_NET_RAW alone; and what the daemon believes of a liar."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path
from typing import Any

import pytest

from daemon.host import HostError
from daemon.linux import watch_client
from daemon.linux.confinement import FAILED, LONGEST, RESULT, TOLD
from daemon.linux.watch_client import SOCKET, VERSION, ServiceFrames, ServiceLeakCheck, echo_sockets, link_of
from daemon.linux.watch_service import WatchService
from daemon.linux.wireguard_echo import Echo
from lab.hosts import Host
from lab.processes import Process
from policies.facts import Evidence, Link, LinkKind
from policies.firewall import TUNNEL_IFNAME
from policies.hostile import CHANGES
from tests.policies.test_frames import GATEWAY, MAC, OTHER, arp, dhcp, route

pytestmark = pytest.mark.netns

LONG = 30.0  # seconds: no test waits so long where all is well
UP0 = Link(2, "up0", LinkKind.WIFI, mac=b"\x02\0\0\0\0\x07", addresses=(ip_interface("192.168.7.20/24"),))


@pytest.fixture
def laptop() -> Iterator[Host]:
    """Its link up0 has an attacker at the other end (down0), its tunnel somebody who answers."""
    with Host("laptop") as host, Host("router") as router:
        host.ip(
            f"link add name up0 type veth peer name down0 netns {router.pid}",
            f"link add name {TUNNEL_IFNAME} type veth peer name inside netns {router.pid}",
            "link set lo up", "link set up0 up", f"link set {TUNNEL_IFNAME} up",
            "address add 192.168.7.20/24 dev up0", f"address add 10.7.0.2/24 dev {TUNNEL_IFNAME}",
            f"address add fd00::2/64 dev {TUNNEL_IFNAME} nodad", "route add default via 192.168.7.1",
        )  # fmt: skip
        router.ip(
            "link set down0 up", "address add 192.168.7.1/24 dev down0", "link set inside up",
            "address add 10.7.0.1/24 dev inside", "address add fd00::1/64 dev inside nodad",
        )  # fmt: skip
        while "state UP" not in host.run("ip", "link", "show", "up0").stdout:
            time.sleep(0.01)
        host.attacker = router.socket(socket.AF_PACKET, socket.SOCK_RAW)  # type: ignore[attr-defined]
        with contextlib.closing(host.attacker) as attacker:  # type: ignore[attr-defined]
            attacker.bind(("down0", 0))
            yield host


@pytest.fixture
def service(laptop: Host, monkeypatch: pytest.MonkeyPatch) -> Process:
    """As systemd starts it; and this process asks it, as if it could not open packet sockets itself."""
    monkeypatch.setattr(watch_client, "may_open", lambda: False)
    return started(laptop)


def started(laptop: Host) -> Process:
    at(laptop).unlink(missing_ok=True)
    started = laptop.start(
        sys.executable, "-m", "lab.socket_activated", f"/run/{SOCKET}",
        sys.executable, "-I", "-m", "daemon.linux.watch_service",
    )  # fmt: skip
    wait(lambda: at(laptop).is_socket())
    return started


def at(laptop: Host) -> Path:
    return laptop.path(f"/run/{SOCKET}")


def wait(condition: Callable[[], Any]) -> None:
    until = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def children(pid: int) -> list[int]:
    found = subprocess.run(["pgrep", "--parent", str(pid)], capture_output=True, text=True, check=False).stdout
    return [int(each) for each in found.split()]


def runs(pid: int) -> bool:
    try:
        return status_of(pid)["State"][0] not in "ZX"
    except OSError:
        return False


# --- what it does -----------------------------------------------------------------------------------------------------


def test_evidence_of_attackers(laptop: Host, service: Process) -> None:
    """What waits in the socket until somebody judges the network is seen too, and gateways that come later count."""
    attacker: socket.socket = laptop.attacker  # type: ignore[attr-defined]

    async def watched() -> list[Evidence]:
        watch = ServiceFrames(at(laptop)).watch(UP0)
        found = watch.found()
        try:
            first = asyncio.create_task(anext(found))
            await readers(service)
            attacker.send(dhcp((121, route("0.0.0.0/1 192.168.7.66"))))
            told = [(await first).evidence]
            watch.follow(Link(2, "up0", LinkKind.WIFI, gateways=(ip_address(GATEWAY),)), None)
            second = asyncio.create_task(anext(found))
            while not second.done():  # the filter is set a moment later
                for mac in (MAC, OTHER) * CHANGES:
                    attacker.send(arp(GATEWAY, at=mac))
                await asyncio.sleep(0.2)
            return [*told, (await second).evidence]
        finally:
            watch.close()
            await found.aclose()

    assert asyncio.run(asyncio.wait_for(watched(), LONG)) == [Evidence.DHCP_ROUTES, Evidence.GATEWAY_MOVED]
    wait(lambda: service.pid and not children(service.pid))  # its reader ends with the question


async def readers(service: Process) -> int:
    """The reader of frames, once it is confined."""
    while True:
        for child in children(service.pid or 0):
            with contextlib.suppress(OSError):
                if status_of(child)["Seccomp"] == "2":
                    return child
        await asyncio.sleep(0.01)


def test_who_reads_frames_has_no_capability_and_who_opens_sockets_has_one(laptop: Host, service: Process) -> None:
    async def looked() -> tuple[dict[str, str], dict[str, str]]:
        watch = ServiceFrames(at(laptop)).watch(UP0)
        found = watch.found()
        waiting = asyncio.create_task(anext(found))
        try:
            return status_of(await readers(service)), status_of(service.pid or 0)
        finally:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            watch.close()

    reader, opener = asyncio.run(asyncio.wait_for(looked(), LONG))
    assert {reader[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} - {opener["CapInh"]} <= {"0" * 16}
    assert {reader[name] for name in ("CapPrm", "CapEff", "CapAmb")} == {"0" * 16}
    assert {opener[name] for name in ("CapPrm", "CapEff", "CapBnd")} == {f"{1 << 13:016x}"}
    assert opener["CapAmb"] == "0" * 16


def test_leaks_are_found(laptop: Host, service: Process) -> None:
    def check(*excluded: str) -> tuple[str, ...]:
        networks = tuple(ip_network(each) for each in excluded)
        return asyncio.run(ServiceLeakCheck(networks, at(laptop)).check(["up0"]))

    (sentence,) = check()
    assert sentence.startswith("Test packets left over up0 outside the tunnel (UDP, TCP, ICMP over IPv4")
    assert check("203.0.113.0/24", "2001:db8::/32") == ()
    rules = "table inet closed { chain output { type filter hook output priority 0; policy drop; }; };"
    laptop.run("nft", "-f", "-", input=rules + "\n")
    assert check() == ()
    rule = "insert rule inet closed output ip protocol udp accept"
    laptop.run("nft", *rule.split())
    assert "(UDP over IPv4" in check()[0]
    of_another = ServiceLeakCheck((), at(laptop))
    of_another.tunnel = "up0"  # what leaves there is not captured, so the control that the check sees anything fails
    with pytest.raises(HostError, match="check for leaks"):
        asyncio.run(of_another.check(["up0"]))


def test_echoes_through_the_tunnel(laptop: Host, service: Process) -> None:
    async def echoed(target: str) -> float:
        given = await echo_sockets([ip_address(target)], at(laptop))
        assert len(given) == 1
        with contextlib.closing(Echo(given)) as echo:
            while echo.rtt is None:
                echo.send()
                await asyncio.sleep(0.05)
            return echo.rtt

    async def elsewhere() -> None:
        given = await echo_sockets([ip_address("10.7.0.1"), ip_address("fd00::1")], at(laptop))
        for each, _ in given:
            bound = each.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16).rstrip(b"\0")
            assert bound == TUNNEL_IFNAME.encode()
            each.close()
        assert [target.version for _, target in given] == [4, 6]

    for target in ("10.7.0.1", "fd00::1"):
        assert asyncio.run(asyncio.wait_for(echoed(target), LONG)) < LONG
    asyncio.run(elsewhere())
    laptop.ip(f"link delete {TUNNEL_IFNAME}")
    assert asyncio.run(echo_sockets([ip_address("10.7.0.1")], at(laptop))) == []


def test_a_link_that_is_not_there(laptop: Host, service: Process) -> None:
    with pytest.raises(HostError, match=r"^listen on nowhere0: No such device$"):
        asyncio.run(first_of(at(laptop), Link(9, "nowhere0", LinkKind.WIFI)))
    assert asyncio.run(ServiceLeakCheck((), at(laptop)).check(["nowhere0"])) == ()


def test_a_link_that_is_switched_off(laptop: Host, service: Process) -> None:
    """The daemon is told, so that it begins anew."""

    async def switched_off() -> None:
        waiting = asyncio.create_task(first_of(at(laptop)))
        await readers(service)
        laptop.ip("link set up0 down")
        with pytest.raises(HostError, match=r"^listen on up0: the watching service has ended$"):
            await waiting

    asyncio.run(asyncio.wait_for(switched_off(), LONG))


def test_it_is_killed_and_comes_back(laptop: Host, service: Process) -> None:
    async def killed() -> None:
        with pytest.raises(HostError, match=r"^listen on up0: the watching service has ended$"):
            waiting = asyncio.create_task(first_of(at(laptop)))
            reader = await readers(service)
            os.kill(service.pid or 0, 9)
            try:
                await waiting
            finally:
                await asyncio.to_thread(wait, lambda: not runs(reader))  # it ends with the service

    asyncio.run(asyncio.wait_for(killed(), LONG))
    with pytest.raises(HostError, match=r"cannot be asked at .*: Connection refused \(tunwarden-watch\.socket\)$"):
        asyncio.run(ServiceLeakCheck((), at(laptop)).check(["up0"]))
    started(laptop)
    assert len(asyncio.run(ServiceLeakCheck((), at(laptop)).check(["up0"]))) == 1


async def first_of(path: Path, link: Link = UP0) -> object:
    watch = ServiceFrames(path).watch(link)
    try:
        return await anext(watch.found())
    finally:
        watch.close()
        watch.close()  # as HostileExplorer may do


# --- whom it answers --------------------------------------------------------------------------------------------------


def serving(path: Path, asked: Callable[[], Awaitable[Any]], idle: float = LONG) -> Any:
    """What `asked` returns while a service is there, in this process."""

    async def both() -> Any:
        before = os.umask(0)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(str(path))
            listener.listen()
            os.umask(before)
            service = asyncio.create_task(WatchService(listener).run(idle))
            try:
                return await asyncio.wait_for(asked(), LONG)
            finally:
                service.cancel()
                await asyncio.gather(service, return_exceptions=True)

    return asyncio.run(both())


NOT_OURS = {
    "another version": ({"version": VERSION + 1, "ask": "leaks"}, "this service speaks version 1"),
    "no version": ({"ask": "leaks"}, "not understood"),
    "no question": ({"version": VERSION}, "not understood"),
    "another question": ({"version": VERSION, "ask": "run"}, "not understood"),
    "no list": ([], "not understood"),
    "no names": ({"version": VERSION, "ask": "leaks"}, "not understood"),
    "no network": ({"version": VERSION, "ask": "leaks", "ifnames": [], "excluded": ["x"]}, "not understood"),
    "no tunnel": ({"version": VERSION, "ask": "leaks", "ifnames": [], "excluded": []}, "not understood"),
    "no link": ({"version": VERSION, "ask": "frames", "link": None}, "not understood"),
    "no address": (
        {"version": VERSION, "ask": "frames", "link": {"ifname": "lo", "mac": "", "addresses": ["x"], "gateways": []}},
        "not understood",
    ),
    "a long name": (
        {"version": VERSION, "ask": "frames", "link": {"ifname": "x" * 99, "mac": "", "addresses": [], "gateways": []}},
        "listen on x",
    ),
}


@pytest.mark.parametrize("request_, why", NOT_OURS.values(), ids=NOT_OURS.keys())
def test_what_is_not_a_request(tmp_path: Path, request_: object, why: str) -> None:
    """It is refused with a word, and the service goes on."""
    path = tmp_path / SOCKET

    async def asked() -> tuple[bytes, bytes]:
        answers = []
        for message in (json.dumps(request_).encode(), b"{"):
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as one:
                one.connect(str(path))
                one.setblocking(False)
                one.send(message)
                answers.append(await asyncio.get_running_loop().sock_recv(one, LONGEST))
        return answers[0], answers[1]

    first, second = serving(path, asked)
    assert first[:1] == second[:1] == FAILED
    assert why in " ".join(json.loads(first[1:]))


def test_nobody_but_root_is_answered(tmp_path: Path) -> None:
    path = tmp_path / SOCKET
    for each in (tmp_path, *tmp_path.parents):
        if each.stat().st_uid == os.getuid() and each.name.startswith(("test_", "popen-", "pytest-")):
            each.chmod(0o755)  # so that nobody reaches it
    script = (
        "import socket, sys; one = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); one.connect(sys.argv[1])\n"
        "try: one.send(b'{}'); print(one.recv(100))\n"
        "except ConnectionError as err: print(b'')"
    )

    async def asked() -> list[bytes]:
        said = []
        for user in ((), ("--reuid", "65534", "--regid", "65534", "--clear-groups")):
            one = await asyncio.create_subprocess_exec(
                "/usr/bin/setpriv", *user, "/usr/bin/python3", "-I", "-c", script, str(path), stdout=subprocess.PIPE
            )
            said.append((await one.communicate())[0])
        return said

    root, nobody = serving(path, asked)
    assert b"not understood" in root
    assert nobody == b"b''\n"


def test_it_ends_when_nobody_asks(tmp_path: Path) -> None:
    """Not while somebody is there."""

    async def ended() -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(str(tmp_path / SOCKET))
            listener.listen()
            service = asyncio.create_task(WatchService(listener).run(0.1))
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as one:
                one.connect(str(tmp_path / SOCKET))
                await asyncio.wait({service}, timeout=0.5)
                there = not service.done()
            await asyncio.wait_for(service, LONG)
            return there

    assert asyncio.run(ended())


# --- a service that was taken over ------------------------------------------------------------------------------------


def lied_to(path: Path, asked: Callable[[], Any], *answers: bytes, keep: bool = False) -> Any:
    """What `asked` returns when a service says this, whatever it is asked; `keep`: and hangs afterwards."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(path))
        listener.listen()
        told = threading.Event()

        def lie() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(LONGEST)
                with contextlib.suppress(OSError):
                    for answer in answers:
                        connection.send(answer)
                if keep:
                    told.wait(LONG)

        liar = threading.Thread(target=lie)
        liar.start()
        try:
            return asked()
        finally:
            told.set()
            liar.join()


FINDING = TOLD + b"! evil-twin a \x1b[31mb"
LIES = {
    "nothing": ((), "has ended"),
    "not that it listens": ((FINDING,), "talks nonsense"),
    "a result": ((TOLD, RESULT), "talks nonsense"),
    "no evidence": ((TOLD, TOLD + b"! no-such-thing x"), "talks nonsense"),
    "a question": ((TOLD, TOLD + b"? abcd"), "talks nonsense"),
    "no kind": ((TOLD, b"x"), "talks nonsense"),
    "too long": ((TOLD, TOLD + bytes(LONGEST)), "talks nonsense"),
    "too much": ((TOLD, *(FINDING,) * 99), "says too much"),
    "no reason": ((FAILED + b"x",), "talks nonsense"),
    "a long reason": ((FAILED + json.dumps(["a\x1b", "b\n" * 999]).encode(),), r"^a\?: (b\?)+$"),
}


@pytest.mark.parametrize("answers, why", LIES.values(), ids=LIES.keys())
def test_a_liar_about_frames(tmp_path: Path, answers: tuple[bytes, ...], why: str) -> None:
    async def all_of() -> None:
        watch = ServiceFrames(tmp_path / SOCKET).watch(UP0)
        try:
            async for finding in watch.found():
                assert (finding.evidence, finding.what) == (Evidence.EVIL_TWIN, "a [31mb")
        finally:
            watch.close()

    with pytest.raises(HostError, match=why) as raised:
        lied_to(tmp_path / SOCKET, lambda: asyncio.run(all_of()), *answers)
    assert len(str(raised.value)) < 500


LEAK_LIES = (
    (), (TOLD + b"[]",), (RESULT + b"x",), (RESULT + b"{}",), (RESULT + b"[1]",), (RESULT + b'[""]',),
    (RESULT + b"[]" + b" " * LONGEST,), (RESULT + json.dumps(["x" * 3000]).encode(),),
    (RESULT + json.dumps(["x"] * 65).encode(),),
)  # fmt: skip


@pytest.mark.parametrize("answers", LEAK_LIES, ids=lambda answers: repr(answers)[:30])
def test_a_liar_about_leaks(tmp_path: Path, answers: tuple[bytes, ...]) -> None:
    """It cannot say that it has looked, in any way but the one."""
    check = ServiceLeakCheck((), tmp_path / SOCKET)
    with pytest.raises(HostError, match=r"^check for leaks: the watching service (has ended|talks nonsense)$"):
        lied_to(tmp_path / SOCKET, lambda: asyncio.run(check.check(["up0"])), *answers)


def test_what_people_read_of_it_is_printable(tmp_path: Path) -> None:
    check = ServiceLeakCheck((), tmp_path / SOCKET)
    answer = RESULT + json.dumps(["left\x1b[31m over\n"]).encode()
    assert lied_to(tmp_path / SOCKET, lambda: asyncio.run(check.check(["up0"])), answer) == ("left?[31m over?",)


def test_one_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for limit in ("LISTENING_S", "CHECK_S", "ECHO_S"):
        monkeypatch.setattr(watch_client, limit, 0.3)
    monkeypatch.setattr(watch_client, "may_open", lambda: False)
    check = ServiceLeakCheck((), tmp_path / "a")
    with pytest.raises(HostError, match=r"has not answered for 0\.3 s$"):
        lied_to(tmp_path / "a", lambda: asyncio.run(check.check(["up0"])), keep=True)
    with pytest.raises(HostError, match=r"has not answered for 0\.3 s$"):
        lied_to(tmp_path / "b", lambda: asyncio.run(first_of(tmp_path / "b")), keep=True)
    targets = [ip_address("10.7.0.1")]
    assert lied_to(tmp_path / "c", lambda: asyncio.run(echo_sockets(targets, tmp_path / "c")), keep=True) == []


def test_other_sockets_than_those_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_client, "may_open", lambda: False)
    before = len(os.listdir("/proc/self/fd"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(tmp_path / SOCKET))
        listener.listen()

        def lie() -> None:
            connection, _ = listener.accept()
            with connection, socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as other:
                connection.recv(LONGEST)
                socket.send_fds(connection, [RESULT], [other.fileno(), other.fileno()])

        liar = threading.Thread(target=lie)
        liar.start()
        assert asyncio.run(echo_sockets([ip_address("10.7.0.1")], tmp_path / SOCKET)) == []
        liar.join()
    assert len(os.listdir("/proc/self/fd")) == before


def test_one_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_client, "may_open", lambda: False)
    missing = r"cannot be asked at .*: No such file or directory \(tunwarden-watch\.socket\)$"
    with pytest.raises(HostError, match=missing):
        ServiceFrames(tmp_path / SOCKET).watch(UP0)
    with pytest.raises(HostError, match=missing):
        asyncio.run(ServiceLeakCheck((), tmp_path / SOCKET).check(["up0"]))
    assert asyncio.run(echo_sockets([ip_address("10.7.0.1")], tmp_path / SOCKET)) == []


def test_a_link_survives_the_way(tmp_path: Path) -> None:
    link = Link(
        0, "wlan0", LinkKind.WIFI, mac=b"\x02\0\0\0\0\x07", addresses=(ip_interface("fe80::1%wlan0/64"),),
        gateways=(ip_address("192.168.7.1"), ip_address("fe80::2")),
    )  # fmt: skip
    assert link_of(json.loads(json.dumps(watch_client._said(link)))) == link


def test_who_may_open_packet_sockets() -> None:
    assert watch_client.may_open()
    script = "from daemon.linux.watch_client import may_open; print(may_open())"
    drop = ("/usr/bin/setpriv", "--bounding-set", "-net_raw", "--inh-caps", "-net_raw")
    done = subprocess.run([*drop, sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
