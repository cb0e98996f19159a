"""What container engines, libvirt and Tailscale put into a kernel, as documented, with the laboratory's addresses.

Docker: https://docs.docker.com/engine/network/packet-filtering-firewalls/, and the rule sets that moby generates for
its own documentation (integration/network/bridge/iptablesdoc, nftablesdoc; engines 27 to 29).
libvirt: https://libvirt.org/firewall.html, and tests/networkxml2firewalldata of libvirt 10.4.
Tailscale: wgengine/router (the router's tests, 1.80) and https://tailscale.com/kb/1032/install-uninstall-linux.
"""

from __future__ import annotations

import fcntl
import os
import struct
from dataclasses import dataclass

from lab.addresses import Subnet
from lab.hosts import Host
from lab.topology import Laboratory

PUBLISHED, WEB = 8080, 80
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x1, 0x1000  # <linux/if_tun.h>


@dataclass(frozen=True, slots=True)
class Bridge:
    """A bridge on the laptop, with hosts behind it: containers or virtual machines."""

    name: str
    subnet: Subnet
    hosts: tuple[Host, ...]


def bridge(lab: Laboratory, name: str, count: int, *, addresses: bool = True) -> Bridge:
    """`count` namespaces behind a new bridge of the laptop, which forwards; `addresses=False` leaves them to DHCP."""
    subnet = lab.plan.container
    hosts = []
    lab.laptop.ip(f"link add {name} type bridge forward_delay 0")
    for number in range(count):
        host = lab.hosts[f"{name}-{number}"] = Host(f"{name}-{number}")
        host.ready()
        own = (
            f"address add {subnet.face4(number + 2)} dev eth0",
            f"address add {subnet.face6(number + 2)} dev eth0 nodad",
        )
        host.ip(
            f"link add name eth0 type veth peer name {name}-{number} netns {lab.laptop.pid}",
            *(own if addresses else ()), "link set lo up", "link set eth0 up",
        )  # fmt: skip
        lab.laptop.ip(f"link set {name}-{number} master {name} up")
        hosts.append(host)
    lab.laptop.ip(
        f"address add {subnet.face4(1)} dev {name}", f"address add {subnet.face6(1)} dev {name} nodad",
        f"link set {name} up",
    )  # fmt: skip
    if addresses:
        for host in hosts:
            host.ip(f"route add default via {subnet.host4(1)}", f"route add default via {subnet.host6(1)}")
    lab.laptop.sysctl(("net/ipv4/ip_forward", "1"), ("net/ipv6/conf/all/forwarding", "1"))
    return Bridge(name, subnet, tuple(hosts))


# --- Docker -----------------------------------------------------------------------------------------------------------


def docker(lab: Laboratory, backend: str) -> Bridge:
    """docker0 with two containers; port 8080 of the laptop is published for port 80 of the first."""
    made = bridge(lab, "docker0", 2)
    four, six = (made.subnet.v4, made.subnet.host4(2)), (made.subnet.v6, made.subnet.host6(2))
    if backend == "nftables":
        for family, (network, container) in (("ip", four), ("ip6", six)):
            lab.laptop.run("nft", "-f", "-", input=_docker_nftables(family, str(network), str(container)))
    else:
        for program, (network, container), length in (("iptables", four, 32), ("ip6tables", six, 128)):
            rules = _docker_iptables(str(network), str(container), length)
            lab.laptop.run(f"{program}-nft-restore", input=rules)
    return made


def _docker_iptables(network: str, container: str, length: int) -> str:
    target = f"[{container}]:{WEB}" if ":" in container else f"{container}:{WEB}"
    return f"""\
*raw
-A PREROUTING -d {container}/{length} ! -i docker0 -j DROP
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:DOCKER - [0:0]
:DOCKER-ISOLATION-STAGE-1 - [0:0]
:DOCKER-ISOLATION-STAGE-2 - [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-ISOLATION-STAGE-1
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o docker0 -j DOCKER
-A FORWARD -i docker0 ! -o docker0 -j ACCEPT
-A FORWARD -i docker0 -o docker0 -j ACCEPT
-A DOCKER -d {container}/{length} ! -i docker0 -o docker0 -p tcp -m tcp --dport {WEB} -j ACCEPT
-A DOCKER ! -i docker0 -o docker0 -j DROP
-A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2
-A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP
-A DOCKER-USER -j RETURN
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s {network} ! -o docker0 -j MASQUERADE
-A DOCKER -i docker0 -j RETURN
-A DOCKER ! -i docker0 -p tcp -m tcp --dport {PUBLISHED} -j DNAT --to-destination {target}
COMMIT
"""


def _docker_nftables(family: str, network: str, container: str) -> str:
    target = f"[{container}]:{WEB}" if family == "ip6" else f"{container}:{WEB}"
    return f"""
table {family} docker-bridges {{
    map filter-forward-in-jumps {{
        type ifname : verdict
        elements = {{ "docker0" : jump filter-forward-in__docker0 }}
    }}
    map filter-forward-out-jumps {{
        type ifname : verdict
        elements = {{ "docker0" : jump filter-forward-out__docker0 }}
    }}
    chain filter-FORWARD {{
        type filter hook forward priority filter; policy accept;
        oifname vmap @filter-forward-in-jumps
        iifname vmap @filter-forward-out-jumps
    }}
    chain nat-OUTPUT {{
        type nat hook output priority -100; policy accept;
        fib daddr type local counter jump nat-prerouting-and-output
    }}
    chain nat-POSTROUTING {{
        type nat hook postrouting priority srcnat; policy accept;
        iifname "docker0" oifname != "docker0" {family} saddr {network} counter masquerade
    }}
    chain nat-PREROUTING {{
        type nat hook prerouting priority dstnat; policy accept;
        fib daddr type local counter jump nat-prerouting-and-output
    }}
    chain nat-prerouting-and-output {{
        iifname != "docker0" tcp dport {PUBLISHED} counter dnat to {target}
    }}
    chain raw-PREROUTING {{
        type filter hook prerouting priority raw; policy accept;
        {family} daddr {container} iifname != "docker0" counter drop
    }}
    chain filter-forward-in__docker0 {{
        ct state established,related counter accept
        iifname "docker0" counter accept
        {family} daddr {container} tcp dport {WEB} counter accept
        counter drop
    }}
    chain filter-forward-out__docker0 {{
        ct state established,related counter accept
        counter accept
    }}
}}
"""


