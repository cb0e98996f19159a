"""Arguments and results between the wire and Python: checked once, here, for both faces and the client."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from ipc.describe import BASES, Field, Method, Type, struct_class, structs
from ipc.errors import Error, ServiceError

PYTHON = {name: cls for cls, name in BASES.items()}

Json = bool | int | float | str | list["Json"] | dict[str, "Json"] | None  # no method returns a float


def arguments(method: Method, given: Mapping[str, object]) -> dict[str, object]:
    """The keyword arguments for the service. Raises ServiceError(INVALID_ARGUMENT) naming the one that is wrong."""
    names = {field.name for field in method.parameters}
    for name in given:
        if name not in names:
            raise _invalid(method, _shown(name), "there is no such argument.")
    return {field.name: _argument(method, field, given.get(field.name)) for field in method.parameters}


def _argument(method: Method, field: Field, value: object) -> object:
    if value is None or (field.type.nullable and value == ""):
        if field.required:
            raise _invalid(method, field.name, "it is missing.")
        return field.default
    if type(value) is not PYTHON[field.type.base]:  # exact: True is not an int here
        raise _invalid(method, field.name, f"it must be of type {field.type.base}.")
    if isinstance(value, str):
        _check_string(method, field, value)
    return value


def _check_string(method: Method, field: Field, value: str) -> None:
    try:
        size = len(value.encode())
    except UnicodeEncodeError:  # lone surrogates, which JSON can write
        raise _invalid(method, field.name, "it is not valid Unicode.") from None
    if "\0" in value:
        raise _invalid(method, field.name, "it contains a NUL.")
    if field.longest is not None and size > field.longest:
        raise _invalid(method, field.name, f"it is longer than {field.longest} bytes.")
    if field.choices and value not in field.choices:
        raise _invalid(method, field.name, f"it must be one of {', '.join(field.choices)}.")


def _invalid(method: Method, name: str, why: str) -> ServiceError:
    return ServiceError(Error.INVALID_ARGUMENT, f"Argument {name} of {method.interface}.{method.name}", why)


def _shown(name: str) -> str:
    return ascii(name[:40])


def plain(value: object) -> Json:
    """Structs as dicts and tuples as lists, ready for JSON."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    names = _names(type(value))
    assert names is not None, value
    return {name: plain(getattr(value, name)) for name in names}


_FIELDS: dict[type, tuple[str, ...]] = {}


def _names(cls: type) -> tuple[str, ...] | None:
    """The fields of a struct. Looking them up anew took a third of what a status costs."""
    if cls not in _FIELDS and dataclasses.is_dataclass(cls):
        _FIELDS[cls] = tuple(field.name for field in dataclasses.fields(cls))
    return _FIELDS.get(cls)


def typed(kind: Type, value: object) -> object:
    """A result off the wire as the Python value its type describes. Raises ValueError when it does not fit.

    Unknown fields of a struct are left out, so an older client reads a newer daemon.
    """
    if value is None and kind.nullable:
        return None
    if kind.many:
        if not isinstance(value, list):
            raise ValueError("a list was expected")
        return tuple(typed(kind._replace(many=False), item) for item in value)
    if kind.base in PYTHON:
        if type(value) is not PYTHON[kind.base]:
            raise ValueError(f"{kind.base} was expected")
        return value
    if not isinstance(value, dict):
        raise ValueError(f"{kind.base} was expected")
    fields = {field.name: typed(field.type, value.get(field.name)) for field in structs()[kind.base].fields}
    return struct_class(kind.base)(**fields)
