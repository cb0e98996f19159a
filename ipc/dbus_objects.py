"""The objects under ours: one for each link in use, known network and profile, for `ObjectManager`.

Their properties are the fields of the structs that methods give, in D-Bus's spelling (`ssid_hex` is SsidHex).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

from dbus_fast import Variant

from ipc import interface
from ipc.dbus_values import signature, value
from ipc.describe import Field, structs
from ipc.structs import KnownNetwork, Network, Profile
from ipc.values import plain

MANAGER = "org.freedesktop.DBus.ObjectManager"

# By folder: the struct that its objects show. The interface is named like it.
FOLDERS: dict[str, str] = {"links": "Network", "known": "KnownNetwork", "profiles": "Profile"}
Properties = Mapping[str, Variant]


@dataclass(frozen=True, slots=True)
class Object:
    face: str  # its one interface
    properties: Properties


@dataclass(frozen=True, slots=True)
class Changes:
    """What announcing a new tree takes."""

    added: Mapping[str, Object]
    removed: Mapping[str, str]  # path: interface
    changed: Mapping[str, tuple[str, Properties]]  # path: interface, and the properties that differ


class Objects:
    """The tree as it was last announced."""

    def __init__(self) -> None:
        self._objects: dict[str, dict[str, Object]] = {folder: {} for folder in FOLDERS}

    def links(self, networks: Iterable[Network]) -> Changes:
        return self._become("links", {network.ifname: network for network in networks})

    def known(self, known: Iterable[KnownNetwork]) -> Changes:
        return self._become("known", {("p" if each.pattern else "n") + each.ssid_hex: each for each in known})

    def profiles(self, profiles: Iterable[Profile]) -> Changes:
        return self._become("profiles", {profile.name: profile for profile in profiles})

    def at(self, path: str) -> Object | None:
        folder, _, name = path.removeprefix(f"{interface.PATH}/").partition("/")
        return self._objects.get(folder, {}).get(path) if name else None

    def children(self, path: str) -> list[str]:
        """The last parts of what is right below ours or one of the folders."""
        if path == interface.PATH:
            return [folder for folder, objects in self._objects.items() if objects]
        folder = path.removeprefix(f"{interface.PATH}/")
        return [each.rpartition("/")[2] for each in self._objects.get(folder, {})]

    def all(self) -> dict[str, dict[str, Properties]]:
        """What GetManagedObjects answers."""
        return {
            path: {each.face: each.properties} for objects in self._objects.values() for path, each in objects.items()
        }

    def _become(self, folder: str, structs: Mapping[str, object]) -> Changes:
        kind = FOLDERS[folder]
        before, face = self._objects[folder], f"{interface.NAME}.{kind}"
        now = {
            f"{interface.PATH}/{folder}/{escaped(name)}": Object(face, _properties(kind, struct))
            for name, struct in structs.items()
        }
        self._objects[folder] = now
        changed = {
            path: (face, differing)
            for path, each in now.items()
            if path in before and (differing := _differing(before[path].properties, each.properties))
        }
        return Changes(
            {path: each for path, each in now.items() if path not in before},
            {path: each.face for path, each in before.items() if path not in now},
            changed,
        )


def escaped(name: str) -> str:
    """A name as one part of an object path, as systemd writes it: `_` and two digits for what may not stand there."""
    return "".join(chr(byte) if chr(byte).isalnum() and byte < 128 else f"_{byte:02x}" for byte in name.encode()) or "_"


@cache
def fields_of(kind: str) -> dict[str, Field]:
    """The properties of an interface, in the order of the struct."""
    return {field.name.title().replace("_", ""): field for field in structs()[kind].fields}


def _properties(kind: str, struct: object) -> Properties:
    shown = plain(struct)
    assert isinstance(shown, dict)
    return {
        name: Variant(signature(field.type), value(field.type, shown[field.name]))
        for name, field in fields_of(kind).items()
    }


def _differing(before: Properties, now: Properties) -> Properties:
    return {name: each for name, each in now.items() if before.get(name) != each}
