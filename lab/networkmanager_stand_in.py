"""The NetworkManager stand-in: python-dbusmock plays org.freedesktop.NetworkManager for the laptop's links.

The only stand-in of the laboratory: nothing here is a radio, so nobody can scan. The bus, the objects, the properties
and the order of the signals are NetworkManager's: https://networkmanager.dev/docs/api/latest/spec.html
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from typing import Any

from dbus_fast import Variant

from lab.air import AccessPoint
from lab.bus import BusClient, start_bus
from lab.hosts import Host

NAME = "org.freedesktop.NetworkManager"
ROOT = "/org/freedesktop"  # the ObjectManager
MANAGER = "/org/freedesktop/NetworkManager"
WIRED, WIFI = f"{MANAGER}/Devices/2", f"{MANAGER}/Devices/3"  # 1 is the loopback in a real one
DEVICE, WIRELESS, POINT = f"{NAME}.Device", f"{NAME}.Device.Wireless", f"{NAME}.AccessPoint"
ACTIVE = f"{NAME}.Connection.Active"
MOCK = "org.freedesktop.DBus.Mock"
OBJECTS = "org.freedesktop.DBus.ObjectManager"
PROPERTIES = "org.freedesktop.DBus.Properties"

DISCONNECTED, PREPARE, CONFIG, IP_CONFIG, ACTIVATED, DEACTIVATING = 30, 40, 50, 70, 100, 110  # NMDeviceState
STATE_DISCONNECTED, STATE_CONNECTING, STATE_GLOBAL = 20, 40, 70  # NMState
ACTIVATING, ACTIVE_NOW = 1, 2  # NMActiveConnectionState
NOTHING = "/"


class Said:
    """A value, spelled as dbusmock's Python needs it: its library takes bytes for text."""

    def __init__(self, value: object) -> None:
        self._value = value

    def __repr__(self) -> str:
        return f"dbus.ByteArray({self._value!r})" if isinstance(self._value, bytes) else repr(self._value)


