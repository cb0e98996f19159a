"""What is answered to a method call on the bus: ours, Properties, Introspectable; and the errors for all else."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from dbus_fast import ErrorType, Message, Variant

from ipc import interface
from ipc.access import Caller
from ipc.dbus_objects import MANAGER as TREE
from ipc.dbus_objects import Objects
from ipc.dbus_streams import Streams
from ipc.dbus_values import signature, signature_of, value
from ipc.dbus_xml import introspection
from ipc.describe import Method, methods, properties
from ipc.dispatch import Appeal, Dispatcher
from ipc.errors import ServiceError
from ipc.structs import Status
from ipc.values import plain

MANAGER = f"{interface.NAME}.Manager"
PROPERTIES = "org.freedesktop.DBus.Properties"
INTROSPECTABLE = "org.freedesktop.DBus.Introspectable"
LARGEST_REPLY = 1 << 20  # bytes, as JSON; nothing we answer comes near, but for the tree of 20,000 known networks

OURS = {f"{interface.NAME}.{name}" for name in interface.INTERFACES}
METHODS = {(f"{interface.NAME}.{m.interface}", m.name): m for m in methods().values() if m.on_dbus}
STANDARD = {
    (INTROSPECTABLE, "Introspect"): "",
    (PROPERTIES, "Get"): "ss",
    (PROPERTIES, "GetAll"): "s",
    (PROPERTIES, "Set"): "ssv",
    (TREE, "GetManagedObjects"): "",
}
_COUNTS = Counter(member for _, member in (*METHODS, *STANDARD))
_UNIQUE = {member: (face, member) for face, member in (*METHODS, *STANDARD) if _COUNTS[member] == 1}


class CallError(Exception):
    """A call that cannot be made, with the standard D-Bus error that says so."""

    def __init__(self, error: ErrorType, text: str) -> None:
        super().__init__(error, text)
        self.error, self.text = error, text


@dataclass(frozen=True, slots=True)
class Target:
    """What a call means to reach."""

    interface: str
    member: str
    method: Method | None  # None: one of the standard methods


def target(call: Message, objects: Objects) -> Target:
    """What the call means, checked without knowing the caller. Raises CallError."""
    path = call.path or ""
    if introspection(path, objects) is None:
        raise CallError(ErrorType.UNKNOWN_OBJECT, f"There is no object {_shown(path)}.")
    member = call.member or ""
    if not call.interface and _COUNTS[member] > 1:
        raise CallError(ErrorType.UNKNOWN_METHOD, f"Several interfaces have a method {member}: name one of them.")
    key = (call.interface, member) if call.interface else _UNIQUE.get(member, ("", member))
    if key[0] and key[0] not in _faces(path, objects):
        raise CallError(ErrorType.UNKNOWN_INTERFACE, f"There is no interface {_shown(key[0])} here.")
    method = METHODS.get(key)
    expected = signature_of(method.parameters) if method else STANDARD.get(key)
    if expected is None:
        raise CallError(ErrorType.UNKNOWN_METHOD, f"There is no method {_shown(member)}.")
    if call.signature != expected:
        raise CallError(ErrorType.INVALID_ARGS, f"{member} takes the arguments '{expected}'.")
    return Target(key[0], member, method)


def _faces(path: str, objects: Objects) -> set[str]:
    if path == interface.PATH:
        return {*OURS, TREE, PROPERTIES, INTROSPECTABLE}
    found = objects.at(path)
    return {found.face, PROPERTIES, INTROSPECTABLE} if found else {INTROSPECTABLE}


async def answer(
    call: Message,
    wanted: Target,
    caller: Caller,
    dispatcher: Dispatcher,
    status: Status,
    objects: Objects,
    streams: Streams,
    appeal: Appeal,
) -> Message:
    """The reply to a call. `appeal` may raise CallError."""
    try:
        if wanted.method is None:
            return _standard(call, wanted, status, objects)
        given = dict(zip((field.name for field in wanted.method.parameters), call.body, strict=True))
        if wanted.method.stream:
            await streams.open(call.sender or "", wanted.method, caller, given, appeal)
            return Message.new_method_return(call)
        result = await dispatcher.call(wanted.method, caller, given, appeal)
    except CallError as error:
        return Message.new_error(call, error.error, error.text)
    except ServiceError as error:
        return Message.new_error(call, error.error.wire_name, str(error))
    returns = wanted.method.returns
    if returns is None:
        return Message.new_method_return(call)
    if len(json.dumps(result)) > LARGEST_REPLY:
        return Message.new_error(call, ErrorType.LIMITS_EXCEEDED, "The answer is too long for the bus.")
    return Message.new_method_return(call, signature(returns.type), [value(returns.type, result)])


def _standard(call: Message, wanted: Target, status: Status, objects: Objects) -> Message:
    match wanted.member:
        case "Introspect":
            return Message.new_method_return(call, "s", [introspection(call.path or "", objects) or ""])
        case "GetManagedObjects":
            return Message.new_method_return(call, "a{oa{sa{sv}}}", [objects.all()])
    face, *rest = call.body
    shown = _shown_at(call.path or "", face, status, objects)
    if wanted.member == "GetAll":
        return Message.new_method_return(call, "a{sv}", [shown])
    if rest[0] not in shown:
        raise CallError(ErrorType.UNKNOWN_PROPERTY, f"There is no property {_shown(rest[0])}.")
    if wanted.member == "Set":
        raise CallError(ErrorType.PROPERTY_READ_ONLY, "Properties are changed by methods.")
    return Message.new_method_return(call, "v", [shown[rest[0]]])


def _shown_at(path: str, face: str, status: Status, objects: Objects) -> Mapping[str, Variant]:
    """The properties of an object's interface; "" is the one that has some."""
    found = objects.at(path)
    if face not in ("", *_faces(path, objects), "org.freedesktop.DBus.Peer"):
        raise CallError(ErrorType.UNKNOWN_INTERFACE, f"There is no interface {_shown(face)} here.")
    if found:
        return found.properties if face in ("", found.face) else {}
    return shown_properties(status) if face in ("", MANAGER) else {}


def shown_properties(status: Status) -> dict[str, Variant]:
    """The properties of `.Manager` as they follow from the status."""
    return {
        prop.name: Variant(signature(field.type), value(field.type, plain(getattr(status, prop.source))))
        for prop, field in properties()
    }


def _shown(text: str | None) -> str:
    return ascii((text or "")[:80])
