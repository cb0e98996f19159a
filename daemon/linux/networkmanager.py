"""Which Wi-Fi networks NetworkManager has joined, asked over the system bus.

What is guaranteed, and what is not:

- `read` asks NetworkManager anew each time and serves nothing from an earlier answer. The access point's properties
  count only if the device still was in a joined state, on the same access point, *after* they were read.
- A link is absent, and therefore held, unless its device is in IP_CONFIG, IP_CHECK, SECONDARIES or ACTIVATED. Earlier
  states show the access point NetworkManager *plans* to join; while DEACTIVATING, the next one may be on its way.
- A state that ends an association is believed from the signal itself: closing never waits for an answer. Opening does.
- An access point without an address is NetworkManager's guess (a hidden network not seen yet): absent.
- NetworkManager gone, restarted, not root's, silent for longer than `patience`, or the bus gone: absent. `watch` yields
  when that ends.
- How 802.1X signs in is known from the beginning of an activation on, so before the kernel lets data pass.
- NetworkManager hears of a roam from the supplicant, some milliseconds after the kernel. Until then it names the former
  access point of the *same* connection profile (same SSID, same demands on security). Another profile always passes
  through states that are absent here. So after a change of the carrier a read may still tell a former BSSID, never a
  network that NetworkManager did not mean to join. Nothing is known of links it does not manage.

Sources: https://networkmanager.dev/docs/api/latest/spec.html, .../nm-dbus-types.html (1.42 to 1.52), and of the order
of events src/core/devices/wifi/nm-device-wifi.c (supplicant_iface_notify_current_bss, supplicant_iface_state).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import structlog
from dbus_fast import BusType, Message, MessageFlag, MessageType, Variant
from dbus_fast.aio import MessageBus

from daemon.linux.access_point import parse_access_point
from daemon.linux.patience import within
from daemon.linux.sign_in import trusts_any_server
from policies.facts import Reach, WifiNetwork

log = structlog.get_logger()

NAME = "org.freedesktop.NetworkManager"
PATH = "/org/freedesktop/NetworkManager"
DEVICE, WIRELESS, ACCESS_POINT = f"{NAME}.Device", f"{NAME}.Device.Wireless", f"{NAME}.AccessPoint"
PROPERTIES = "org.freedesktop.DBus.Properties"
BUS, BUS_PATH = "org.freedesktop.DBus", "/org/freedesktop/DBus"

TYPE_WIFI = 2  # NM_DEVICE_TYPE_WIFI
MODE_INFRASTRUCTURE = 2  # NM_802_11_MODE_INFRA; a hotspot of our own, ad-hoc and mesh join nobody's network
JOINED = frozenset({70, 80, 90, 100})  # NM_DEVICE_STATE_IP_CONFIG, _IP_CHECK, _SECONDARIES, _ACTIVATED
SETTING_UP = frozenset({40, 50, 60}) | JOINED  # _PREPARE, _CONFIG, _NEED_AUTH
NOT_ITS = frozenset({0, 10})  # _UNKNOWN, _UNMANAGED
NO_ACCESS_POINT = "/"

METERED = {1: True, 2: False, 3: True, 4: False}  # NMMetered: yes, no, and two guesses
CONNECTIVITY = {1: Reach.NOTHING, 2: Reach.PORTAL, 4: Reach.INTERNET}  # NMConnectivityState

# Signals whose changed properties matter to us. Bitrate, strength and scan times change all the time.
TELLING = {
    DEVICE: frozenset({"Metered", "Ip4Connectivity"}),
    WIRELESS: frozenset({"ActiveAccessPoint", "Mode"}),
    ACCESS_POINT: frozenset({"Ssid", "HwAddress", "Flags", "WpaFlags", "RsnFlags"}),
}
_SIGNAL = f"type='signal',sender='{NAME}'"
MATCHES = (
    f"type='signal',sender='{BUS}',member='NameOwnerChanged',arg0='{NAME}'",
    f"{_SIGNAL},interface='{NAME}',member='DeviceAdded'",
    f"{_SIGNAL},interface='{NAME}',member='DeviceRemoved'",
    f"{_SIGNAL},interface='{DEVICE}',member='StateChanged'",
    f"{_SIGNAL},interface='{PROPERTIES}',member='PropertiesChanged',arg0='{WIRELESS}'",
    f"{_SIGNAL},interface='{PROPERTIES}',member='PropertiesChanged',arg0='{DEVICE}'",
)

PATIENCE = 0.25  # seconds
CONNECT_TIMEOUT = 5.0  # seconds
RETRY_FIRST, RETRY_LONGEST = 0.05, 5.0  # seconds
IN_FLIGHT = 32  # calls; a machine with hundreds of container links must not fill the socket


class NetworkManager:
    """`Wifi` as NetworkManager knows it. `read` has answers only while somebody iterates over `watch` (one at a time).

    `address`: of another bus than the system's. `patience`: seconds that `read` waits before it answers "nothing".
    """

    def __init__(self, address: str | None = None, *, patience: float = PATIENCE) -> None:
        self._address, self._patience = address, patience
        self._session: _Session | None = None
        self._changed = asyncio.Event()
        self._retry_in = RETRY_FIRST
        self._bus: bool | None = None  # whether there is one, or was; None: nobody has tried yet

    async def read(self) -> Mapping[str, WifiNetwork]:
        """The joined networks by ifname. Never raises; takes `patience` at most, 0.6 ms as a rule."""
        session = self._session
        if session is None or session.ended:
            return {}
        try:
            found = await within(self._patience, session.networks())
        except Exception as err:
            self._ask_again(err)
            return {}
        self._retry_in = RETRY_FIRST
        return found

    async def server_unchecked(self, ifname: str) -> bool | None:
        """As `daemon.linux.wifi.Source` has it: for NetworkManager's own connections. Never raises; like `read`."""
        session = self._session
        if session is None or session.ended:
            return False if self._bus is False else None
        try:
            return await within(self._patience, session.server_unchecked(ifname))
        except Exception as err:
            self._ask_again(err)
            return None

    def _ask_again(self, err: Exception) -> None:
        """Whatever it is: nothing is known now, and nobody may announce that it has ended."""
        log.warning("NetworkManager did not answer", error=repr(err))
        asyncio.get_running_loop().call_later(self._retry_in, self._changed.set)
        self._retry_in = min(2 * self._retry_in, RETRY_LONGEST)

    async def watch(self) -> AsyncIterator[None]:
        """Yields at once and then whenever something may have changed; many signals at once are one hint."""
        delay = RETRY_FIRST
        try:
            yield
            while True:
                if self._session is None:
                    try:
                        self._session = await _connect(self._address, self._changed)
                        self._bus = True
                    except Exception as err:  # the library raises what it likes, and this never ends
                        if self._bus is None:
                            self._bus = False
                            yield
                        log.info("no system bus", error=repr(err), again_in_s=delay)
                        await asyncio.sleep(delay)
                        delay = min(2 * delay, RETRY_LONGEST)
                        continue
                    delay = RETRY_FIRST
                    self._changed.set()
                await self._changed.wait()
                self._changed.clear()  # before the yield: signals during the read are another hint
                if self._session.ended:
                    log.warning("lost the system bus")
                    self._session = None
                yield
        finally:
            if self._session is not None:
                session, self._session = self._session, None
                await session.close()


