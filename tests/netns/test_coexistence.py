"""L13, K4, K8: beside real firewalld, real ufw and Debian's nftables.service. Nothing leaks while they come and go, our
rules stand afterwards, the tunnel works, and where their rules are what stops it, people are told which.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ipc.structs import Status
from lab.flood import flood
from lab.probes import exit_address
from lab.processes import LabError, Process
from lab.subject import SETTINGS, Subject
from lab.topology import Laboratory

pytestmark = pytest.mark.netns

PATIENCE = 25.0  # seconds, for a busy machine
BUS = "/run/lab/firewalld-bus"
NAMED = {"DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={BUS}"}
# What Debian's nftables.service loads when it is started, reloaded or restarted.
NFTABLES_CONF = """\
#!/usr/sbin/nft -f

flush ruleset

table inet filter {
    chain input { type filter hook input priority filter; }
    chain forward { type filter hook forward priority filter; }
    chain output { type filter hook output priority filter; }
}
"""


@pytest.fixture
def connected(subject: Subject) -> Subject:
    subject.lab.join("cafe")
    subject.wait("connected", PATIENCE)
    return subject


@pytest.fixture
def blocked(lab: Laboratory) -> Subject:
    """Wanting protection, without a server. No retry rewrites the rules meanwhile."""
    settings = SETTINGS.replace('connect_timeout = "4s"', 'connect_timeout = "1s"')
    settings = settings.replace('retry_first = "500ms"', 'retry_first = "60s"').replace('= "2s"', '= "60s"')
    subject = Subject(lab, settings)
    subject.start()
    subject.set_up()
    lab.block_server()
    lab.join("cafe")
    subject.wait(lambda status: status.cause == "server-unreachable", PATIENCE)
    return subject


@pytest.fixture(params=["connected", "blocked"])
def kept(request: pytest.FixtureRequest) -> Subject:
    """Protected, or with everything blocked."""
    subject: Subject = request.getfixturevalue(request.param)
    return subject


def holds(subject: Subject, state: str) -> None:
    """The state is what it was, and what the kernel holds is what we left there."""
    status = subject.wait(state, PATIENCE)
    assert status.blocking
    assert status.protected is (state == "connected")
    table = subject.lab.laptop.run("nft", "list", "table", "inet", "tunwarden").stdout
    assert f'comment "{state} ' in table
    assert table.count("policy drop;") == 3
    if state == "connected":
        assert exit_address(subject.lab.laptop, subject.lab.plan.internet4) == subject.lab.plan.server4
        assert exit_address(subject.lab.laptop, subject.lab.plan.internet6) == subject.lab.plan.server6


def made_anew(subject: Subject) -> None:
    """Another tunnel. How long the state between is seen depends on the machine: the log has it."""
    process = subject.process
    assert process is not None
    subject.cli("reconnect")
    within(PATIENCE, lambda: "phase=connected" in process.output().partition("phase=reconnecting")[2], process.output)


def tables(subject: Subject) -> str:
    return subject.lab.laptop.run("nft", "list", "tables").stdout


def within(seconds: float, done: Callable[[], bool], complaint: Callable[[], str]) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            raise LabError(complaint())
        time.sleep(0.1)


# --- firewalld --------------------------------------------------------------------------------------------------------


class Firewalld:
    """The real one. It has a bus of its own: libnm, which it asks for zones, waits for ever for the stand-in."""

    def __init__(self, lab: Laboratory) -> None:
        self.laptop = lab.laptop
        address = f"--address=unix:path={BUS}"
        self.laptop.start("dbus-daemon", "--nofork", "--nopidfile", "--config-file=/etc/lab/system-bus.conf", address)
        within(PATIENCE, lambda: self.laptop.listens(BUS), lambda: "no bus for firewalld")
        self._process: Process | None = None

    def start(self) -> None:
        command = ("/usr/sbin/firewalld", "--nofork", "--nopid", "--log-file", "/run/lab/firewalld-itself.log")
        process = self._process = self.laptop.start(*command, env=NAMED)

        def running() -> bool:
            return self.laptop.run("firewall-cmd", "--state", check=False, env=NAMED).stdout.strip() == "running"

        within(PATIENCE, running, process.output)

    def command(self, *options: str) -> None:
        assert self.laptop.run("firewall-cmd", *options, env=NAMED, timeout=60).stdout.strip() == "success"

    def stop(self) -> None:
        assert self._process is not None
        self._process.stop(PATIENCE)


@pytest.fixture
def firewalld(lab: Laboratory) -> Firewalld:
    if not Path("/usr/sbin/firewalld").exists():
        pytest.skip("there is no firewalld: run lab/install-missing")
    return Firewalld(lab)


@pytest.mark.parametrize("backend", ["nftables", "iptables"])
def test_firewalld_starts_reloads_and_stops(kept: Subject, firewalld: Firewalld, sealed: Any, backend: str) -> None:
    state = kept.status().state
    kept.lab.laptop.run(
        "sed", "-i", f"s/^FirewallBackend=.*/FirewallBackend={backend}/", "/etc/firewalld/firewalld.conf"
    )
    with sealed():
        firewalld.start()
        assert "firewalld" in tables(kept) if backend == "nftables" else "ip filter" in tables(kept)
        holds(kept, state)
        firewalld.command("--reload")
        holds(kept, state)
        firewalld.command("--complete-reload")
        holds(kept, state)
    if state == "connected":  # a tunnel can be made beside it, too
        made_anew(kept)
        holds(kept, state)
    with sealed():
        firewalld.stop()
        holds(kept, state)


def test_firewalld_in_panic_is_named(connected: Subject, firewalld: Firewalld, sealed: Any) -> None:
    """`firewall-cmd --panic-on` drops every packet: the tunnel is lost, and status says by whom."""
    with sealed():
        firewalld.start()
        firewalld.command("--panic-on")
        connected.cli("reconnect")
        told = connected.wait(obstacle, PATIENCE)
        assert "firewalld" in warning(told), told.warnings
    firewalld.command("--panic-off")
    assert not obstacle(connected.wait("connected", PATIENCE))


# --- ufw --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def ufw(lab: Laboratory) -> Callable[..., None]:
    """Its files are in the laptop's own /etc."""
    if shutil.which("ufw", path="/usr/sbin") is None:
        pytest.skip("there is no ufw: run lab/install-missing")

    def run(*words: str) -> None:
        lab.laptop.run("/usr/sbin/ufw", *words, timeout=60)

    return run


