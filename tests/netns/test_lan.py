"""Local network access: per network, a constant list and the administrator's own, discovery included; L1, L8, N10."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest

from lab.frames import ETH_IPV4, ETH_IPV6, LEAKS
from lab.meter import Meter
from lab.probes import exit_address, resolve
from lab.subject import SETTINGS, Subject
from lab.topology import Laboratory
from tests.conftest import next_seed
from tests.netns.asking import Address, echo_server, echoes, link_address, server_dies, until
from tests.netns.conftest import Layers

pytestmark = pytest.mark.netns

ALLOWED = SETTINGS + "\n[protection]\nallow_lan = true\n"
PER_NETWORK = SETTINGS.replace('action = "disconnect"', 'action = "auto_connect"\nallow_lan = true')
MDNS4, MDNS6, SSDP4, LLMNR4 = (
    ip_address(text) for text in ("224.0.0.251", "ff02::fb", "239.255.255.250", "224.0.0.252")
)
MDNS, SSDP, LLMNR = 5353, 1900, 5355


@pytest.fixture
def house() -> Iterator[Laboratory]:
    """A laboratory whose networks have private addresses."""
    with Laboratory(next_seed(), private_lan=True) as laboratory:
        yield laboratory


def start(lab: Laboratory, settings: str) -> Subject:
    subject = Subject(lab, settings)
    subject.start(20)
    subject.set_up()
    return subject


def left(meter: Meter) -> set[Address]:
    """Where the frames that left in the clear went to."""
    found: set[Address] = set()
    for frame, kind in meter.frames():
        if kind in LEAKS and frame.ethertype == ETH_IPV4:
            found.add(IPv4Address(frame.payload[16:20]))
        elif kind in LEAKS and frame.ethertype == ETH_IPV6:
            found.add(IPv6Address(frame.payload[24:40]))
    return found


def throw(lab: Laboratory, *targets: Address, link: str = "wlan0", port: int = 9) -> None:
    """A datagram to each, by ordinary sockets; a refusal is an answer too."""

    def send() -> None:
        for target in targets:
            family = socket.AF_INET if target.version == 4 else socket.AF_INET6
            with socket.socket(family, socket.SOCK_DGRAM) as sender, contextlib.suppress(OSError):
                sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
                index = socket.if_nametoindex(link)
                if target.version == 4:
                    # struct ip_mreqn: what a program that means this link does
                    sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, struct.pack("=4s4si", b"", b"", index))
                    sender.sendto(b"hello", (str(target), port))
                else:
                    sender.sendto(b"hello", (str(target), port, 0, index if nearby(target) else 0))

    lab.laptop.inside(send)


def nearby(target: Address) -> bool:
    return target.is_link_local or target.is_multicast


# --- per network ------------------------------------------------------------------------------------------------------


def test_home_is_allowed_and_the_cafe_is_not(house: Laboratory) -> None:
    """And while the network changes, what is meant for home never gets into the cafe's air."""
    subject = start(house, PER_NETWORK)
    home, cafe = house.plan.home.host4(1), house.plan.cafe.host4(1)
    end = threading.Event()

    def talk() -> None:
        while not end.is_set():
            throw(house, home, cafe, MDNS4, MDNS6)
            time.sleep(0.01)

    with (
        house.meter() as meter,
        echo_server(house.home) as port,
        echo_server(house.cafe),
        echo_server(house.laptop) as own,
    ):
        house.join("home")
        subject.wait("connected", 25)
        assert until(lambda: echoes(house.laptop, home, port=port))
        assert until(lambda: echoes(house.home, link_address(house), port=own)), "in both directions"
        assert exit_address(house.laptop, house.plan.internet4) == house.plan.server4
        talker = threading.Thread(target=talk)
        talker.start()
        try:
            assert until(lambda: {home, MDNS4, MDNS6} <= left(meter)), "the control: at home all of it leaves"
            house.leave()
            meter.reset()
            house.join("cafe")
            subject.wait("connected", 25)
            time.sleep(0.5)
            assert left(meter) == set()
            assert not echoes(house.laptop, cafe, port=port)
            assert not echoes(house.cafe, link_address(house), port=own)
            assert meter.leaks() == []
            meter.positive_control()
            house.join("home")
            subject.wait("connected", 25)
            assert until(lambda: echoes(house.laptop, home, port=port)), "and back"
        finally:
            end.set()
            talker.join()


# --- the constant list ------------------------------------------------------------------------------------------------

