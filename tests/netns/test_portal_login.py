"""N12: people log in to a captive portal in one process tree, and nothing else leaves meanwhile."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any

import pytest

from daemon.linux.dns_forwarder import BURST, PER_S
from lab.addresses import ECHO_PORT, SERVER_PORT, SINK_PORT, WEB_PORT
from lab.capture import Captured
from lab.control_groups import control_groups
from lab.frames import LEAKS, TCP, UDP
from lab.meter import Meter
from lab.portal import Portal
from lab.processes import Process
from lab.subject import CLI, SETTINGS, Subject
from lab.topology import Laboratory
from policies.firewall import LOGIN_MARK
from tests.netns.conftest import LAYERS

pytestmark = pytest.mark.netns

VISITOR = str(Path(__file__).parents[2] / "lab" / "visitor.py")
MEMBER, STRANGER = 61001, 61002  # user ids; only the first one is in the group tunwarden
OUTSIDE = range(20000, 20100)  # source ports of a program that is not in the login
PAGE = "http://internet.test/"
PROBED = ip_address("198.51.100.177")  # where the daemon looks for the Internet, and nobody else in this laboratory
Ways = dict[str, dict[str, Any]]


@dataclass
class Captive:
    """The laptop in the café, whose portal is closed, and a daemon that has noticed."""

    lab: Laboratory
    groups: Path
    layer: str = "both"
    settings: str = ""
    gid: str = ""
    users: dict[int, list[str]] = field(default_factory=dict)

    def begin(self) -> Captive:
        laptop = self.lab.laptop
        laptop.run("groupadd", "--system", "tunwarden")
        self.gid = laptop.run("getent", "group", "tunwarden").stdout.split(":")[2]
        for uid in (MEMBER, STRANGER):
            more = [f"--groups={self.gid}"] if uid == MEMBER else ["--clear-groups"]
            self.users[uid] = ["setpriv", f"--reuid={uid}", f"--regid={uid}", *more, "--"]
        self.lab.internet.ip(f"address add {PROBED}/32 dev lo")
        right = f"http://{PROBED}/#{self.lab.plan.cafe_uplink.host4(2)}%0A"
        probes = f'[portal]\nprobes = ["{right}"]\n{self.settings}'
        self.subject = Subject(self.lab, SETTINGS.replace("[portal]\ndetect = false", probes), LAYERS[self.layer])
        self.subject.start(30)
        self.subject.set_up()
        self.portal = Portal(self.lab)
        self.lab.join("cafe")
        self.subject.wait("portal", 60)
        return self

    def visitor(self, **task: Any) -> list[str]:
        return [self.lab.python, "-I", "-S", VISITOR, json.dumps(task)]

    def start(self, *command: str, uid: int = MEMBER, stdin: int | None = None) -> Process:
        """A program of that user, not in the login."""
        return self.lab.laptop.start(*self.users[uid], *command, stdin=stdin)

    def log_in(self, *command: str, uid: int = MEMBER, stdin: int | None = None) -> Process:
        return self.start(CLI, "portal-login", "--", *command, uid=uid, stdin=stdin)

    def outcome(self, process: Process, timeout: float = 60) -> dict[str, str]:
        """What a visitor that tries has printed."""
        process.wait(timeout)
        return self.said(process)

    def said(self, process: Process) -> dict[str, str]:
        found = [line for line in process.output().splitlines() if line.startswith("{")]
        assert found, process.output()
        said: dict[str, str] = json.loads(found[-1])
        return said

    def inside(self) -> list[str]:
        """The processes of all logins."""
        return [pid for each in self.groups.glob("tunwarden/login-*/cgroup.procs") for pid in each.read_text().split()]

    def closed(self, timeout: float = 20) -> None:
        """Wait until no login is left: neither processes nor groups, nor a rule."""
        deadline = time.monotonic() + timeout
        while True:
            groups = [*self.groups.glob("tunwarden/login-*")]
            table = self.lab.laptop.run("nft", "list", "table", "inet", "tunwarden", check=False).stdout
            rules = self.lab.laptop.run("ip", "rule").stdout + self.lab.laptop.run("ip", "-6", "rule").stdout
            if not groups and f"{LOGIN_MARK:#x}" not in table and "/0xfffffffe" not in rules:
                return
            assert time.monotonic() < deadline, (groups, table, rules)
            time.sleep(0.02)


@pytest.fixture
def captive(lab: Laboratory) -> Iterator[Captive]:
    with control_groups(lab) as groups:
        here = Captive(lab, groups).begin()
        yield here
        if here.subject.process is not None and here.subject.process.running:
            assert "Traceback" not in here.subject.process.output(), here.subject.process.output()


# --- what leaves ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """A clear frame, as far as it tells one program from another."""

    target: IPv4Address | IPv6Address
    protocol: int
    source_port: int
    port: int
    payload: bytes


def seen(meter: Meter) -> list[Seen]:
    """Every clear frame that has left the laptop."""
    found = []
    for frame, kind in meter.frames():
        if kind in LEAKS:
            data, four = frame.payload, frame.payload[0] >> 4 == 4
            head = (data[0] & 15) * 4 if four else 40
            protocol = data[9] if four else data[6]
            target = ip_address(data[16:20] if four else data[24:40])
            ports = [int.from_bytes(data[head + at : head + at + 2]) for at in (0, 2)]
            found.append(Seen(target, protocol, *ports, data[head:]))
    return found


def strangers(lab: Laboratory, meter: Meter) -> list[Seen]:
    """The frames that neither a login nor a probe for the portal sends.

    In this café every name is the router, so a login goes there alone: HTTP, and questions for names.
    """
    router = {lab.plan.cafe.host4(1), lab.plan.cafe.host6(1)}

    def fits(one: Seen) -> bool:
        if (one.protocol, one.port) == (UDP, 53):
            asks = b"leak" not in one.payload and b"outside" not in one.payload
            return asks and (one.target in router or one.target.is_link_local)
        there = one.target in router or one.target == PROBED
        return (one.protocol, one.port) == (TCP, 80) and there and one.source_port not in OUTSIDE

    return [one for one in seen(meter) if not fits(one)]


def forbidden(lab: Laboratory) -> Ways:
    """What a program tries that is not in the login."""
    router4, router6, web4, web6 = (
        lab.plan.cafe.host4(1),
        lab.plan.cafe.host6(1),
        lab.plan.internet4,
        lab.plan.internet6,
    )
    return {
        "portal": {"kind": "tcp", "to": str(router4), "port": WEB_PORT, "from": OUTSIDE[0]},
        "portal6": {"kind": "tcp", "to": str(router6), "port": WEB_PORT, "from": OUTSIDE[1]},
        "web": {"kind": "tcp", "to": str(web4), "port": WEB_PORT, "from": OUTSIDE[2]},
        "web6": {"kind": "tcp", "to": str(web6), "port": WEB_PORT, "from": OUTSIDE[3]},
        "names": {"kind": "dns", "to": str(router4), "name": "outside.test"},
        "names6": {"kind": "dns", "to": str(router6), "name": "outside6.test"},
        "a stub": {"kind": "dns", "to": "127.0.0.53", "name": "outside-stub.test"},
        "bound": {"kind": "tcp", "to": str(router4), "port": WEB_PORT, "link": "wlan0", "from": OUTSIDE[4]},
        "https": {"kind": "tcp", "to": str(router4), "port": 443, "from": OUTSIDE[5]},
        "quic": {"kind": "udp", "to": str(router4), "port": 443, "from": OUTSIDE[6], "hears": False},
    }


@pytest.mark.parametrize("layer", LAYERS)
def test_n12_the_login_passes_and_nothing_else_does(lab: Laboratory, layer: str) -> None:
    """K3, N12: a member of the group logs in, beside root's traffic and a program of his own that is not in it."""
    with control_groups(lab) as groups:
        here = Captive(lab, groups, layer).begin()
        ways = forbidden(lab)
        if layer == "routing":  # alone, it cannot hold a socket bound to the link (L11)
            del ways["bound"]
        device = "lo" if layer == "routing" else "wlan0"
        with lab.meter() as meter, lab.traffic(device=device) as traffic:
            outside = here.start(*here.visitor(do="insist", ways=ways))
            outside.wait_output("ready", 20)
            login = here.log_in(*here.visitor(do="log in", page=PAGE))
            assert login.wait(60) == 0, login.output()
            assert here.portal.let_out(), "over both families"
            assert any(one.protocol == TCP and one.port == WEB_PORT for one in seen(meter)), "the login is seen"
            here.subject.wait("connected", 60)
            outside.stop(20)
            assert strangers(lab, meter) == []
            meter.positive_control()
        assert sum(each.tried for each in traffic.counts.values()) > 0
        # Once the VPN is up, its ways do go, through the tunnel: the meter is the judge.
        tried = Counter({key.partition(":")[0]: int(count) for key, count in here.said(outside).items()})
        assert tried.keys() == ways.keys()
        here.closed()

        # The control: the same ways of the same user, with nothing to hold them, are seen.
        here.subject.cli("disconnect")
        here.subject.wait("idle", 30)
        with lab.meter() as meter:
            here.outcome(here.start(*here.visitor(do="try", ways=forbidden(lab))))
            assert [one for one in seen(meter) if b"outside" in one.payload]
            assert {one.source_port for one in strangers(lab, meter)} >= {*OUTSIDE[:7]}


