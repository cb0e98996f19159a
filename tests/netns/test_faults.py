"""What breaks while traffic of nine kinds goes on, and may not leak (K1, K3, K5, K8, L4, L5, L10, L11, L14)."""

from __future__ import annotations

import contextlib
import socket
import time
from typing import Any

import pytest

from lab.addresses import ECHO_PORT, SINK_PORT
from lab.frames import LEAKS
from lab.probes import echoes, exit_address
from lab.subject import SETTINGS, Subject
from lab.topology import Laboratory
from policies.firewall import TUNNEL_IFNAME
from tests.netns.asking import until

pytestmark = pytest.mark.netns


@pytest.fixture
def connected(subject: Subject) -> Subject:
    """At the cafe, protected."""
    subject.lab.join("cafe")
    subject.wait("connected")
    return subject


def test_the_tunnel_link_is_deleted(connected: Subject, sealed: Any) -> None:
    before = len(connected.states())
    with sealed():
        connected.lab.laptop.run("ip", "link", "del", TUNNEL_IFNAME)
        connected.went_through("reconnecting", "connected", since=before)
        connected.wait("connected")
    assert connected.process is not None
    assert "routes-failed" not in connected.process.output(), "a lost tunnel, not a failure of ours: no delay"


def test_wireguard_go_is_killed(connected: Subject, sealed: Any) -> None:
    pids = connected.lab.laptop.run("pidof", "wireguard-go", check=False).stdout.split()
    if not pids:
        pytest.skip("this kernel has WireGuard: there is no process to kill")
    before = len(connected.states())
    with sealed():
        connected.lab.laptop.run("kill", "-KILL", *pids)
        connected.went_through("reconnecting", "connected", since=before)
        connected.wait("connected")


def reach_idle(subject: Subject) -> None:
    subject.wait("idle")


def reach_held(subject: Subject) -> None:
    lab = subject.lab
    lab.networkmanager.associating()
    lab.associate(lab.networks["cafe"])
    subject.went_through("held")


def reach_connecting(subject: Subject) -> None:
    subject.lab.block_server()
    subject.lab.join("cafe")
    subject.wait("connecting")


def reach_connected(subject: Subject) -> None:
    subject.lab.join("cafe")
    subject.wait("connected")


def reach_reconnecting(subject: Subject) -> None:
    reach_connected(subject)
    subject.lab.block_server()
    subject.cli("reconnect")
    subject.wait("reconnecting")


def reach_blocked(subject: Subject) -> None:
    subject.lab.block_server()
    subject.lab.join("cafe")
    subject.wait("blocked")
    subject.wait(lambda status: status.cause == "server-unreachable")


STATES = {
    "idle": reach_idle,
    "held": reach_held,
    "connecting": reach_connecting,
    "connected": reach_connected,
    "reconnecting": reach_reconnecting,
    "blocked": reach_blocked,
}


@pytest.mark.parametrize("state", STATES)
def test_sigkill_in_every_state(subject: Subject, sealed: Any, state: str) -> None:
    """K5, L4: the rules stay, whatever the laptop joins meanwhile, and the next daemon protects again."""
    lab = subject.lab
    STATES[state](subject)
    with sealed():
        subject.kill()
        if state == "idle":  # the guard: a network joined without any daemon is closed too
            lab.join("cafe", dhcp=False)
        time.sleep(0.7)
        lab.unblock_server()
        subject.start()
        if state == "held":
            lab.networkmanager.associated(lab.networks["cafe"].point)
        if state in ("idle", "held"):
            lab.address(lab.networks["cafe"])
        subject.wait("connected", 25)
    assert exit_address(lab.laptop, lab.plan.internet4) == lab.plan.server4


def test_sigkill_while_disconnecting(connected: Subject, sealed: Any) -> None:
    """The user wanted to be disconnected: closed until the next daemon knows it, open after that, and not before."""
    lab, process = connected.lab, connected.process
    assert process is not None
    for _ in range(20):  # the state lasts some 40 ms: it is hit at the first try, nearly always
        with connected.client() as watcher, connected.client() as client:
            states = watcher.watch()
            next(states)
            client.disconnect()
            next(status for status in states if status.state == "disconnecting")
            connected.kill()
        assert connected.process is not None
        if "phase=disconnecting" in connected.process.output().splitlines()[-1]:
            break
        connected.start()
        connected.wait("idle")
        connected.cli("connect", "--wait")
    else:
        pytest.fail("the daemon was never killed in this state")
    with sealed():
        time.sleep(0.7)
    connected.start()
    connected.wait("idle")
    assert exit_address(lab.laptop, lab.plan.internet4) == lab.plan.cafe_uplink.host4(2)


def test_sigkill_twice_in_a_row(connected: Subject, sealed: Any) -> None:
    with sealed():
        for _ in range(2):
            connected.kill()
            connected.start()
        connected.kill()
        time.sleep(0.3)
        connected.start()
        connected.wait("connected", 25)


