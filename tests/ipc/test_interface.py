"""The description agrees with itself, with policies, and with what was made from it."""

from __future__ import annotations

import inspect
import re
import xml.etree.ElementTree as ET
from collections import Counter

import pytest
from dbus_fast import Message

from ipc import idl, interface
from ipc.access import Access
from ipc.client import Client
from ipc.dbus_calls import CallError, target
from ipc.dbus_objects import Objects
from ipc.dbus_values import signature, signature_of
from ipc.dbus_xml import introspection
from ipc.describe import Type, methods, properties, struct_class, structs
from ipc.errors import Error, error_of
from policies.facts import LinkKind, Security
from policies.own_settings import KEYS, SWITCHES, text_of, value_of
from policies.settings_tables import WifiAction
from policies.states import Phase


def test_words_are_those_of_policies() -> None:
    assert tuple(security.value for security in Security) == interface.SECURITIES
    assert tuple(action.value for action in WifiAction) == interface.ACTIONS
    status = {field.name: field.doc for field in structs()["Status"].fields}
    assert set(re.findall(r"`(\w+)`", status["state"])) == {phase.value for phase in Phase}
    assert set(interface.ANSWERS) < set(interface.ACTIONS)
    prompt = {field.name: field.doc for field in structs()["Prompt"].fields}
    assert set(re.findall(r"`(\w+)`", prompt["state"])) == set(interface.PROMPT_STATES)
    network = {field.name: field.doc for field in structs()["Network"].fields}
    assert set(re.findall(r"`(\w+)`", network["kind"])) <= {kind.value for kind in LinkKind}


def test_everything_has_its_text() -> None:
    for method in methods().values():
        assert method.interface in interface.INTERFACES
        assert method.doc.endswith("."), method
        assert all(field.doc.endswith(".") for field in method.parameters), method
    for struct in structs().values():
        assert struct.doc.endswith("."), struct
        assert all(field.doc.endswith(".") for field in struct.fields), struct
        assert [field.name for field in struct.fields] == list(struct_class(struct.name).__dataclass_fields__)  # type: ignore[attr-defined]
    assert all(error.doc.endswith(".") for error in Error)


def test_errors_have_stable_names() -> None:
    names = (
        "NotPermitted InvalidArgument NoSuchProfile ProfileRefused NoSuchServer NoSuchNetwork NoSuchPrompt "
        "NotNow Locked Internal"
    )
    assert " ".join(error.wire_name.removeprefix("org.tunwarden.Daemon1.Error.") for error in Error) == names
    assert all(error_of(error.wire_name) is error for error in Error)
    assert error_of("org.freedesktop.DBus.Error.Failed") is None


def test_the_client_has_every_method() -> None:
    for method in methods().values():
        parameters = list(inspect.signature(getattr(Client, method.function)).parameters)
        if method.stream:
            assert parameters.pop() == "left"  # the client's own time limit
        assert parameters == ["self", *(field.name for field in method.parameters)]


@pytest.mark.parametrize("value", [None, False, 0, "true", 1, "missing"])
def test_opening_the_machine_needs_the_administrator(value: object) -> None:
    for name in ("SetLockdown", "SetKillSwitch"):
        method = methods()[f"org.tunwarden.Daemon1.Manager.{name}"]
        assert method.access_for({} if value == "missing" else {"on": value}) is Access.ADMIN
        assert method.access_for({"on": True}) is Access.CHANGE


def test_remembering_what_relaxes_needs_the_administrator() -> None:
    method = methods()["org.tunwarden.Daemon1.Prompts.Answer"]
    for answer, remember in (("auto_connect", True), ("auto_connect", False), ("ignore", False), ("ignore", None)):
        assert method.access_for({"answer": answer, "remember": remember}) is Access.CHANGE
    assert method.access_for({"answer": "ignore", "remember": True}) is Access.ADMIN
    assert idl.access_text(method).endswith(f"; with answer=ignore and remember=true: {idl.WHO[Access.ADMIN]}")


# Choices of which none is the strictest, so that each needs the administrator.
NO_STRICTEST = ("portal.probes", "dns.manager", "dns.resolvers", "allowance.per")