def test_n12_what_the_login_itself_cannot_reach(captive: Captive) -> None:
    """Other ports, protocols and links, the VPN server, both families: by the same program that can log in."""
    lab = captive.lab
    router4, router6 = str(lab.plan.cafe.host4(1)), str(lab.plan.cafe.host6(1))
    reached: Ways = {
        "mark": {"kind": "mark"},
        "name": {"kind": "name", "name": "portal.test"},
        "portal": {"kind": "tcp", "to": router4, "port": 80},
        "portal6": {"kind": "tcp", "to": router6, "port": 80},
        "any page": {"kind": "tcp", "to": str(lab.plan.internet4), "port": 80},
        "a stub": {"kind": "dns", "to": "127.0.0.53", "name": "portal.test"},
        "IPv6": {"kind": "dns", "to": router6, "name": "portal.test", "type": 28},
    }
    shut: Ways = {}
    for target in (router4, router6, str(lab.plan.internet4), str(lab.plan.internet6)):
        for kind, ports in (("tcp", (22, 53, 853, 8080, SINK_PORT)), ("udp", (443, 853, 123, ECHO_PORT))):
            for port in ports:
                shut[f"{kind} {target} {port}"] = {"kind": kind, "to": target, "port": port, "patience": 0.2}
    for number in (22, 443, SERVER_PORT):  # the VPN server, whose address only the VPN itself may reach (L3)
        shut[f"server {number}"] = {
            "kind": "udp", "to": str(lab.plan.server4), "port": number, "patience": 0.2,
        }  # fmt: skip
    shut["another link"] = {"kind": "tcp", "to": router4, "port": 80, "link": "eth0", "patience": 0.5}
    shut["a link and a name"] = {
        "kind": "udp", "to": router6, "port": 53, "link": "wlan0", "patience": 0.5,
    }  # fmt: skip
    kinds = {"TXT": 16, "NULL": 10, "ANY": 255, "MX": 15, "HTTPS": 65, "AXFR": 252}
    tunnels: Ways = {
        name: {"kind": "dns", "to": router4, "name": "secret.portal.test", "type": kind} for name, kind in kinds.items()
    }
    with lab.meter() as meter:
        said = captive.outcome(captive.log_in(*captive.visitor(do="try", ways={**reached, **shut, **tunnels})))
        assert said["mark"] == f"{LOGIN_MARK:#x}"
        assert {router4, router6} == {*said["name"].split()}
        assert [said[name] for name in ("portal", "portal6", "any page")] == ["", "", ""]
        assert [said[name] for name in ("a stub", "IPv6")] == ["answer 0 1", "answer 0 1"]
        assert {name: said[name] for name in shut if not said[name]} == {}
        assert {said[name] for name in tunnels} == {"answer 5 0"}
        left = {(one.protocol, one.port) for one in seen(meter)}
        assert left <= {(TCP, 80), (UDP, 53)}, left
        assert not [one for one in seen(meter) if b"secret" in one.payload]
        meter.positive_control()
    captive.closed()

    # The control: out of the login and unblocked, the same ways leave, whether or not somebody answers.
    captive.portal.log_in()
    captive.subject.wait("connected", 60)
    captive.subject.cli("disconnect")
    captive.subject.wait("idle", 30)
    with lab.meter() as meter:
        captive.outcome(captive.start(*captive.visitor(do="try", ways={**shut, **tunnels})))
        left = {(one.protocol, one.port) for one in seen(meter)}
        assert left >= {(TCP, 22), (TCP, 53), (TCP, 853), (UDP, 443), (UDP, 853), (UDP, 123)}
        assert [one for one in seen(meter) if b"secret" in one.payload]


