"""What both faces say of themselves while they run is what interface.py says: nothing missing, nothing besides.

A second reading of interface.py, from its annotations alone; Varlink's descriptions are read by the reference parser.
"""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
import xml.etree.ElementTree as ET

import pytest
import varlink

from ipc import interface, structs
from ipc.errors import PREFIX, Error
from ipc.interface import NAME, PATH
from tests.ipc.test_dbus import PROPERTIES, Place, in_place
from tests.ipc.varlink_place import Place as VarlinkPlace
from tests.ipc.varlink_place import run

pytestmark = pytest.mark.netns  # needs root: the name is root's

WORDS = {str: "string", int: "int", bool: "bool"}
LETTERS = {"string": "s", "int": "t", "bool": "b"}
OBJECTS = {"links": structs.Network, "known": structs.KnownNetwork, "profiles": structs.Profile}
DOC = "annotation[@name='org.gtk.GDBus.DocString']"


def read(hint: object) -> tuple[str, str]:
    """A type as Varlink spells it, and its text."""
    if typing.get_origin(hint) is typing.Annotated:
        inner, *extra = typing.get_args(hint)
        spelt, text = read(inner)
        return spelt, next((each for each in extra if isinstance(each, str)), text)
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        inner, none = typing.get_args(hint)
        assert none is types.NoneType
        spelt, text = read(inner)
        return f"?{spelt}", text
    if typing.get_origin(hint) is tuple:
        inner, dots = typing.get_args(hint)
        assert dots is ...
        spelt, text = read(inner)
        return f"[]{spelt}", text
    assert isinstance(hint, type)
    return WORDS.get(hint, hint.__name__), ""


def letters(spelt: str) -> str:
    """The same on D-Bus: no null there, and structs are dictionaries."""
    spelt = spelt.removeprefix("?")
    many = spelt.startswith("[]")
    return "a" * many + LETTERS.get(spelt.removeprefix("[]"), "a{sv}")


class Method(typing.NamedTuple):
    spec: interface.Spec
    doc: str
    arguments: dict[str, tuple[str, str]]  # type and text; what may be left out is nullable on Varlink
    result: str  # "" for none


def methods(face: str) -> dict[str, Method]:
    """The methods of one interface, by their name."""
    found = {}
    for function, spec in interface.SPECS.items():
        if spec.name.partition(".")[0] != face:
            continue
        body = getattr(interface.Service, function)
        hints = typing.get_type_hints(body, include_extras=True)
        arguments = {}
        for name, parameter in inspect.signature(body).parameters.items():
            if name not in ("self", "caller"):
                spelt, text = read(hints[name])
                optional = parameter.default is not inspect.Parameter.empty and not spelt.startswith("?")
                arguments[name] = (f"?{spelt}" if optional else spelt, text)
        result = hints["return"]
        if spec.stream:
            result = typing.get_args(result)[0]
        spelt = read(result)[0] if spec.returns else ""
        found[spec.name.partition(".")[2]] = Method(spec, inspect.getdoc(body) or "", arguments, spelt)
    return found


def fields(struct: type) -> dict[str, tuple[str, str]]:
    return {name: read(hint) for name, hint in typing.get_type_hints(struct, include_extras=True).items()}


STRUCTS = {
    name: cls
    for name, cls in vars(structs).items()
    if dataclasses.is_dataclass(cls) and cls.__module__ == structs.__name__
}


# --- D-Bus ------------------------------------------------------------------------------------------------------------


async def introspect(here: Place, path: str) -> dict[str, ET.Element]:
    """The interfaces of an object, and its children under ""."""
    reply = await here.send("org.freedesktop.DBus.Introspectable", "Introspect", path=path)
    tree = ET.fromstring(reply.body[0])
    return {"": tree, **{node.attrib["name"]: node for node in tree.findall("interface")}}


def doc(node: ET.Element) -> str:
    found = node.find(DOC)
    return found.attrib["value"] if found is not None else ""


def arguments(node: ET.Element, direction: str) -> dict[str, tuple[str, str]]:
    found = [arg for arg in node.findall("arg") if arg.get("direction", "in") == direction]
    return {arg.attrib["name"]: (arg.attrib["type"], doc(arg)) for arg in found}