def test_only_the_strictest_value_of_a_setting_needs_less_than_the_administrator() -> None:
    """Deny by default: whatever is not written in TIGHTENS, in exactly that spelling, needs ADMIN."""
    method = methods()["org.tunwarden.Daemon1.Settings.ChangeSetting"]
    for key, value in interface.TIGHTENS:
        assert method.access_for({"key": key, "value": value}) is Access.CHANGE
        kind = KEYS[key].kind
        loosest = text_of(value_of(KEYS[key], value))
        assert loosest == value, "in the daemon's own spelling"
        if kind == "choice":
            assert value == KEYS[key].allowed.split(", ")[0] in ("auto_connect", "block", "tunnel")
        if key not in SWITCHES and kind == "boolean":
            other = {"true": "false", "false": "true"}[value]
            assert method.access_for({"key": key, "value": other}) is Access.ADMIN
    for odd in (
        {},
        {"key": "wifi.secured"},
        {"key": ["wifi.secured"], "value": "auto_connect"},
        {"key": {}, "value": {}},
    ):
        assert method.access_for(odd) is Access.ADMIN
    for key in KEYS.keys() - dict(interface.TIGHTENS).keys():
        assert KEYS[key].kind in ("time", "size", "name") or key in NO_STRICTEST, (
            f"{key}: which of its values cannot relax anything?"
        )


def test_a_member_of_several_interfaces_needs_its_interface() -> None:
    """D-Bus lets the interface be left out: what would be meant then must not depend on an order of ours."""
    members = Counter(method.name for method in methods().values() if method.on_dbus)
    assert any(count > 1 for count in members.values()) and members["GetStatus"] == 1
    for name, count in members.items():
        if count > 1:
            with pytest.raises(CallError, match="name one of them"):
                target(Message(interface.NAME, interface.PATH, None, name, serial=1), Objects())
    assert target(Message(interface.NAME, interface.PATH, None, "GetStatus", serial=1), Objects()).member == "GetStatus"


def test_dbus_introspection_says_what_is_there() -> None:
    tree = ET.fromstring(introspection(interface.PATH, Objects()) or "")
    found = {node.get("name"): node for node in tree.findall("interface")}
    for method in methods().values():
        node = found[f"org.tunwarden.Daemon1.{method.interface}"].find(f"method[@name='{method.name}']")
        if not method.on_dbus:
            assert node is None
            continue
        assert node is not None
        doc = node.find("annotation[@name='org.gtk.GDBus.DocString']")
        assert doc is not None
        assert (doc.get("value") or "").startswith(method.doc)
        arguments = "".join(arg.get("type") or "" for arg in node.findall("arg[@direction='in']"))
        assert arguments == signature_of(method.parameters)
        result = [arg.get("type") for arg in node.findall("arg[@direction='out']")]
        assert result == ([signature(method.returns.type)] if method.returns and not method.stream else [])
        if method.signal:
            signal = found[f"org.tunwarden.Daemon1.{method.interface}"].find(f"signal[@name='{method.signal}']")
            assert signal is not None and method.returns is not None
            assert [arg.get("type") for arg in signal.findall("arg")] == [signature(method.returns.type)]
    shown = [node.get("name") for node in found["org.tunwarden.Daemon1.Manager"].findall("property")]
    assert shown == [prop.name for prop, _ in properties()]


def test_types_on_dbus() -> None:
    assert [signature(kind) for kind in (Type("bool"), Type("int"), Type("string", nullable=True))] == ["b", "t", "s"]
    assert [signature(kind) for kind in (Type("Status"), Type("Network", many=True))] == ["a{sv}", "aa{sv}"]


WORD = re.compile(r"\s+|#[^\n]*\n|(->|\[\]|[?():,]|[A-Za-z][A-Za-z0-9_.]*)")


@pytest.mark.parametrize("name", idl.names())
def test_idl_is_well_formed(name: str) -> None:
    """Every word is one of the grammar's, brackets are balanced, every type is defined and every method is there."""
    text, at, words = idl.render(name), 0, []
    while at < len(text):
        found = WORD.match(text, at)
        assert found, text[at : at + 40]
        words += [found[1]] if found[1] else []
        at = found.end()
    assert words[:2] == ["interface", name]
    assert words.count("(") == words.count(")")
    defined = {words[i + 1] for i, word in enumerate(words) if word == "type"}
    used = {words[i + 1 + (words[i + 1] in "?[]")] for i, word in enumerate(words) if word == ":"}
    assert used - {"bool", "int", "string"} == {word for word in used if word in defined}
    declared = {words[i + 1] for i, word in enumerate(words) if word == "method"}
    assert declared == {method.name for method in methods().values() if method.wire_name == f"{name}.{method.name}"}


def test_nothing_but_a_text_is_null() -> None:
    """D-Bus has no null: of a text it is the empty one (dbus_values.py), of a number nothing would be left to say."""
    told = [(name, field) for name, struct in structs().items() for field in struct.fields]
    told += [
        (method.wire_name, method.returns) for method in methods().values() if method.returns and not method.stream
    ]
    assert len(told) > 100
    assert [(name, field.name) for name, field in told if field.type.nullable and field.type.base != "string"] == []