def test_ufw_is_enabled_reloaded_and_disabled(kept: Subject, ufw: Callable[..., None], sealed: Any) -> None:
    """L12: IPv6 as well."""
    state = kept.status().state
    with sealed():
        ufw("--force", "enable")
        assert "table ip6 filter" in tables(kept)
        holds(kept, state)
        ufw("reload")
        holds(kept, state)
    if state == "connected":
        made_anew(kept)
        holds(kept, state)
    with sealed():
        ufw("disable")
        holds(kept, state)
        ufw("--force", "reset")
        holds(kept, state)


def test_ufw_that_denies_what_goes_out_is_named(connected: Subject, ufw: Callable[..., None], sealed: Any) -> None:
    """And its remedy is one: after it the tunnel works, and nothing is said any more."""
    server = connected.lab.plan.server4
    with sealed():
        ufw("default", "deny", "outgoing")
        ufw("--force", "enable")
        connected.cli("reconnect")
        told = warning(connected.wait(obstacle, PATIENCE))
        assert "`ip filter`" in told
        remedy = f"ufw allow out proto udp to {server} port 51820"
        assert remedy in told
        ufw(*remedy.split()[1:])
        assert not obstacle(connected.wait("connected", PATIENCE))


# --- nftables.service -------------------------------------------------------------------------------------------------


