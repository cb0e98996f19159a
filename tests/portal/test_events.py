"""P11, part 1's events process: remote commands, by a real uvicorn on loopback, real streams and real long polls."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from portal import signing
from portal.accounts.models import User
from portal.devices import commands, connecting
from portal.devices.models import Command, Device
from tests.portal import postgres
from tests.portal.laptop import acknowledge, ask, connect
from tests.portal.streams import PATIENCE, TOP, Process, uvicorn

ON_POSTGRES = bool(os.environ.get("PORTAL_TEST_POSTGRES"))


STREAMS = 4  # that the process allows here


@pytest.fixture
def process(portal: None) -> Iterator[Process]:
    """Of one test: a process that has the database open does not survive its replacement."""
    with uvicorn(PORTAL_EVENT_KEEPALIVE_SECONDS="1", PORTAL_EVENT_STREAMS=str(STREAMS)) as made:
        yield made


@pytest.fixture
def events(process: Process) -> Iterator[Process]:
    yield process
    process.hang_up()


@pytest.fixture
def laptop(new_user: Callable[..., User]) -> Callable[..., tuple[str, Device]]:
    return lambda email="ann@example.org", **fields: connect(new_user, email, **fields)


def read(event: dict[str, str] | None, device: Device) -> str:
    """The command of an event, verified as a daemon does."""
    assert event is not None and event["event"] == "command"
    return said(event["data"], device)


def said(token: str, device: Device) -> str:
    claims = signing.verify(token, commands.TYP, audience=str(device.public_id))
    assert isinstance(claims["exp"], int) and claims["exp"] <= time.time() + commands.LIFETIME
    assert set(claims) == {"aud", "jti", "cmd", "exp", "iat"}
    return str(claims["cmd"])


def test_asked_told_answered(events: Process, door: Any, laptop: Any) -> None:
    """Every command of the list: to a device that listens, signed for it alone; its answer is in the history."""
    token, device = laptop()
    other = laptop("bob@example.org")[1]
    stream = events.stream(token)
    door.sign_in(device.user.email)
    verbs = ("connect", "disconnect", "lockdown-on", "refresh", "report")
    assert [ask(door, device, verb) for verb in verbs] == [202] * 5
    for verb in verbs:
        event = stream.next()
        assert read(event, device) == verb
        with pytest.raises(signing.TokenError):
            signing.verify(event["data"], commands.TYP, audience=str(other.public_id))  # type: ignore[index]
        with pytest.raises(signing.TokenError):
            signing.verify(event["data"], "vpn-ent+jwt", audience=str(device.public_id))  # type: ignore[index]
        jti = device.commands.get(verb=verb).jti
        assert acknowledge(token, jti, "done", f"did {verb}\nwell").status_code == 200
    stream.close()
    if door.name == "api":
        history = door.call("get", f"/api/v1/devices/{device.public_id}/commands").json()
        assert {(each["command"], each["state"], each["message"].split()[1]) for each in history} == {
            (verb, "done", verb) for verb in verbs
        }
    else:
        page = door.client.get(f"/devices/{device.public_id}/").content.decode()
        assert "did lockdown-on" in page and page.count("Done") == 5


def test_queued_while_offline(events: Process, laptop: Any) -> None:
    """Kept for 7 days; told when the device is back, in their order, and again until it answers."""
    token, device = laptop()
    first, second = commands.send(device, "lockdown-on"), commands.send(device, "report")
    late = commands.send(device, "connect")
    Command.objects.filter(pk=late.pk).update(expires_at=timezone.now())
    assert first.expires_at - first.created_at >= timedelta(days=7) - timedelta(seconds=1)
    stream = events.stream(token)
    assert [read(stream.next(), device), read(stream.next(), device)] == ["lockdown-on", "report"]
    stream.close()
    # The daemon was restarted before it had done anything: everything again, by the same names.
    stream = events.stream(token)
    told = [stream.next(), stream.next()]
    assert [each["id"] for each in told if each] == [str(first.pk), str(second.pk)]
    stream.close()
    # The connection broke after the first one: only what came later.
    stream = events.stream(token, last=str(first.pk))
    assert read(stream.next(), device) == "report"
    stream.close()
    acknowledge(token, first.jti)
    acknowledge(token, second.jti, "failed", "no network")
    stream = events.stream(token)
    commands.send(device, "refresh")
    assert read(stream.next(), device) == "refresh"
    stream.close()
    states = {each.verb: each.state().value for each in device.commands.all()}
    assert states == {"lockdown-on": "done", "report": "failed", "connect": "expired", "refresh": "delivered"}
    assert acknowledge(token, late.jti).json()["code"] == "command_gone"


def test_last_event_id_loses_nothing(events: Process, laptop: Any) -> None:
    """A command with a lower number that was never told (another transaction was faster) is told all the same."""
    token, device = laptop()
    never, told = commands.send(device, "connect"), commands.send(device, "report")
    commands.delivered([told.pk])
    stream = events.stream(token, last=str(told.pk))
    assert read(stream.next(), device) == "connect"
    assert never.pk < told.pk
    stream.close()


def test_wrong_last_event_id(events: Process, laptop: Any) -> None:
    """As if there was none."""
    token, device = laptop()
    commands.send(device, "report")
    for last in ("x", "-1", "9" * 30, "é", " ", "1e3"):
        stream = events.stream(token, last=last.encode().decode("latin-1"))
        assert read(stream.next(), device) == "report"
        stream.close()


def test_keep_alive(events: Process, laptop: Any) -> None:
    """A comment now and then, so that no proxy thinks the stream is dead."""
    stream = events.stream(laptop()[0])
    assert [stream.next(comments=True), stream.next(comments=True)] == [{"comment": "still here"}] * 2
    stream.close()


@pytest.mark.parametrize("way", ["disconnect", "again", "account"])
def test_revoked_credentials_end_the_stream(events: Process, laptop: Any, way: str) -> None:
    """Disconnected on the page, connected anew, or the account closed: told, ended, and refused afterwards."""
    token, device = laptop(machine="m" * 20)
    stream = events.stream(token)
    if way == "disconnect":
        connecting.disconnect(device)
    elif way == "again":
        laptop(machine="m" * 20)
    else:
        device.user.delete()
    assert stream.next() == {"retry": "5000", "event": "disconnected", "data": ""} or stream.next() is None
    assert stream.next() is None
    assert events.refused("GET", "/api/v1/events", token) == (401, "device_unknown")
    assert events.refused("GET", "/api/v1/commands", token) == (401, "device_unknown")


def test_one_stream_a_device(events: Process, laptop: Any) -> None:
    """A newer stream ends the older one, which is probably dead; and no more are open than are allowed."""
    token, device = laptop()
    older = events.stream(token)
    newer = events.stream(token)
    ended = older.next()
    assert ended is not None and ended["event"] == "disconnected" and older.next() is None
    commands.send(device, "connect")
    assert read(newer.next(), device) == "connect"
    others = [events.stream(laptop(f"user{number}@example.org")[0]) for number in range(STREAMS - 1)]
    one_more, _device = laptop("late@example.org")
    refused = events.request("GET", "/api/v1/events", one_more)
    assert (refused.status, refused.headers["Retry-After"]) == (503, "30")
    assert json.loads(refused.read())["code"] == "later"
    # A waiting poll counts too.
    assert events.refused("GET", "/api/v1/commands?wait=5", one_more) == (503, "later")
    others.pop().close()
    until = time.monotonic() + PATIENCE
    while (answer := events.request("GET", "/api/v1/events", one_more)).status != 200 and time.monotonic() < until:
        answer.read()
    assert answer.status == 200
    newer.close()


def test_long_poll(events: Process, laptop: Any) -> None:
    """What waits is told at once, otherwise what comes within the time, otherwise nothing."""
    token, device = laptop()

    def poll(wait: int) -> list[str]:
        response = events.request("GET", f"/api/v1/commands?wait={wait}", token)
        assert (response.status, response.headers["Content-Type"]) == (200, "application/json")
        return [said(each, device) for each in json.loads(response.read())["commands"]]

    assert poll(1) == []
    waiting: list[list[str]] = []
    thread = threading.Thread(target=lambda: waiting.append(poll(25)))
    thread.start()
    command = commands.send(device, "report")
    thread.join(PATIENCE)
    assert waiting == [["report"]]
    assert poll(25) == ["report"]
    acknowledge(token, command.jti)
    assert poll(1) == []
    # The web processes answer it too, at once.
    commands.send(device, "connect")
    answer = Client().get("/api/v1/commands?wait=25", headers={"Authorization": f"Bearer {token}"})
    assert [said(each, device) for each in answer.json()["commands"]] == ["connect"]


def test_how_long_a_poll_waits(events: Process, laptop: Any) -> None:
    token, _device = laptop()
    for wait in ("26", "-1", "x", "1.5", "9999999999", "", "%00", "%C2%B2"):
        assert events.refused("GET", f"/api/v1/commands?wait={wait}", token) == (422, "malformed")


def test_refusals(events: Process, laptop: Any) -> None:
    """Nobody without a credential of the device itself; for no other address, name or method."""
    token, device = laptop(machine="m" * 20)
    credential = device.credentials.get()
    _ticket, ticket = connecting.invite(credential, "suite")
    _made, derived = connecting.derive(ticket, "suite", "m" * 20)
    assert events.refused("GET", "/api/v1/events") == (401, "not_signed_in")
    assert events.refused("GET", "/api/v1/events", "twd_" + "A" * 43) == (401, "device_unknown")
    assert events.refused("GET", "/api/v1/events", derived) == (403, "not_first")
    assert events.refused("POST", "/api/v1/events", token) == (405, "refused")
    assert events.refused("GET", "/api/v1/devices", token) == (404, "not_found")
    assert events.refused("GET", "/api/v1/events", token, Host="evil.example") == (400, "malformed")
    answer = Client().get("/api/v1/events", headers={"Authorization": f"Bearer {token}"})
    assert (answer.status_code, answer.json()["code"]) == (421, "events_elsewhere")


def databases_open(pid: int) -> int:
    """Files of the database that the process has open."""
    count = 0
    for each in Path(f"/proc/{pid}/fd").iterdir():
        try:
            count += "portal.sqlite3" in os.readlink(each)
        except FileNotFoundError:
            continue  # closed meanwhile
    return count


@pytest.mark.skipif(ON_POSTGRES, reason="the database's files tell on SQLite alone")
def test_idle_streams_hold_no_connection(events: Process, laptop: Any) -> None:
    """With every stream open there are moments without any connection, and never one a stream."""
    streams = [events.stream(laptop(f"user{number}@example.org")[0]) for number in range(STREAMS)]
    until = time.monotonic() + PATIENCE
    least = databases_open(events.pid)
    while least and time.monotonic() < until:
        least = min(least, databases_open(events.pid))
    assert least == 0
    for stream in streams:
        stream.close()


DRIVER = """
import json, os, sys
import django
django.setup()
from django.db import connection
from portal.accounts.models import User
from portal.devices import commands, connecting
from tests.portal.laptop import body
assert connection.vendor == "postgresql"
for line in sys.stdin:
    what, name = line.split()
    if what == "new":
        user = User.objects.create_user(name)
        device, token = connecting.connect(user, connecting.Computer(**body()))
        said = [token, str(device.public_id)]
    elif what == "idle":
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE datname = 'portal' AND pid <> pg_backend_pid()")
            said = cursor.fetchone()[0]
    else:
        user = User.objects.get(email=name)
        if what == "disconnect-it":
            connecting.disconnect(user.devices.get())
        else:
            commands.send(user.devices.get(), what)
        said = True
    connection.close()
    print(json.dumps(said), flush=True)