def properties(node: ET.Element) -> dict[str, tuple[str, str]]:
    assert {each.attrib["access"] for each in node.findall("property")} <= {"read"}
    return {each.attrib["name"]: (each.attrib["type"], doc(each)) for each in node.findall("property")}


def differing(face: str, node: ET.Element) -> list[str]:
    """What an interface of ours says otherwise than interface.py."""
    wrong = [] if doc(node) == interface.INTERFACES[face] else [f"{face}: text"]
    wanted = {name: each for name, each in methods(face).items() if each.spec.signal or not each.spec.stream}
    said = {each.attrib["name"]: each for each in node.findall("method")}
    wrong += [f"{face}.{name}: on one side only" for name in wanted.keys() ^ said.keys()]
    for name in wanted.keys() & said.keys():
        each = wanted[name]
        if arguments(said[name], "in") != {key: (letters(kind), text) for key, (kind, text) in each.arguments.items()}:
            wrong.append(f"{face}.{name}: arguments")
        out = {each.spec.returns: letters(each.result)} if each.result and not each.spec.stream else {}
        if {key: kind for key, (kind, _) in arguments(said[name], "out").items()} != out:
            wrong.append(f"{face}.{name}: result")
        errors = f"Errors: {', '.join(error.value[0] for error in each.spec.errors)}." if each.spec.errors else ""
        if not doc(said[name]).startswith(each.doc) or not doc(said[name]).endswith(errors or "."):
            wrong.append(f"{face}.{name}: text")
    signals = {
        each.spec.signal: {each.spec.returns: letters(each.result)} for each in wanted.values() if each.spec.signal
    }
    told = {
        each.attrib["name"]: {key: kind for key, (kind, _) in arguments(each, "out").items()}
        for each in node.findall("signal")
    }
    wrong += [f"{face}: signals"] if signals != told else []
    status = fields(structs.Status)
    shown = {each.name: (letters(status[each.source][0]), status[each.source][1]) for each in interface.PROPERTIES}
    return wrong + ([f"{face}: properties"] if properties(node) != (shown if face == "Manager" else {}) else [])


def test_dbus_says_what_interface_py_says() -> None:
    async def check(here: Place) -> None:
        said = await introspect(here, PATH)
        ours = {name.removeprefix(f"{NAME}."): node for name, node in said.items() if name.startswith(NAME)}
        assert ours.keys() == interface.INTERFACES.keys()
        assert [each for face, node in ours.items() for each in differing(face, node)] == []
        standard = {"Introspectable", "Peer", "Properties", "ObjectManager"}
        assert said.keys() == {
            "",
            *(f"{NAME}.{face}" for face in ours),
            *(f"org.freedesktop.DBus.{s}" for s in standard),
        }
        reply = await here.send(PROPERTIES, "GetAll", "s", f"{NAME}.Manager")
        told = {name: kind for name, (kind, _) in properties(ours["Manager"]).items()}
        assert {name: value.signature for name, value in reply.body[0].items()} == told

    in_place(check)


def test_dbus_says_what_its_objects_are() -> None:
    """ObjectManager, and below it the children of each folder: every object, and each of its properties."""

    async def check(here: Place) -> None:
        tree = (await introspect(here, PATH))["org.freedesktop.DBus.ObjectManager"]
        assert {node.attrib["name"] for node in tree} == {"GetManagedObjects", "InterfacesAdded", "InterfacesRemoved"}
        (objects,) = (await here.send("org.freedesktop.DBus.ObjectManager", "GetManagedObjects")).body
        listed = set()
        for folder, struct in OBJECTS.items():
            face, wanted = f"{NAME}.{struct.__name__}", fields(struct)
            shown = {name.title().replace("_", ""): (letters(kind), text) for name, (kind, text) in wanted.items()}
            children = (await introspect(here, f"{PATH}/{folder}"))[""].findall("node")
            assert children
            for child in children:
                path = f"{PATH}/{folder}/{child.attrib['name']}"
                listed.add(path)
                said = await introspect(here, path)
                assert [name for name in said if name.startswith(NAME)] == [face]
                assert properties(said[face]) == shown
                assert doc(said[face]) == inspect.getdoc(struct)
                reply = await here.send(PROPERTIES, "GetAll", "s", face, path=path)
                assert {name: value.signature for name, value in reply.body[0].items()} == {
                    name: kind for name, (kind, _) in shown.items()
                }
                assert {name: value.value for name, value in objects[path][face].items()} == {
                    name: value.value for name, value in reply.body[0].items()
                }
        assert listed == objects.keys()

    in_place(check)