def test_sigterm_keeps_the_block(connected: Subject, sealed: Any) -> None:
    """K5: stopping the service while protected is no wish to be unprotected."""
    lab = connected.lab
    with sealed():
        assert connected.stop() == 0
        lab.kill_server()
        time.sleep(0.7)
        lab.start_server()
        connected.start()
        connected.wait("connected", 25)


def test_the_server_is_unreachable_from_the_start(subject: Subject, sealed: Any) -> None:
    lab = subject.lab
    lab.kill_server()
    with sealed():
        lab.join("cafe")
        status = subject.wait(lambda status: status.cause == "server-unreachable")
        assert status.blocking
        assert not status.protected


def test_two_quick_network_changes(connected: Subject, sealed: Any) -> None:
    """From one open network to another and back before anything has settled (L15)."""
    lab = connected.lab
    with sealed():
        for name in ("cafe6", "cafe"):
            lab.leave()
            lab.join(name, dhcp=False, ssid=f"Open {name}".encode())
        lab.address(lab.networks["cafe"])
        connected.wait("connected", 25)


def test_an_ipv6_only_network(lab: Laboratory, sealed: Any) -> None:
    """The outer network has no IPv4 at all; inside the tunnel both families work."""
    subject = Subject(lab)
    subject.start()
    with subject.client() as client:
        client.import_profile("six", lab.client_config(ipv6_endpoint=True))
    with sealed():
        lab.join("cafe6")
        status = subject.wait("connected")
        assert status.server is not None
        assert status.server.startswith("[")
        assert exit_address(lab.laptop, lab.plan.internet4) == lab.plan.server4


def test_a_socket_bound_to_the_link_gets_nothing_out(connected: Subject) -> None:
    """L11: routes alone would let it pass. The probe is shown to leave when our table is gone."""
    lab = connected.lab

    def probe() -> bool:
        with lab.meter() as meter:
            with lab.laptop.socket(socket.AF_INET, socket.SOCK_DGRAM) as bound:
                bound.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"wlan0\0")
                with contextlib.suppress(OSError):
                    bound.sendto(b"bound", (str(lab.plan.internet4), ECHO_PORT))
            return bool(meter.leaks())

    assert not probe()
    connected.kill()  # or it would put the table back
    lab.laptop.run("nft", "delete", "table", "inet", "tunwarden")
    lab.laptop.run("ip", "rule", "flush", "table", "1953853047")
    assert probe()


def test_a_container_behind_the_laptop(connected: Subject) -> None:
    """K8, L5: what the laptop forwards goes through the tunnel, or nowhere."""
    lab = connected.lab
    container = lab.add_container()
    assert exit_address(container, lab.plan.internet4) == lab.plan.server4
    with lab.meter() as meter:
        lab.kill_server()
        deadline = time.monotonic() + 60
        while connected.status().protected and time.monotonic() < deadline:  # without questions no silence is noticed
            echoes(container, lab.plan.internet4)
            echoes(container, lab.plan.internet6)
        connected.wait("blocked")
        assert not echoes(container, lab.plan.internet4)
        assert not echoes(container, lab.plan.internet6)
        assert meter.leaks() == []
        meter.positive_control()


def test_forwarded_traffic_leaves_when_nothing_blocks_it(lab: Laboratory) -> None:
    """The positive control of the container's test."""
    lab.join("cafe")
    container = lab.add_container()
    with lab.meter() as meter:
        assert until(lambda: echoes(container, lab.plan.internet4))
        assert until(lambda: echoes(container, lab.plan.internet6))
        assert meter.leaks()


def test_a_flow_from_before_the_block_dies(lab: Laboratory) -> None:
    """L10: an established connection has no right to go on outside the tunnel."""
    lab.join("cafe")
    with lab.laptop.socket(socket.AF_INET, socket.SOCK_STREAM) as flow:
        flow.settimeout(15)
        flow.connect((str(lab.plan.internet4), SINK_PORT))
        with lab.meter() as meter:
            flow.send(b"before")
            time.sleep(0.1)
            assert meter.leaks(), "the flow works while nothing blocks it"
        subject = Subject(lab, SETTINGS.replace('unsecured = "auto_connect"', 'unsecured = "ignore"'))
        subject.start()
        subject.set_up()
        with lab.meter() as meter:
            flow.send(b"still allowed")
            time.sleep(0.1)
            assert meter.leaks(), "an ignored network stays usable"
            subject.cli("connect")
            subject.wait("connected")
            meter.reset()
            with pytest.raises(OSError):
                for _ in range(20):
                    flow.send(b"after")
                    time.sleep(0.05)
                raise OSError  # it may also hang in the tunnel: then nothing was refused, and nothing left either
            assert [kind for _, kind in meter.frames() if kind in LEAKS] == []
            meter.positive_control()