def test_n12_names_are_asked_for_at_a_limited_rate(captive: Captive) -> None:
    router = str(captive.lab.plan.cafe.host4(1))
    ways: Ways = {
        str(number): {"kind": "dns", "to": router, "name": f"n{number}.flood.test", "patience": 0.001}
        for number in range(600)
    }
    with captive.lab.meter() as meter:
        # It stays after its questions, for whoever passes them on may be late.
        script = f"{shlex.join(captive.visitor(do='try', ways=ways))}; echo asked; exec sleep 1000"
        login = captive.log_in("sh", "-c", script)
        login.wait_output("\nasked\n", 120)

        def passed_on() -> list[Captured]:
            return [frame for frame, _ in meter.frames() if b"\x05flood\x04test" in frame.payload]

        def named(frames: list[Captured]) -> int:
            return len({frame.payload.partition(b"\x05flood")[0][-4:] for frame in frames})

        deadline = time.monotonic() + 20
        while named(passed_on()) < BURST and time.monotonic() < deadline:
            time.sleep(0.05)
        login.send(signal.SIGINT)
        login.wait(30)
        frames = passed_on()
        elapsed = frames[-1].time - frames[0].time
        assert BURST <= named(frames) <= BURST + PER_S * (elapsed + 1), "all that may pass does, and no more"


