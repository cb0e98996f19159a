"""Name resolution through NetworkManager, where it writes /etc/resolv.conf by itself: its global resolvers, by D-Bus.

They replace those of every connection, also of ones that come later, so no link of ours need be known to it. It keeps
them on the disk (NetworkManager-intern.conf), over restarts of everything; so does our copy of what was there before.
NetworkManager refuses where its own configuration file has global resolvers: the administrator's word.

Source: https://networkmanager.dev/docs/api/latest/gdbus-org.freedesktop.NetworkManager.html, GlobalDnsConfiguration.
"""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

from dbus_fast import Variant

from daemon import files
from daemon.host import HostError
from daemon.linux.system_bus import BUS, PROPERTIES, BusError, SystemBus
from policies.facts import Tunnel
from policies.resolvers import NETWORKMANAGER

PATH, DNS_MANAGER = "/org/freedesktop/NetworkManager", "/org/freedesktop/NetworkManager/DnsManager"
GLOBAL = "GlobalDnsConfiguration"
MATCHES = (
    f"type='signal',sender='{BUS}',member='NameOwnerChanged',arg0='{NETWORKMANAGER}'",
    f"type='signal',sender='{NETWORKMANAGER}',path='{PATH}',member='PropertiesChanged',arg0='{NETWORKMANAGER}'",
)
TELLING = frozenset({GLOBAL})
SET, RESTORE = "give NetworkManager the tunnel's resolvers", "give NetworkManager its resolvers back"


class NetworkManagerDns:
    """The `Resolver` of daemon/host.py over NetworkManager. `record`: where its former value is kept."""

    def __init__(self, bus: SystemBus, record: Path) -> None:
        self._bus, self._record = bus, record
        self._confirmed: int | None = None  # the hints there were before it was last found as wanted

    async def set(self, tunnel: Tunnel) -> None:
        """Twice is harmless. Raises HostError."""
        self._confirmed, hints = None, self._bus.hints
        wanted = {"domains": {"*": {"servers": [str(address) for address in tunnel.resolvers]}}}
        try:
            now = await self._read()
            if now != wanted:
                former, ours = self._recorded()
                if now != ours:  # somebody else's, from before the tunnel or since
                    former = now
                self._keep(former, wanted)
                await self._write(wanted)
                if await self._read() != wanted:
                    raise BusError("", "it took them and shows others")
        except (BusError, OSError) as err:
            raise HostError(SET, _why(err)) from err
        self._confirmed = hints

    def intact(self) -> bool:
        """Whether nothing was heard since it was found as `set` wants it."""
        return self._confirmed == self._bus.hints

    def used(self) -> bool:
        """Whether there is anything to give back, of this process or an earlier one."""
        return self._record.exists()

    async def restore(self) -> None:
        """What somebody else has set meanwhile stays. Idempotent. Raises HostError; the copy stays then."""
        self._confirmed = None
        if not self.used():
            return
        try:
            former, ours = self._recorded()
            if await self._read() == ours:
                await self._write(former)
            files.remove(self._record)
        except (BusError, OSError) as err:
            raise HostError(RESTORE, _why(err)) from err

    async def _read(self) -> dict[str, Any]:
        found = await self._bus.get(NETWORKMANAGER, PATH, NETWORKMANAGER)
        value = _plain(found.get(GLOBAL, {}))
        if not isinstance(value, dict):
            raise BusError("", f"its {GLOBAL} is no dictionary")
        # Empty lists are shown by some versions, and mean nothing.
        return {key: inner for key, inner in value.items() if inner}

    async def _write(self, value: dict[str, Any]) -> None:
        body = (NETWORKMANAGER, GLOBAL, Variant("a{sv}", _spoken(value)))
        await self._bus.call(NETWORKMANAGER, PATH, f"{PROPERTIES}.Set", "ssv", *body)

    def _keep(self, former: dict[str, Any], ours: dict[str, Any]) -> None:
        servers = ours["domains"]["*"]["servers"]
        files.make_folder(self._record.parent)
        files.write(self._record, json.dumps({"former": former, "ours": ours, "servers": servers}).encode())

    def _recorded(self) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """What was there before us, and what we set. Raises OSError, also where it is no record of ours."""
        try:
            fields = json.loads(files.read(self._record))
            return dict(fields["former"]), dict(fields["ours"])
        except FileNotFoundError:
            return {}, None
        except (ValueError, KeyError, TypeError) as err:
            raise OSError(errno.EINVAL, "damaged: remove it", str(self._record)) from err


async def mode(bus: SystemBus) -> tuple[str, str]:
    """How NetworkManager resolves names, and how it writes /etc/resolv.conf: Mode and RcManager. Raises BusError."""
    found = await bus.get(NETWORKMANAGER, DNS_MANAGER, f"{NETWORKMANAGER}.DnsManager")
    return str(found.get("Mode", "")), str(found.get("RcManager", ""))


def _plain(value: object) -> object:
    if isinstance(value, Variant):
        return _plain(value.value)
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    return [str(each) for each in value] if isinstance(value, list) else value


def _spoken(value: dict[str, Any]) -> dict[str, Variant]:
    """As the bus wants it: lists of strings, and dictionaries of variants."""
    return {
        key: Variant("a{sv}", _spoken(inner)) if isinstance(inner, dict) else Variant("as", list(inner))
        for key, inner in value.items()
    }


def _why(err: Exception) -> str:
    if isinstance(err, OSError):
        return f"{err.filename}: {err.strerror}"
    return f"NetworkManager: {err}"
