"""Introspection data for D-Bus, docs included (as org.gtk.GDBus.DocString, which tools show)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache

from ipc import interface
from ipc.dbus_objects import Objects, fields_of
from ipc.dbus_values import signature
from ipc.describe import Field, Method, methods_of, properties, structs
from ipc.idl import access_text

DOCTYPE = (
    '<!DOCTYPE node PUBLIC "-//freedesktop//DTD D-BUS Object Introspection 1.0//EN"\n'
    ' "http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd">'
)
_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "\n": "&#10;"})
STANDARD = """\
 <interface name="org.freedesktop.DBus.Introspectable">
  <method name="Introspect"><arg name="xml_data" type="s" direction="out"/></method>
 </interface>
 <interface name="org.freedesktop.DBus.Peer">
  <method name="Ping"/>
  <method name="GetMachineId"><arg name="machine_uuid" type="s" direction="out"/></method>
 </interface>
 <interface name="org.freedesktop.DBus.Properties">
  <method name="Get">
   <arg name="interface_name" type="s" direction="in"/>
   <arg name="property_name" type="s" direction="in"/>
   <arg name="value" type="v" direction="out"/>
  </method>
  <method name="GetAll">
   <arg name="interface_name" type="s" direction="in"/>
   <arg name="props" type="a{sv}" direction="out"/>
  </method>
  <method name="Set">
   <arg name="interface_name" type="s" direction="in"/>
   <arg name="property_name" type="s" direction="in"/>
   <arg name="value" type="v" direction="in"/>
  </method>
  <signal name="PropertiesChanged">
   <arg name="interface_name" type="s"/>
   <arg name="changed_properties" type="a{sv}"/>
   <arg name="invalidated_properties" type="as"/>
  </signal>
 </interface>"""

TREE = """\
 <interface name="org.freedesktop.DBus.ObjectManager">
  <method name="GetManagedObjects"><arg name="objects" type="a{oa{sa{sv}}}" direction="out"/></method>
  <signal name="InterfacesAdded">
   <arg name="object_path" type="o"/>
   <arg name="interfaces_and_properties" type="a{sa{sv}}"/>
  </signal>
  <signal name="InterfacesRemoved">
   <arg name="object_path" type="o"/>
   <arg name="interfaces" type="as"/>
  </signal>
 </interface>"""


def introspection(path: str, objects: Objects) -> str | None:
    """The XML of an object path; None when there is no such object. Parents of ours only name their child."""
    children = objects.children(path)
    if path == interface.PATH:
        return _node([*_ours(), *_names(children)])
    if found := objects.at(path):
        return _node([STANDARD, *_object(found.face.rpartition(".")[2])])
    if children:  # a folder
        return _node(_names(children))
    parent = path if path.endswith("/") else f"{path}/"
    if not interface.PATH.startswith(parent):
        return None
    return _node(_names([interface.PATH.removeprefix(parent).partition("/")[0]]))


def _node(lines: Iterable[str]) -> str:
    return "\n".join((DOCTYPE, "<node>", *lines, "</node>", ""))


def _names(children: Iterable[str]) -> list[str]:
    return [f' <node name="{child}"/>' for child in children]


@cache
def _ours() -> tuple[str, ...]:
    return STANDARD, TREE, *_interfaces()


@cache
def _object(kind: str) -> tuple[str, ...]:
    return (
        f' <interface name="{interface.NAME}.{kind}">',
        _doc(2, structs()[kind].doc),
        *(line for name, field in fields_of(kind).items() for line in _property(name, field)),
        " </interface>",
    )


def _property(name: str, field: Field) -> Iterator[str]:
    yield f'  <property name="{name}" type="{signature(field.type)}" access="read">'
    yield _doc(3, field.doc)
    yield "  </property>"


def _interfaces() -> Iterator[str]:
    for name, doc in interface.INTERFACES.items():
        yield f' <interface name="{interface.NAME}.{name}">'
        yield _doc(2, doc)
        for method in methods_of(name):
            if method.on_dbus:
                yield from _method(method)
            if method.signal and method.returns:
                yield f'  <signal name="{method.signal}">'
                yield _doc(3, f"Sent to those who called {method.name}, and to nobody else.")
                yield from _argument(method.returns, "out")
                yield "  </signal>"
        if name == "Manager":
            for prop, field in properties():
                yield from _property(prop.name, field)
        yield " </interface>"


def _method(method: Method) -> Iterator[str]:
    yield f'  <method name="{method.name}">'
    names = ", ".join(error.value[0] for error in method.errors)
    errors = f"\nErrors: {names}." if names else ""
    yield _doc(3, f"{method.doc}\nAccess: {access_text(method)}.{errors}")
    for field in method.parameters:
        yield from _argument(field, "in")
    if method.returns and not method.stream:
        yield from _argument(method.returns, "out")
    yield "  </method>"


def _argument(field: Field, direction: str) -> Iterator[str]:
    opening = f'   <arg name="{field.name}" type="{signature(field.type)}" direction="{direction}"'
    if not field.doc:
        yield f"{opening}/>"
        return
    yield f"{opening}>"
    yield _doc(4, field.doc)
    yield "   </arg>"


def _doc(indent: int, text: str) -> str:
    # Not xml.sax.saxutils: it imports urllib.request, and that http.client and email (4 ms).
    value = text.translate(_ESCAPES)
    return f'{" " * indent}<annotation name="org.gtk.GDBus.DocString" value="{value}"/>'