LOCAL = tuple(ip_address(text) for text in (
    "10.0.0.1", "10.255.255.254", "172.16.0.1", "172.31.255.254", "192.168.0.7", "192.168.255.254", "169.254.9.9",
    "224.0.0.1", "224.0.0.251", "239.255.255.250", "255.255.255.255", "fc00::7", "fdff::7", "fe80::7",
    "ff01::fb", "ff02::fb", "ff05::fb",
))  # fmt: skip
PUBLIC = tuple(ip_address(text) for text in (
    "9.255.255.254", "11.0.0.1", "172.15.255.254", "172.32.0.1", "192.167.255.254", "192.169.0.1", "169.253.9.9",
    "100.64.0.1", "198.18.0.1", "224.0.1.1", "238.1.1.1", "240.0.0.1", "2001:db8:ffff::7", "fec0::7", "2606:4700::7",
    "ff08::fb", "ff0e::fb",
))  # fmt: skip
ON_NO_WIRE = {ip_address("ff01::fb")}  # interface-local scope: the kernel keeps it (RFC 4291, 2.7)


def answer_for_everybody(lab: Laboratory) -> None:
    """Frames to anybody leave at once: the laptop knows the hardware address of each."""
    router = lab.plan.mac("cafe/lan")
    lab.laptop.ip(*(
        f"neigh replace {target} lladdr {router} dev wlan0 nud permanent"
        for target in (*LOCAL, *PUBLIC) if not target.is_multicast and str(target) != "255.255.255.255"
    ))  # fmt: skip


def test_l8_the_constant_list_and_nothing_else(house: Laboratory) -> None:
    """Connected and blocked alike; held nothing; and the very same packets all leave where nobody protects."""
    # Held for longer than a busy machine needs to look.
    subject = start(house, ALLOWED.replace("[wifi]\n", '[wifi]\nidentify_timeout = "1m"\n'))
    assert house.networkmanager is not None
    house.networkmanager.associating()
    house.associate(house.networks["cafe"])
    subject.wait("held", 20)
    with house.meter() as meter:
        throw(house, *LOCAL, *PUBLIC)
        assert left(meter) == set()
        house.networkmanager.associated(house.networks["cafe"].point)
        house.address(house.networks["cafe"])
        subject.wait("connected", 25)
        answer_for_everybody(house)
        for state in ("connected", "blocked"):
            if state == "blocked":
                server_dies(house, subject)
            answer_for_everybody(house)
            meter.reset()
            assert until(lambda: (throw(house, *LOCAL, *PUBLIC), set(LOCAL) - ON_NO_WIRE <= left(meter))[1])
            assert left(meter) & set(PUBLIC) == set()
    subject.kill()
    house.laptop.run("nft", "delete", "table", "inet", "tunwarden")
    for family in ("-4", "-6"):
        house.laptop.run("ip", family, "rule", "flush", "table", "1953853047")
    with house.meter() as meter:
        wanted = set(PUBLIC) - {ip_address("240.0.0.1")}  # which is reserved
        # Again: the first ones may wait for the router's hardware address.
        assert until(lambda: (throw(house, *LOCAL, *PUBLIC), wanted <= left(meter))[1]), "the control: they leave"


def test_l8_a_network_with_public_addresses_is_not_local() -> None:
    """TunnelCrack LocalNet: the hotspot hands out a public network, and a route to more of it."""
    seed = next_seed()
    with Laboratory(seed) as first:
        internet, router = first.plan.internet4, first.plan.cafe.host4(1)
    with Laboratory(seed, dhcp_options={"cafe": [f"121,{internet}/32,{router},0.0.0.0/0,{router}"]}) as lab:
        lab.join("cafe")
        assert f"{internet} " in lab.laptop.run("ip", "route").stdout, "the laptop obeys the hotspot"
        with lab.meter() as meter:
            assert until(lambda: echoes(lab.laptop, internet))
            assert left(meter) == {internet}, "the control"
        lab.leave()
        subject = start(lab, ALLOWED)
        lab.join("cafe")
        subject.wait("connected", 25)
        with lab.meter() as meter, echo_server(lab.cafe) as port:
            assert until(lambda: echoes(lab.laptop, internet)), "through the tunnel"
            assert exit_address(lab.laptop, internet) == lab.plan.server4
            assert not echoes(lab.laptop, router, port=port), "the router's address is no private one"
            throw(lab, lab.plan.cafe.host6(1), IPv4Address("192.0.2.77"))
            assert meter.leaks() == []
            meter.positive_control()


# --- discovery --------------------------------------------------------------------------------------------------------


def ask(lab: Laboratory, group: Address, port: int, source_port: int = 0) -> bool:
    """Ask a group from the laptop's wlan0; whether the printer, in the cafe, has heard it and its answer came back."""
    family = socket.AF_INET if group.version == 4 else socket.AF_INET6
    with contextlib.ExitStack() as stack:
        printer, asker = (
            stack.enter_context(host.socket(family, socket.SOCK_DGRAM)) for host in (lab.cafe, lab.laptop)
        )
        index = {host: host.inside(lambda link=link: socket.if_nametoindex(link)) for host, link in (  # type: ignore[misc]
            (lab.cafe, "lan"), (lab.laptop, "wlan0"))}  # fmt: skip
        printer.bind(("", port))
        asker.bind(("", source_port))
        printer.settimeout(1.0)
        asker.settimeout(1.0)
        if family == socket.AF_INET:
            joining = group.packed + struct.pack("=4si", b"", index[lab.cafe])
            printer.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, joining)
            asker.setsockopt(
                socket.IPPROTO_IP, socket.IP_MULTICAST_IF, struct.pack("=4s4si", b"", b"", index[lab.laptop])
            )
        else:
            printer.setsockopt(
                socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group.packed + struct.pack("=i", index[lab.cafe])
            )
            asker.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index[lab.laptop])
        try:
            asker.sendto(b"who prints?", (str(group), port))
            question, sender = printer.recvfrom(100)
            printer.sendto(b"I do", sender)
            return question == b"who prints?" and asker.recv(100) == b"I do"
        except OSError:
            return False