async def _connect(address: str | None, changed: asyncio.Event) -> _Session:
    bus = MessageBus(bus_address=address, bus_type=BusType.SYSTEM, negotiate_unix_fd=False)
    async with asyncio.timeout(CONNECT_TIMEOUT):
        await bus.connect()
        session = _Session(bus, changed)
        try:
            await session.begin()
        except BaseException:
            await session.close()
            raise
    return session


class _Refused(Exception):
    """An error reply: the object, the property or the owner of the name is not there (any more)."""


class _Session:
    """One connection to the bus, and what may be remembered while it and NetworkManager last."""

    def __init__(self, bus: MessageBus, changed: asyncio.Event) -> None:
        self._bus, self._changed = bus, changed
        self._owner: str | None = None  # unique bus name of NetworkManager
        self._owner_heard = False
        self._forget()
        bus.add_message_handler(self._on_message)
        self._end = asyncio.create_task(self._wait_for_end())

    def _forget(self) -> None:
        """Object paths mean something else after a restart of NetworkManager; during its life they are never reused."""
        self._trusted: bool | None = None  # None: not asked yet
        self._stale = True  # the devices must be listed anew
        self._devices: tuple[str, ...] = ()  # paths, Wi-Fi only
        self._is_wifi: dict[str, bool] = {}  # by device path
        self._left: set[str] = set()  # device paths whose last signalled state is not JOINED
        self._followed: dict[str, str] = {}  # by device path: the access point whose changes are subscribed to

    async def begin(self) -> None:
        """Subscribe first, then ask: an owner that comes in between is signalled, and the signal is the newer word."""
        await asyncio.gather(*(self._bus_call("AddMatch", rule) for rule in MATCHES))
        with contextlib.suppress(_Refused):
            owner = str((await self._bus_call("GetNameOwner", NAME))[0])
            if not self._owner_heard:
                self._owner = owner

    @property
    def ended(self) -> bool:
        return not self._bus.connected

    async def close(self) -> None:
        if not self.ended:
            self._bus.disconnect()
        await self._end

    async def _wait_for_end(self) -> None:
        with contextlib.suppress(Exception):
            await self._bus.wait_for_disconnect()  # type: ignore[no-untyped-call]
        self._changed.set()

    # --- asking -------------------------------------------------------------------------------------------------------

    async def networks(self) -> dict[str, WifiNetwork]:
        """Raises _Refused and whatever dbus-fast raises."""
        owner = self._owner
        if owner is None or not await self._is_roots(owner):
            return {}
        devices = await self._wifi_devices(owner)
        found = await asyncio.gather(*(self._network(owner, device) for device in devices))
        return dict(each for each in found if each is not None) if self._owner == owner else {}

    async def _is_roots(self, owner: str) -> bool:
        """The bus's own policy reserves the name for root; where it does not, nobody else is believed."""
        if self._trusted is None:
            uid = (await self._bus_call("GetConnectionUnixUser", owner))[0]
            if self._owner != owner:
                return False
            self._trusted = uid == 0
            if not self._trusted:
                log.error("NetworkManager is not run by root: not believed", uid=uid)
        return self._trusted

    async def _wifi_devices(self, owner: str) -> tuple[str, ...]:
        if self._stale:
            self._stale, known = False, self._is_wifi  # a signal during the listing makes it stale again
            try:
                paths: list[str] = (await self._call(owner, PATH, NAME, "GetDevices"))[0]
                unknown = [path for path in paths if path not in known]
                for start in range(0, len(unknown), IN_FLIGHT):
                    some = unknown[start : start + IN_FLIGHT]
                    kinds = await asyncio.gather(*(self._type(owner, path) for path in some))
                    known.update((path, kind == TYPE_WIFI) for path, kind in zip(some, kinds, strict=True))
            except BaseException:
                self._stale = True
                raise
            if self._owner == owner:
                self._is_wifi = {path: known[path] for path in paths}
                self._left.intersection_update(paths)
                for device in self._followed.keys() - set(paths):
                    self._send("RemoveMatch", _changes_of(self._followed.pop(device)))
                self._devices = tuple(path for path in paths if known[path])
        return self._devices

    async def _type(self, owner: str, path: str) -> object:
        try:
            return await self._get(owner, path, DEVICE, "DeviceType")
        except _Refused:  # gone again already
            return None

    async def _network(self, owner: str, device: str) -> tuple[str, WifiNetwork] | None:
        """(ifname, network) of a Wi-Fi device, or None when it has joined none."""
        for _ in range(3):
            if device in self._left:
                return None
            try:
                ifname, mode, *before = await asyncio.gather(
                    self._get(owner, device, DEVICE, "Interface"),
                    self._get(owner, device, WIRELESS, "Mode"),
                    *self._association(owner, device),
                )
                state, point = before
                if mode != MODE_INFRASTRUCTURE or state not in JOINED or point == NO_ACCESS_POINT:
                    return None
                self._follow(device, str(point))
                # One connection, one order: the association is read again after the properties, in one round trip.
                reply, metered, connectivity, *after = await asyncio.gather(
                    self._call(owner, str(point), PROPERTIES, "GetAll", "s", ACCESS_POINT),
                    self._hint(owner, device, "Metered"),
                    self._hint(owner, device, "Ip4Connectivity"),
                    *self._association(owner, device),
                )
            except _Refused:  # the device or the access point has gone: look again
                continue
            if after != before:
                continue
            network = parse_access_point({name: variant.value for name, variant in reply[0].items()})
            network = replace(
                network, metered=METERED.get(metered or 0), connectivity=CONNECTIVITY.get(connectivity or 0)
            )
            return (str(ifname), network) if network.bssid and device not in self._left else None
        return None

    async def server_unchecked(self, ifname: str) -> bool | None:
        """Raises _Refused and whatever dbus-fast raises."""
        owner = self._owner
        if owner is None or not await self._is_roots(owner):
            return False
        uncertain = False
        for device in await self._wifi_devices(owner):
            try:
                if await self._get(owner, device, DEVICE, "Interface") != ifname:
                    continue
                state = await self._get(owner, device, DEVICE, "State")
                if state in NOT_ITS:
                    return False
                if state not in SETTING_UP:
                    return None  # NetworkManager leaves what the kernel is still joined to
                settings, _ = await self._call(owner, device, DEVICE, "GetAppliedConnection", "u", 0)
                return trusts_any_server(
                    {section: {name: told.value for name, told in part.items()} for section, part in settings.items()}
                )
            except _Refused:  # the device has gone, or was about to: a signal follows
                uncertain = True
        return None if uncertain or self._owner != owner else False

    async def _hint(self, owner: str, device: str, name: str) -> int | None:
        """A number that an older NetworkManager does not have; nothing depends on it."""
        try:
            value = await self._get(owner, device, DEVICE, name)
        except _Refused:
            return None
        return value if isinstance(value, int) else None

    def _association(self, owner: str, device: str) -> Iterable[Awaitable[object]]:
        yield self._get(owner, device, DEVICE, "State")
        yield self._get(owner, device, WIRELESS, "ActiveAccessPoint")

    def _follow(self, device: str, point: str) -> None:
        """Hear of changes of this access point, and no longer of the one before; there may be a hundred in the air."""
        former = self._followed.get(device)
        if former == point:
            return
        self._followed[device] = point
        self._send("AddMatch", _changes_of(point))
        if former is not None:
            self._send("RemoveMatch", _changes_of(former))

    async def _get(self, owner: str, path: str, interface: str, name: str) -> object:
        value = (await self._call(owner, path, PROPERTIES, "Get", "ss", interface, name))[0]
        return value.value if isinstance(value, Variant) else None

    async def _bus_call(self, member: str, argument: str) -> list[Any]:
        return await self._call(BUS, BUS_PATH, BUS, member, "s", argument)

    async def _call(
        self, to: str, path: str, interface: str, member: str, signature: str = "", *body: object
    ) -> list[Any]:
        """The body of the reply. Raises _Refused for an error reply."""
        # NO_AUTOSTART: asking must not start a NetworkManager that somebody has stopped.
        self._must_be_connected()
        call = Message(to, path, interface, member, flags=MessageFlag.NO_AUTOSTART, signature=signature, body=[*body])
        reply = await self._bus.call(call)
        if reply is None or reply.message_type is MessageType.ERROR:
            raise _Refused(reply.error_name if reply is not None else "no reply")
        return list(reply.body)

    def _send(self, member: str, rule: str) -> None:
        """To the bus, without waiting: it handles our messages in their order."""
        self._must_be_connected()
        flags = MessageFlag.NO_REPLY_EXPECTED
        sent = self._bus.send(Message(BUS, BUS_PATH, BUS, member, flags=flags, signature="s", body=[rule]))
        sent.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # `watch` sees the end itself

    def _must_be_connected(self) -> None:
        # dbus-fast writes to the file descriptor it had, which may be somebody else's by now.
        if not self._bus.connected:
            raise _Refused("the bus is gone")

    # --- hearing ------------------------------------------------------------------------------------------------------

    def _on_message(self, message: Message) -> None:
        """Signals are hints. Only the bus and NetworkManager are heard: any process may send a signal to us alone."""
        if message.message_type is not MessageType.SIGNAL:
            return
        if message.sender == BUS:
            if message.member == "NameOwnerChanged" and message.body[0] == NAME:
                self._owner, self._owner_heard = message.body[2] or None, True
                former = tuple(self._followed.values())
                self._forget()
                self._changed.set()
                for point in former:
                    self._send("RemoveMatch", _changes_of(point))
        elif message.sender is not None and message.sender == self._owner and self._tells(message):
            self._changed.set()

    def _tells(self, message: Message) -> bool:
        """Whether a signal of NetworkManager concerns us; takes note of what it says."""
        match message.member, message.signature:
            case "PropertiesChanged", "sa{sv}as":
                interface, changed, dropped = message.body
                return not TELLING.get(interface, frozenset()).isdisjoint({*changed, *dropped})
            case "StateChanged", "uuu" if message.path is not None:
                if message.body[0] in JOINED:
                    self._left.discard(message.path)
                else:
                    self._left.add(message.path)
                return self._is_wifi.get(message.path, True)
            case "DeviceAdded" | "DeviceRemoved", _:
                self._stale = True
                return True
        return False


def _changes_of(point: str) -> str:
    return f"{_SIGNAL},path='{point}',interface='{PROPERTIES}',member='PropertiesChanged',arg0='{ACCESS_POINT}'"
