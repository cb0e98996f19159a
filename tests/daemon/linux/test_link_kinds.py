"""What a link is: a table, and what /sys says of hardware."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.linux.link_kinds import IFF_LOOPBACK, Device, hardware_kind, kinds
from policies.facts import LinkKind
from policies.firewall import TUNNEL_IFNAME
from policies.settings import LinkRule

VIRTUAL, WIRED, WIFI, CELLULAR = LinkKind.VIRTUAL, LinkKind.WIRED, LinkKind.WIFI, LinkKind.CELLULAR
ETH0 = Device(2, "eth0")
WLAN0 = Device(3, "wlan0")
ELSEWHERE = 0  # the link below is in another network namespace, or there is none


def hardware(device: Device) -> LinkKind:
    return WIFI if device.ifname.startswith("wlan") else WIRED


CASES = {
    "loopback": ([Device(1, "lo", IFF_LOOPBACK)], LinkKind.LOOPBACK),
    "our tunnel": ([Device(9, TUNNEL_IFNAME, driver="tun")], LinkKind.TUNNEL),
    "hardware": ([ETH0], WIRED),
    "Wi-Fi hardware": ([WLAN0], WIFI),
    "monitor of a Wi-Fi card": ([WLAN0._replace(frames=803)], VIRTUAL),
    "monitor with an old driver": ([WLAN0._replace(frames=802)], VIRTUAL),
    "monitor without a header of its own": ([WLAN0._replace(frames=801)], VIRTUAL),
    "Wi-Fi hardware with frames of another kind": ([WLAN0._replace(frames=804)], WIFI),
    "virt_wifi": ([Device(9, "x", driver="virt_wifi", below=2), ETH0], WIFI),
    "modem": ([Device(9, "wwan0", driver="wwan")], CELLULAR),
    "Qualcomm modem": ([Device(9, "rmnet0", driver="rmnet", below=2), ETH0], CELLULAR),
    "dummy": ([Device(9, "dummy0", driver="dummy")], VIRTUAL),
    "ifb": ([Device(9, "ifb0", driver="ifb")], VIRTUAL),
    "nlmon": ([Device(9, "nlmon0", driver="nlmon")], VIRTUAL),
    "bridge without ports": ([Device(9, "docker0", driver="bridge")], VIRTUAL),
    "bridge with containers": (
        [Device(9, "docker0", driver="bridge"), Device(10, "veth1", driver="veth", master=9)],
        VIRTUAL,
    ),
    "port of a bridge with containers": (
        [Device(10, "veth1", driver="veth", master=9), Device(9, "docker0", driver="bridge")],
        VIRTUAL,
    ),
    "VM's port of a bridge": (
        [Device(10, "vnet0", driver="tun", master=9), Device(9, "virbr0", driver="bridge")],
        VIRTUAL,
    ),
    "bridge with a cable": ([Device(9, "br0", driver="bridge"), ETH0._replace(master=9)], WIRED),
    "bridge with a Wi-Fi card and a cable": (
        [Device(9, "br0", driver="bridge"), ETH0._replace(master=9), WLAN0._replace(master=9)],
        WIFI,
    ),
    "container's port of a bridge with a cable": (
        [Device(10, "veth1", driver="veth", master=9), Device(9, "br0", driver="bridge"), ETH0._replace(master=9)],
        WIRED,
    ),
    "bridge with a bond with a Wi-Fi card": (
        [Device(9, "br0", driver="bridge"), Device(10, "bond0", driver="bond", master=9), WLAN0._replace(master=10)],
        WIFI,
    ),
    "bridge with a VLAN of a cable": (
        [Device(9, "br0", driver="bridge"), Device(10, "eth0.5", driver="vlan", master=9, below=2), ETH0],
        WIRED,
    ),
    "bridge with a tunnel to elsewhere": (
        [Device(9, "br0", driver="bridge"), Device(10, "vxlan0", driver="vxlan", master=9)],
        WIRED,
    ),
    "two bridges joined by a veth pair, a cable in the other": (
        [
            Device(9, "br-int", driver="bridge"),
            Device(10, "patch0", driver="veth", master=9, below=11),
            Device(11, "patch1", driver="veth", master=12, below=10),
            Device(12, "br-ex", driver="bridge"),
            ETH0._replace(master=12),
        ],
        WIRED,
    ),
    "two bridges joined by a veth pair, no cable": (
        [
            Device(9, "br-int", driver="bridge"),
            Device(10, "patch0", driver="veth", master=9, below=11),
            Device(11, "patch1", driver="veth", master=12, below=10),
            Device(12, "br-ex", driver="bridge"),
        ],
        VIRTUAL,
    ),
    "lone veth": ([Device(9, "veth0", driver="veth", below=ELSEWHERE)], WIRED),
    "lone tun": ([Device(9, "tun0", driver="tun")], WIRED),
    "veth in a bond": ([Device(9, "v", driver="veth", master=10), Device(10, "bond0", driver="bond")], WIRED),
    "veth whose master is not listed": ([Device(9, "v", driver="veth", master=99)], WIRED),
    "foreign WireGuard": ([Device(9, "wg0", driver="wireguard")], WIRED),
    "PPP": ([Device(9, "ppp0", driver="ppp")], WIRED),
    "unknown driver": ([Device(9, "x", driver="flux")], WIRED),
    "VLAN of a cable": ([Device(9, "eth0.5", driver="vlan", below=2), ETH0], WIRED),
    "VLAN of a Wi-Fi card": ([Device(9, "wlan0.5", driver="vlan", below=3), WLAN0], WIFI),
    "macvlan of a Wi-Fi card": ([Device(9, "m", driver="macvlan", below=3), WLAN0], WIFI),
    "macvlan, the link below elsewhere": ([Device(9, "eth0", driver="macvlan", below=ELSEWHERE)], WIRED),
    "ipvlan of a bridge without ports": (
        [Device(9, "i", driver="ipvlan", below=10), Device(10, "b", driver="bridge")],
        VIRTUAL,
    ),
    "VLAN of a dummy": ([Device(9, "d.5", driver="vlan", below=10), Device(10, "d", driver="dummy")], VIRTUAL),
    "VLAN of our tunnel": (
        [Device(9, "t.5", driver="vlan", below=10), Device(10, TUNNEL_IFNAME, driver="tun")],
        WIRED,
    ),
    "VLAN of a vanished link": ([Device(9, "eth7.5", driver="vlan", below=7)], WIRED),
    "bond without ports": ([Device(9, "bond0", driver="bond")], WIRED),
    "bond of a cable": ([Device(9, "bond0", driver="bond"), ETH0._replace(master=9)], WIRED),
    "bond of a cable and a Wi-Fi card": (
        [Device(9, "bond0", driver="bond"), ETH0._replace(master=9), WLAN0._replace(master=9)],
        WIFI,
    ),
    "VXLAN over a Wi-Fi card": ([Device(9, "vx", driver="vxlan", below=3), WLAN0], WIFI),
    "VLANs that point at each other": (
        [Device(9, "a", driver="vlan", below=10), Device(10, "b", driver="vlan", below=9)],
        WIRED,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_kind(case: str) -> None:
    devices, wanted = CASES[case]
    assert kinds(devices, (), hardware)[devices[0].ifindex] is wanted


RULES = (LinkRule(name="wlan*", kind=WIFI), LinkRule(name="*", kind=VIRTUAL), LinkRule(name="wlan0", kind=WIRED))


@pytest.mark.parametrize(
    ("device", "wanted"),
    [
        (Device(9, "wlan0", driver="veth"), WIFI),
        (Device(9, "eth0"), VIRTUAL),
        (Device(9, "lo", IFF_LOOPBACK), LinkKind.LOOPBACK),
        (Device(9, TUNNEL_IFNAME, driver="tun"), LinkKind.TUNNEL),
    ],
)
def test_the_first_rule_with_a_kind_decides(device: Device, wanted: LinkKind) -> None:
    assert kinds([device], (LinkRule(name="*"), *RULES), hardware) == {9: wanted}


def test_a_rule_for_a_port_counts_for_its_bridge() -> None:
    devices = [Device(9, "br0", driver="bridge"), Device(10, "wlan0", driver="veth", master=9)]
    assert kinds(devices, RULES[:1], hardware) == {9: WIFI, 10: WIFI}


def test_a_rule_for_a_bridge_counts_for_its_ports() -> None:
    devices = [Device(9, "br0", driver="bridge"), Device(10, "vnet0", driver="tun", master=9), ETH0._replace(master=9)]
    assert kinds(devices, (LinkRule(name="br0", kind=CELLULAR),), hardware) == {9: CELLULAR, 10: CELLULAR, 2: WIRED}


@given(
    st.lists(
        st.builds(
            Device,
            st.integers(1, 6),
            st.just("x"),
            flags=st.just(0),
            driver=st.sampled_from(["", "bridge", "veth", "tun", "vlan", "bond", "dummy", "vxlan"]),
            below=st.integers(0, 7),
            master=st.integers(0, 7),
        ),
        unique_by=lambda device: device.ifindex,
    )
)
def test_every_graph_of_links_has_an_answer(devices: list[Device]) -> None:
    found = kinds(devices, (), hardware)
    assert found.keys() == {device.ifindex for device in devices}
    for device in devices:
        if device.driver in {"", "bond", "vxlan"}:
            assert found[device.ifindex] is WIRED
        if device.driver == "bridge" and any(port.master == device.ifindex and not port.driver for port in devices):
            assert found[device.ifindex] is WIRED


@pytest.mark.parametrize(
    ("uevent", "folders", "wanted"),
    [
        ("INTERFACE=x\nIFINDEX=9\n", (), WIRED),
        ("DEVTYPE=wlan\nINTERFACE=x\nIFINDEX=9\n", (), WIFI),
        ("DEVTYPE=wwan\nINTERFACE=x\nIFINDEX=9\n", (), CELLULAR),
        ("INTERFACE=x\nIFINDEX=9\n", ("wireless",), WIFI),
        ("INTERFACE=x\nIFINDEX=9\n", ("phy80211",), WIFI),
        ("INTERFACE=x\nIFINDEX=90\n", (), WIFI),  # another link has the name now
        ("", (), WIFI),
        (None, (), WIFI),
    ],
)
def test_hardware_kind(tmp_path: Path, uevent: str | None, folders: tuple[str, ...], wanted: LinkKind) -> None:
    if uevent is not None:
        (tmp_path / "x").mkdir()
        (tmp_path / "x/uevent").write_text(uevent)
    for folder in folders:
        (tmp_path / "x" / folder).mkdir()
    assert hardware_kind(Device(9, "x"), str(tmp_path)) is wanted
