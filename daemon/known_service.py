"""What callers may ask for of the networks that users saved. Part of `daemon.service`."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial

from pydantic import ValidationError

from daemon.beacons import told
from daemon.host import HostError
from daemon.inbox import Found
from daemon.loop import Loop
from daemon.refusals import invalid, no_such_profile, saving
from ipc import structs
from ipc.errors import Error, ServiceError
from policies.classify import ssid_text
from policies.facts import Security, WifiNetwork
from policies.known import stands_for
from policies.known_network import KnownNetwork
from policies.settings_errors import Problem, SettingsError
from policies.settings_known import known_from_json, known_to_json
from policies.settings_tables import WifiAction
from policies.settings_values import endpoint_text
from policies.states import Changed, Event

PAGE = 200  # networks of one answer: whoever asks for all of them must not stop the loop
LINES, MOST = 500, 20_000  # networks of one import, and of all users


class KnownService:
    """`listed`, `parsed` and `with_digest` may be called at any time, the others by the owner of the state.

    All raise ServiceError.
    """

    def __init__(self, loop: Loop) -> None:
        self._loop = loop

    def listed(self, start: int) -> tuple[structs.KnownNetwork, ...]:
        """A page of them: the administrator's, then what users added."""
        fixed = self._loop.settings.known
        names = {network.key for network in fixed}
        added = [network for network in self._loop.known if network.key not in names]
        everything = (*((each, "settings") for each in fixed), *((each, "user") for each in added))
        return tuple(_told(network, source) for network, source in everything[max(start, 0) :][:PAGE])

    def add(
        self,
        ssid: str | None,
        ssid_hex: str | None,
        security: str | None,
        action: str | None,
        profile: str | None,
        allow_lan: bool,
        pin: bool,
        learn: bool,
    ) -> tuple[structs.KnownNetwork, Event]:
        """Save a network, the joined one where none is named."""
        name, joined = self._named(ssid, ssid_hex)
        if pin and (joined is None or len(joined.bssid) != 6):
            why = "its access point cannot be read." if joined else "it is not joined now, so nothing is to be pinned."
            raise ServiceError(Error.NO_SUCH_NETWORK, "AddKnown", why, "Join it first, or name the access points.")
        minimum = Security(security) if security else joined.offered if joined else Security.WPA2
        network = checked(
            "AddKnown",
            lambda: KnownNetwork(
                ssid=name,
                minimum_security=minimum,
                action=WifiAction(action) if action else None,
                profile=profile or None,
                allow_lan=allow_lan,
                bssids=frozenset((joined.bssid,)) if pin and joined else frozenset(),
                gateways=frozenset((joined.gateway_mac,)) if pin and joined and joined.gateway_mac else frozenset(),
                learn=learn,
            ),
        )
        self._save("AddKnown", (network,))
        return _told(network, "user"), Changed()

    def edit(self, ssid_hex: str, changes: str, pattern: bool) -> tuple[structs.KnownNetwork, Event]:
        """Put the keys of a JSON object in place of a saved network's own."""
        before = self._saved("EditKnown", ssid_hex, pattern)
        network = checked("EditKnown", lambda: changed_known(before, changes))
        self._save("EditKnown", (network,), instead_of=before)
        return _told(network, "user"), Changed()

    def parsed(self, text: str) -> tuple[KnownNetwork, ...]:
        """The networks of a text, one a line."""
        lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
        if len(lines) > LINES:
            raise invalid("ImportKnown", f"{len(lines)} networks at once; up to {LINES} are taken")
        networks: dict[tuple[bool, bytes], KnownNetwork] = {}
        for number, line in lines:
            network = checked(f"ImportKnown, line {number}", lambda line=line: known_from_json(line))  # type: ignore[misc]
            if network.key in networks:
                raise invalid(f"ImportKnown, line {number}", "an earlier line has the same name")
            networks[network.key] = network
        return tuple(networks.values())

    def bring(self, networks: tuple[KnownNetwork, ...]) -> Event:
        """Save them, all or none."""
        self._save("ImportKnown", networks)
        return Changed()

    def forget(self, ssid_hex: str, pattern: bool) -> Event:
        """Forget a network that users saved."""
        network = self._saved("ForgetKnown", ssid_hex, pattern)
        saving(lambda: self._loop.store.forget_known(network.key))
        self._loop.known = tuple(each for each in self._loop.known if each.key != network.key)
        return Changed()

    async def with_digest(self, ssid_hex: str, changes: str, pattern: bool) -> str:
        """With the certificate that is there now, where a beacon is to be saved without one."""
        network = self._saved("EditKnown", ssid_hex, pattern)
        try:
            wanted = json.loads(changes)
        except (ValueError, RecursionError):
            return changes  # which will be refused
        if not isinstance(wanted, dict) or wanted.get("beacon") is None or "beacon_sha256" in wanted:
            return changes
        anything = json.dumps({**wanted, "beacon_sha256": "00" * 32})
        beacon = checked("EditKnown", lambda: changed_known(network, anything)).beacon
        assert beacon is not None
        joined = [ifname for ifname, met in self._loop.facts.wifi.items() if stands_for(network, met.ssid)]
        why = "" if len(joined) == 1 else "this network is not joined now, so its beacon cannot be asked."
        cleared = self._loop.enforcer.enforced.cleared if self._loop.enforcer.enforced else frozenset()
        if not why and joined[0] not in cleared:
            why = "nothing but the tunnel passes on this network now, so its beacon cannot be asked."
        link = None if why else self._loop.facts.link(joined[0])
        try:
            digest = await self._loop.host.beacons.fingerprint(link.ifname, beacon) if link else b""
        except HostError as err:
            why = f"{err}."
        if why or link is None:
            raise ServiceError(
                Error.NOT_NOW, "EditKnown", why, "Join it and disconnect the VPN first, or give beacon_sha256 as well."
            )
        # What is known is not asked again, which would hold the link once more.
        shown = partial(told, ifname=link.ifname, beacon=beacon, shown=digest)
        self._loop.post(Found(link.ifname, link.association, shown))
        return json.dumps({**wanted, "beacon_sha256": digest.hex()})

    def _saved(self, what: str, ssid_hex: str, pattern: bool) -> KnownNetwork:
        """The network of that name that a user saved."""
        try:
            key = (pattern, bytes.fromhex(ssid_hex))
        except ValueError:
            raise invalid(what, "ssid_hex: two hexadecimal digits a byte are needed.") from None
        if any(each.key == key for each in self._loop.settings.known):
            raise _fixed(what, key[1])
        for network in self._loop.known:
            if network.key == key:
                return network
        raise ServiceError(
            Error.NO_SUCH_NETWORK,
            what,
            f"“{ssid_text(key[1])}” is not saved.",
            "`tunwarden known list` shows the saved ones.",
        )

    def _save(self, what: str, networks: tuple[KnownNetwork, ...], instead_of: KnownNetwork | None = None) -> None:
        """All or none, in the store and then in force."""
        loop, fixed = self._loop, {each.key for each in self._loop.settings.known}
        for network in networks:
            if network.profile is not None and network.profile not in loop.profiles:
                raise no_such_profile(network.profile)
            if network.key in fixed:
                raise _fixed(what, network.ssid)
        after = {each.key for each in (*loop.known, *networks)}
        if instead_of is not None and instead_of.key not in {each.key for each in networks}:
            raise invalid(what, "the name stays: add the other one and forget this")
        if len(after) > MOST:
            raise ServiceError(Error.NOT_NOW, what, f"{MOST} networks are saved already.", "Forget some first.")
        self.keep(networks)

    def keep(self, networks: tuple[KnownNetwork, ...]) -> None:
        """In the store and then in force, in its order: reading ten thousand anew takes half a second."""
        saving(lambda: self._loop.store.save_known(*networks))
        after = {each.key: each for each in (*self._loop.known, *networks)}
        self._loop.known = tuple(after[key] for key in sorted(after))

    def _named(self, ssid: str | None, ssid_hex: str | None) -> tuple[bytes, WifiNetwork | None]:
        """The SSID that is meant, and the network if it is joined now."""
        joined = [
            self._loop.facts.wifi[link.ifname]
            for link in self._loop.facts.uplinks
            if link.ifname in self._loop.facts.wifi
        ]
        if not ssid and not ssid_hex:
            if len(joined) != 1:
                why = "no Wi-Fi network is joined now." if not joined else "several Wi-Fi networks are joined."
                raise ServiceError(Error.NO_SUCH_NETWORK, "AddKnown", why, "Name the network.")
            return joined[0].ssid, joined[0]
        try:
            name = bytes.fromhex(ssid_hex) if ssid_hex else (ssid or "").encode()
        except ValueError:
            raise invalid("AddKnown", "ssid_hex: two hexadecimal digits a byte are needed.") from None
        return name, next((each for each in joined if each.ssid == name), None)