DISCOVERY = {
    "mdns4": (MDNS4, MDNS, MDNS), "mdns6": (MDNS6, MDNS, MDNS), "one-shot mdns4": (MDNS4, MDNS, 0),
    "ssdp4": (SSDP4, SSDP, 0), "llmnr4": (LLMNR4, LLMNR, 0),
}  # fmt: skip


def test_discovery_where_the_local_network_is_allowed(house: Laboratory) -> None:
    """Questions to a group, and answers to the one who asked. LLMNR passes too: it is asked for names without a dot."""
    subject = start(house, ALLOWED)
    house.join("cafe")
    subject.wait("connected", 25)
    for state in ("connected", "blocked"):
        if state == "blocked":
            server_dies(house, subject)
        for name, (group, port, source) in DISCOVERY.items():
            assert until(lambda: ask(house, group, port, source)), f"{name} in {state}"  # noqa: B023


def test_no_discovery_where_it_is_not(house: Laboratory) -> None:
    house.join("cafe")
    for name, (group, port, source) in DISCOVERY.items():
        assert until(lambda: ask(house, group, port, source)), f"the control: {name}"  # noqa: B023
    house.leave()
    subject = start(house, SETTINGS)
    house.join("cafe")
    subject.wait("connected", 25)
    with house.meter() as meter:
        for name, (group, port, source) in DISCOVERY.items():
            assert not ask(house, group, port, source), name
        assert meter.leaks() == []
        meter.positive_control()


# --- the administrator's own ------------------------------------------------------------------------------------------


def test_own_subnets_count_as_local_but_for_dns(lab: Laboratory) -> None:
    plan = lab.plan
    subject = start(lab, ALLOWED + f'lan_subnets = ["{plan.cafe.v4}", "{plan.cafe.v6}"]\n')
    assert lab.networkmanager is not None
    router = plan.cafe.host4(1), plan.cafe.host6(1)
    lab.join("cafe")
    subject.wait("connected", 25)
    own6 = lab.card.address6("wlan0", plan.cafe)
    assert own6 is not None
    with echo_server(lab.cafe) as port, echo_server(lab.laptop) as own:
        for state in ("connected", "blocked"):
            if state == "blocked":
                server_dies(lab, subject)
            for target in router:
                assert until(lambda target=target: echoes(lab.laptop, target, port=port))  # type: ignore[misc]
                with pytest.raises(OSError):
                    resolve(lab.laptop, target, "internet.test", timeout=1)
            for target in (link_address(lab), own6):
                assert until(lambda target=target: echoes(lab.cafe, target, port=own))  # type: ignore[misc]
            with lab.meter() as meter:
                throw(lab, plan.internet4, plan.internet6, plan.home.host4(1), plan.home.host6(1))
                assert left(meter) == set()
                meter.positive_control()


def test_own_subnets_are_nothing_where_the_local_network_is_not_allowed(lab: Laboratory) -> None:
    plan = lab.plan
    settings = SETTINGS + f'\n[protection]\nlan_subnets = ["{plan.cafe.v4}", "{plan.cafe.v6}"]\n'
    lab.join("cafe")
    with echo_server(lab.cafe) as port:
        assert until(lambda: echoes(lab.laptop, plan.cafe.host4(1), port=port)), "the control"
        lab.leave()
        subject = start(lab, settings)
        lab.join("cafe")
        subject.wait("connected", 25)
        with lab.meter() as meter:
            for target in (plan.cafe.host4(1), plan.cafe.host6(1)):
                assert not echoes(lab.laptop, target, port=port)
            assert meter.leaks() == []
            meter.positive_control()


# --- the layers -------------------------------------------------------------------------------------------------------


def test_where_the_local_network_is_allowed_the_rest_stays_closed(
    layers: Layers, lab: Laboratory, sealed: Callable[..., AbstractContextManager[Meter]]
) -> None:
    """K3: traffic of nine kinds, none of it to private addresses, with both layers and with each alone."""
    subject = layers(ALLOWED)
    with sealed(bound=layers.name != "routing"):
        lab.join("cafe")
        subject.wait("connected", 25)
        lab.block_server()
        subject.cli("reconnect")
        subject.wait(lambda status: not status.protected, 30)
        lab.unblock_server()
        subject.wait("connected", 30)
