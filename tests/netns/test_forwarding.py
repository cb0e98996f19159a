"""K8, L5: containers and virtual machines behind the laptop go through the tunnel or nowhere, whoever made their rules.

Docker, libvirt and Tailscale are not here; what they put into the kernel is (foreign_rules.py).
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
from collections.abc import Iterator

import pytest

from lab.frames import LEAKS
from lab.laptop import Laptop
from lab.probes import exit_address, resolve
from lab.routers import dnsmasq
from lab.subject import SETTINGS, Subject
from lab.topology import Laboratory
from lab.traffic import Traffic
from tests.netns import foreign_rules
from tests.netns.asking import (
    REFUSED,
    echo_server,
    echoes,
    link_address,
    refusal,
    says,
    server_dies,
    until,
    web_server,
)
from tests.netns.conftest import Layers
from tests.netns.foreign_rules import PUBLISHED, TAILNET_PEER, TAILSCALE_MARK, Bridge

pytestmark = pytest.mark.netns

# --- Docker -----------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["iptables", "nftables"])
def docker(request: pytest.FixtureRequest, lab: Laboratory) -> Bridge:
    return foreign_rules.docker(lab, request.param)


def protected(lab: Laboratory, settings: str = SETTINGS) -> Subject:
    subject = Subject(lab, settings)
    subject.start(20)
    subject.set_up()
    lab.join("cafe")
    subject.wait("connected", 25)
    return subject


def test_docker_without_the_daemon_leaks(lab: Laboratory, docker: Bridge) -> None:
    """The control of the tests below: their traffic and their published port work, in the clear."""
    lab.join("cafe")
    with lab.meter() as meter, web_server(docker.hosts[0]), echo_server(docker.hosts[1]) as port:
        assert until(lambda: echoes(docker.hosts[0], lab.plan.internet4))
        assert exit_address(docker.hosts[0], lab.plan.internet4) == lab.plan.cafe_uplink.host4(2)
        assert any(kind in LEAKS for _, kind in meter.frames())
        assert until(lambda: says(lab.cafe, link_address(lab), PUBLISHED) == b"container")
        assert until(lambda: echoes(docker.hosts[0], docker.subnet.host4(3), port=port))


def test_docker_through_the_tunnel_or_nowhere(lab: Laboratory, docker: Bridge) -> None:
    subject = protected(lab)
    one, two = docker.hosts
    with (
        lab.meter() as meter,
        Traffic(one, lab.plan, lab.python, 20.0, "eth0") as traffic,
        web_server(one),
        echo_server(two) as port,
        echo_server(lab.laptop, 7778) as own,
    ):
        for internet in (lab.plan.internet4, lab.plan.internet6):
            assert until(lambda target=internet: echoes(one, target))  # type: ignore[misc]
        assert exit_address(one, lab.plan.internet4) == lab.plan.server4

        def at_home() -> None:
            """Whatever stays on this machine works in every state."""
            assert says(lab.laptop, docker.subnet.host4(2), foreign_rules.WEB, 10) == b"container"
            assert says(lab.laptop, docker.subnet.host6(2), foreign_rules.WEB, 10) == b"container"
            assert says(lab.laptop, link_address(lab), PUBLISHED, 10) == b"container"
            for number, from_host in ((3, one), (1, one)):
                listening = port if number == 3 else own
                assert echoes(from_host, docker.subnet.host4(number), 10, port=listening)
                assert echoes(from_host, docker.subnet.host6(number), 10, port=listening)

        at_home()
        assert says(lab.cafe, link_address(lab), PUBLISHED) == b"", "the local network is not allowed"
        lab.kill_server()
        subject.wait(lambda status: not status.protected, 30)
        subject.wait(lambda status: status.state == "blocked" and status.cause == "server-unreachable", 30)
        traffic.stop()  # for the kernel sends few ICMP errors a second (icmp_ratelimit)
        for internet in (lab.plan.internet4, lab.plan.internet6):
            assert until(lambda target=internet: refusal(one, target) in REFUSED)  # type: ignore[misc]
        at_home()
        assert says(lab.cafe, link_address(lab), PUBLISHED) == b""
        lab.start_server()
        subject.wait("connected", 30)
        assert until(lambda: echoes(one, lab.plan.internet4))
        assert meter.leaks() == []
        meter.positive_control()


def test_a_published_port_where_the_local_network_is_allowed(docker: Bridge, lab: Laboratory) -> None:
    """Its addresses are of the documentation here, so the administrator calls them local."""
    plan = lab.plan
    settings = SETTINGS + f'\n[protection]\nallow_lan = true\nlan_subnets = ["{plan.cafe.v4}", "{plan.cafe.v6}"]\n'
    subject = protected(lab, settings)
    stranger = "203.0.113.250"
    lab.cafe.ip(f"address add {stranger}/32 dev lo")
    with web_server(docker.hosts[0]):
        for state in ("connected", "blocked"):
            if state == "blocked":
                server_dies(lab, subject)
            assert until(lambda: says(lab.cafe, link_address(lab), PUBLISHED) == b"container")
            with lab.cafe.socket(socket.AF_INET, socket.SOCK_STREAM) as client:
                client.bind((stranger, 0))
                client.settimeout(1.5)
                with pytest.raises(OSError):
                    client.connect((str(link_address(lab)), PUBLISHED))
            if state == "connected":
                assert until(lambda: echoes(docker.hosts[0], plan.internet4))
            else:
                assert not echoes(docker.hosts[0], plan.internet4)


def test_the_container_traffic_of_every_state(layers: Layers, lab: Laboratory) -> None:
    """K3: also with one layer alone. The states pass by under the container's traffic of nine kinds."""
    docker = foreign_rules.docker(lab, "iptables")
    # Held for longer than a busy machine needs to look.
    subject = layers(SETTINGS.replace("[wifi]\n", '[wifi]\nidentify_timeout = "1m"\n'))
    assert lab.networkmanager is not None
    with lab.meter() as meter, Traffic(docker.hosts[0], lab.plan, lab.python, 20.0, "eth0") as traffic:
        lab.networkmanager.associating()
        lab.associate(lab.networks["cafe"])
        subject.wait("held", 20)
        lab.block_server()
        lab.networkmanager.associated(lab.networks["cafe"].point)
        lab.address(lab.networks["cafe"])
        subject.wait("connecting", 20)
        subject.wait("blocked", 30)
        lab.unblock_server()
        subject.wait("connected", 30)
        if layers.name != "firewall":  # which alone has no way into the tunnel
            assert until(lambda: echoes(docker.hosts[0], lab.plan.internet4))
        lab.block_server()
        subject.cli("reconnect")
        subject.wait("reconnecting", 20)
        lab.unblock_server()
        subject.wait("connected", 30)
        counts = traffic.stop()
        assert min(each.tried for each in counts.values()) > 10
        assert meter.leaks() == []
        meter.positive_control()


