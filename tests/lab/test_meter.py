"""The leak meter sees what leaves, says so exactly, and refuses to vouch for a capture that is blind."""

from __future__ import annotations

import signal
import socket
import time
from pathlib import Path

import pytest

from lab.frames import Kind
from lab.meter import MeterError
from lab.probes import dns_query, echoes
from lab.topology import Laboratory

pytestmark = pytest.mark.netns

CLOSED = "table inet closed { chain output { type filter hook output priority 0; policy drop; }; }"


def send(lab: Laboratory, target: str, port: int, count: int, payload: bytes = b"leak") -> None:
    family = socket.AF_INET6 if ":" in target else socket.AF_INET
    with lab.laptop.socket(family, socket.SOCK_DGRAM) as sender:
        for _ in range(count):
            sender.sendto(payload, (target, port))


def test_counts_are_exact(lab: Laboratory) -> None:
    lab.join("cafe")
    target4, target6 = str(lab.plan.internet4), str(lab.plan.internet6)
    assert echoes(lab.laptop, lab.plan.internet4, 20)  # no TCP, which may have more to say while it is counted
    with lab.meter() as meter:
        for number in range(1, 6):
            # To closed ones: an answer to a socket that is gone would make the laptop send ICMP of its own.
            send(lab, target4, 9, 200)
            send(lab, target6, 9, 100)
            send(lab, str(lab.plan.server4), 53, 10, dns_query("leak.test", 1))
            send(lab, str(lab.plan.server4), 51820, 50)
            counts = meter.counts()
            assert counts[Kind.CLEAR4] == 200 * number
            assert counts[Kind.CLEAR6] == 100 * number
            assert counts[Kind.DNS] == 10 * number
            assert counts[Kind.TUNNEL] == 50 * number
        meter.reset()
        after = meter.counts()  # the kernel may have said something of its own meanwhile, such as an MLD report
        assert not any(after[kind] for kind in (Kind.CLEAR4, Kind.CLEAR6, Kind.DNS, Kind.TUNNEL))


def test_positive_control_passes_a_closed_firewall_and_is_not_counted(lab: Laboratory) -> None:
    lab.join("cafe")
    lab.laptop.run("nft", CLOSED)
    with lab.meter() as meter:
        meter.positive_control()
        with pytest.raises(PermissionError):
            send(lab, str(lab.plan.internet4), 9, 1)
        assert meter.leaks() == []
        lab.laptop.run("nft", "flush ruleset")
        send(lab, str(lab.plan.internet4), 9, 1)
        assert len(meter.leaks()) == 1
        assert "wlan0 clear4" in meter.leaks()[0]


def test_control_by_real_sockets(lab: Laboratory) -> None:
    lab.join("cafe")
    with lab.meter() as meter:
        meter.socket_control()
        assert {kind: meter.counts()[kind] for kind in (Kind.CLEAR4, Kind.CLEAR6, Kind.DNS)} == {
            Kind.CLEAR4: 1, Kind.CLEAR6: 1, Kind.DNS: 1,
        }  # fmt: skip
        lab.laptop.run("nft", CLOSED)
        with pytest.raises(MeterError, match="cannot send"):
            meter.socket_control()


def test_no_control_without_carrier(lab: Laboratory) -> None:
    with lab.meter() as meter:
        with pytest.raises(MeterError):
            meter.positive_control(timeout=0.3)
        assert not meter.counts()


def test_survives_leaving_and_joining_and_sees_both_wires(lab: Laboratory) -> None:
    with lab.meter() as meter:
        lab.join("cafe")
        assert meter.counts()[Kind.DHCP] >= 2  # the client asks again each second
        lab.leave()
        lab.join("home")
        lab.plug()
        meter.positive_control("wlan0")
        meter.positive_control("eth0")
        assert meter.counts()[Kind.DHCP] >= 6
        assert meter.counts()[Kind.NDP] > 0
        assert meter.leaks() == []
        times = [frame.time for frame, _ in meter.frames()]
        assert times == sorted(times)


def test_a_dead_capture_is_reported(lab: Laboratory) -> None:
    with lab.meter() as meter:
        meter._tcpdump.kill()
        with pytest.raises(MeterError, match="barrier"):
            meter.flush()


def test_a_stopped_capture_is_reported(lab: Laboratory) -> None:
    with lab.meter() as meter:
        meter._tcpdump.send(signal.SIGSTOP)
        with pytest.raises(MeterError, match="barrier"):
            meter.flush(timeout=0.3)
        meter._tcpdump.send(signal.SIGCONT)
        meter.flush()


def test_lost_frames_are_reported(lab: Laboratory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ring too small for the traffic while tcpdump is held up: the count would be wrong, so there is none."""
    monkeypatch.setattr("lab.meter.BUFFER_KIB", 64)
    lab.join("cafe")
    with pytest.raises(MeterError, match="lost"), lab.meter() as meter:
        meter._tcpdump.send(signal.SIGSTOP)
        send(lab, str(lab.plan.internet4), 9, 5000)
        meter._tcpdump.send(signal.SIGCONT)
        meter.counts()


def test_capture_of_a_failure_is_kept(
    lab: Laboratory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TUNWARDEN_LAB_KEEP", str(tmp_path))
    with pytest.raises(ValueError, match="failed"), lab.meter():
        raise ValueError("failed")
    path = Path(capsys.readouterr().out.split()[-1])
    assert path.is_relative_to(tmp_path)
    assert path.stat().st_size >= 24
    assert (lab.keep_logs() / "server").is_dir()


def test_a_burst_is_counted_in_full(lab: Laboratory) -> None:
    lab.join("cafe", wait_ipv6=False)
    assert echoes(lab.laptop, lab.plan.internet4, 20)
    with lab.meter() as meter:
        start = time.monotonic()
        send(lab, str(lab.plan.internet4), 9, 20000)
        assert meter.counts()[Kind.CLEAR4] == 20000, time.monotonic() - start
