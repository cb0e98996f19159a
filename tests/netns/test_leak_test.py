"""K7: `tunwarden leak-test` and the daemon's own check after a connect, with all layers, one of them, and none."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import pytest

from lab.frames import Kind
from lab.meter import Meter
from lab.subject import CLI, SETTINGS, Subject
from lab.topology import Laboratory

pytestmark = pytest.mark.netns

KINDS = {"udp", "tcp", "icmp", "dns"}
CHECKED_S = 25.0  # five seconds after the connect, half a second of watching, and a busy machine
CONTROL = bytes((169, 254, 0))  # the addresses that control frames ask for


def leak_test(lab: Laboratory, *words: str) -> tuple[int, dict[str, Any]]:
    """Exit code and what it found."""
    ended = lab.laptop.run(CLI, "leak-test", "--json", *words, check=False)
    assert "Traceback" not in ended.stderr, ended.stderr
    (line,) = ended.stdout.splitlines()
    return ended.returncode, json.loads(line)


def verdicts(found: dict[str, Any], bound: bool | None = None) -> set[str]:
    """Of all probes, or of those that are bound to a link or not."""
    return {each["verdict"] for each in found["probes"] if bound is None or (each["link"] is not None) is bound}


def status_code(lab: Laboratory) -> int:
    return lab.laptop.run(CLI, "status", check=False).returncode


def checks(meter: Meter) -> int:
    """How often the links were looked at: each look ends with a control frame, and begins with one."""
    return sum(kind is Kind.ARP and frame.payload[24:27] == CONTROL for frame, kind in meter.frames()) // 2


def wait_checks(meter: Meter, wanted: int) -> None:
    deadline = time.monotonic() + CHECKED_S
    while checks(meter) < wanted:
        assert time.monotonic() < deadline, "the daemon has not looked"
        time.sleep(0.1)


def started(lab: Laboratory, *program: str) -> Subject:
    subject = Subject(lab, SETTINGS, program or ("daemon",))
    subject.start(20)
    subject.set_up()
    return subject


def test_protected_nothing_leaks(subject: Subject) -> None:
    """Both tests, of the daemon and of the command, and the meter on the wire agree."""
    lab = subject.lab
    with lab.meter() as meter:
        lab.join("cafe")
        subject.wait("connected")
        wait_checks(meter, 1)
        code, found = leak_test(lab)
        assert (code, found["leaked"], found["unable"], found["links"]) == (0, 0, None, ["wlan0"])
        assert {each["kind"] for each in found["probes"]} == KINDS
        assert len(found["probes"]) == 16
        assert verdicts(found, bound=True) == {"kept"}
        assert {each["kind"] for each in found["probes"] if each["verdict"] == "tunnel"} == KINDS - {"dns"}
        assert {frame["link"] for each in found["probes"] for frame in each["frames"]} == {"tunwarden0"}
        assert checks(meter) == 2
        assert meter.leaks() == []
        meter.positive_control()
    assert subject.status().alarm is None
    assert not [text for text in subject.status().warnings if "checked" in text]
    assert status_code(lab) == 0
    shown = lab.laptop.run(CLI, "leak-test").stdout
    assert re.search(r"^ICMP   6   wlan0     kept in: refused \(.+\)$", shown, re.M)
    assert "Nothing leaked: 16 probes stayed in or went into the tunnel." in shown


def test_without_both_layers_everything_leaks(lab: Laboratory) -> None:
    """The positive control: the same daemon, whose rules are not there though it believes so. And the alarm ends."""
    subject = started(lab, "lab.one_layer", "none")
    with lab.meter() as meter:
        lab.join("cafe")
        subject.wait("connected", 25)
        code, found = leak_test(lab)
        assert (code, found["leaked"], found["protection"]) == (6, 16, "wanted")
        assert verdicts(found) == {"leaked"}
        assert all(each["frames"][0]["link"] == "wlan0" for each in found["probes"])
        assert all(bytes.fromhex(each["frames"][0]["head"]) for each in found["probes"])
        on_the_wire = {frame.payload for frame, kind in meter.frames() if kind in (Kind.CLEAR4, Kind.CLEAR6, Kind.DNS)}
        for each in found["probes"]:  # the evidence is true: the meter saw the very same packets behind the cable
            head = bytes.fromhex(each["frames"][0]["head"])
            assert any(payload.startswith(head) for payload in on_the_wire), each
        alarm = subject.wait(lambda status: status.alarm is not None, CHECKED_S).alarm
        assert alarm is not None
        assert alarm.startswith("Test packets left over wlan0 outside the tunnel (UDP, TCP, ICMP over IPv4;")
        evidence = bytes.fromhex(alarm.rpartition(": ")[2].rstrip("."))
        assert any(frame.payload.startswith(evidence) for frame, _ in meter.frames())
    assert status_code(lab) == 6
    shown = lab.laptop.run(CLI, "leak-test", check=False).stdout
    assert "LEAKED: 16 of 16 probes left outside the tunnel." in shown
    assert "bound to wlan0, over wlan0: " in shown


def test_routing_alone_does_not_hold_bound_sockets(lab: Laboratory) -> None:
    """L11: that is why there are two layers, and both tests tell it apart."""
    subject = started(lab, "lab.one_layer", "routing")
    lab.join("cafe")
    subject.wait("connected", 25)
    code, found = leak_test(lab)
    assert code == 6
    assert (verdicts(found, bound=False), verdicts(found, bound=True)) == ({"tunnel"}, {"leaked", "kept"})
    leaked = [each["target"] for each in found["probes"] if each["verdict"] == "leaked"]
    assert not [target for target in leaked if ":" in target], "IPv6 has a second rule"
    alarm = subject.wait(lambda status: status.alarm is not None, CHECKED_S).alarm
    assert alarm is not None
    assert "over IPv4, bound to the link" in alarm
    assert "over IPv4;" not in alarm, "what is not bound goes into the tunnel"


def test_the_firewall_alone_holds_all(lab: Laboratory) -> None:
    subject = started(lab, "lab.one_layer", "firewall")
    with lab.meter() as meter:
        lab.join("cafe")
        subject.wait("connected", 25)
        wait_checks(meter, 1)
        code, found = leak_test(lab)
        assert (code, verdicts(found)) == (0, {"kept"})
        assert meter.leaks() == []
    assert subject.status().alarm is None


def test_unprotected_by_choice_is_no_leak(subject: Subject) -> None:
    """But no proof of anything either, so scripts do not take it for one."""
    lab = subject.lab
    lab.join("home")
    subject.wait("idle")
    subject.wait(lambda status: any(network.cleared for network in status.networks))
    code, found = leak_test(lab)
    assert (code, found["leaked"], found["protection"]) == (1, 0, "not wanted")
    assert verdicts(found) == {"choice"}
    told = lab.laptop.run(CLI, "leak-test", check=False)
    assert "Nobody asked for protection, so the probes will leave: that is no leak." in told.stderr
    assert "Unprotected by choice: 16 of 16 probes left in the clear." in told.stdout


def test_while_blocked_nothing_leaks(subject: Subject) -> None:
    """No tunnel, two links, one of them without IPv6 and the other freshly plugged in."""
    lab = subject.lab
    lab.block_server()
    lab.join("cafe")
    lab.plug()
    subject.wait(lambda status: status.blocking and len(status.networks) == 2)
    lab.laptop.sysctl(("net/ipv6/conf/eth0/disable_ipv6", "1"))
    code, found = leak_test(lab)
    assert (code, found["leaked"], sorted(found["links"])) == (0, 0, ["eth0", "wlan0"])
    untested = {(each["link"], ":" in each["target"]) for each in found["probes"] if each["verdict"] == "untested"}
    assert untested == {("eth0", True)}
    assert verdicts(found) == {"kept", "untested"}


def test_with_the_daemon_dead(subject: Subject) -> None:
    """The rules stay in the kernel, and the test needs nobody else to tell. Then they go, and it tells that too."""
    lab = subject.lab
    lab.join("cafe")
    subject.wait("connected")
    subject.kill()
    code, found = leak_test(lab)
    assert (code, found["leaked"], found["protection"]) == (0, 0, "unknown")
    lab.laptop.run("nft", "flush", "ruleset")
    for family in ("-4", "-6"):
        lab.laptop.run("ip", family, "rule", "flush", "table", "1953853047")
    code, found = leak_test(lab, "--link", "wlan0")
    assert (code, found["leaked"]) == (6, 16)


def test_a_link_that_cannot_be_seen_is_no_proof(subject: Subject) -> None:
    """Its queue swallows all frames, the control too: neither of the two tests says that all is well."""
    lab = subject.lab
    lab.join("cafe")
    subject.wait("connected")
    lab.laptop.run("tc", "qdisc", "replace", "dev", "wlan0", "root", "blackhole")
    code, found = leak_test(lab)
    assert (code, found["probes"]) == (1, [])
    assert found["unable"] == "cannot see what leaves over wlan0: the control frame was not seen"
    status = subject.wait(lambda status: any("could not be checked" in text for text in status.warnings), CHECKED_S)
    assert status.alarm is None
    lab.laptop.run("tc", "qdisc", "delete", "dev", "wlan0", "root")


@pytest.mark.parametrize("link", ["nowhere", "lo; id", "a" * 40, ""])
def test_links_that_are_not_there(subject: Subject, link: str) -> None:
    code, found = leak_test(subject.lab, "--link", link)
    assert (code, found["probes"]) == (1, [])
    assert "could not be sent" in found["unable"]


def test_no_link_at_all(subject: Subject) -> None:
    code, found = leak_test(subject.lab)
    assert (code, found["error"]) == (1, "no-link")


def test_targets_of_ones_own(subject: Subject) -> None:
    """The laboratory's internet instead of addresses that nobody has; further hops."""
    lab = subject.lab
    lab.join("cafe")
    subject.wait("connected")
    targets = ("--target4", str(lab.plan.internet4), "--target6", str(lab.plan.internet6))
    code, found = leak_test(lab, *targets, "--hops", "3", "--wait", "0.5")
    assert code == 0
    assert {each["target"] for each in found["probes"]} == {str(lab.plan.internet4), str(lab.plan.internet6)}


