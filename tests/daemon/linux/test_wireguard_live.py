"""The driver over real WireGuard at both ends, in private network namespaces: by wireguard-go, and by the kernel's.

Where the kernel has WireGuard every test runs twice, with either one at the laptop's end; the server's is the kernel's
then. Elsewhere both ends are wireguard-go.
"""

from __future__ import annotations

import base64
import contextlib
import re
import threading
import time
from pathlib import Path

import pytest

from tests.daemon.linux.wireguard_pair import (
    CLIENT,
    INSIDE,
    LINK,
    OUTSIDE,
    OUTSIDE6,
    PORT,
    SINK,
    Pair,
    backend,
    hexadecimal,
    only_go,
    pair,
)

__all__ = ["backend", "pair"]
pytestmark = pytest.mark.netns


def test_open_configures_all_and_touches_no_route(pair: Pair) -> None:
    routes = [pair.client.run("ip", *family, "route").stdout for family in ((), ("-6",))]
    console = pair.console()
    opened, established = console.good("open"), console.good("established")
    print("open", opened["ms"], "established", established["ms"])
    assert opened["result"].startswith(
        f"Tunnel(ifname='{LINK}', addresses=(IPv4Interface('{CLIENT}/26'), IPv6Interface("
    )

    device, peer = (line.split("\t") for line in pair.client.run("wg", "show", LINK, "dump").stdout.splitlines())
    assert device[0] == pair.client_key.text
    assert device[2] != str(PORT), "a port of the kernel's choice"
    assert device[3] == "0x74756e77"
    assert peer[:4] == [pair.server_key.public, pair.preshared, f"{OUTSIDE}:{PORT}", "0.0.0.0/0,::/0"]
    assert peer[7] == "25"

    link = pair.client.run("ip", "address", "show", LINK).stdout
    assert "mtu 1420" in link
    assert f"inet {CLIENT}/26 scope global noprefixroute" in link
    assert "inet6 2001:db8:5::2/64 scope global nodad noprefixroute" in link
    assert "fe80::" not in link
    assert [pair.client.run("ip", *family, "route").stdout for family in ((), ("-6",))] == routes


def test_keys_are_in_no_argument_environment_log_or_file(pair: Pair) -> None:
    console = pair.console()
    console.connect()
    console.good("counters")
    console.good("answers")
    ours, engines = console.process.pid, pair.processes()
    assert len(engines) == (pair.backend == "go")
    arguments = [pair.client.run("cat", f"/proc/{pid}/cmdline").stdout for pid in engines]
    environments = [pair.client.run("cat", f"/proc/{pid}/environ").stdout for pid in engines]
    seen = {
        "cmdline": "".join(arguments) + Path(f"/proc/{ours}/cmdline").read_text(),
        "environ": "".join(environments) + Path(f"/proc/{ours}/environ").read_text(),
        "log": console.process.output(),
        "run": pair.client.run("sh", "-c", "cat /run/tunwarden/* /etc/wireguard/* 2>&1; :").stdout,
    }
    assert "DEBUG:console" in seen["log"], "logs were on"
    for where, text in seen.items():
        for secret in (pair.client_key.text, pair.preshared):
            raw = repr(base64.b64decode(secret))[2:-1]
            for form in (secret, hexadecimal(secret), hexadecimal(secret).upper(), raw):
                assert form not in text, where
    if not engines:
        return
    assert arguments == [f"/usr/bin/wireguard-go\0-f\0{LINK}\0"]
    assert set(environments[0].split("\0")) == {"LOG_LEVEL=error", "WG_PROCESS_FOREGROUND=1", ""}
    assert pair.client.run("stat", "-c", "%a %U", f"/run/wireguard/{LINK}.sock").stdout == "700 root\n"
    assert pair.client.run("stat", "-c", "%a %U", "/run/tunwarden/wireguard-go.pid").stdout == "600 root\n"


@pytest.mark.parametrize("how", ["kill", "delete", "down"])
def test_the_end_of_process_or_link_is_noticed_at_once(pair: Pair, how: str) -> None:
    if how == "kill" and pair.backend == "kernel":
        pytest.skip("the kernel's WireGuard has no process")
    console = pair.console()
    console.connect()
    console.tell("dead")
    time.sleep(0.3)  # mostly it is watched by then; what went before is noticed as well
    started = time.monotonic()
    match how:
        case "kill":
            pair.client.run("kill", "-KILL", str(pair.processes()[0]))
        case "delete":
            pair.client.ip(f"link delete {LINK}")
        case "down":
            pair.client.ip(f"link set {LINK} down")
    answer = console.wait("dead", 1)
    print(how, round((time.monotonic() - started) * 1000), "ms:", answer["result"])
    # Without its link, wireguard-go ends by itself: whichever is seen first is told.
    gone = r"was removed|no such device|ended \(exit status 0\)"
    words = {"kill": r"ended \(signal 9\)", "delete": gone, "down": "was switched off"}[how]
    assert re.search(words, answer["result"])
    console.good("close")
    assert pair.nothing_left()


