"""E8: every method, by every kind of caller, through every face. The table is written out, not derived."""

from __future__ import annotations

import asyncio
import json
import os

import pytest

from ipc.access import Access
from ipc.dbus import Dbus
from ipc.describe import methods
from ipc.dispatch import Dispatcher
from ipc.interface import NAME, PATH
from ipc.varlink import Varlink
from tests.ipc.fake_service import FakeService
from tests.ipc.places import MEMBER, MEMBERS, ROOT_USER, STRANGER, Who, private_bus, public_folder, python, run

pytestmark = pytest.mark.netns  # needs root: other users ask, and owners are set

READ, CHANGE, ADMIN = Access.READ, Access.CHANGE, Access.ADMIN
Call = tuple[str, dict[str, object], Access, str]

CALLS: tuple[Call, ...] = (
    ("Manager.GetStatus", {}, READ, "get_status"),
    ("Manager.GetVersion", {}, READ, "get_version"),
    ("Manager.Connect", {"profile": "home"}, CHANGE, "connect"),
    ("Manager.Connect", {}, CHANGE, "connect"),
    ("Manager.Disconnect", {}, CHANGE, "disconnect"),
    ("Manager.Reconnect", {}, CHANGE, "reconnect"),
    ("Manager.SetKillSwitch", {"on": True}, CHANGE, "set_kill_switch"),
    ("Manager.SetKillSwitch", {"on": False}, ADMIN, "set_kill_switch"),
    ("Manager.SetLockdown", {"on": True}, CHANGE, "set_lockdown"),
    ("Manager.SetLockdown", {"on": False}, ADMIN, "set_lockdown"),
    ("Networks.Current", {}, READ, "current"),
    ("Networks.ListKnown", {}, READ, "list_known"),
    ("Networks.AddKnown", {"ssid": "Home"}, ADMIN, "add_known"),
    ("Networks.EditKnown", {"ssid_hex": "486f6d65", "changes": "{}"}, ADMIN, "edit_known"),
    ("Networks.ForgetKnown", {"ssid_hex": "486f6d65"}, ADMIN, "forget_known"),
    ("Networks.ImportKnown", {"text": "{}"}, ADMIN, "import_known"),
    ("Prompts.Waiting", {}, READ, "waiting_prompts"),
    ("Prompts.Answer", {"id": "ab12", "answer": "ignore"}, CHANGE, "answer_prompt"),
    ("Prompts.Answer", {"id": "ab12", "answer": "auto_connect", "remember": True}, CHANGE, "answer_prompt"),
    ("Prompts.Answer", {"id": "ab12", "answer": "ignore", "remember": True}, ADMIN, "answer_prompt"),
    ("Profiles.Import", {"name": "home", "text": "[Interface]"}, ADMIN, "import_profile"),
    ("Profiles.List", {}, READ, "list_profiles"),
    ("Profiles.Show", {"name": "home"}, READ, "show_profile"),
    ("Profiles.SetLogin", {"name": "home", "user": "alice", "password": "sesame"}, ADMIN, "set_login"),
    ("Profiles.Remove", {"name": "home"}, ADMIN, "remove_profile"),
    ("Servers.ImportServers", {"profile": "home", "text": "version = 1"}, ADMIN, "import_servers"),
    ("Servers.RemoveServers", {"profile": "home"}, ADMIN, "remove_servers"),
    ("Servers.ListServers", {}, READ, "list_servers"),
    ("Servers.ConnectServer", {"server": "fastest"}, CHANGE, "connect_server"),
    ("Servers.SetFavourite", {"server": "se-1", "on": True}, CHANGE, "set_favourite"),
    ("Split.List", {}, READ, "list_split"),
    ("Split.Add", {"group": "never", "pid": 1}, ADMIN, "add_split"),
    ("Split.Add", {"group": "only", "pid": 1}, CHANGE, "add_split"),
    ("Split.Remove", {"pid": 1}, CHANGE, "remove_split"),
    ("Split.AddProgram", {"group": "never", "path": "/usr/bin/curl"}, ADMIN, "add_split_program"),
    ("Split.AddProgram", {"group": "only", "path": "/usr/bin/curl"}, CHANGE, "add_split_program"),
    ("Split.RemoveProgram", {"path": "/usr/bin/curl"}, CHANGE, "remove_split_program"),
    ("Settings.ListSettings", {}, READ, "list_settings"),
    ("Settings.ChangeSetting", {"key": "wifi.secured", "value": "ignore"}, ADMIN, "change_setting"),
    ("Settings.ChangeSetting", {"key": "wifi.secured", "value": "auto_connect"}, CHANGE, "change_setting"),
    ("Settings.ChangeSetting", {"key": "wifi.secured", "value": "auto_connect "}, ADMIN, "change_setting"),
    ("Settings.ResetSettings", {}, ADMIN, "reset_settings"),
    ("Settings.ImportSettings", {"text": "version = 1"}, ADMIN, "import_settings"),
    ("Traffic.GetTraffic", {}, READ, "get_traffic"),
    ("Traffic.GetUsage", {"by": "day"}, READ, "get_usage"),
    ("Traffic.GrantAllowance", {}, CHANGE, "grant_allowance"),
    ("Diagnostics.GetTrace", {}, READ, "get_trace"),
    ("Diagnostics.StartTrace", {"minutes": 5}, ADMIN, "start_trace"),
    ("Diagnostics.StopTrace", {}, ADMIN, "stop_trace"),
    ("Diagnostics.GetReport", {}, ADMIN, "get_report"),
    ("Diagnostics.CheckSettings", {"text": "version = 1"}, READ, "check_settings"),
)
# READ and CHANGE, as test_e8_varlink.py, test_prompts.py and test_portal_login.py show
STREAMS = {"Manager.Watch", "Traffic.FollowTraffic", "Prompts.Watch", "Networks.PortalLogin"}
MAY = {ROOT_USER: ADMIN, MEMBER: CHANGE, STRANGER: READ}