@pytest.mark.parametrize("moment_s", [4.9, 5.1, 5.4])
def test_a_tunnel_that_is_remade_while_the_check_runs(subject: Subject, moment_s: float) -> None:
    """The check is given up and begins anew: no alarm, no failure, and the next one ends."""
    lab = subject.lab
    with lab.meter() as meter:
        lab.join("cafe")
        subject.wait("connected")
        time.sleep(moment_s)
        subject.cli("reconnect")
        subject.wait("connected")
        before = checks(meter)
        wait_checks(meter, before + 1)
        assert meter.leaks() == []
    subject.cli("disconnect")
    status = subject.wait("idle")
    assert status.alarm is None
    assert not [text for text in status.warnings if "checked" in text]
    assert subject.process is not None
    assert "check failed" not in subject.process.output()


def test_networks_that_come_and_go_meanwhile(subject: Subject) -> None:
    """The link loses its carrier, another one appears: no alarm, and no Traceback."""
    lab = subject.lab
    lab.join("cafe")
    subject.wait("connected")
    time.sleep(5.1)
    lab.leave()
    lab.plug()
    lab.join("cafe")
    subject.wait("connected", 25)
    time.sleep(5.2)
    lab.unplug()
    status = subject.wait("connected", 25)
    assert status.alarm is None
    assert subject.process is not None
    assert "check failed" not in subject.process.output()
