"""The laboratory as one thing: build it, join networks, move about, break the server. README.md draws it."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from lab.addresses import Plan, Subnet
from lab.air import AccessPoint, Air
from lab.frames import Expect
from lab.hosts import Host
from lab.laptop import Laptop
from lab.logind_stand_in import LogindStandIn
from lab.meter import Meter, kept_folder
from lab.networkmanager_stand_in import WIRED, NetworkManagerStandIn
from lab.processes import LabError
from lab.routers import FORWARDING, Lan, prepare_edge, prepare_internet, serve_edge, serve_internet
from lab.traffic import Traffic
from lab.vpn_server import VpnServer

HOSTS = ("laptop", "air", "cafe", "home", "internet", "server")
# Links are made from inside `air`, so a name never meets a link of this machine: (host, name) <-> (host, name).
CABLES = (
    (("laptop", "wlan0"), ("air", "air-wlan0")),
    (("laptop", "eth0"), ("air", "air-eth0")),
    (("air", "barrier0"), ("air", "barrier1")),  # the meter's own wire, see meter.py
    (("air", "to-cafe"), ("cafe", "lan")),
    (("air", "to-cafe6"), ("cafe", "lan6")),
    (("air", "to-home"), ("home", "lan")),
    (("air", "to-wired"), ("home", "wired")),
    (("cafe", "wan"), ("internet", "cafe")),
    (("home", "wan"), ("internet", "home")),
    (("server", "wan"), ("internet", "server")),
)
# The kernel asks for routers three times, four seconds apart (RFC 4861, 10), and the first question may be lost.
LEASE_S = 25.0
AIR_SYSCTLS = (
    ("net/ipv6/conf/all/disable_ipv6", "1"),  # the switch has nothing to say of its own
    ("net/ipv6/conf/default/disable_ipv6", "1"),
)


@dataclass(frozen=True, slots=True)
class Network:
    """A network the laptop can join: the bridge in `air`, the router's subnet, and what is in the air there."""

    name: str
    subnet: Subnet
    point: AccessPoint

    @property
    def bridge(self) -> str:
        return f"br-{self.name}"


