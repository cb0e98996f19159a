"""K8: which links count as inside, from what the kernel says of them to what the rules name."""

from __future__ import annotations

from ipaddress import ip_interface

import pytest

from daemon.linux.link_kinds import Device, kinds
from daemon.linux.nft_render import render
from policies.decide import decide
from policies.decision import Intent
from policies.facts import Facts, Link, LinkKind
from policies.firewall import firewall
from policies.settings import Settings
from policies.states import Cause, Phase, State

CABLE = Device(2, "eth0")
INSIDE = {
    "bridge with containers": (Device(9, "own0", driver="bridge"), Device(10, "v", driver="veth", master=9)),
    "bridge with a virtual machine": (Device(9, "own0", driver="bridge"), Device(10, "t", driver="tun", master=9)),
    "bridge without ports": (Device(9, "own0", driver="bridge"),),
    "dummy": (Device(9, "own0", driver="dummy"),),
}
OUTSIDE = {
    "bridge with a cable": (Device(9, "own0", driver="bridge"), CABLE._replace(master=9)),
    "bridge with a VLAN of a cable": (
        Device(9, "own0", driver="bridge"), Device(10, "eth0.5", driver="vlan", master=9, below=2), CABLE,
    ),
    "bridge with a bond": (Device(9, "own0", driver="bridge"), Device(10, "bond0", driver="bond", master=9)),
    "bridge with a VXLAN": (Device(9, "own0", driver="bridge"), Device(10, "vx", driver="vxlan", master=9)),
    "macvlan": (Device(9, "own0", driver="macvlan", below=2), CABLE),
    "ipvlan": (Device(9, "own0", driver="ipvlan", below=2), CABLE),
    "VLAN": (Device(9, "own0", driver="vlan", below=2), CABLE),
    "bond": (Device(9, "own0", driver="bond"), CABLE._replace(master=9)),
    "foreign WireGuard": (Device(9, "own0", driver="wireguard"),),
    "foreign tun": (Device(9, "own0", driver="tun"),),
    "lone veth": (Device(9, "own0", driver="veth"),),
    "something unknown": (Device(9, "own0", driver="novelty"),),
}  # fmt: skip


@pytest.mark.parametrize("name", [*INSIDE, *OUTSIDE])
def test_only_what_reaches_nothing_outside_is_inside(name: str) -> None:
    devices = {**INSIDE, **OUTSIDE}[name]
    found = kinds(devices, (), lambda _: LinkKind.WIRED)
    links = tuple(
        Link(device.ifindex, device.ifname, found[device.ifindex], up=True, carrier=True,
             addresses=(ip_interface("172.17.0.1/16"), ip_interface("fe80::1/64")) if device.ifindex == 9 else ())
        for device in devices
    )  # fmt: skip
    decision = decide(Facts(links=links), Settings(), Intent())
    rules = render(firewall(State(Phase.BLOCKED, cause=Cause.NO_ROUTE), decision))
    assert ('oifname "own0" ip daddr { 172.17.0.0/16' in rules) is (name in INSIDE)
    assert ("own0" in rules) is (name in INSIDE)