def test_a_difference_is_seen() -> None:
    """The control, for each thing that could differ."""

    async def check(here: Place) -> None:
        node = (await introspect(here, PATH))[f"{NAME}.Manager"]
        connect, state = node.find("method[@name='Connect']"), node.find("property[@name='State']")
        assert connect is not None and state is not None
        arg, text = connect.find("arg"), connect.find(DOC)
        assert arg is not None and text is not None
        for spoilt, key, value, seen in (
            (connect, "name", "Conect", {"Manager.Connect: on one side only", "Manager.Conect: on one side only"}),
            (arg, "type", "u", {"Manager.Connect: arguments"}),
            (arg, "direction", "out", {"Manager.Connect: arguments", "Manager.Connect: result"}),
            (text, "value", "Connects.", {"Manager.Connect: text"}),
            (state, "type", "u", {"Manager: properties"}),
        ):
            before = spoilt.attrib[key]
            spoilt.set(key, value)
            assert set(differing("Manager", node)) == seen
            spoilt.set(key, before)
        assert differing("Manager", node) == []

    in_place(check)


# --- Varlink ----------------------------------------------------------------------------------------------------------


def spelt(kind: object) -> str:
    """A type of the reference parser: it has an empty value for each simple type."""
    element = getattr(kind, "element_type", None)
    match type(kind).__name__:
        case "_Maybe":
            return f"?{spelt(element)}"
        case "_Array":
            return f"[]{spelt(element)}"
        case "_CustomType":
            return str(kind.name)  # type: ignore[attr-defined]
    return WORDS[type(kind)]


def struct(kind: typing.Any) -> dict[str, str]:
    return {name: spelt(each) for name, each in kind.fields.items()}


def test_varlink_says_what_interface_py_says() -> None:
    async def check(here: VarlinkPlace) -> None:
        peer = await here.peer("read.sock")
        info = (await peer.ask("org.varlink.service.GetInfo"))["parameters"]
        assert isinstance(info, dict)
        ours = {f"{NAME}.{face}" for face in interface.INTERFACES}
        assert set(info["interfaces"]) == {*ours, PREFIX, "org.varlink.service"}
        used: set[str] = set()
        for face, text in interface.INTERFACES.items():
            reply = await peer.ask("org.varlink.service.GetInterfaceDescription", interface=f"{NAME}.{face}")
            description = reply["parameters"]["description"]  # type: ignore[index]
            said = varlink.Interface(description)
            assert text.splitlines()[0] in description
            members = {name: type(each).__name__ for name, each in said.members.items()}
            wanted = methods(face)
            assert {name for name, kind in members.items() if kind == "_Method"} == wanted.keys()
            for name, each in wanted.items():
                member = said.members[name]
                assert struct(member.in_type) == {key: kind for key, (kind, _) in each.arguments.items()}, (face, name)
                assert struct(member.out_type) == ({each.spec.returns: each.result} if each.result else {}), (
                    face,
                    name,
                )
                assert all(line.strip() in description for line in each.doc.splitlines())
                assert all(argument in description for _, argument in each.arguments.values())
            for name in (name for name, kind in members.items() if kind == "_Alias"):
                used.add(name)
                assert struct(said.members[name].type) == {
                    key: kind for key, (kind, _) in fields(STRUCTS[name]).items()
                }
                assert all(about in description for _, about in fields(STRUCTS[name]).values())
            assert set(members.values()) <= {"_Method", "_Alias"}
        assert used == STRUCTS.keys()
        reply = await peer.ask("org.varlink.service.GetInterfaceDescription", interface=PREFIX)
        said = varlink.Interface(reply["parameters"]["description"])  # type: ignore[index]
        assert {f"{PREFIX}.{name}" for name in said.members} == {error.wire_name for error in Error}
        for error in Error:
            member = said.members[error.value[0]]
            assert struct(member.type) == {"what": "string", "why": "string", "remedy": "string"}
            assert error.doc in member.doc

    run(check)
