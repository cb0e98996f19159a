"""Name resolution through systemd-resolved: the tunnel's link gets every question, no other link gets any.

    tunnel's link    its resolvers, the domain `~.`, DefaultRoute=yes
    all others       no domains, DefaultRoute=no: a resolver whose questions the firewall drops makes resolved ask again
                     and again (L18), and a domain that a network gave itself ("com") would draw names there

Their servers, and everything else of them, stay. DNSOverTLS, DNSSEC and the like are the administrator's: untouched.

What the others had is on record before it is changed, in /run, as resolved's own memory of it is. So a restart, a crash
or a SIGKILL of either of us loses nothing: `restore` gives a link back what it had, unless somebody has given it
something else since. Of the tunnel's link nothing is kept; it is reverted, or is gone.

resolved says on the bus when servers have changed, and nothing of domains and default routes; but it writes its
resolv.conf anew then. A link that systemd-networkd manages is changed through systemd-networkd (LinkBusy), whose
RevertLinkDNS gives back what its own files say.

Sources: org.freedesktop.resolve1(5), org.freedesktop.network1(5), https://systemd.io/RESOLVED-VPNS.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import socket
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from daemon import files
from daemon.host import HostError
from daemon.linux.system_bus import BUS, BusError, SystemBus
from policies.facts import Tunnel
from policies.resolvers import RESOLVED

PATH, MANAGER, LINK = "/org/freedesktop/resolve1", f"{RESOLVED}.Manager", f"{RESOLVED}.Link"
NETWORKD, NETWORKD_PATH = "org.freedesktop.network1", "/org/freedesktop/network1"
BUSY, NO_LINK = f"{RESOLVED}.LinkBusy", f"{RESOLVED}.NoSuchLink"
EVERYTHING = ((".", True),)  # the domain `~.`
MATCHES = (
    f"type='signal',sender='{BUS}',member='NameOwnerChanged',arg0='{RESOLVED}'",
    f"type='signal',sender='{RESOLVED}',path='{PATH}',member='PropertiesChanged',arg0='{MANAGER}'",
)
TELLING = frozenset({"DNS", "DNSEx", "Domains"})
LOOKS, LOOK_AGAIN = 40, 0.05  # seconds between: resolved hears of a new link a moment after us
SET, RESTORE = "point systemd-resolved into the tunnel", "give systemd-resolved back"

Domains = tuple[tuple[str, bool], ...]  # and whether it only routes


@dataclass(frozen=True, slots=True)
class Former:
    """What a link had before us."""

    ifindex: int
    ifname: str
    domains: Domains
    default_route: bool


class Resolved:
    """The `Resolver` of daemon/host.py over systemd-resolved. `record`: where it is kept what the links had."""

    def __init__(self, bus: SystemBus, record: Path) -> None:
        self._bus, self._record = bus, record
        self._confirmed: int | None = None  # the hints there were before resolved was last read and found as wanted

    async def set(self, tunnel: Tunnel) -> None:
        """Twice is harmless: what is as it should be is not touched. Raises HostError."""
        self._confirmed, hints = None, self._bus.hints
        try:
            ifindex = socket.if_nametoindex(tunnel.ifname)
            found = await self._link(ifindex, LOOKS)
            others = [each for each in await self._others(ifindex) if not _is_quiet(each)]
            _, recorded = self._recorded()
            former = {each.ifindex: each for each in (*recorded, *others)}
            self._keep(tunnel.ifname, former.values())
            for each in others:
                await self._quiet(each)
            # Only now, or both would be asked.
            servers = [(_family(address.version), address.packed) for address in tunnel.resolvers]
            if found["DNS"] != servers:
                await self._tell("SetLinkDNS", "a(iay)", ifindex, [list(each) for each in servers])
            if found["Domains"] != list(EVERYTHING):
                await self._tell("SetLinkDomains", "a(sb)", ifindex, [list(each) for each in EVERYTHING])
            if not found["DefaultRoute"]:
                await self._tell("SetLinkDefaultRoute", "b", ifindex, True)
        except (BusError, OSError, LookupError, TypeError, ValueError) as err:
            raise HostError(SET, _why(err)) from err
        self._confirmed = hints

    def intact(self) -> bool:
        """Whether nothing was heard since resolved was found as `set` wants it."""
        return self._confirmed == self._bus.hints

    def used(self) -> bool:
        """Whether there is anything to give back, of this process or an earlier one."""
        return self._record.exists()

    async def restore(self) -> None:
        """Idempotent. Raises HostError; the record stays then."""
        self._confirmed = None
        if not self.used():
            return
        try:
            ifname, former = self._recorded()
            await self._revert(ifname)
            for each in former:
                await self._give_back(each)
            files.remove(self._record)
        except (BusError, OSError, LookupError, TypeError, ValueError) as err:
            raise HostError(RESTORE, _why(err)) from err

    # --- links --------------------------------------------------------------------------------------------------------

    async def _link(self, ifindex: int, looks: int = 1) -> dict[str, Any]:
        """What resolved knows of a link. Raises BusError."""
        while True:
            try:
                path = (await self._bus.call(RESOLVED, PATH, f"{MANAGER}.GetLink", "i", ifindex))[0]
                found = await self._bus.get(RESOLVED, path, LINK)
            except BusError as err:
                looks -= 1
                if err.name != NO_LINK or looks <= 0:
                    raise
                await asyncio.sleep(LOOK_AGAIN)
                continue
            found["DNS"] = [(family, bytes(address)) for family, address in found["DNS"]]
            found["Domains"] = [(name, only) for name, only in found["Domains"]]
            return found

    async def _others(self, ifindex: int) -> list[Former]:
        """The other links that resolved would ask anybody over."""
        about = await self._bus.get(RESOLVED, PATH, MANAGER)
        numbers = sorted({each[0] for name in ("DNS", "Domains") for each in about[name]} - {0, ifindex})
        others = []
        for number in numbers:
            try:
                found, ifname = await self._link(number), socket.if_indextoname(number)
            except OSError:
                continue  # gone
            except BusError as err:
                if err.name != NO_LINK:
                    raise
                continue
            others.append(Former(number, ifname, tuple(found["Domains"]), bool(found["DefaultRoute"])))
        return others

    async def _quiet(self, link: Former) -> None:
        """Nobody is asked over that link any more. In the opposite order of `_give_back`, which must know half-work."""
        if link.default_route:
            await self._tell("SetLinkDefaultRoute", "b", link.ifindex, False)
        if link.domains:
            await self._tell("SetLinkDomains", "a(sb)", link.ifindex, [])

    async def _give_back(self, former: Former) -> None:
        try:
            if socket.if_indextoname(former.ifindex) != former.ifname:
                return
            now = await self._link(former.ifindex)
        except OSError:
            return  # another link, or none
        except BusError as err:
            if err.name != NO_LINK:
                raise
            return
        if now["DefaultRoute"] or (now["Domains"] and tuple(now["Domains"]) != former.domains):
            return  # somebody has set it up anew
        try:
            await self._of_resolved("SetLinkDomains", "a(sb)", former.ifindex, [list(each) for each in former.domains])
            await self._of_resolved("SetLinkDefaultRoute", "b", former.ifindex, former.default_route)
        except BusError as err:
            if err.name != BUSY:
                raise
            await self._bus.call(NETWORKD, NETWORKD_PATH, f"{NETWORKD}.Manager.RevertLinkDNS", "i", former.ifindex)

    async def _revert(self, ifname: str) -> None:
        """The tunnel's link, where it still is."""
        try:
            ifindex = socket.if_nametoindex(ifname)
        except OSError:
            return
        try:
            await self._of_resolved("RevertLink", "", ifindex)
        except BusError as err:
            if err.name == BUSY:
                await self._bus.call(NETWORKD, NETWORKD_PATH, f"{NETWORKD}.Manager.RevertLinkDNS", "i", ifindex)
            elif err.name != NO_LINK:
                raise

    async def _tell(self, member: str, signature: str, ifindex: int, value: object) -> None:
        try:
            await self._of_resolved(member, signature, ifindex, value)
        except BusError as err:
            if err.name != BUSY:
                raise
            body = (ifindex, value)
            await self._bus.call(NETWORKD, NETWORKD_PATH, f"{NETWORKD}.Manager.{member}", f"i{signature}", *body)

    async def _of_resolved(self, member: str, signature: str, ifindex: int, *value: object) -> None:
        await self._bus.call(RESOLVED, PATH, f"{MANAGER}.{member}", f"i{signature}", ifindex, *value)

    # --- the record ---------------------------------------------------------------------------------------------------

    def _keep(self, tunnel: str, former: Iterable[Former]) -> None:
        data = json.dumps({"tunnel": tunnel, "links": [asdict(each) for each in former]}).encode("ascii")
        with contextlib.suppress(FileNotFoundError):
            if files.read(self._record) == data:
                return
        files.make_folder(self._record.parent, 0o755)
        files.write(self._record, data)

    def _recorded(self) -> tuple[str, list[Former]]:
        """The tunnel's link, and what the others had. Raises OSError, also where it is no record of ours."""
        try:
            fields = json.loads(files.read(self._record))
            return str(fields["tunnel"]), [_former(each) for each in fields["links"]]
        except FileNotFoundError:
            return "", []
        except (ValueError, KeyError, TypeError) as err:
            raise OSError(errno.EINVAL, "damaged: remove it", str(self._record)) from err


def _former(fields: Mapping[str, Any]) -> Former:
    domains = tuple((str(name), bool(only)) for name, only in fields["domains"])
    return Former(int(fields["ifindex"]), str(fields["ifname"]), domains, bool(fields["default_route"]))


def _is_quiet(link: Former) -> bool:
    """As we leave a link: then what it had is what the record says."""
    return not link.domains and not link.default_route


def _family(version: int) -> int:
    return int(socket.AF_INET if version == 4 else socket.AF_INET6)


def _why(err: Exception) -> str:
    if isinstance(err, OSError):
        return f"{err.filename}: {err.strerror}" if err.filename else str(err.strerror or err)
    if not isinstance(err, BusError):
        return f"systemd-resolved answered with something else than expected: {err!r}"
    return f"systemd-resolved: {err}"