def test_n12_nobody_else_gets_names_from_the_login(captive: Captive) -> None:
    """The forwarder's own port, asked directly: by another program of the same user, over both families."""
    login = captive.log_in("sleep", "1000")
    login.wait_output("The login is open", 30)
    table = captive.lab.laptop.run("nft", "list", "chain", "inet", "tunwarden", "login").stdout
    port = int(table.partition("redirect to :")[2].split()[0])
    ways: Ways = {to: {"kind": "udp", "to": to, "port": port, "hears": False} for to in ("127.0.0.1", "::1")}
    said = captive.outcome(captive.start(*captive.visitor(do="try", ways=ways)))
    assert set(said.values()) == {"Operation not permitted"}, said
    login.send(signal.SIGINT)
    login.wait(30)
    captive.closed()
    # The control: with nobody there, the question is sent, and the kernel says that nobody listens.
    open_ways: Ways = {to: {"kind": "udp", "to": to, "port": port, "patience": 1} for to in ("127.0.0.1", "::1")}
    said = captive.outcome(captive.start(*captive.visitor(do="try", ways=open_ways)))
    assert set(said.values()) == {"Connection refused"}, said


# --- who is in it, and for how long -----------------------------------------------------------------------------------


def test_n12_what_the_command_starts_is_in_it_and_ends_with_it(captive: Captive) -> None:
    """A grandchild that has left its session is in the login, and killed when the command has ended."""
    portal: Ways = {"portal": {"kind": "tcp", "to": str(captive.lab.plan.cafe.host4(1)), "port": 80}}
    visitor = captive.visitor(do="try", ways=portal)
    script = (
        "import os, subprocess, sys, time\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0:\n"
        f"        subprocess.run({visitor!r})\n"
        "        time.sleep(1000)\n"
        "    os._exit(0)\n"
        "os.wait()\n"
        "sys.stdin.readline()\n"
        "sys.exit(7)\n"
    )
    login = captive.log_in(captive.lab.python, "-I", "-S", "-c", script, stdin=subprocess.PIPE)
    login.wait_output('{"portal": ""}', 30)
    assert len(captive.inside()) >= 2
    os.write(login.stdin, b"\n")
    assert login.wait(30) == 7, "the command's own status"
    captive.closed()
    assert captive.inside() == []


def test_n12_a_caller_that_is_killed_ends_it(captive: Captive) -> None:
    login = captive.log_in("sleep", "1000")
    login.wait_output("The login is open", 30)
    assert captive.inside()
    login.kill()
    captive.closed()
    assert captive.inside() == []
    assert captive.subject.status().state == "portal"


def test_n12_a_daemon_that_is_killed_ends_it_and_the_next_one_tidies_up(captive: Captive) -> None:
    lab = captive.lab
    with lab.meter() as meter, lab.traffic():
        login = captive.log_in(*captive.visitor(do="insist", ways={
            "portal": {"kind": "tcp", "to": str(lab.plan.cafe.host4(1)), "port": 80, "patience": 2},
        }))  # fmt: skip
        login.wait_output("ready", 30)
        (pid,) = captive.inside()
        captive.subject.kill()
        deadline = time.monotonic() + 20
        while captive.inside():
            assert time.monotonic() < deadline, "the tree outlives the daemon"
            time.sleep(0.01)
        login.wait(30)
        assert "does not answer" in login.output()
        assert not Path(f"/proc/{pid}/cmdline").exists() or not Path(f"/proc/{pid}/cmdline").read_bytes()
        assert [*captive.groups.glob("tunwarden/login-*")], "nobody is left who could remove it"
        captive.subject.start(30)
        captive.closed()
        assert strangers(lab, meter) == []
        meter.positive_control()
    captive.subject.wait("portal", 60)
    assert captive.log_in("true").wait(30) == 0