class NetworkManagerStandIn:
    """Drive it in the order of a real card: `associating`, (carrier), `associated`, (DHCP), `activated`, `gone`.

    `start()` returns at once, `ready()` waits (about 300 ms). Each step sends PropertiesChanged as NetworkManager does.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._numbers = itertools.count(1)
        self._states = {WIFI: DISCONNECTED, WIRED: DISCONNECTED}
        self._point = NOTHING
        self._active = {WIFI: NOTHING, WIRED: NOTHING}
        self._client: BusClient | None = None

    def start(self) -> None:
        start_bus(self._host)
        parameters = json.dumps({"Version": "1.42.4", "State": STATE_DISCONNECTED})
        self._process = self._host.start(
            # The real one answers within a millisecond. This one is Python: on a busy machine it has to come first, or
            # it would be late, and a network that nobody knows any more is held.
            "nice", "-n", "-15",
            "/usr/bin/python3", "-m", "dbusmock", "--system", "--template", "networkmanager", "--parameters", parameters
        )  # fmt: skip

    def ready(self, wifi_mac: str, wired_mac: str) -> None:
        """Wait for the name on the bus and add the two devices."""
        self._client = BusClient(self._host)
        self._client.wait_owned(NAME)
        for member, path, link in (("AddWiFiDevice", WIFI, "wlan0"), ("AddEthernetDevice", WIRED, "eth0")):
            self._mock(ROOT, member, "ssi", path.rsplit("/", 1)[1], link, DISCONNECTED)
        wireless = {
            "HwAddress": Variant("s", wifi_mac.upper()),
            "PermHwAddress": Variant("s", wifi_mac.upper()),
        }
        self._update(WIFI, WIRELESS, wireless)
        # dbusmock's template lacks what newer versions have, and what we need most: the access point in use.
        extra = {"ActiveAccessPoint": Variant("o", NOTHING), "LastScan": Variant("x", -1)}
        self._mock(WIFI, "AddProperties", "sa{sv}", WIRELESS, extra)
        self._mock(WIFI, "AddProperties", "sa{sv}", DEVICE, {"HwAddress": Variant("s", wifi_mac.upper())})
        self._mock(WIRED, "AddProperties", "sa{sv}", DEVICE, {"HwAddress": Variant("s", wired_mac.upper())})
        unknown = {"Metered": Variant("u", 0), "Ip4Connectivity": Variant("u", 0)}
        self._mock(WIFI, "AddProperties", "sa{sv}", DEVICE, unknown)
        self.settings({})

    @property
    def client(self) -> BusClient:
        """The connection to the laptop's system bus; tests may use it for calls of their own."""
        assert self._client is not None, "ready() first"
        return self._client

    def settings(self, sections: Mapping[str, Mapping[str, object]]) -> None:
        """Those of the connection that the Wi-Fi device uses next, by section and name."""
        told = {section: {name: Said(value) for name, value in part.items()} for section, part in sections.items()}
        code = f"ret = ({told!r}, 1)"
        self._mock(WIFI, "AddMethod", "sssss", DEVICE, "GetAppliedConnection", "u", "a{sa{sv}}t", code)

    def associating(self, path: str = WIFI) -> None:
        """The user chose a network: the card authenticates and associates. Nothing is known of the network yet."""
        self._manager_state(STATE_CONNECTING)
        self._device_state(path, PREPARE)
        self._device_state(path, CONFIG)

    def associated(self, point: AccessPoint) -> None:
        """Publish the access point in use: AP object, ActiveAccessPoint, the active connection, state IP_CONFIG."""
        self._forget_point()
        self._point = self._add(
            "AccessPoint", POINT,
            {
                "Flags": Variant("u", point.air.value[0]),
                "WpaFlags": Variant("u", point.air.value[1]),
                "RsnFlags": Variant("u", point.air.value[2]),
                "Ssid": Variant("ay", point.ssid),
                "Frequency": Variant("u", 2437),
                "HwAddress": Variant("s", point.bssid.upper()),
                "Mode": Variant("u", 2),
                "MaxBitrate": Variant("u", 130000),
                "Bandwidth": Variant("u", 20),
                "Strength": Variant("y", 80),
                "LastSeen": Variant("i", 1),
            },
        )  # fmt: skip
        self._signal(WIFI, WIRELESS, "AccessPointAdded", "o", Variant("o", self._point))
        points = {"AccessPoints": Variant("ao", [self._point]), "ActiveAccessPoint": Variant("o", self._point)}
        self._update(WIFI, WIRELESS, points)
        self._activate(WIFI, self._point, "802-11-wireless", point.ssid.decode(errors="replace"))
        self._device_state(WIFI, IP_CONFIG)

    def found_out(self, *, metered: int, connectivity: int) -> None:
        """What it says of the Wi-Fi link beside the network: NMMetered, NMConnectivityState."""
        self._update(WIFI, DEVICE, {"Metered": Variant("u", metered), "Ip4Connectivity": Variant("u", connectivity)})

    def activated(self, path: str = WIFI) -> None:
        """The link has its addresses."""
        if path == WIRED:
            self._activate(WIRED, NOTHING, "802-3-ethernet", "Wired connection 1")
        self._update(self._active[path], ACTIVE, {"State": Variant("u", ACTIVE_NOW)})
        self._device_state(path, ACTIVATED)
        self._manager_state(STATE_GLOBAL)

    def gone(self, path: str = WIFI) -> None:
        """The link lost its network."""
        if self._states[path] == DISCONNECTED:
            return
        self._device_state(path, DEACTIVATING)
        if path == WIFI:
            self._update(WIFI, WIRELESS, {"ActiveAccessPoint": Variant("o", NOTHING)})
            self._forget_point()
        self._device_state(path, DISCONNECTED)
        self._update(path, DEVICE, {"ActiveConnection": Variant("o", NOTHING)})
        if (active := self._active[path]) != NOTHING:
            self._active[path] = NOTHING
            self._publish_active()
            self._remove(active, ACTIVE)
        still = ACTIVATED in self._states.values()
        self._manager_state(STATE_GLOBAL if still else STATE_DISCONNECTED)

    def kill(self) -> None:
        """SIGKILL: the service vanishes from the bus, as when NetworkManager crashes. The links stay as they are."""
        self._process.kill()

    def close(self) -> None:
        if self._client is not None:
            self._client.close()

    # --- the pieces ---------------------------------------------------------------------------------------------------

    def _activate(self, path: str, specific: str, kind: str, label: str) -> None:
        properties = {
            "Connection": Variant("o", f"{MANAGER}/Settings/{1 if path == WIFI else 2}"),
            "SpecificObject": Variant("o", specific),
            "Id": Variant("s", label),
            "Uuid": Variant("s", f"00000000-0000-4000-8000-{next(self._numbers):012x}"),
            "Type": Variant("s", kind),
            "Devices": Variant("ao", [path]),
            "State": Variant("u", ACTIVATING),
            "StateFlags": Variant("u", 0),
            "Default": Variant("b", True),
            "Default6": Variant("b", False),
            "Vpn": Variant("b", False),
            "Master": Variant("o", NOTHING),
        }
        self._active[path] = self._add("ActiveConnection", ACTIVE, properties)
        self._update(path, DEVICE, {"ActiveConnection": Variant("o", self._active[path])})
        self._publish_active()

    def _publish_active(self) -> None:
        active = [path for path in self._active.values() if path != NOTHING]
        self._update(MANAGER, NAME, {"ActiveConnections": Variant("ao", active)})

    def _device_state(self, path: str, state: int) -> None:
        old, self._states[path] = self._states[path], state
        self._update(path, DEVICE, {"StateReason": Variant("(uu)", [state, 0]), "State": Variant("u", state)})
        self._signal(path, DEVICE, "StateChanged", "uuu", *(Variant("u", value) for value in (state, old, 0)))

    def _manager_state(self, state: int) -> None:
        self._update(MANAGER, NAME, {"State": Variant("u", state)})
        self._signal(MANAGER, NAME, "StateChanged", "u", Variant("u", state))

    def _forget_point(self) -> None:
        if self._point != NOTHING:
            old, self._point = self._point, NOTHING
            self._update(WIFI, WIRELESS, {"AccessPoints": Variant("ao", [])})
            self._signal(WIFI, WIRELESS, "AccessPointRemoved", "o", Variant("o", old))
            self._remove(old, POINT)

    def _add(self, kind: str, interface: str, properties: dict[str, Variant]) -> str:
        path = f"{MANAGER}/{kind}/{next(self._numbers)}"  # NetworkManager never uses a number twice
        self._mock(ROOT, "AddObject", "ssa{sv}a(ssss)", path, interface, properties, [])
        faces = Variant("a{sa{sv}}", {interface: properties})
        self._signal(ROOT, OBJECTS, "InterfacesAdded", "oa{sa{sv}}", Variant("o", path), faces)
        return path

    def _remove(self, path: str, interface: str) -> None:
        self._signal(ROOT, OBJECTS, "InterfacesRemoved", "oas", Variant("o", path), Variant("as", [interface]))
        self._mock(ROOT, "RemoveObject", "s", path)

    def _update(self, path: str, interface: str, properties: dict[str, Variant]) -> None:
        # One by one: dbusmock's UpdateProperties (0.28) cannot take object paths and structures.
        for name, value in properties.items():
            self.client.call(NAME, path, f"{PROPERTIES}.Set", "ssv", interface, name, value)

    def _signal(self, path: str, interface: str, member: str, signature: str, *values: Variant) -> None:
        self._mock(path, "EmitSignal", "sssav", interface, member, signature, list(values))

    def _mock(self, path: str, member: str, signature: str, *body: Any) -> None:
        self.client.call(NAME, path, f"{MOCK}.{member}", signature, *body)
