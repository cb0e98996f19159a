"""Fuzz the parsers of both faces: `python -m bench.fuzz_ipc [SECONDS] [SEED]`, three minutes if not told.

An input is the bytes of one message: a Varlink call as it is, or, for D-Bus, JSON that says what a message holds, for
the bus passes on only what is well-formed (dbus-fast would read past the end of what is not). What it means is put to
the dispatcher, as somebody who may only read, and as root. With atheris installed (development only: `pip install
atheris`) libFuzzer looks for inputs that reach new lines; without it, or beside it, well-formed calls are mutated. Exit
code 1: an input broke a promise, and was printed as hexadecimal.
"""

from __future__ import annotations

import io
import json
import logging
import random
import resource
import sys
import time
from collections import Counter
from collections.abc import Coroutine, Mapping
from typing import Any, cast

from asyncvarlink.error import VarlinkErrorReply
from dbus_fast import Message, Variant
from dbus_fast._private.unmarshaller import Unmarshaller
from dbus_fast.signature import get_signature_tree

from bench.common import guided, title
from ipc.access import Access, Caller, Transport
from ipc.dbus_calls import METHODS, STANDARD, CallError, answer, target
from ipc.dbus_objects import Objects
from ipc.dbus_streams import Streams
from ipc.dbus_values import signature_of
from ipc.describe import Field, Method, Type, methods, struct_class, structs
from ipc.dispatch import Dispatcher
from ipc.errors import Error, ServiceError
from ipc.interface import NAME, PATH, Service
from ipc.structs import KnownNetwork, Network, Profile, Status
from ipc.values import PYTHON
from ipc.varlink import parsed
from ipc.varlink_service import Standard

LONGEST = 1 << 16
STRANGER, ROOT = (65534, Access.READ), (0, Access.ADMIN)
FUNCTIONS = {method.function: method for method in methods().values()}


class Recorder:
    """Stands for the service: notes what reaches it, and refuses."""

    def __init__(self) -> None:
        self.called: list[tuple[Method, Mapping[str, object]]] = []

    def __getattr__(self, function: str) -> object:
        method = FUNCTIONS[function]

        def stream(caller: Caller, **given: object) -> None:
            self.called.append((method, given))

        async def call(caller: Caller, **given: object) -> None:
            self.called.append((method, given))
            raise ServiceError(Error.NOT_NOW, "fuzz", "it is one.")

        return stream if method.stream else call


