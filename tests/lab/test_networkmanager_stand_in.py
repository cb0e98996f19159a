"""The stand-in publishes what NetworkManager would: objects, properties, and signals in the order of a real card."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from dbus_fast import Message, MessageType, Variant
from dbus_fast.aio import MessageBus

from lab.air import Air
from lab.bus import SOCKET
from lab.networkmanager_stand_in import ACTIVE, DEVICE, MANAGER, NAME, POINT, WIFI, WIRED, WIRELESS
from lab.processes import LabError
from lab.topology import Laboratory

pytestmark = pytest.mark.netns

PROPERTIES = "org.freedesktop.DBus.Properties"


def value(lab: Laboratory, path: str, interface: str, name: str) -> Any:
    assert lab.networkmanager is not None
    variant = lab.networkmanager.client.call(NAME, path, f"{PROPERTIES}.Get", "ss", interface, name)[0]
    return variant.value


def test_devices_before_any_network(lab: Laboratory) -> None:
    assert value(lab, MANAGER, NAME, "Devices") == [WIFI, WIRED]
    assert [value(lab, path, DEVICE, "DeviceType") for path in (WIFI, WIRED)] == [2, 1]
    assert [value(lab, path, DEVICE, "Interface") for path in (WIFI, WIRED)] == ["wlan0", "eth0"]
    assert value(lab, WIFI, WIRELESS, "ActiveAccessPoint") == "/"
    assert value(lab, WIFI, DEVICE, "State") == 30
    assert value(lab, MANAGER, NAME, "ActiveConnections") == []


def test_a_joined_network_and_then_none(lab: Laboratory) -> None:
    lab.join("home", wait_ipv6=False)
    point = value(lab, WIFI, WIRELESS, "ActiveAccessPoint")
    assert value(lab, point, POINT, "Ssid") == b"Home"
    assert value(lab, point, POINT, "HwAddress") == lab.networks["home"].point.bssid.upper()
    assert [value(lab, point, POINT, name) for name in ("Flags", "WpaFlags", "RsnFlags")] == [1, 0, 0x188]
    active = value(lab, MANAGER, NAME, "ActiveConnections")
    assert value(lab, WIFI, DEVICE, "ActiveConnection") == active[0]
    assert value(lab, active[0], ACTIVE, "SpecificObject") == point
    assert value(lab, active[0], ACTIVE, "Type") == "802-11-wireless"
    assert value(lab, WIFI, DEVICE, "State") == 100
    lab.leave()
    assert value(lab, WIFI, WIRELESS, "ActiveAccessPoint") == "/"
    assert value(lab, WIFI, DEVICE, "State") == 30
    assert value(lab, MANAGER, NAME, "ActiveConnections") == []
    with pytest.raises(LabError):
        value(lab, point, POINT, "Ssid")


@pytest.mark.parametrize("air", list(Air))
def test_every_security_and_any_name(lab: Laboratory, air: Air) -> None:
    name = bytes(range(224, 256))
    lab.join("cafe", ssid=name, air=air, bssid="02:aa:bb:cc:dd:ee", dhcp=False)
    point = value(lab, WIFI, WIRELESS, "ActiveAccessPoint")
    assert value(lab, point, POINT, "Ssid") == name
    assert value(lab, point, POINT, "HwAddress") == "02:AA:BB:CC:DD:EE"
    assert tuple(value(lab, point, POINT, key) for key in ("Flags", "WpaFlags", "RsnFlags")) == air.value


def test_order_of_signals(lab: Laboratory) -> None:
    """associating, carrier, the access point, DHCP, activated: as a subscriber on the bus sees it."""

    async def watch() -> list[tuple[str, object]]:
        bus = await MessageBus(bus_address=f"unix:path={lab.laptop.path(SOCKET)}").connect()
        rule = f"type='signal',interface='{PROPERTIES}',path_namespace='{MANAGER}'"
        daemon = "org.freedesktop.DBus"
        await bus.call(Message(daemon, "/org/freedesktop/DBus", daemon, "AddMatch", signature="s", body=[rule]))
        seen: list[tuple[str, object]] = []

        def handle(message: Message) -> None:
            if message.message_type is MessageType.SIGNAL and message.path == WIFI:
                for name, variant in message.body[1].items():
                    assert isinstance(variant, Variant)
                    if name in ("State", "ActiveAccessPoint"):
                        seen.append((name, variant.value))

        bus.add_message_handler(handle)
        await asyncio.to_thread(lab.join, "cafe", wait_ipv6=False)
        await asyncio.to_thread(lab.leave)
        await bus.call(Message(daemon, "/org/freedesktop/DBus", daemon, "GetId"))  # signals before this have come
        bus.disconnect()
        return seen

    seen = asyncio.run(watch())
    assert [one for one in seen if one[0] == "State"] == [("State", n) for n in (40, 50, 70, 100, 110, 30)]
    assert [name for name, _ in seen].index("ActiveAccessPoint") == 2
    assert seen[-2] == ("ActiveAccessPoint", "/")


def test_the_wired_device(lab: Laboratory) -> None:
    lab.plug(wait_ipv6=False)
    assert value(lab, WIRED, DEVICE, "State") == 100
    lab.unplug()
    assert value(lab, WIRED, DEVICE, "State") == 30


def test_its_crash_takes_the_name_away(lab: Laboratory) -> None:
    assert lab.networkmanager is not None
    lab.networkmanager.kill()
    assert not lab.networkmanager.client.owned(NAME)


def test_a_laboratory_without_it() -> None:
    with Laboratory(907, stand_in=False) as lab:
        lab.join("cafe", wait_ipv6=False)
        assert not lab.laptop.path(SOCKET).exists()
