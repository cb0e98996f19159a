"""One object for each link, known network and profile, as standard D-Bus tools read them."""

from __future__ import annotations

import asyncio
import json
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest
from dbus_fast import Message, MessageType
from hypothesis import given
from hypothesis import strategies as st

from ipc.dbus_objects import FOLDERS, Objects, escaped, fields_of
from ipc.dbus_xml import introspection
from ipc.interface import NAME, PATH
from ipc.polkit import BUS, BUS_PATH
from tests.ipc.fake_service import CABLE, CAFE, KNOWN, OFFICES, PROFILE
from tests.ipc.places import STRANGER, run, until
from tests.ipc.test_dbus import Place, in_place

pytestmark = pytest.mark.netns  # needs root: the name is root's, and strangers ask

TREE = "org.freedesktop.DBus.ObjectManager"
PROPERTIES = "org.freedesktop.DBus.Properties"
WLAN, HOME, OFFICE = f"{PATH}/links/wlan0", f"{PATH}/known/n486f6d65", f"{PATH}/profiles/home"


def plain(value: object) -> object:
    """busctl's JSON without the types."""
    if isinstance(value, dict):
        return plain(value["data"]) if value.keys() == {"type", "data"} else {k: plain(v) for k, v in value.items()}
    return [plain(each) for each in value] if isinstance(value, list) else value


def test_a_stranger_reads_the_whole_tree_with_busctl() -> None:
    async def check(here: Place) -> None:
        busctl = ("/usr/bin/busctl", f"--address={here.bus.address}", "--json=short")
        code, out, err = await run(STRANGER, *busctl, "call", NAME, PATH, TREE, "GetManagedObjects")
        assert (code, err) == (0, "")
        (found,) = plain(json.loads(out)["data"])
        assert isinstance(found, dict)
        patterned = f"{PATH}/known/p{OFFICES.ssid_hex}"
        assert set(found) == {WLAN, f"{PATH}/links/eth0", HOME, patterned, OFFICE}
        assert found[WLAN][f"{NAME}.Network"]["SsidHex"] == CAFE.ssid_hex
        assert found[HOME][f"{NAME}.KnownNetwork"]["Bssids"] == ["02:00:00:00:00:01"]
        assert found[OFFICE] == {
            f"{NAME}.Profile": {"Name": "home", "Kind": "wireguard", "Servers": [*PROFILE.servers], "Chosen": True}
        }
        code, out, _ = await run(STRANGER, *busctl, "get-property", NAME, WLAN, f"{NAME}.Network", "Verdict")
        assert plain(json.loads(out)) == "unsecured"
        code, out, _ = await run(STRANGER, *busctl, "introspect", NAME, HOME)
        assert code == 0

    in_place(check)


async def signals(here: Place) -> list[tuple[str, str, list[object]]]:
    """(member, path, body) of what is announced from now on."""
    seen: list[tuple[str, str, list[object]]] = []

    def heard(message: Message) -> None:
        if message.message_type is MessageType.SIGNAL and (message.path or "").startswith(PATH):
            seen.append((message.member or "", message.path or "", message.body))

    here.guest.add_message_handler(heard)
    rule = f"type='signal',path_namespace='{PATH}'"
    await here.guest.call(Message(BUS, BUS_PATH, BUS, "AddMatch", signature="s", body=[rule]))
    return seen


def test_what_comes_goes_and_changes_is_announced() -> None:
    async def check(here: Place) -> None:
        seen = await signals(here)
        here.service.change(networks=(replace(CAFE, action="ignore"),))
        await until(lambda: len(seen) >= 2)
        assert ("InterfacesRemoved", PATH, [f"{PATH}/links/eth0", [f"{NAME}.Network"]]) in seen
        ((_, path, body),) = [each for each in seen if each[0] == "PropertiesChanged" and each[1] != PATH]
        assert (path, body[0]) == (WLAN, f"{NAME}.Network")
        assert isinstance(body[1], dict)
        assert {name: each.value for name, each in body[1].items()} == {"Action": "ignore"}
        seen.clear()
        here.service.profiles = (replace(PROFILE, chosen=False), replace(PROFILE, name="away"))
        here.service.change(lists=2, networks=(CABLE,))
        await until(lambda: len(seen) >= 4)
        told = {(member, str(body[0]) if path == PATH else path) for member, path, body in seen}
        assert told == {
            ("InterfacesRemoved", WLAN), ("InterfacesAdded", f"{PATH}/links/eth0"),
            ("InterfacesAdded", f"{PATH}/profiles/away"), ("PropertiesChanged", OFFICE),
        }  # fmt: skip

    in_place(check)