ASK = """
import json, socket, sys
path, calls = sys.argv[1], json.loads(sys.argv[2])
answers = []
for name, parameters in calls:
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            sock.connect(path)
        except PermissionError:
            answers.append("no way in")
            continue
        call = {"method": "org.tunwarden.Daemon1." + name, "parameters": parameters}
        sock.sendall(json.dumps(call).encode() + b"\\0")
        reply = json.loads(sock.makefile("rb").read1().rstrip(b"\\0"))
        answers.append(reply.get("error", "done").rpartition(".")[2])
print(json.dumps(answers))
"""


def test_the_table_is_complete() -> None:
    assert {f"{NAME}.{name}" for name, *_ in CALLS} | {f"{NAME}.{name}" for name in STREAMS} == set(methods())


@pytest.mark.parametrize("who", MAY, ids=lambda who: who.name)
@pytest.mark.parametrize("name", ["tunwarden.sock", "read.sock"])
def test_e8_varlink(name: str, who: Who) -> None:
    async def check() -> None:
        service = FakeService()
        with public_folder() as folder:
            face = Varlink(Dispatcher(service, MEMBERS), "1", folder)
            await face.start()
            try:
                calls = json.dumps([(method, given) for method, given, *_ in CALLS])
                answers = await python(who, ASK, str(folder / name), calls)
            finally:
                await face.stop()
        assert isinstance(answers, list)
        if name == "tunwarden.sock" and who is STRANGER:
            assert answers == ["no way in"] * len(CALLS)
            assert service.calls == []
            return
        limit = READ if name == "read.sock" else MAY[who]
        _judge(service, who, limit, answers)

    asyncio.run(check())


@pytest.mark.parametrize("who", MAY, ids=lambda who: who.name)
def test_e8_dbus(who: Who) -> None:
    async def check() -> None:
        service = FakeService()
        async with private_bus() as bus:
            face = Dbus(Dispatcher(service, MEMBERS), address=bus.address)
            await face.start()
            service.calls.clear()  # the face's own watch
            answers = []
            try:
                for name, given, *_ in CALLS:
                    described = methods()[f"{NAME}.{name}"]
                    values = [_dbus(given.get(field.name, field.default)) for field in described.parameters]
                    interface, _, member = name.partition(".")
                    code, _out, err = await run(
                        who, "/usr/bin/dbus-send", "--system", "--print-reply", f"--dest={NAME}", PATH,
                        f"{NAME}.{interface}.{member}", *values, env=bus.env,
                    )  # fmt: skip
                    answers.append("done" if code == 0 else err.split(":")[0].rpartition(".")[2])
            finally:
                await face.stop()
        _judge(service, who, MAY[who], answers)

    asyncio.run(check())


def _dbus(value: object) -> str:
    if isinstance(value, bool):
        return f"boolean:{str(value).lower()}"
    return f"uint64:{value}" if isinstance(value, int) else f"string:{value or ''}"


def _judge(service: FakeService, who: Who, limit: Access, answers: list[str]) -> None:
    wanted = [(name, limit >= needed) for name, _, needed, _ in CALLS]
    assert [(name, answer != "NotPermitted") for (name, *_), answer in zip(CALLS, answers, strict=True)] == wanted
    assert set(answers) <= {"done", "NotPermitted", "NotNow", "NoSuchPrompt", "Locked"}
    asked = [(function, caller.uid) for function, caller, _ in service.calls if caller.pid != os.getpid()]
    assert asked == [(function, who.uid) for _, _, needed, function in CALLS if limit >= needed]


def test_e10_without_the_group_only_root_may_change() -> None:
    async def check() -> None:
        service = FakeService()
        with public_folder() as folder:
            face = Varlink(Dispatcher(service, -1), "1", folder)
            face._dispatcher.gid = None  # as on a system that has no such group
            await face.start()
            try:
                assert (folder / "tunwarden.sock").stat().st_gid == 0
                calls = json.dumps([("Manager.Connect", {})])
                assert await python(MEMBER, ASK, str(folder / "tunwarden.sock"), calls) == ["no way in"]
                assert await python(ROOT_USER, ASK, str(folder / "tunwarden.sock"), calls) == ["done"]
            finally:
                await face.stop()

    asyncio.run(check())


def test_e10_the_group_may_not_open_the_machine() -> None:
    """Whoever is in the group has not agreed to anything: what opens, relaxes or brings keys needs root."""
    opening = [call for call in CALLS if call[2] is ADMIN]
    assert {name for name, *_ in opening} >= {
        "Manager.SetKillSwitch", "Manager.SetLockdown", "Networks.AddKnown", "Networks.ForgetKnown", "Profiles.Import",
        "Settings.ChangeSetting", "Settings.ResetSettings", "Settings.ImportSettings", "Diagnostics.GetReport",
    }  # fmt: skip

    async def check() -> None:
        service = FakeService()
        with public_folder() as folder:
            face = Varlink(Dispatcher(service, MEMBERS), "1", folder)
            await face.start()
            try:
                calls = json.dumps([(method, given) for method, given, *_ in opening])
                path = str(folder / "tunwarden.sock")
                assert await python(MEMBER, ASK, path, calls) == ["NotPermitted"] * len(opening)
                assert service.calls == []
                answers = await python(ROOT_USER, ASK, path, calls)
                assert isinstance(answers, list) and "NotPermitted" not in answers, "the control: root may"
            finally:
                await face.stop()

    asyncio.run(check())