class Laboratory:
    """A whole small internet in namespaces. Use it as a context manager; `seed` decides every address and key.

    `dhcp_options` adds dnsmasq `dhcp-option` values per router ("cafe", "home"), for hostile networks.
    `private_lan` moves the local networks to 192.168.0.0/16. `stand_in=False` leaves out the system bus.
    """

    def __init__(
        self, seed: int, *, private_lan: bool = False, stand_in: bool = True, python: str = sys.executable,
        dhcp_options: Mapping[str, Sequence[str]] | None = None,
    ) -> None:  # fmt: skip
        self.seed, self.python = seed, python
        self.plan = plan = Plan(seed, private_lan)
        self.networks = {
            name: Network(name, subnet, AccessPoint(ssid, plan.mac(f"ap-{name}"), air))
            for name, subnet, ssid, air in (
                ("cafe", plan.cafe, b"Cafe Guest", Air.OPEN),
                ("cafe6", plan.cafe6, b"Cafe Six", Air.OPEN),
                ("home", plan.home, b"Home", Air.WPA2),
                ("wired", plan.wired, b"", Air.OPEN),
            )
        }
        self.joined: Network | None = None  # by Wi-Fi
        self.plugged = False
        self._dhcp_options = dhcp_options or {}
        self.hosts = {name: Host(name) for name in HOSTS}
        self.air, self.cafe, self.home = self.hosts["air"], self.hosts["cafe"], self.hosts["home"]
        self.internet, self.server = self.hosts["internet"], self.hosts["server"]
        self.laptop = self.hosts["laptop"]
        self.card = Laptop(self.laptop)
        self.vpn = VpnServer(self.server, plan)
        self.servers = [self.vpn]
        self.networkmanager = NetworkManagerStandIn(self.laptop) if stand_in else None
        self.logind: LogindStandIn | None = None  # `add_logind` starts it: few tests need it

    # --- building -----------------------------------------------------------------------------------------------------

    def __enter__(self) -> Laboratory:
        try:
            self._build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def _build(self) -> None:
        for host in self.hosts.values():
            host.boot()
        for host in self.hosts.values():
            host.ready()
        if self.networkmanager is not None:
            self.networkmanager.start()  # the slowest of all: it starts first and is waited for last
        for host in (self.cafe, self.home, self.internet, self.server):
            host.sysctl(*FORWARDING)  # before the cables: a new link takes its settings from "default"
        self._lay_cables()
        prepare_internet(self.internet, self.plan)
        resolver, services = serve_internet(self.internet, self.plan, self.python)
        served = [resolver]
        edges = (
            (self.cafe, self.plan.cafe_uplink, [Lan("lan", self.plan.cafe), Lan("lan6", self.plan.cafe6)]),
            (self.home, self.plan.home_uplink, [Lan("lan", self.plan.home), Lan("wired", self.plan.wired)]),
        )
        for host, uplink, lans in edges:
            prepare_edge(host, uplink, lans)
            served.append(serve_edge(host, self.plan, lans, self._dhcp_options.get(host.name, ())))
        self.vpn.prepare()
        self.vpn.start()
        self.card.prepare()
        services.wait_output("ready")
        for process in served:
            process.wait_output("started")
        if self.networkmanager is not None:
            self.networkmanager.ready(self.plan.mac("wlan0"), self.plan.mac("eth0"))

    def _lay_cables(self) -> None:
        self.air.sysctl(*AIR_SYSCTLS)
        commands = ["link set lo up"]
        for name in self.networks:
            # No spanning tree and no snooping: a network is there at once, and floods as a cheap access point does.
            commands += [f"link add br-{name} type bridge forward_delay 0 stp_state 0 mcast_snooping 0"]
        for (near, near_name), (far, far_name) in CABLES:
            macs = self.plan.mac(f"{near}/{near_name}"), self.plan.mac(f"{far}/{far_name}")
            if near == "laptop":
                macs = self.plan.mac(near_name), macs[1]
            commands.append(
                f"link add name {near_name} address {macs[0]} netns {self.hosts[near].pid} type veth "
                f"peer name {far_name} address {macs[1]} netns {self.hosts[far].pid}"
            )
        for name in self.networks:
            commands += [f"link set to-{name} master br-{name} up", f"link set br-{name} up"]
        self.air.ip(*commands, "link set barrier0 up", "link set barrier1 up")

    def close(self) -> None:
        """End everything. Idempotent; also what a crash of the test process does, without being asked."""
        with ExitStack() as stack:  # one that fails must not keep the others alive
            for host in self.hosts.values():
                stack.callback(host.close)
            for stand_in in (self.networkmanager, self.logind):
                if stand_in is not None:
                    stack.callback(stand_in.close)

    # --- moving about -------------------------------------------------------------------------------------------------

    def join(
        self, name: str, *, ssid: bytes | None = None, air: Air | None = None, bssid: str | None = None,
        ap_delay: float = 0.0, dhcp: bool = True, wait_ipv6: bool = True, timeout: float = LEASE_S,
    ) -> Network:  # fmt: skip
        """Associate `wlan0` with "cafe", "cafe6" (IPv6 only) or "home", in the order of a real card.

        NetworkManager says it associates; the carrier comes; after `ap_delay` seconds the access point's facts are
        published; then DHCP and SLAAC. `ssid`, `air` and `bssid` replace the network's own (an impostor, say).
        Returns when addresses of every family the network has are usable, in about 0.5 s. Raises LabError.
        """
        if self.joined is not None:
            self.leave()
        network = self.networks[name]
        own = network.point
        point = AccessPoint(own.ssid if ssid is None else ssid, bssid or own.bssid, air or own.air)
        if self.networkmanager is not None:
            self.networkmanager.associating()
        self.associate(network)
        time.sleep(ap_delay)
        if self.networkmanager is not None:
            self.networkmanager.associated(point)
        if dhcp:
            self.address(network, wait_ipv6=wait_ipv6, timeout=timeout)
        return network

    def associate(self, network: Network) -> None:
        """Only the carrier: what the kernel sees of an association. Part of `join`."""
        self.joined = network
        self.air.ip(f"link set air-wlan0 master {network.bridge}", "link set air-wlan0 up")
        self.card.wait_carrier("wlan0", True)

    def address(self, network: Network, *, wait_ipv6: bool = True, timeout: float = LEASE_S) -> None:
        """DHCP and SLAAC on `wlan0`, and the stand-in's "activated". Part of `join`."""
        self.card.configure("wlan0", network.subnet, metric=600, wait_ipv6=wait_ipv6, timeout=timeout)
        if self.networkmanager is not None:
            self.networkmanager.activated()

    def leave(self) -> None:
        """Disassociate: `wlan0` loses its carrier and keeps its ifindex; its addresses go, as NetworkManager does."""
        self.air.ip("link set air-wlan0 down", "link set air-wlan0 nomaster")
        self.joined = None
        self.card.wait_carrier("wlan0", False)
        self.card.forget("wlan0")
        if self.networkmanager is not None:
            self.networkmanager.gone()

    def plug(self, *, wait_ipv6: bool = True, timeout: float = LEASE_S) -> Network:
        """Put the cable of the network "wired" (behind the home router) into `eth0`, with DHCP and SLAAC."""
        network = self.networks["wired"]
        self.air.ip(f"link set air-eth0 master {network.bridge}", "link set air-eth0 up")
        self.plugged = True
        self.card.wait_carrier("eth0", True)
        self.card.configure("eth0", network.subnet, metric=100, wait_ipv6=wait_ipv6, timeout=timeout)
        if self.networkmanager is not None:
            self.networkmanager.activated(WIRED)
        return network

    def unplug(self) -> None:
        """Pull the cable: `eth0` loses its carrier."""
        self.air.ip("link set air-eth0 down", "link set air-eth0 nomaster")
        self.plugged = False
        self.card.wait_carrier("eth0", False)
        self.card.forget("eth0")
        if self.networkmanager is not None:
            self.networkmanager.gone(WIRED)

    # --- the VPN server -----------------------------------------------------------------------------------------------

    def client_config(self, ipv6_endpoint: bool = False) -> str:
        """The WireGuard configuration of the laptop, as a provider would hand it out."""
        return self.vpn.client_config(ipv6_endpoint)

    def start_server(self) -> None:
        self.vpn.start()

    def kill_server(self) -> None:
        self.vpn.kill()

    def block_server(self) -> None:
        self.vpn.block()

    def unblock_server(self) -> None:
        self.vpn.unblock()

    # --- looking ------------------------------------------------------------------------------------------------------

    def meter(self) -> Meter:
        """A leak meter on both wires of the laptop, which expects the tunnels of all servers there are now."""
        meter = Meter(self.laptop, self.air, self.plan)
        meter.expect = self.expect(*self.servers)
        return meter

    @staticmethod
    def expect(*servers: VpnServer) -> Expect:
        """What a meter takes for a tunnel: these servers and no others."""
        sites = [server.site for server in servers]
        return Expect(frozenset((address, site.port) for site in sites for address in (site.public4, site.public6)))

    def traffic(self, rate: float = 20.0, device: str = "wlan0") -> Traffic:
        """Traffic that must not leak, from a process in the laptop: `with lab.traffic() as traffic: ...`."""
        return Traffic(self.laptop, self.plan, self.python, rate, device)

    def keep_logs(self) -> Path:
        """Copy what every program of every host printed to where it survives the laboratory."""
        folder = kept_folder() / f"{time.strftime('%H%M%S')}-{os.getpid()}-seed-{self.seed}"
        for host in self.hosts.values():
            (folder / host.name).mkdir(parents=True, exist_ok=True)
            for name, text in host.logs().items():
                (folder / host.name / name).write_text(text, encoding="utf-8")
        return folder

    def add_container(self) -> Host:
        """A namespace behind the laptop whose traffic the laptop forwards and masquerades, like a container's."""
        if "container" in self.hosts:
            raise LabError("there is a container already")
        host = self.hosts["container"] = Host("container")
        self.card.attach(host, self.plan.container)
        return host

    def add_server(self) -> VpnServer:
        """A second VPN server with a machine, addresses, a port and keys of its own (`plan.other_site`), started."""
        if "other" in self.hosts:
            raise LabError("there is a second server already")
        host = self.hosts["other"] = Host("other")
        host.ready()
        host.sysctl(*FORWARDING)
        uplink = self.plan.other_site.uplink
        self.air.ip(
            f"link add name wan address {self.plan.mac('other/wan')} netns {host.pid} type veth "
            f"peer name other address {self.plan.mac('internet/other')} netns {self.internet.pid}"
        )
        self.internet.ip(
            *(f"address add {face} dev other" for face in (uplink.face4(1), uplink.face6(1))), "link set other up"
        )
        server = VpnServer(host, self.plan, self.plan.other_site)
        server.prepare()
        server.start()
        self.servers.append(server)
        return server

    def add_logind(self) -> LogindStandIn:
        """The stand-in of systemd-logind on the laptop's bus, started."""
        self.logind = LogindStandIn(self.laptop)
        self.logind.start()
        return self.logind

    def new_card(self, name: str = "wlan0", old: str = "wlan0") -> None:
        """Take the Wi-Fi card out and put another one in: its link gets the interface index of the old one.

        Both links keep their numbers, so a meter goes on; the new one is on, and has joined nothing.
        """
        laptop, air = self.card.index(old), self.air.inside(lambda: socket.if_nametoindex("air-wlan0"))
        self.card.forget(old)
        self.air.ip(
            "link delete air-wlan0",
            f"link add name {name} index {laptop} address {self.plan.mac('wlan0')} netns {self.laptop.pid} type veth "
            f"peer name air-wlan0 index {air} address {self.plan.mac('air/air-wlan0')} netns {self.air.pid}",
        )
        self.joined = None
        self.card.switch_on(name)