# --- a bridge that is no longer inside --------------------------------------------------------------------------------


def test_a_bridge_that_gets_a_port_to_the_outside_is_no_longer_inside(lab: Laboratory) -> None:
    """What the host may send to its containers must not leave when the cable is put into their bridge."""
    docker = foreign_rules.docker(lab, "iptables")
    # The cable is a veth here, as a container's is: the administrator says that it is none.
    subject = protected(lab, SETTINGS + '\n[[links]]\nname = "eth0"\nkind = "wired"\n')
    assert until(lambda: '"docker0"' in table(lab)), "the control: it is inside"

    def send() -> None:
        for number in range(40, 50):
            with contextlib.suppress(OSError), lab.laptop.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.sendto(b"to a container", (str(docker.subnet.host4(number)), 9))
            mac = f"02:00:00:00:00:{number:02x}"
            lab.laptop.ip(f"neigh replace {docker.subnet.host4(number)} lladdr {mac} dev docker0")

    lab.air.ip(f"link set air-eth0 master {lab.networks['wired'].bridge}", "link set air-eth0 up")
    lab.laptop.ip("link set eth0 master docker0")
    assert until(lambda: '"docker0"' not in table(lab))
    with lab.meter() as meter:
        send(), send()
        assert meter.leaks() == []
        subject.kill()
        lab.laptop.run("nft", "delete", "table", "inet", "tunwarden")
        for family in ("-4", "-6"):
            lab.laptop.run("ip", family, "rule", "flush", "table", "1953853047")
        send()
        assert meter.leaks(), "the control: by that bridge it leaves"


def table(lab: Laboratory) -> str:
    return lab.laptop.run("nft", "list", "table", "inet", "tunwarden").stdout


# --- libvirt ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["nat", "route"])
def test_libvirt_machines_get_addresses_names_and_the_tunnel(lab: Laboratory, mode: str) -> None:
    """dnsmasq on virbr0 answers them in every state; both modes work through the tunnel, and nothing passes it."""
    virtual = foreign_rules.libvirt(lab, mode)
    subject = protected(lab)
    (machine,) = virtual.hosts
    v4, resolver = virtual.subnet.v4, lab.plan.tunnel_server[0]
    assert v4 is not None
    served = dnsmasq(
        lab.laptop, "interface=virbr0", "except-interface=lo", f"dhcp-range={v4[10]},{v4[50]},{v4.netmask},1h",
        "dhcp-authoritative", "no-ping", "dhcp-leasefile=/run/lab/virbr0.leases", f"server={resolver}",
    )  # fmt: skip
    served.wait_output("started")
    card = Laptop(machine)
    with lab.meter() as meter:
        assert card.lease("eth0", metric=100, timeout=25) in v4
        assert until(lambda: echoes(machine, lab.plan.internet4))
        assert exit_address(machine, lab.plan.internet4) == lab.plan.server4
        assert resolve(machine, virtual.subnet.host4(1), "internet.test", timeout=10) == lab.plan.internet4
        with Traffic(machine, lab.plan, lab.python, 20.0, "eth0") as traffic:
            lab.kill_server()
            subject.wait(lambda status: status.state == "blocked" and status.cause == "server-unreachable", 30)
            assert card.lease("eth0", metric=100, timeout=25) in v4, "while blocked, too"
            with contextlib.suppress(OSError):  # dnsmasq may also say that it does not know
                assert resolve(machine, virtual.subnet.host4(1), "server.test", timeout=2) is None
            with echo_server(lab.laptop) as port:
                assert echoes(machine, virtual.subnet.host4(1), 10, port=port)
            traffic.stop()
            assert until(lambda: refusal(machine, lab.plan.internet4) in REFUSED)
        assert meter.leaks() == []
        meter.positive_control()