def test_a_dead_server_is_noticed_within_seconds_of_traffic(pair: Pair) -> None:
    """Traffic flows both ways, then the server is gone: a look each second, silence 2.5 s, probed for 0.9 s."""
    console = pair.console()
    console.connect()
    pair.route()
    echo, sender = pair.udp(pair.server), pair.sender(7)
    echo.bind((INSIDE, 7))
    stop = threading.Event()

    def answer() -> None:
        echo.settimeout(0.2)
        while not stop.is_set():
            with contextlib.suppress(TimeoutError, OSError):
                data, client = echo.recvfrom(100)
                echo.sendto(data, client)

    def ask() -> None:
        while not stop.wait(0.1):
            with contextlib.suppress(OSError):
                sender.send(b"?")

    threads = [threading.Thread(target=work) for work in (answer, ask)]
    for thread in threads:
        thread.start()
    try:
        console.tell("dead")
        time.sleep(7)
        assert not console.answers("dead"), "alive so far"
        pair.silence()
        started = time.monotonic()
        result = console.wait("dead", 1)
        took = time.monotonic() - started
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    print(f"noticed after {took:.1f} s: {result['result']}")
    assert "answers nothing" in result["result"]


def test_a_server_that_died_during_a_pause_is_noticed_within_seconds_of_the_first_packet(pair: Pair) -> None:
    console = pair.console()
    console.connect()
    pair.route()
    console.tell("dead")
    pair.silence()
    time.sleep(0.5)
    sender = pair.sender()
    started = time.monotonic()
    sender.send(b"?")
    result = console.wait("dead", 1)
    print(f"noticed after {time.monotonic() - started:.1f} s")
    assert "answers nothing" in result["result"]


def test_traffic_one_way_over_a_live_tunnel_is_never_called_dead(pair: Pair) -> None:
    console = pair.console()
    console.connect()
    pair.route()
    sink, sender = pair.sink(), pair.sender()
    sink.setblocking(False)
    console.tell("dead")
    sent, got, last, until, probed = 0, 0, -1, 0, 0
    end = time.monotonic() + 16
    while time.monotonic() < end or last < until or probed < 2:
        assert time.monotonic() < end + 25, (sent, got, last, probed)
        sender.send(sent.to_bytes(4))
        sent += 1
        time.sleep(0.01)
        with contextlib.suppress(BlockingIOError):
            while True:
                last = int.from_bytes(sink.recv(100))
                got += 1
        if time.monotonic() > end:
            until = until or sent  # one that is sent after the end arrives, however late
            handshakes = re.search(r"rx=(\d+), tx=(\d+)", console.good("counters")["result"])
            assert handshakes is not None
            rx, tx = (int(number) for number in handshakes.groups())
            probed = rx // 92 - 1
    assert not console.answers("dead")
    print(f"sent {sent}, arrived {got}, probes answered: {probed}")
    assert tx > sent * 64, "the counters go on over a probe"
    assert last + 1 - got < 40, "a probe costs a packet or two; on a busy machine, some more"


def test_an_idle_tunnel_costs_next_to_no_wakeups(pair: Pair) -> None:
    console = pair.console()
    console.connect()
    console.tell("dead")
    time.sleep(1)

    def wakeups() -> int:
        status = Path(f"/proc/{console.process.pid}/status").read_text()
        # Voluntary: each ends a wait of its own. The others count how busy the machine is.
        return int(re.findall(r"^voluntary_ctxt_switches:\s+(\d+)", status, re.M)[0])

    before = wakeups()
    time.sleep(10)
    woken = wakeups() - before
    print(f"{woken} context switches in 10 s")
    assert woken <= 20, "two looks at the counters, a handful of switches each"
    assert not console.answers("dead")


def test_a_server_that_moved_is_probed_where_it_is(pair: Pair) -> None:
    console = pair.console()
    console.connect()
    pair.route()
    pair.server.run("wg", "set", "wg0", "listen-port", str(PORT + 1))
    listener, sender = pair.udp(pair.client), pair.udp(pair.server)
    listener.bind((CLIENT, SINK))
    listener.settimeout(20)
    sender.bind((INSIDE, 0))
    sender.sendto(b"from a new port", (CLIENT, SINK))
    assert listener.recv(100) == b"from a new port"
    assert console.good("answers")["result"] == "True"
    assert pair.client.run("wg", "show", LINK, "endpoints").stdout.endswith(f"\t{OUTSIDE}:{PORT + 1}\n")


