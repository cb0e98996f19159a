"""docs/ipc.md from `interface.py`: `python -m ipc.reference > docs/ipc.md`. A test holds the file to it."""

from __future__ import annotations

from collections.abc import Iterator

from ipc import interface
from ipc.dbus_objects import FOLDERS, fields_of
from ipc.dbus_values import signature
from ipc.describe import Field, Method, Type, methods_of, properties, structs
from ipc.errors import Error
from ipc.idl import access_text

HEAD = f"""\
# The interface: D-Bus and Varlink

Written by `python -m ipc.reference` from `ipc/interface.py`; do not edit. How to call it: [dbus.md](dbus.md).

| | D-Bus | Varlink |
|---|---|---|
| where | `{interface.NAME}`, `{interface.PATH}` | `/run/tunwarden/`: `tunwarden.sock`; `read.sock` only reads |
| methods | `{interface.NAME}.Manager.Connect` | the same names |
| a struct; null | `a{{sv}}`; the empty string | an object; null |
| changes | PropertiesChanged, ObjectManager, signals to those who asked | `Manager.Watch` with `more` |
| who may | polkit, root and the group `tunwarden` | root and the group `tunwarden` |
| described by itself | Introspectable | `org.varlink.service` |

Names are stable: what is here is not renamed or removed within `{interface.NAME.rpartition(".")[2]}`.
Structs may grow: leave aside what you do not know. Every method may answer `NotPermitted`, `InvalidArgument` and
`Internal`.
"""


def render() -> str:
    """The whole reference as Markdown."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield HEAD
    for name, doc in interface.INTERFACES.items():
        yield f"## {interface.NAME}.{name}\n"
        yield f"{doc}\n"
        for method in methods_of(name):
            yield from _method(method)
        if name == "Manager":
            yield "### Properties (D-Bus)\n"
            yield from _table([(prop.name, field) for prop, field in properties()], "property")
    yield "## Objects (D-Bus)\n"
    yield f"Below `{interface.PATH}`, listed and announced by `org.freedesktop.DBus.ObjectManager` there.\n"
    for folder, kind in FOLDERS.items():
        yield f"### {folder}/…: {interface.NAME}.{kind}\n"
        yield from _table([*fields_of(kind).items()], "property")
    yield "## Structs\n"
    for struct in structs().values():
        yield f"### {struct.name}\n"
        yield f"{struct.doc}\n"
        yield from _table([(field.name, field) for field in struct.fields], "field")
    yield "## Errors\n"
    yield "| name | when |"
    yield "|---|---|"
    for error in Error:
        yield f"| `{error.wire_name}` | {error.doc} |"
    yield ""
    yield "An error says what was attempted, why it failed, what to do: three parameters on Varlink, one text on D-Bus."


def _method(method: Method) -> Iterator[str]:
    given = ", ".join(field.name for field in method.parameters)
    yield f"### {method.name}({given})\n"
    yield f"{method.doc}\n"
    yield f"Access: {access_text(method)}.\n"
    if method.parameters:
        yield from _table([(field.name, field) for field in method.parameters], "argument")
    if method.returns:
        stream = " Each reply of a stream." if method.stream else ""
        kind = method.returns.type
        yield f"Returns `{method.returns.name}`: {_type(kind)}, `{signature(kind)}`.{stream}\n"
    if method.stream:
        on_bus = f"the signal `{method.signal}`, to the caller alone" if method.signal else "not offered"
        yield f"On Varlink: call with `more`. On D-Bus: {on_bus}.\n"
    if method.errors:
        yield f"Errors: {', '.join(f'`{error.value[0]}`' for error in method.errors)}.\n"


def _table(fields: list[tuple[str, Field]], what: str) -> Iterator[str]:
    yield f"| {what} | type | D-Bus | |"
    yield "|---|---|---|---|"
    for name, field in fields:
        notes = [field.doc.replace("|", "\\|")]
        notes += [f"One of {', '.join(f'`{each}`' for each in field.choices)}."] if field.choices else []
        notes += [f"At most {field.longest} bytes."] if field.longest else []
        yield f"| `{name}` | {_type(field.type)} | `{signature(field.type)}` | {' '.join(notes).strip()} |"
    yield ""


def _type(kind: Type) -> str:
    name = kind.base if kind.base in ("bool", "int", "string") else f"[{kind.base}](#{kind.base.lower()})"
    return f"{'list of ' if kind.many else ''}{name}{', or null' if kind.nullable else ''}"


if __name__ == "__main__":
    print(render(), end="")