class NoStreams(Streams):
    """Opens none, once it has been found that the caller may."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._asked = dispatcher

    async def open(
        self, name: str, method: Method, caller: Caller, given: Mapping[str, object], appeal: object = None
    ) -> None:
        await self._asked.watch(method, caller, given)


def blank(kind: Type) -> object:
    """Some value of a type."""
    if kind.nullable:
        return None
    if kind.many:
        return (blank(Type(kind.base)),)
    if kind.base in PYTHON:
        return PYTHON[kind.base](1)
    return struct_class(kind.base)(**{field.name: blank(field.type) for field in structs()[kind.base].fields})


STATUS = cast(Status, blank(Type("Status")))
OBJECTS = Objects()
OBJECTS.links([cast(Network, blank(Type("Network")))])
OBJECTS.known([cast(KnownNetwork, blank(Type("KnownNetwork")))])
OBJECTS.profiles([cast(Profile, blank(Type("Profile")))])
VARLINK = Standard("1")


def finished(waits: Coroutine[Any, Any, Any]) -> Any:
    """What a coroutine returns that waits for nothing."""
    try:
        waits.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it waits")


def judge(data: bytes) -> str:
    """One input: which face, then a message. Says what became of it. AssertionError: a promise is broken."""
    face, raw = data[:1], data[1:]
    return _dbus(raw) if face == b"d" else _varlink(raw)


def _varlink(raw: bytes) -> str:
    call = parsed(raw)
    if call is None:
        return "varlink: no call"
    method, said = methods().get(call.method), ""
    if method is None:
        try:
            json.dumps(VARLINK.answer(call).tojson())
            return "varlink: org.varlink.service"
        except VarlinkErrorReply as error:
            json.dumps(error.toreply().tojson())
            return "varlink: no method"
    for (uid, most), transport in ((STRANGER, Transport.READ_SOCKET), (ROOT, Transport.SOCKET)):
        service = Recorder()
        dispatcher = Dispatcher(cast(Service, service), 1)
        ask = dispatcher.watch if method.stream else dispatcher.call
        try:
            finished(ask(method, Caller(uid, frozenset(), 1, transport), call.parameters))
            said = "varlink: stream"
        except ServiceError as error:
            said = f"varlink: {error.error.name}"
            json.dumps([error.what, error.why, error.remedy])
        _check(service, most)
    return said


def _dbus(raw: bytes) -> str:
    try:
        call = _message(raw)
    except Exception:  # nothing that can be sent: what the library says of it is its own
        return "dbus: no message"
    call.sender = ":1.1"
    try:
        wanted = target(call, OBJECTS)
    except CallError as error:
        _sendable(Message.new_error(call, error.error, error.text))
        return f"dbus: {error.error.name}"
    said = ""
    for uid, most in (STRANGER, ROOT):
        service = Recorder()
        dispatcher = Dispatcher(cast(Service, service), 1)
        caller = Caller(uid, frozenset(), 1, Transport.DBUS)
        reply = finished(answer(call, wanted, caller, dispatcher, STATUS, OBJECTS, NoStreams(dispatcher), _nobody_else))
        _sendable(reply)
        said = f"dbus: {(reply.error_name or 'answered').rpartition('.')[2]}"
        _check(service, most)
    return said


def _message(raw: bytes) -> Message:
    """What arrives when such a message is sent. A variant is written as its type and its value."""
    said = json.loads(raw.decode())
    kinds = get_signature_tree(said["signature"]).types
    body = [Variant(*value) if kind.token == "v" else value for kind, value in zip(kinds, said["body"], strict=True)]
    sent = Message(NAME, said["path"], said["interface"], said["member"], signature=said["signature"], body=body)
    sent.serial = 7
    whole = cast(Any, io.BytesIO(sent._marshall(False)))
    arrived = Unmarshaller(whole).unmarshall()
    assert arrived is not None
    return arrived


async def _nobody_else(access: Access) -> bool:
    return False


def _sendable(reply: Message) -> None:
    reply.serial = 1
    assert reply._marshall(False)


def _check(service: Recorder, most: Access) -> None:
    for method, given in service.called:
        assert method.access_for(given) <= most, "nobody does what he may not"
        for field in method.parameters:
            assert _fits(field, given[field.name]), f"{method.wire_name}: {field.name}"


def _fits(field: Field, value: object) -> bool:
    if value is None:
        return field.type.nullable or not field.required
    if type(value) is not PYTHON[field.type.base]:
        return False
    if not isinstance(value, str):
        return True
    short = field.longest is None or len(value.encode()) <= field.longest
    return short and "\0" not in value and (not field.choices or value in field.choices)


# --- well-formed calls, and what is done to them ----------------------------------------------------------------------


def _given(field: Field) -> Any:
    if field.type.base == "string":
        return field.choices[0] if field.choices else "486f6d65"
    return PYTHON[field.type.base](1)


def _varlink_seed(method: Method) -> bytes:
    given = {field.name: _given(field) for field in method.parameters}
    return b"v" + json.dumps({"method": method.wire_name, "parameters": given, "more": method.stream}).encode()


def _dbus_seed(face: str, member: str, kinds: str, body: list[Any], path: str = PATH) -> bytes:
    return (
        b"d"
        + json.dumps({"path": path, "interface": face, "member": member, "signature": kinds, "body": body}).encode()
    )


STANDARD_BODIES: dict[str, list[Any]] = {
    "Get": [f"{NAME}.Manager", "State"], "GetAll": [f"{NAME}.Manager"],
    "Set": [f"{NAME}.Manager", "State", ["s", "idle"]],
}  # fmt: skip
SEEDS = (
    *(_varlink_seed(method) for method in methods().values()),
    b'v{"method": "org.varlink.service.GetInterfaceDescription", "parameters": {"interface": "org.varlink.service"}}',
    *(
        _dbus_seed(*key, signature_of(method.parameters), [_given(field) for field in method.parameters])
        for key, method in METHODS.items()
    ),
    *(_dbus_seed(*key, kinds, STANDARD_BODIES.get(key[1], [])) for key, kinds in STANDARD.items()),
    *(_dbus_seed(*key, kinds, STANDARD_BODIES.get(key[1], []), f"{PATH}/links/_31") for key, kinds in STANDARD.items()),
)
WORDS = [method.name.encode() for method in methods().values()]
WORDS += [field.name.encode() for method in methods().values() for field in method.parameters]
TELLING = [
    b"\0", b"\xff", b'"', b"{", b"}", b"[", b"]", b":", b",", b"null", b"true", b"1e999", b"-0", b"\\ud800",
    b"\\u0000", b"9" * 400, b"[" * 2000, b'{"a":' * 300, b"x" * 5000, b'"oneway":true,', b'"upgrade":true,', b"NaN",
    b"a{sv}", b"av", b"(((", b"ay", b"h", b"s", b"t", b"b", b"v", b', "x"', b", 1", b", true", b", []",
    b'["s", "x"]', PATH.encode(), b"/",
]  # fmt: skip

KINDS: list[tuple[str, Any]] = [
    ("s", "x"), ("s", ""), ("t", 1), ("t", 2**64 - 1), ("b", True), ("v", ["s", "x"]), ("v", ["b", False]), ("i", -1),
    ("d", 1.5), ("o", "/"), ("g", "s"), ("y", 1),
]  # fmt: skip
ODD: list[Any] = [
    None,
    True,
    0,
    -1,
    2**70,
    1.5,
    "",
    "a\0b",
    "\ud800",
    "x" * 70,
    "x" * 300,
    "x" * 9_000,
    "\x1b[31m",
    [],
    {},
    ["x"],
]


def _other_types(said: dict[str, Any], rng: random.Random) -> bytes:
    """A call with an argument of some other type in the place of one, or before it. Ours have types of one letter."""
    at, replaced = rng.randrange(len(said["body"]) + 1), rng.randrange(2)
    kind, value = rng.choice(KINDS)
    said["signature"] = said["signature"][:at] + kind + said["signature"][at + replaced :]
    said["body"][at : at + replaced] = [value]
    return b"d" + json.dumps(said).encode()


def _other_values(said: dict[str, Any], rng: random.Random) -> bytes:
    """A call with something odd in the place of an argument, or beside them."""
    said["parameters"][rng.choice([*said["parameters"], "x"])] = rng.choice(ODD)
    return b"v" + json.dumps(said).encode()


def mutated(rng: random.Random) -> bytes:
    """A seed with up to four things done to it; the first byte says which face, and stays."""
    data = bytearray(rng.choice(SEEDS))
    if rng.random() < 0.3:
        return (_other_types if data[:1] == b"d" else _other_values)(json.loads(data[1:]), rng)
    for _ in range(rng.randint(0, 4)):
        at = rng.randrange(1, len(data)) if len(data) > 1 else 1
        match rng.randrange(7):
            case 0 if at < len(data):
                data[at] ^= 1 << rng.randrange(8)
            case 1 if at < len(data):
                data[at] = rng.randrange(256)
            case 2:
                data[at:at] = rng.choice(TELLING if rng.random() < 0.8 else WORDS)
            case 3:
                del data[at : at + rng.randint(1, 12)]
            case 4:  # another word of ours in the place of one
                word = rng.choice(WORDS)
                if (found := data.find(rng.choice(WORDS))) > 0:
                    data[found : found + len(word)] = word
            case 5:
                other = rng.choice(SEEDS)
                data[at:at] = other[rng.randrange(1, len(other)) :][: rng.randint(1, 60)]
            case _:
                data[at : at + 1] = rng.randbytes(rng.randint(1, 8))
    return bytes(data[:LONGEST])


def resident() -> float:
    """MiB that were ever resident."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(seconds: float, seed: int) -> int:
    """Mutated calls for so long; then, where there is atheris, as long what it finds."""
    logging.disable()
    title(f"fuzz: both faces, {seconds:.0f} s, seed {seed}")
    rng, began, outcomes, count = random.Random(seed), time.perf_counter(), Counter[str](), 0
    early = 0.0
    while time.perf_counter() - began < seconds:
        data = mutated(rng)
        try:
            outcomes[judge(data)] += 1
        except Exception as err:
            print(f"{type(err).__name__}: {err}\n{data.hex()}", flush=True)
            return 1
        count += 1
        if count == 20_000:
            early = resident()
    grown = f", {resident() - early:+.1f} MiB resident since the first 20,000" if early else ""
    print(f"mutated: {count} inputs in {seconds:.0f} s, 0 crashes, {len(outcomes)} outcomes{grown}")
    for outcome, many in outcomes.most_common():
        print(f"    {many:8} {outcome}")
    return guided("bench.fuzz_ipc", "ipc", SEEDS, f"-max_total_time={seconds:.0f}", f"-seed={seed}", "-max_len=8192")


if __name__ == "__main__":
    sys.exit(main(float((*sys.argv[1:], "180")[0]), int((*sys.argv[2:], "1")[0])))