def test_the_server_may_be_reached_by_ipv6_and_move_to_a_link_local_address(pair: Pair) -> None:
    console = pair.console(resolved=[OUTSIDE6])
    console.connect()
    assert pair.client.run("wg", "show", LINK, "endpoints").stdout.endswith(f"\t[{OUTSIDE6}]:{PORT}\n")
    assert console.good("answers")["result"] == "True"

    for host, link, address in ((pair.client, "up0", "fe80::2"), (pair.server, "srv0", "fe80::1")):
        host.ip(f"address add {address}/64 dev {link} nodad")
    pair.client.run("wg", "set", LINK, "peer", pair.server_key.public, "endpoint", f"[fe80::1%up0]:{PORT}")
    assert console.good("answers")["result"] == "True"
    # wireguard-go does not tell the scope.
    scope = "%up0" if pair.backend == "kernel" else ""
    assert pair.client.run("wg", "show", LINK, "endpoints").stdout.endswith(f"\t[fe80::1{scope}]:{PORT}\n")


def test_thousands_of_allowed_networks(pair: Pair) -> None:
    networks = [f"10.{n >> 8}.{n & 255}.0/24" for n in range(2500)] + [f"2001:db8:{n:x}::/48" for n in range(1, 2500)]
    console = pair.console(allowed_ips=networks)
    console.connect()

    def known() -> set[str]:
        return set(pair.client.run("wg", "show", LINK, "allowed-ips").stdout.split()[1:])

    assert known() == set(networks)
    counted = re.match(r"Counters\(rx=(\d+), tx=(\d+), ", console.good("counters")["result"])
    assert counted is not None
    rx, tx = (int(number) for number in counted.groups())
    assert rx >= 92 and tx >= 148, "a handshake, or more of them on a busy machine"
    assert console.good("answers")["result"] == "True"
    assert known() == set(networks), "a probe gives all of them back"


@only_go
def test_without_the_tun_device_the_process_tells_why(pair: Pair) -> None:
    pair.client.run("mount", "--bind", "/dev/null", "/dev/net/tun")
    error = pair.console().ask("open")["error"]
    print(error)
    assert "wireguard-go ended (exit status 1)" in error
    pair.client.run("umount", "/dev/net/tun")
    assert pair.nothing_left()


def test_a_profile_without_keepalive_connects_and_then_sends_none(pair: Pair) -> None:
    console = pair.console(keepalive=0)
    console.connect()
    assert pair.client.run("wg", "show", LINK, "persistent-keepalive").stdout.endswith("\toff\n")
    console.good("answers")
    assert pair.client.run("wg", "show", LINK, "persistent-keepalive").stdout.endswith("\toff\n")


def test_without_ipv6_its_addresses_are_left_out(pair: Pair) -> None:
    pair.client.sysctl(("net/ipv6/conf/all/disable_ipv6", "1"), ("net/ipv6/conf/default/disable_ipv6", "1"))
    console = pair.console(mtu=1200, resolved=["2001:db8::99", OUTSIDE])
    opened = console.good("open")
    assert "IPv6Interface" not in opened["result"]
    assert "addresses of the tunnel left out" in console.process.output()
    assert "mtu 1200" in pair.client.run("ip", "link", "show", LINK).stdout, "the least of IPv6 does not bind it"
    console.good("established")


def test_a_first_packet_that_is_lost_costs_a_second_not_five(pair: Pair) -> None:
    """Of ours three are lost here, within 3 s; by itself WireGuard sends its third after 10 s."""
    pair.silence()
    console = pair.console()
    console.good("open")
    started = time.monotonic()
    console.tell("established")
    while pair.unheard() < 3:
        assert time.monotonic() < started + 10, pair.unheard()
        time.sleep(0.02)
    assert not console.answers("established")
    pair.speak()
    print("established after three lost packets", console.wait("established", 1)["ms"], "ms")


@only_go
def test_established_ends_when_the_process_does(pair: Pair) -> None:
    console = pair.console(port=PORT + 1)
    console.good("open")
    console.tell("established")
    time.sleep(0.2)
    pair.client.run("kill", "-KILL", str(pair.processes()[0]))
    assert console.wait("established", 1)["error"].startswith("tunnel-failed: ")