def test_nothing_can_be_done_to_an_object_but_read_it() -> None:
    async def check(here: Place) -> None:
        for path, face, member, signature, body, error in (
            (WLAN, f"{NAME}.Manager", "Disconnect", "", (), "UnknownInterface"),
            (WLAN, TREE, "GetManagedObjects", "", (), "UnknownInterface"),
            (WLAN, PROPERTIES, "Get", "ss", (f"{NAME}.Manager", "State"), "UnknownInterface"),
            (WLAN, PROPERTIES, "Get", "ss", (f"{NAME}.Network", "State"), "UnknownProperty"),
            (f"{PATH}/links/none", PROPERTIES, "GetAll", "s", ("",), "UnknownObject"),
            (f"{PATH}/links", PROPERTIES, "GetAll", "s", ("",), "UnknownInterface"),
        ):
            reply = await here.send(face, member, signature, *body, path=path)
            assert (reply.error_name or "").endswith(error), (path, member)

    in_place(check)


def test_ten_thousand_known_networks() -> None:
    """The whole tree in one answer, and one more of them is one signal."""
    many = tuple(replace(KNOWN, ssid=f"n{number}", ssid_hex=f"n{number}".encode().hex()) for number in range(10_000))

    async def check(here: Place) -> None:
        seen = await signals(here)
        here.service.known_networks, here.service.page = many, 200
        here.service.change(lists=2)
        await until(lambda: len(seen) >= 10_002, 60)  # two have gone
        seen.clear()
        here.service.known_networks = (*many, replace(KNOWN, ssid="one more", ssid_hex=b"one more".hex()))
        here.service.change(lists=3)
        await until(lambda: len(seen) > 0, 60)
        assert [(member, body[0]) for member, _, body in seen] == [
            ("InterfacesAdded", f"{PATH}/known/n{b'one more'.hex()}")
        ]
        reply = await asyncio.wait_for(here.guest.call(Message(NAME, PATH, TREE, "GetManagedObjects")), 60)
        assert reply is not None and len(reply.body[0]) == 10_001 + len((CAFE, CABLE, PROFILE))

    in_place(check)


@given(st.text(max_size=40), st.text(max_size=40))
def test_any_name_is_one_part_of_a_path_of_its_own(one: str, other: str) -> None:
    try:
        parts = [escaped(each) for each in (one, other)]
    except UnicodeEncodeError:  # lone surrogates: no name has them
        return
    assert (parts[0] == parts[1]) == (one == other)
    Message(NAME, f"{PATH}/links/{parts[0]}", TREE, "GetManagedObjects")._marshall(False)


@pytest.mark.parametrize("kind", FOLDERS.values())
def test_objects_show_the_fields_of_their_structs_and_say_so(kind: str) -> None:
    objects = Objects()
    objects.links([CAFE])
    objects.known([KNOWN])
    objects.profiles([PROFILE])
    (path,) = [path for path, faces in objects.all().items() if f"{NAME}.{kind}" in faces]
    properties = objects.all()[path][f"{NAME}.{kind}"]
    assert set(properties) == set(fields_of(kind))
    tree = ET.fromstring(introspection(path, objects) or "")
    told = {node.get("name"): node.get("type") for node in tree.findall(f"interface[@name='{NAME}.{kind}']/property")}
    assert told == {name: each.signature for name, each in properties.items()}