# --- libvirt ----------------------------------------------------------------------------------------------------------


def libvirt(lab: Laboratory, mode: str) -> Bridge:
    """virbr0 with one virtual machine that asks for its address; `mode` is "nat" or "route"."""
    made = bridge(lab, "virbr0", 1, addresses=False)
    network = made.subnet.v4
    answers = " ct state related,established" if mode == "nat" else ""
    masquerade = f"ip saddr {network} ip daddr != {network} counter masquerade" if mode == "nat" else ""
    lab.laptop.run("nft", "-f", "-", input=f"""
table ip libvirt_network {{
    chain forward {{
        type filter hook forward priority filter; policy accept;
        iifname "virbr0" oifname "virbr0" counter accept
        oifname "virbr0" ip daddr {network}{answers} counter accept
        oifname "virbr0" counter reject
        iifname "virbr0" ip saddr {network} counter accept
        iifname "virbr0" counter reject
    }}
    chain guest_nat {{
        type nat hook postrouting priority srcnat; policy accept;
        ip saddr {network} ip daddr 224.0.0.0/24 counter return
        ip saddr {network} ip daddr 255.255.255.255 counter return
        {masquerade}
    }}
}}
""")  # fmt: skip
    # Versions before 10.4, and those told so, use iptables: chains that accept what their names say, and nothing else.
    lab.laptop.run("iptables-nft-restore", "--noflush", input="""\
*filter
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:LIBVIRT_INP - [0:0]
:LIBVIRT_OUT - [0:0]
-A INPUT -j LIBVIRT_INP
-A OUTPUT -j LIBVIRT_OUT
-A LIBVIRT_INP -i virbr0 -p udp -m udp --dport 53 -j ACCEPT
-A LIBVIRT_INP -i virbr0 -p tcp -m tcp --dport 53 -j ACCEPT
-A LIBVIRT_INP -i virbr0 -p udp -m udp --dport 67 -j ACCEPT
-A LIBVIRT_OUT -o virbr0 -p udp -m udp --dport 53 -j ACCEPT
-A LIBVIRT_OUT -o virbr0 -p udp -m udp --dport 68 -j ACCEPT
COMMIT
""")  # fmt: skip
    return made


# --- Tailscale --------------------------------------------------------------------------------------------------------

TAILNET_SELF, TAILNET_PEER, MAGIC_DNS = "100.101.102.104", "100.64.1.2", "100.100.100.100"
TAILSCALE_MARK = 0x80000  # on tailscaled's own packets; of 0xff0000


def tailscale(lab: Laboratory) -> int:
    """The link tailscale0, rules 5210 to 5270, table 52 and the ts- chains. Returns the tun's descriptor: close it."""

    def open_tun() -> int:
        tun = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", b"tailscale0", IFF_TUN | IFF_NO_PI))
        return tun

    tun = lab.laptop.inside(open_tun)
    lab.laptop.ip(
        "link set tailscale0 up", f"address add {TAILNET_SELF}/32 dev tailscale0",
        f"route add {TAILNET_PEER}/32 dev tailscale0 table 52", f"route add {MAGIC_DNS}/32 dev tailscale0 table 52",
    )  # fmt: skip
    for family in ("-4", "-6"):
        for rule in (
            "5210 fwmark 0x80000/0xff0000 lookup main", "5230 fwmark 0x80000/0xff0000 lookup default",
            "5250 fwmark 0x80000/0xff0000 unreachable", "5270 lookup 52",
        ):  # fmt: skip
            lab.laptop.run("ip", family, "rule", "add", "pref", *rule.split())
    masks = "--nfmask 0xff0000 --ctmask 0xff0000"
    lab.laptop.run("iptables-nft-restore", "--noflush", input=f"""\
*mangle
-A PREROUTING -m conntrack --ctstate ESTABLISHED,RELATED -j CONNMARK --restore-mark {masks}
-A OUTPUT -m conntrack --ctstate NEW -m mark ! --mark 0x0/0xff0000 -j CONNMARK --save-mark {masks}
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:ts-input - [0:0]
:ts-forward - [0:0]
-A INPUT -j ts-input
-A FORWARD -j ts-forward
-A ts-input -i lo -s {TAILNET_SELF} -j ACCEPT
-A ts-input ! -i tailscale0 -s 100.115.92.0/23 -j RETURN
-A ts-input ! -i tailscale0 -s 100.64.0.0/10 -j DROP
-A ts-input -i tailscale0 -j ACCEPT
-A ts-forward -i tailscale0 -j MARK --set-mark 0x40000/0xff0000
-A ts-forward -m mark --mark 0x40000/0xff0000 -j ACCEPT
-A ts-forward -o tailscale0 -s 100.64.0.0/10 -j DROP
-A ts-forward -o tailscale0 -j ACCEPT
COMMIT
*nat
:POSTROUTING ACCEPT [0:0]
:ts-postrouting - [0:0]
-A POSTROUTING -j ts-postrouting
-A ts-postrouting -m mark --mark 0x40000/0xff0000 -j MASQUERADE
COMMIT
""")  # fmt: skip
    return tun
