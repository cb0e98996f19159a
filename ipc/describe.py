"""The interface as plain data, from interface.py and structs.py: what faces dispatch on and the reference prints."""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from functools import cache
from typing import NamedTuple

import ipc.structs
from ipc import interface
from ipc.access import Access
from ipc.errors import Error

BASES = {bool: "bool", int: "int", str: "string"}


class Type(NamedTuple):
    """bool, int, string or a struct by its name; perhaps a list of it, perhaps null."""

    base: str
    many: bool = False
    nullable: bool = False


class Field(NamedTuple):
    """An argument, or a field of a struct."""

    name: str
    type: Type
    doc: str
    default: bool | int | str | None = None  # of an argument that may be left out (Varlink); None: null, if nullable
    required: bool = True
    longest: int | None = None  # bytes of a string
    choices: tuple[str, ...] = ()


class Struct(NamedTuple):
    name: str
    doc: str
    fields: tuple[Field, ...]


class Method(NamedTuple):
    interface: str  # the last part of its name: Manager, Networks ...
    name: str
    function: str  # the name in `Service`
    doc: str
    parameters: tuple[Field, ...]
    returns: Field | None
    access: Access
    opens: str  # name of a bool argument: when it is false, the call needs ADMIN
    relaxes: tuple[tuple[str, bool | str], ...]  # arguments: when all are so, the call needs ADMIN
    tightens: bool  # the call needs only CHANGE where its `key` and `value` are one of `interface.TIGHTENS`
    errors: tuple[Error, ...]  # beside NotPermitted, InvalidArgument and Internal, which any method may answer
    stream: bool
    signal: str  # of a stream: on D-Bus, the name of the signal that carries each reply; empty: not on D-Bus

    @property
    def on_dbus(self) -> bool:
        """Whether it can be called there."""
        return not self.stream or bool(self.signal)

    @property
    def wire_name(self) -> str:
        """The full name on both faces."""
        return f"{interface.NAME}.{self.interface}.{self.name}"

    def access_for(self, arguments: typing.Mapping[str, object]) -> Access:
        """What a call with these arguments needs."""
        if self.opens and arguments.get(self.opens) is not True:
            return Access.ADMIN
        if self.relaxes and all(arguments.get(name) == value for name, value in self.relaxes):
            return Access.ADMIN
        if self.tightens:
            key, value = arguments.get("key"), arguments.get("value")
            if isinstance(key, str) and isinstance(value, str) and (key, value) in interface.TIGHTENS:
                return Access.CHANGE
        return self.access


@cache
def methods() -> dict[str, Method]:
    """All methods by their full wire name, in the order they are written."""
    found = [_method(function, spec) for function, spec in interface.SPECS.items()]
    return {method.wire_name: method for method in found}


@cache
def structs() -> dict[str, Struct]:
    """All structs by name, in the order they are written."""
    return {cls.__name__: _struct(cls) for cls in _struct_classes()}


def methods_of(name: str) -> tuple[Method, ...]:
    """The methods of one interface, named by its last part."""
    return tuple(method for method in methods().values() if method.interface == name)


@cache
def properties() -> tuple[tuple[interface.Property, Field], ...]:
    """The D-Bus properties of `.Manager`, with the status field each one shows."""
    fields = {field.name: field for field in structs()["Status"].fields}
    return tuple((prop, fields[prop.source]) for prop in interface.PROPERTIES)


@cache
def _struct_classes() -> tuple[type, ...]:
    own = [
        cls for cls in vars(ipc.structs).values() if isinstance(cls, type) and cls.__module__ == ipc.structs.__name__
    ]
    return tuple(cls for cls in own if dataclasses.is_dataclass(cls))


def struct_class(name: str) -> type:
    """The dataclass of a struct."""
    return next(cls for cls in _struct_classes() if cls.__name__ == name)


def _struct(cls: type) -> Struct:
    hints = typing.get_type_hints(cls, include_extras=True)
    return Struct(cls.__name__, inspect.getdoc(cls) or "", tuple(_field(name, hint) for name, hint in hints.items()))


def _method(function: str, spec: interface.Spec) -> Method:
    body = getattr(interface.Service, function)
    hints = typing.get_type_hints(body, include_extras=True)
    returned = hints.pop("return")
    if spec.stream:
        returned = typing.get_args(returned)[0]
    parameters = [
        _field(name, hints[name], parameter.default)
        for name, parameter in inspect.signature(body).parameters.items()
        if name not in ("self", "caller")
    ]
    doc = inspect.getdoc(body) or ""
    returns = _field(spec.returns, returned) if spec.returns else None
    face, member = spec.name.split(".")
    who = (spec.access, spec.opens, spec.relaxes, spec.tightens)
    return Method(face, member, function, doc, tuple(parameters), returns, *who, spec.errors, spec.stream, spec.signal)


def _field(name: str, hint: object, default: object = inspect.Parameter.empty) -> Field:
    doc, longest, choices = "", None, ()  # type: str, int | None, tuple[str, ...]
    nullable = many = False
    while True:  # peel Annotated, `| None` and tuple[..., ...], in whatever order they are nested
        origin, inner = typing.get_origin(hint), typing.get_args(hint)
        if origin is typing.Annotated:
            hint = inner[0]
            for extra in inner[1:]:
                if isinstance(extra, interface.Longest):
                    longest = extra.size
                elif isinstance(extra, interface.OneOf):
                    choices = extra.values
                elif isinstance(extra, str):
                    doc = extra
        elif origin in (typing.Union, types.UnionType):
            (hint,) = (part for part in inner if part is not types.NoneType)
            nullable = True
        elif origin is tuple:
            hint, many = inner[0], True
        else:
            break
    assert isinstance(hint, type)
    given = default is not inspect.Parameter.empty
    assert not given or (nullable if default is None else isinstance(default, bool | int | str))
    return Field(
        name,
        Type(BASES.get(hint, hint.__name__), many, nullable),
        doc,
        default if isinstance(default, bool | int | str) else None,
        not (given or nullable),
        longest,
        choices,
    )