def test_n12_the_daemon_ends_it_when_it_is_stopped(captive: Captive) -> None:
    login = captive.log_in("sleep", "1000")
    login.wait_output("The login is open", 30)
    assert captive.subject.stop() == 0
    assert login.wait(30) == 3
    captive.closed()


def test_n12_it_ends_when_the_portal_is_open_and_the_vpn_connects(captive: Captive) -> None:
    login = captive.log_in("sleep", "1000")
    login.wait_output("The login is open", 30)
    captive.portal.log_in()
    captive.subject.wait("connected", 60)
    assert login.wait(30) == 0, login.output()
    assert "The portal is open" in login.output()
    captive.closed()


def test_n12_it_ends_when_the_network_is_left(captive: Captive) -> None:
    login = captive.log_in("sleep", "1000")
    login.wait_output("The login is open", 30)
    captive.lab.leave()
    assert login.wait(30) == 1, login.output()
    assert "The network was left" in login.output()
    captive.closed()


def test_n12_one_at_a_time_and_only_who_may(captive: Captive) -> None:
    first = captive.log_in("sleep", "1000")
    first.wait_output("The login is open", 30)
    second = captive.log_in("true")
    assert second.wait(30) == 1
    assert "somebody logs in already" in second.output()
    stranger = captive.log_in("touch", "/tmp/never", uid=STRANGER)
    assert stranger.wait(30) == 4, "not permitted"
    assert len(captive.inside()) == 1, "the first one goes on"
    first.send(signal.SIGINT)
    assert first.wait(30) == 130
    captive.closed()
    captive.portal.log_in()
    captive.subject.wait("connected", 60)
    late = captive.log_in("true")
    assert late.wait(30) == 1
    assert "no captive portal is in the way now" in late.output()


PASSES_ON = """
import array, json, socket, sys, time
held = [socket.socket(family, kind) for family in (socket.AF_INET, socket.AF_INET6)
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM)]
with socket.socket(socket.AF_UNIX) as way:
    way.connect("/run/lab/handed")
    socket.send_fds(way, [b"x"], [each.fileno() for each in held])
    way.recv(1)
"""
TAKES = """
import json, os, socket, sys
os.umask(0)
router4, router6, server, server_port = sys.argv[1:]
with socket.socket(socket.AF_UNIX) as way:
    way.bind("/run/lab/handed")
    way.listen()
    print("ready", flush=True)
    one, _ = way.accept()
    _, numbers, _, _ = socket.recv_fds(one, 1, 4)
    print(json.dumps({"marks": [hex(socket.socket(fileno=os.dup(n)).getsockopt(1, 36)) for n in numbers]}), flush=True)
    one.send(b"x")
    sys.stdin.readline()
said = {}
tries = [(0, router4, 80), (1, router4, 53), (2, router6, 80), (3, router6, 53), (1, server, int(server_port))]
for at, target, port in tries:
    each = socket.socket(fileno=os.dup(numbers[at]))
    each.settimeout(1)
    try:
        each.connect((target, port))
        each.send(b"plaintext")
        said[f"{target} {port}"] = ""
    except OSError as err:
        said[f"{target} {port}"] = str(err)
print(json.dumps(said), flush=True)
"""


def test_l3_a_socket_that_outlives_the_login_is_worth_nothing(captive: Captive) -> None:
    """A program of the login hands its sockets to one outside, which keeps them until the VPN is up."""
    lab, plan = captive.lab, captive.lab.plan
    lab.laptop.run("chmod", "0777", "/run/lab")
    ends = [str(each) for each in (plan.cafe.host4(1), plan.cafe.host6(1), plan.server4, SERVER_PORT)]
    taker = captive.start(lab.python, "-I", "-S", "-c", TAKES, *ends, stdin=subprocess.PIPE)
    taker.wait_output("ready", 20)
    assert captive.log_in(lab.python, "-I", "-S", "-c", PASSES_ON).wait(30) == 0
    assert captive.said(taker) == {"marks": [f"{LOGIN_MARK:#x}"] * 4}
    captive.closed()
    captive.portal.log_in()
    captive.subject.wait("connected", 60)
    with lab.meter() as meter:
        os.write(taker.stdin, b"\n")
        taker.wait(30)
        assert f"{plan.server4} {SERVER_PORT}" in captive.said(taker)
        assert not [frame for frame, _ in meter.frames() if b"plaintext" in frame.payload]
        assert seen(meter) == []
        meter.positive_control()