def checked(what: str, make: Callable[[], KnownNetwork]) -> KnownNetwork:
    """What a caller wants saved, held to the rules of the settings file. Raises ServiceError."""
    try:
        return make()
    except SettingsError as err:
        first = err.problems[0]
        where = f"{first.key}: " if first.key else ""
        raise invalid(
            what, f"{where}{first.problem}" + (f"; allowed: {first.allowed}" if first.allowed else "")
        ) from None
    except ValidationError as err:
        # pydantic's own text has several lines and an address of its documentation.
        raise invalid(what, "; ".join(each["msg"].removeprefix("Value error, ") for each in err.errors())) from None


def changed_known(network: KnownNetwork, changes: str) -> KnownNetwork:
    """The network with the keys of a JSON object put in place of its own; null ends one. Raises SettingsError."""
    try:
        wanted = json.loads(changes)
    except (ValueError, RecursionError):
        wanted = None
    if not isinstance(wanted, dict):
        raise SettingsError([Problem("changes", 1, "", "not a JSON object")])
    keys = {**json.loads(known_to_json(network)), **wanted}
    return known_from_json(json.dumps({key: value for key, value in keys.items() if value is not None}))


def _fixed(what: str, ssid: bytes) -> ServiceError:
    return ServiceError(
        Error.LOCKED,
        what,
        f"“{ssid_text(ssid)}” stands in the administrator's settings.",
        "Change [[known]] in /etc/tunwarden/tunwarden.toml.",
    )


def _told(network: KnownNetwork, source: str) -> structs.KnownNetwork:
    return structs.KnownNetwork(
        ssid=ssid_text(network.ssid),
        ssid_hex=network.ssid.hex(),
        security=network.minimum_security.value,
        action=network.action.value if network.action else None,
        profile=network.profile,
        allow_lan=bool(network.allow_lan),
        source=source,
        pattern=network.pattern,
        exceptions=tuple(ssid_text(pattern) for pattern in network.exceptions),
        bssids=tuple(mac.hex(":") for mac in sorted(network.bssids)),
        gateways=tuple(mac.hex(":") for mac in sorted(network.gateways)),
        beacon=endpoint_text(network.beacon) if network.beacon else None,
        beacon_sha256=network.beacon_sha256.hex(":") or None,
        learn=network.learn,
        entry=known_to_json(network),
    )