@pytest.mark.parametrize("mode", ["nat", "route"])
def test_libvirt_without_the_daemon_leaks(lab: Laboratory, mode: str) -> None:
    virtual = foreign_rules.libvirt(lab, mode)
    lab.join("cafe")
    (machine,) = virtual.hosts
    machine.ip(
        f"address add {virtual.subnet.face4(2)} dev eth0", f"route add default via {virtual.subnet.host4(1)}",
    )  # fmt: skip
    with lab.meter() as meter:
        if mode == "nat":
            assert until(lambda: echoes(machine, lab.plan.internet4))
        else:
            assert not echoes(machine, lab.plan.internet4), "no router knows the way to a routed network"
        assert until(lambda: bool(meter.leaks()))


# --- Tailscale --------------------------------------------------------------------------------------------------------


@pytest.fixture
def tailscale(lab: Laboratory) -> Iterator[int]:
    tun = foreign_rules.tailscale(lab)
    yield tun
    os.close(tun)


def reaches(tun: int, lab: Laboratory, target: str, port: int = 9999) -> bool:
    """Whether a packet to that address of the tailnet gets to tailscaled, which would encrypt it."""
    with contextlib.suppress(BlockingIOError):
        while os.read(tun, 2048):
            pass
    with lab.laptop.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender, contextlib.suppress(OSError):
        sender.sendto(b"to the tailnet", (target, port))
    deadline = time.monotonic() + 0.5
    while time.monotonic() < deadline:
        if select.select([tun], [], [], 0.1)[0] and b"to the tailnet" in os.read(tun, 2048):
            return True
    return False


def test_tailscale_while_protected(lab: Laboratory, tailscale: int) -> None:
    """Its own encrypted packets go through the tunnel; its addresses are out of reach; nothing leaks."""
    lab.join("cafe")
    with lab.meter() as meter:
        assert until(lambda: echoes(lab.laptop, lab.plan.internet4, 1.0, TAILSCALE_MARK))
        assert meter.leaks(), "the control: tailscaled's own packets leave"
    assert until(lambda: reaches(tailscale, lab, TAILNET_PEER)), "the control: the tailnet"
    lab.leave()
    subject = protected(lab)
    with lab.meter() as meter:
        assert until(lambda: echoes(lab.laptop, lab.plan.internet4, 1.0, TAILSCALE_MARK)), "inside our tunnel"
        assert exit_address(lab.laptop, lab.plan.internet4) == lab.plan.server4
        assert not reaches(tailscale, lab, TAILNET_PEER)
        assert not reaches(tailscale, lab, foreign_rules.MAGIC_DNS, 53)
        server_dies(lab, subject)
        assert not echoes(lab.laptop, lab.plan.internet4, 1.0, TAILSCALE_MARK)
        assert not reaches(tailscale, lab, TAILNET_PEER)
        assert meter.leaks() == []
        meter.positive_control()


def test_tailscale_as_a_local_network(lab: Laboratory, tailscale: int) -> None:
    """The administrator can call the tailnet local. Then it works, inside our tunnel; its resolver does not."""
    settings = SETTINGS + '\n[protection]\nallow_lan = true\nlan_subnets = ["100.64.0.0/10"]\n'
    subject = protected(lab, settings)
    with lab.meter() as meter:
        assert until(lambda: reaches(tailscale, lab, TAILNET_PEER))
        assert until(lambda: echoes(lab.laptop, lab.plan.internet4, 1.0, TAILSCALE_MARK)), "inside our tunnel"
        assert not reaches(tailscale, lab, foreign_rules.MAGIC_DNS, 53)
        server_dies(lab, subject)
        assert until(lambda: reaches(tailscale, lab, TAILNET_PEER)), "up to tailscaled"
        assert not echoes(lab.laptop, lab.plan.internet4, 1.0, TAILSCALE_MARK), "and no farther"
        assert meter.leaks() == []
        meter.positive_control()