def test_nftables_service_is_restarted(kept: Subject) -> None:
    """L13: `flush ruleset` takes our table along; it is back, and it is told by whom.

    For these milliseconds there is the routing layer alone. It does not hold IPv6 from sockets that are bound to the
    physical link (L11, `daemon/linux/route_plan.py`), so the traffic here is bound to none.
    """
    lab, laptop, state = kept.lab, kept.lab.laptop, kept.status().state
    laptop.write("/etc/nftables.conf", NFTABLES_CONF)
    with lab.meter() as meter, flood(lab) as count:
        laptop.run("nft", "-f", "/etc/nftables.conf")
        status = kept.wait(lambda status: any("by nft (process" in text for text in status.warnings), PATIENCE)
        assert "They were put back" in " ".join(status.warnings)
        holds(kept, state)
        assert "table inet filter" in tables(kept)
        for _ in range(3):
            laptop.run("nft", "-f", "/etc/nftables.conf")
        within(PATIENCE, lambda: "tunwarden" in tables(kept), lambda: str(kept.status().warnings))
        holds(kept, state)
        laptop.run("nft", "flush", "ruleset")  # `systemctl stop nftables`
        within(PATIENCE, lambda: "tunwarden" in tables(kept), lambda: str(kept.status().warnings))
        holds(kept, state)
        assert count.tried > 100
        assert meter.leaks() == []
        meter.positive_control()


# --- other rules of others --------------------------------------------------------------------------------------------


def obstacle(status: Status) -> bool:
    return any("VPN's" in text for text in status.warnings)


def warning(status: Status) -> str:
    (told,) = (text for text in status.warnings if "VPN's" in text)
    return told


@contextlib.contextmanager
def rule_of_others(lab: Laboratory, hook: str, rule: str) -> Iterator[None]:
    inside = f"type filter hook {hook} priority 10; {rule};"
    lab.laptop.run("nft", "-f", "-", input=f"table inet corporate {{ chain it {{ {inside} }}; }}\n")
    yield
    lab.laptop.run("nft", "delete", "table", "inet", "corporate")


@pytest.mark.parametrize(
    "hook, rule, told",
    [
        ("output", "udp dport 51820 drop", "drops the VPN's own packets to"),
        ("input", "udp sport 51820 drop", "drops the answers of the VPN's server"),
    ],
)
def test_a_table_that_stops_the_tunnel_is_named(
    connected: Subject, sealed: Any, hook: str, rule: str, told: str
) -> None:
    """K8: in `status` and `doctor`, until the tunnel works again."""
    with sealed():
        with rule_of_others(connected.lab, hook, rule):
            connected.cli("reconnect")
            status = connected.wait(obstacle, PATIENCE)
            assert told in warning(status)
            assert "`inet corporate`" in warning(status)
            assert f"[!!] {warning(status)}" in connected.cli("doctor", check=False)
        assert not obstacle(connected.wait("connected", PATIENCE))


def test_a_dead_route_to_the_server_is_named(connected: Subject, sealed: Any) -> None:
    lab = connected.lab
    with sealed():
        lab.laptop.ip(f"route add blackhole {lab.plan.server4}/32")
        connected.cli("reconnect")
        assert f"A blackhole route to {lab.plan.server4}/32" in warning(connected.wait(obstacle, PATIENCE))
        lab.laptop.ip(f"route del blackhole {lab.plan.server4}/32")
        assert not obstacle(connected.wait("connected", PATIENCE))


def test_disconnecting_ends_the_search(connected: Subject) -> None:
    """Nobody connects any more: nothing of the search is left, nor said."""
    with rule_of_others(connected.lab, "output", "udp dport 51820 drop"):
        connected.cli("reconnect")
        connected.wait(obstacle, PATIENCE)
        connected.wait("blocked", PATIENCE)
        connected.cli("disconnect")
        assert not obstacle(connected.wait("idle", PATIENCE))
        within(PATIENCE, lambda: "tunwarden_probe" not in tables(connected), lambda: tables(connected))


def test_a_dead_server_is_nobodys_fault(connected: Subject) -> None:
    """The control: a failed attempt alone accuses nobody."""
    connected.lab.block_server()
    connected.cli("reconnect")
    connected.wait(lambda status: status.cause == "server-unreachable", PATIENCE)
    connected.wait("reconnecting", PATIENCE)
    connected.wait("blocked", PATIENCE)
    assert not obstacle(connected.status())
    connected.lab.unblock_server()
    connected.wait("connected", PATIENCE)
    within(PATIENCE, lambda: "tunwarden_probe" not in tables(connected), lambda: tables(connected))