"""


@pytest.mark.skipif(ON_POSTGRES, reason="it has a server of its own; it is run on SQLite alone")
@pytest.mark.skipif(bool(postgres.MISSING), reason=postgres.MISSING)
def test_postgresql_notifies(template: Path) -> None:
    """LISTEN/NOTIFY across processes, on Debian's real PostgreSQL: nothing here polls, the sweep is a minute away.

    A rolled back command wakes nobody; many idle streams have no connection each; a broken listening connection is
    made anew.
    """
    server = postgres.Cluster()
    try:
        socket_folder = str(server.socket)
        postgres.run(socket_folder, "CREATE DATABASE portal")
        database = {"PORTAL_DATABASE": postgres.url(socket_folder, "portal")}
        environment = os.environ | database
        migrate = [sys.executable, "-m", "portal", "migrate", "--verbosity", "0"]
        subprocess.run(migrate, cwd=TOP, env=environment, check=True, timeout=240)
        driver = subprocess.Popen(
            [sys.executable, "-c", DRIVER], cwd=TOP, env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert driver.stdin is not None and driver.stdout is not None

        def do(what: str, name: str = "ann@example.org") -> Any:
            print(what, name, file=driver.stdin, flush=True)
            return json.loads(driver.stdout.readline())  # type: ignore[union-attr]

        try:
            with uvicorn(**database) as process:
                tokens = [do("new", f"user{number}@example.org")[0] for number in range(20)]
                token, number = do("new")
                device = Device(public_id=uuid.UUID(number))
                others = [process.stream(each) for each in tokens]
                stream = process.stream(token)
                for verb in ("connect", "lockdown-on", "report"):
                    do(verb)
                    assert read(stream.next(), device) == verb
                assert do("idle") < 10
                # The server ends the listening connection; the next command arrives all the same.
                ours = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'portal events'"
                postgres.run(socket_folder, ours)
                do("refresh")
                assert read(stream.next(), device) == "refresh"
                do("disconnect-it")
                ended = stream.next()
                assert ended is not None and ended["event"] == "disconnected"
                do("connect", "user7@example.org")
                assert (others[7].next() or {})["event"] == "command"
                for each in others:
                    each.close()
        finally:
            driver.stdin.close()
            driver.wait(PATIENCE)
            driver.stdout.close()
    finally:
        server.stop()
