"""Our types as D-Bus types: int is t, a struct a{sv}, a list a..., null the empty string."""

from __future__ import annotations

from collections.abc import Iterable

from dbus_fast import Variant

from ipc.describe import Field, Type, structs
from ipc.values import Json

SIGNATURES = {"bool": "b", "int": "t", "string": "s"}

Value = bool | int | float | str | list["Value"] | dict[str, Variant]


def signature(kind: Type) -> str:
    """The D-Bus signature of a type."""
    return ("a" if kind.many else "") + SIGNATURES.get(kind.base, "a{sv}")


def signature_of(fields: Iterable[Field]) -> str:
    """The D-Bus signature of a method's arguments."""
    return "".join(signature(field.type) for field in fields)


def value(kind: Type, plain: Json) -> Value:
    """A plain value of that type as dbus-fast wants it."""
    if plain is None:
        return ""
    if isinstance(plain, list):
        single = Type(kind.base)
        return [value(single, item) for item in plain]
    if isinstance(plain, dict):
        return {
            field.name: Variant(signature(field.type), value(field.type, plain[field.name]))
            for field in structs()[kind.base].fields
        }
    return plain
