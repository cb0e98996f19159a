"""The routers of the laboratory: the internet in the middle, and the café and home routers at its edge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from lab.addresses import Plan, Subnet
from lab.hosts import Host
from lab.processes import Process

SERVICES = Path(__file__).with_name("services.py")
FORWARDING = (
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv6/conf/all/forwarding", "1"),
    ("net/ipv6/conf/all/accept_dad", "0"),  # nobody else owns these addresses; the laptop keeps DAD
    ("net/ipv6/conf/default/accept_dad", "0"),
    ("net/ipv4/conf/all/rp_filter", "0"),  # a strict filter would hide a laptop's packets that leak the wrong way
    ("net/ipv4/conf/default/rp_filter", "0"),
)
MASQUERADE4 = """
table ip lab {
    chain postrouting {
        type nat hook postrouting priority srcnat
        oifname "wan" masquerade
    }
}
"""
MASQUERADE6 = MASQUERADE4.replace("table ip ", "table ip6 ")


@dataclass(frozen=True, slots=True)
class Lan:
    """A network that a router serves: its link name there, and the addresses."""

    link: str
    subnet: Subnet


def default_routes(uplink: Subnet) -> tuple[str, ...]:
    return (
        f"route add default via {uplink.host4(1)}",
        f"route add default via {uplink.host6(1)}",
    )


def prepare_edge(host: Host, uplink: Subnet, lans: Sequence[Lan]) -> None:
    """Addresses, routes and NAT of a router whose uplink is `wan`: IPv4 leaves masqueraded, IPv6 routed."""
    commands = [
        "link set lo up",
        f"address add {uplink.face4(2)} dev wan",
        f"address add {uplink.face6(2)} dev wan",
        "link set wan up",
    ]
    for lan in lans:
        if lan.subnet.v4 is not None:
            commands.append(f"address add {lan.subnet.face4(1)} dev {lan.link}")
        commands += [f"address add {lan.subnet.face6(1)} dev {lan.link}", f"link set {lan.link} up"]
    host.ip(*commands, *default_routes(uplink))
    host.run("nft", "-f", "-", input=MASQUERADE4)


def prepare_internet(host: Host, plan: Plan) -> None:
    """Addresses and routes of the internet: every IPv6 network, but of IPv4 only what is public."""
    commands = ["link set lo up", f"address add {plan.internet4}/32 dev lo", f"address add {plan.internet6}/128 dev lo"]
    uplinks = (("cafe", plan.cafe_uplink), ("home", plan.home_uplink), ("server", plan.server_uplink))
    for link, uplink in uplinks:
        commands += [f"address add {face} dev {link}" for face in (uplink.face4(1), uplink.face6(1))]
        commands.append(f"link set {link} up")
    for lan, uplink in (
        (plan.cafe, plan.cafe_uplink), (plan.cafe6, plan.cafe_uplink),
        (plan.home, plan.home_uplink), (plan.wired, plan.home_uplink),
    ):  # fmt: skip
        commands.append(f"route add {lan.v6} via {uplink.host6(2)}")
    host.ip(*commands)


def dnsmasq(host: Host, *lines: str) -> Process:
    """Start dnsmasq with these configuration lines and nothing of this machine's configuration."""
    common = ("no-resolv", "no-hosts", "log-facility=-", "log-dhcp", "user=root", "bind-dynamic", "pid-file=")
    host.write("/etc/lab/dnsmasq.conf", "\n".join((*common, *lines)) + "\n")
    return host.start("dnsmasq", "--keep-in-foreground", "--conf-file=/etc/lab/dnsmasq.conf")


def names(plan: Plan, own4: IPv4Address, own6: IPv6Address) -> tuple[str, ...]:
    """The names every resolver here knows.

    `whoami.test` is the address of the resolver that answered, `probe.test` an address of the internet to which nothing
    else is sent.
    """
    probed = plan.cafe_uplink
    return (
        f"host-record=probe.test,{probed.host4(1)},{probed.host6(1)}",
        f"host-record=internet.test,{plan.internet4},{plan.internet6}",
        f"host-record=server.test,{plan.server4},{plan.server6}",
        f"host-record=whoami.test,{own4},{own6}",
        "local=/test/",
    )


def serve_edge(host: Host, plan: Plan, lans: Sequence[Lan], dhcp_options: Sequence[str]) -> Process:
    """DHCPv4, router advertisements (SLAAC, with RDNSS) and DNS on every LAN."""
    lines = ["dhcp-authoritative", "no-ping", "enable-ra", "dhcp-leasefile=/run/lab/leases", "except-interface=wan"]
    lines += [f"dhcp-option={option}" for option in dhcp_options]
    for lan in lans:
        lines.append(f"interface={lan.link}")
        if (v4 := lan.subnet.v4) is not None:
            lines.append(f"dhcp-range={v4[10]},{v4[50]},{v4.netmask},1h")
        lines.append(f"dhcp-range={lan.subnet.v6[0]},ra-only,64,1h")
        lines.append(f"ra-param={lan.link},0,1800")  # no periodic RAs: they answer solicitations
    first = lans[0].subnet
    return dnsmasq(host, *lines, *names(plan, first.host4(1), first.host6(1)), f"server={plan.internet4}")


def serve_internet(host: Host, plan: Plan, python: str) -> tuple[Process, Process]:
    """DNS, and the services of services.py. The second process prints "ready"."""
    resolver = dnsmasq(
        host, f"listen-address={plan.internet4},{plan.internet6}", *names(plan, plan.internet4, plan.internet6)
    )
    services = host.start(python, "-I", "-S", str(SERVICES), str(plan.internet4), str(plan.internet6))
    return resolver, services
