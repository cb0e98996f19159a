"""openvpn within the limits of the service, and across its restarts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.openvpn_server import PROGRAM, Authority, Pair, block, static_key
from tests.boot.machine import UNIT, Machine

pytestmark = [
    pytest.mark.boot,
    pytest.mark.skipif(not Path(PROGRAM).exists(), reason="openvpn is missing: run lab/install-missing"),
]

SERVER = """
dev tun9
dev-type tun
topology subnet
server 10.8.0.0 255.255.255.0
proto udp
port 1194
dh none
keepalive 1 5
push "dhcp-option DNS 10.8.0.1"
"""


# Where the old hierarchy is in use, the unified one may be one floor below. The unit does not look for it there.
HYBRID = """
[Service]
ExecStartPre=-+/bin/mkdir -p /sys/fs/cgroup/unified/tunwarden
ReadWritePaths=-/sys/fs/cgroup/unified/tunwarden
"""


@pytest.fixture
def unified(fresh: Machine) -> Iterator[None]:
    """A machine with unified control groups, for the daemon."""
    if fresh.run("stat", "-f", "-c", "%T", "/sys/fs/cgroup").stdout.strip() == "cgroup2fs":
        yield
        return
    place = f"/run/systemd/system/{UNIT}.d/50-hybrid.conf"
    fresh.box.write(place, HYBRID)
    fresh.run("systemctl", "daemon-reload")
    fresh.run("systemctl", "restart", UNIT)
    try:
        yield
    finally:
        fresh.run("rm", place)
        fresh.run("systemctl", "daemon-reload")


@pytest.fixture
def server(fresh: Machine, tmp_path: Path) -> str:
    """A server at the neighbour, and the laptop's file for it."""
    authority, wrap = Authority(tmp_path), static_key()

    def blocks(own: Pair) -> str:
        parts = ("ca", authority.certificate), ("cert", own.certificate), ("key", own.key), ("tls-crypt", wrap)
        return "\n".join(block(*each) for each in parts)

    fresh.box.write("/run/server.ovpn", f"{SERVER}{blocks(authority.pair('server', 'serverAuth'))}\n", mode=0o600)
    fresh.run("systemctl", "stop", "server.service", check=False)
    fresh.run(
        "systemd-run", "--quiet", "--collect", "--unit=server", "ip", "netns", "exec", "neighbour", PROGRAM,
        "--config", "/run/server.ovpn",
    )  # fmt: skip
    head = "client\ndev tun\nremote 198.51.100.1 1194 udp\nremote-cert-tls server"
    return f"{head}\n{blocks(authority.pair('laptop'))}\n"


def openvpn(machine: Machine) -> str:
    """The process id of the tunnel's own."""
    return machine.box.read("/run/tunwarden/openvpn/pid").split()[0]


@pytest.mark.usefixtures("unified")
def test_a_connection_inside_the_sandbox(fresh: Machine, server: str) -> None:
    """It needs no capability: the kernel marks what its control group sends."""
    fresh.box.write("/run/office.ovpn", server, mode=0o600)
    fresh.run("tunwarden", "profiles", "import", "/run/office.ovpn")
    fresh.run("tunwarden", "connect", "office", "--wait", "--timeout", "25")
    assert fresh.status()["protected"] is True
    assert "nameserver 10.8.0.1" in fresh.box.read("/etc/resolv.conf")
    first = openvpn(fresh)
    status = dict(
        line.split(":\t", 1) for line in fresh.box.read(f"/proc/{first}/status").splitlines() if ":\t" in line
    )
    assert int(status["CapPrm"], 16) == int(status["CapEff"], 16) == 0
    assert status["Seccomp"] == "2"
    assert "\n0::/tunwarden/openvpn\n" in "\n" + fresh.box.read(f"/proc/{first}/cgroup")
    with fresh.sealed():
        fresh.run("systemctl", "kill", "--signal=KILL", "--kill-whom=main", UNIT)
        fresh.wait("another one", lambda: fresh.status()["protected"] and openvpn(fresh) != first, 40)
    assert not fresh.box.path(f"/proc/{first}").exists()
    fresh.run("tunwarden", "disconnect")
    fresh.wait_state("idle")
    assert fresh.run("pgrep", "-f", "[-]-config stdin", check=False).stdout == ""
