"""What portals, resolvers and routers say is read within bounds, and is never more than it is (N11).

The confined children's parsers run here in this process; tests/netns/test_portal.py runs them where they live.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.host import Announced, HostError
from daemon.linux import confined_names, confined_web, nameservers, portals
from daemon.linux.confined_web import HEAD, Answer, WebError, ask, dechunked, read_head
from daemon.linux.portals import LinuxPortals, advertised, resolvers
from daemon.linux.resolver_file import HEADER
from lab.hosts import Host
from policies.facts import Internet, Link, LinkKind, Reach
from policies.portals import UNRESTRICTED, Probe

LINK = Link(7, "wlan0", LinkKind.WIFI, up=True, carrier=True, gateways=(ip_address("192.0.2.1"),))

# --- HTTP -------------------------------------------------------------------------------------------------------------


@contextmanager
def server(answer: bytes, hold: bool = False) -> Iterator[socket.socket]:
    """A connection whose other end has asked for nothing and answers this; `hold`: and stays open."""
    ours, theirs = socket.socketpair()

    def work() -> None:
        try:
            theirs.recv(65536)
            theirs.sendall(answer)
            if hold:
                theirs.recv(1)
        except OSError:
            pass
        finally:
            theirs.close()

    thread = threading.Thread(target=work)
    thread.start()
    ours.settimeout(10)
    try:
        yield ours
    finally:
        ours.close()
        thread.join()


def got(answer: bytes, body: int = 64, hold: bool = False) -> Answer:
    with server(answer, hold) as connection:
        return ask(connection, "a.example", "/x", "*/*", body)


HTTP = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    "answer, hold, status, body",
    [
        (HTTP + b"Content-Length: 5\r\n\r\nhello", True, 200, b"hello"),
        (HTTP + b"Content-Length: 99\r\n\r\nhello", False, 200, b"hello"),
        (HTTP + b"\r\nhello", False, 200, b"hello"),
        (b"HTTP/1.0 204 No Content\r\n\r\n", True, 204, b""),
        (b"HTTP/1.1 511\r\n\r\n", False, 511, b""),
        (HTTP + b"Transfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\n\r\n", True, 200, b"hello"),
        (HTTP + b"Transfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n5\r\nhello\r\n0\r\n\r\n", True, 200, b"hello"),
        (HTTP + b"Content-Length: nonsense\r\n\r\nhello", False, 200, b"hello"),
        (HTTP + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\nhello", False, 200, b"hello"),
        (HTTP + b"\r\n" + b"x" * 10_000_000, False, 200, b"x" * 64),
        (HTTP + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 100_000, False, 200, b"x" * 64),
    ],
)
def test_answers(answer: bytes, hold: bool, status: int, body: bytes) -> None:
    assert (got(answer, hold=hold).status, got(answer, hold=hold).body) == (status, body)


@pytest.mark.parametrize(
    "answer",
    [
        b"", b"HTTP/1.1", b"SSH-2.0-x\r\n\r\n", b"HTTP/2 200\r\n\r\n", b"HTTP/1.1 999 x\r\n\r\n",
        b"HTTP/1.1 20 x\r\n\r\n",
        HTTP + b"X: y\r\n" * 200 + b"\r\n", HTTP + b"X: " + b"y" * 2 * HEAD + b"\r\n\r\n", bytes(range(256)) * 8,
    ],
)  # fmt: skip
def test_what_is_no_http_is_an_error(answer: bytes) -> None:
    with pytest.raises(WebError):
        got(answer)


def test_an_endless_head_is_given_up() -> None:
    with pytest.raises(WebError, match="a head of more than"):
        got(HTTP + b"X: y\r\n" * 1_000_000)


def test_the_question_says_as_little_as_it_can() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")
        ask(ours, "2001:db8::1", "/x?y", "*/*", 1)
        assert theirs.recv(65536).split(b"\r\n") == [
            b"GET /x?y HTTP/1.1", b"Host: [2001:db8::1]", b"Accept: */*", b"Cache-Control: no-cache",
            b"Connection: close", b"", b"",
        ]  # fmt: skip


@given(st.binary(max_size=400))
def test_any_bytes_are_an_answer_or_an_error(data: bytes) -> None:
    for read in (dechunked, lambda head: read_head(head)):
        try:
            read(data)
        except WebError:
            assert read is not dechunked


@pytest.mark.parametrize(
    "right, answer, is_right",
    [
        (None, b"HTTP/1.1 204 No Content\r\n\r\n", True),
        (None, b"HTTP/1.1 204 No Content\r\n\r\n<html>", False),
        (None, HTTP + b"Content-Length: 0\r\n\r\n", False),
        (b"yes", HTTP + b"Content-Length: 4\r\n\r\nyes\n", True),
        (b"yes", HTTP + b"Content-Length: 2\r\n\r\nye", False),
        (b"yes", b"HTTP/1.1 302 Found\r\nLocation: /login\r\n\r\nyes", False),
    ],
)
def test_the_right_answer(right: bytes | None, answer: bytes, is_right: bool) -> None:
    task = {"host": "a.example", "path": "/", "secure": False, "api": False, "right": right and right.hex()}
    with server(answer) as connection:
        said = json.loads(confined_web.main([connection], json.dumps(task).encode()))
    assert said["right"] is is_right


def captive(body: bytes) -> object:
    task = {"host": "a.example", "path": "/", "secure": False, "api": True, "right": None}
    with server(HTTP + b"Content-Length: %d\r\n\r\n" % len(body) + body) as connection:
        return json.loads(confined_web.main([connection], json.dumps(task).encode()))


def test_the_api() -> None:
    """RFC 8908, 5.1, and what is no such answer."""
    said = b'{"captive": true, "user-portal-url": "https://portal.example/", "seconds-remaining": 3, "x": [1e400]}'
    assert captive(said) == {"captive": True, "url": "https://portal.example/"}
    assert captive(b'{"captive": false}') == {"captive": False, "url": ""}
    assert captive(b'{"captive": true, "user-portal-url": ["x"]}') == {"captive": True, "url": ""}


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"null", b'{"captive": 1}', b'{"captive": "true"}', b"\xff\xfe{", b"[" * 30_000, b'{"a":' * 30_000,
     b'{"captive": ' + b"9" * 30_000 + b"}", b'{"captive": true, "x": "' + b"y" * 100_000 + b'"}'],
)  # fmt: skip
def test_what_is_no_answer_of_an_api(body: bytes) -> None:
    with pytest.raises(WebError):
        captive(body)


# --- DNS --------------------------------------------------------------------------------------------------------------

QUESTION = confined_names.question("probe.test", 1)
ASKED = {4711: ("probe.test", 1, QUESTION), 4712: ("probe.test", 28, confined_names.question("probe.test", 28))}


def reply(*records: bytes, number: int = 4711, flags: int = 0x8180, question: bytes = QUESTION) -> bytes:
    return struct.pack("!6H", number, flags, 1, len(records), 0, 0) + question + b"".join(records)


def record(value: bytes, kind: int = 1, name: bytes = b"\xc0\x0c") -> bytes:
    return name + struct.pack("!HHIH", kind, 1, 60, len(value)) + value


def test_addresses_behind_an_alias() -> None:
    alias = record(b"\4real\4test\0", 5)
    own = record(b"\xc0\0\2\7", name=b"\4real\4test\0")
    assert confined_names.answer(reply(alias, own, record(b"\xc0\0\2\x08")), ASKED) == (
        4711,
        ["192.0.2.7", "192.0.2.8"],
    )
    six = reply(record(bytes.fromhex("20010db8" + "0" * 23 + "1"), 28), number=4712, question=ASKED[4712][2])
    assert confined_names.answer(six, ASKED) == (4712, ["2001:db8::1"])


@pytest.mark.parametrize(
    "data, told",
    [
        (reply(record(b"\xc0\0\2\7"), number=1), None), (reply(record(b"\xc0\0\2\7"), flags=0x0100), None),
        (reply(record(b"\xc0\0\2\7"), flags=0x8380), None),
        (reply(record(b"\xc0\0\2\7"), question=confined_names.question("other.test", 1)), None),
        (reply(record(b"\xc0\0\2\7"), flags=0x8183), (4711, [])), (reply(record(b"\xc0\0\2")), (4711, [])),
        (reply(record(b"\xc0\0\2\7", 28)), (4711, [])), (reply(b"\xc0\x0c\0\1"), (4711, [])),
        (reply(record(b"\xc0\0\2\7", name=b"\x40" * 70)), (4711, [])), (reply(record(b"\xc0\0\2\7")[:-1]), (4711, [])),
        (reply(*[record(b"\xc0\0\2\7")] * 60), (4711, ["192.0.2.7"] * confined_names.MOST)),
        (reply(record(b"\xc0\0\2\7"), question=QUESTION.replace(b"probe", b"PrObE")), (4711, ["192.0.2.7"])),
        (b"", None), (b"\0" * 11, None), (b"\0" * 5000, None),
    ],
)  # fmt: skip
def test_answers_that_are_none(data: bytes, told: object) -> None:
    assert confined_names.answer(data, ASKED) == told


@given(st.binary(max_size=300), st.integers(0, 65535))
def test_any_bytes_are_an_answer_or_none(data: bytes, count: int) -> None:
    confined_names.answer(data, ASKED)
    confined_names.answer(struct.pack("!6H", 4711, 0x8180, 1, count, 0, 0) + QUESTION + data, ASKED)


def test_a_resolver_that_answers_late_wrongly_and_at_last() -> None:
    """The real exchange: a refusal, a stranger's answer, and the right one."""
    with ExitStack() as stack:
        resolver, ours, nobody = (
            stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(3)
        )
        resolver.bind(("127.0.0.1", 0))
        resolver.settimeout(10)
        ours.connect(resolver.getsockname())
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as gone:
            gone.bind(("127.0.0.1", 0))
            nobody.connect(gone.getsockname())

        def work() -> None:
            data, sender = resolver.recvfrom(512)
            (number,) = struct.unpack_from("!H", data)
            resolver.sendto(reply(record(b"\6\6\6\6"), number=number ^ 1, question=data[12:]), sender)
            resolver.sendto(reply(record(b"\xc0\0\2\7"), number=number, question=data[12:]), sender)

        thread = threading.Thread(target=work)
        thread.start()
        said = confined_names.main([nobody, ours], json.dumps([["probe.test"], [1]]).encode())
        thread.join()
    assert json.loads(said) == {"probe.test": ["192.0.2.7"]}


# --- router advertisements --------------------------------------------------------------------------------------------


def message(
    url: bytes, ifindex: int = 7, kind: int = 68, icmp: int = 134, option: int = 37, length: int | None = None
) -> bytes:
    padded = url + b"\0" * (-(len(url) + 2) % 8)
    size = (len(padded) + 2) // 8 if length is None else length
    body = struct.pack("=BxHiBBHI", 10, len(padded) + 2, ifindex, icmp, 0, 0, 0) + bytes((option, size & 255)) + padded
    body += b"\0" * (-len(body) % 4)
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body


def test_router_advertisements() -> None:
    two = message(b"https://portal.example/api") + message(UNRESTRICTED.encode(), ifindex=9)
    assert advertised(two) == [(7, "https://portal.example/api"), (9, UNRESTRICTED)]


@pytest.mark.parametrize(
    "data",
    [
        b"", message(b"https://a.example/", kind=16), message(b"https://a.example/", icmp=135),
        message(b"https://a.example/", option=25), message(b"javascript:alert(1)"), message(b"https://a.example/\x1b[2J"),
        message(b"https://a.example/", length=0), message(b"https://a.example/")[:-9], message(b"")[:20],
        message("https://ä.example/".encode()), struct.pack("=IHHII", 0, 68, 0, 0, 0) * 2,
    ],
)  # fmt: skip
def test_hostile_router_advertisements(data: bytes) -> None:
    assert advertised(data) == []


@given(st.binary(max_size=200))
def test_any_bytes_are_an_advertisement_or_none(data: bytes) -> None:
    for _, url in advertised(data):
        assert url.isascii()


# --- who is asked -----------------------------------------------------------------------------------------------------


def test_the_networks_own_resolvers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub, real = tmp_path / "resolv.conf", tmp_path / "real.conf"
    stub.write_text("nameserver 127.0.0.53\nnameserver ::1\n")
    real.write_text("# x\nnameserver 192.0.2.53\nnameserver 2001:db8::53\nnameserver 192.0.2.53\nnameserver x\n")
    written = (tmp_path / "missing", stub, real)
    monkeypatch.setattr(nameservers.of_the_network, "__defaults__", (written, (), ()))
    assert [str(each) for each in resolvers(LINK)] == ["192.0.2.53", "192.0.2.1"], "of the families that lead anywhere"
    real.write_bytes(b"\xff" * 1_000_000)
    assert resolvers(LINK) == [ip_address("192.0.2.1")]
    real.write_bytes(HEADER + b"\nnameserver 192.0.2.53\n")  # ours: it leads into the tunnel
    assert resolvers(LINK) == [ip_address("192.0.2.1")]


@pytest.mark.parametrize(
    "text, url",
    [
        ("IFINDEX=7\nCAPTIVE_PORTAL=https://portal.example/api\nDNS=\n", "https://portal.example/api"),
        ("CAPTIVE_PORTAL=\n", None), ("XCAPTIVE_PORTAL=https://a.example/\n", None), ("CAPTIVE_PORTAL=a b\n", None),
        ("CAPTIVE_PORTAL=\x1b[2J\n", None), ("CAPTIVE_PORTAL=" + "x" * 3000 + "\n", None), ("", None),
    ],
)  # fmt: skip
def test_what_systemd_networkd_was_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, url: str | None
) -> None:
    monkeypatch.setattr(portals, "NETWORKD", tmp_path)
    (tmp_path / "7").write_text(text)
    assert LinuxPortals().announced(7) == (Announced(url, "dhcp") if url else None)
    assert LinuxPortals().announced(8) is None


# --- what is made of it -----------------------------------------------------------------------------------------------

ONE, TWO, THREE = (Probe(f"{name}.example", "/x", b"yes") for name in ("one", "two", "three"))
Said = dict[str, object] | None | HostError
RIGHT: Said = {"status": 200, "right": True, "location": ""}
AWAY: Said = {"status": 302, "right": False, "location": "http://portal.example/in"}
PAGE: Said = {"status": 200, "right": False, "location": ""}
BROKEN: Said = {"status": 503, "right": False, "location": ""}
ODD: Said = HostError("run", "it talks nonsense")


def look(
    monkeypatch: pytest.MonkeyPatch, said: dict[str, Said], announced: Announced | None = None
) -> tuple[object, list[str]]:
    asked: list[str] = []

    async def answer(self: LinuxPortals, link: Link, there: object, **_: object) -> object:
        host = there.host  # type: ignore[attr-defined]
        asked.append(host)
        if isinstance(found := said.get(host), HostError):
            raise found
        return found

    monkeypatch.setattr(LinuxPortals, "_ask", answer)
    return asyncio.run(LinuxPortals().look(LINK, [ONE, TWO, THREE], announced)), asked


ALL = ["one.example", "two.example", "three.example"]


@pytest.mark.parametrize(
    "one, two, reach, url, asked",
    [
        (RIGHT, AWAY, Reach.INTERNET, "", 1),  # whoever needs no second opinion asks for none
        (AWAY, RIGHT, Reach.INTERNET, "", 3),  # one server was moved: the tunnel is tried
        (AWAY, None, Reach.PORTAL, "http://portal.example/in", 3),
        (PAGE, AWAY, Reach.PORTAL, "http://one.example/x", 3),
        (None, PAGE, Reach.PORTAL, "http://two.example/x", 3),
        (None, None, Reach.NOTHING, "", 3),
        (BROKEN, None, None, "", 3),
        (ODD, None, None, "", 3),
        (ODD, AWAY, Reach.PORTAL, "http://portal.example/in", 3),
        ({"status": "x", "right": 1}, BROKEN, None, "", 3),
        (
            {"status": 302, "right": False, "location": "javascript:alert(1)"},
            None,
            Reach.PORTAL,
            "http://one.example/x",
            3,
        ),
        ({"status": 302, "right": False, "location": "/in?x"}, None, Reach.PORTAL, "http://one.example/in?x", 3),
        ({"status": 302, "right": False, "location": "x" * 100_000}, None, Reach.PORTAL, "http://one.example/x", 3),
        ({"status": 302, "right": False, "location": "http://[x"}, None, Reach.PORTAL, "http://one.example/x", 3),
        ({"status": 511, "right": False, "location": 7}, None, Reach.PORTAL, "http://one.example/x", 3),
    ],
)
def test_a_look(
    monkeypatch: pytest.MonkeyPatch, one: Said, two: Said, reach: Reach | None, url: str, asked: int
) -> None:
    found, hosts = look(monkeypatch, {"one.example": one, "two.example": two})
    assert found == (Internet(reach, "probe", url) if reach else None)
    assert sorted(hosts) == sorted(ALL[:asked])


def api(said: object) -> Callable[[pytest.MonkeyPatch], tuple[object, list[str]]]:
    url = Announced("https://portal.example/api", "ra")
    return lambda monkeypatch: look(monkeypatch, {"portal.example": said, "one.example": RIGHT}, url)  # type: ignore[dict-item]


@pytest.mark.parametrize(
    "said, found",
    [
        (
            {"captive": True, "url": "https://portal.example/in"},
            Internet(Reach.PORTAL, "ra", "https://portal.example/in"),
        ),
        ({"captive": True, "url": "javascript:alert(1)"}, Internet(Reach.PORTAL, "ra", "")),
        ({"captive": False, "url": ""}, Internet(Reach.INTERNET, "ra", "")),
        # An API that is none is no reason to believe anything: the probes tell.
        ({"captive": "yes"}, Internet(Reach.INTERNET, "probe", "")),
        (None, Internet(Reach.INTERNET, "probe", "")),
        (HostError("run", "certificate verify failed"), Internet(Reach.INTERNET, "probe", "")),
    ],
)
def test_a_portals_api(monkeypatch: pytest.MonkeyPatch, said: object, found: Internet) -> None:
    assert api(said)(monkeypatch)[0] == found


@pytest.mark.parametrize("url", ["http://portal.example/", "https://portal.example:8443/", "file:///etc/passwd", "x"])
def test_what_cannot_be_an_api_is_not_asked(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    assert look(monkeypatch, {"one.example": RIGHT}, Announced(url, "dhcp")) == (
        Internet(Reach.INTERNET, "probe"),
        ALL[:1],
    )


def test_a_network_that_says_it_has_no_portal_is_not_asked_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    assert look(monkeypatch, {}, Announced(UNRESTRICTED, "dhcp")) == (Internet(Reach.INTERNET, "dhcp"), [])


# --- the kernel -------------------------------------------------------------------------------------------------------


@pytest.mark.netns
def test_the_kernel_hands_on_what_a_router_advertises() -> None:
    """RFC 8910, 2.3: option 37 of a real router advertisement, and it is void with the next association."""
    url = b"https://portal.example/api"
    with Host("laptop") as laptop, Host("router") as router:
        router.sysctl(("net/ipv6/conf/default/accept_dad", "0"))
        laptop.sysctl(("net/ipv6/conf/default/accept_dad", "0"))
        router.ip(f"link add name lan type veth peer name wlan0 netns {laptop.pid}")
        router.ip("link set lan up", "address add fe80::1/64 dev lan nodad")
        laptop.ip("link set wlan0 up")
        index = laptop.inside(lambda: socket.if_nametoindex("wlan0"))
        heard = LinuxPortals()
        laptop.inside(lambda: heard.forget(index))
        assert heard.announced(index) is None
        option = bytes((37, (len(url) + 2 + 7) // 8)) + url
        option += b"\0" * (-len(option) % 8)
        advertisement = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0) + option
        with router.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as raw:
            raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
            raw.bind(("fe80::1", 0, 0, router.inside(lambda: socket.if_nametoindex("lan"))))
            deadline = time.monotonic() + 20
            while heard.announced(index) is None and time.monotonic() < deadline:
                raw.sendto(advertisement, ("ff02::1", 0, 0, router.inside(lambda: socket.if_nametoindex("lan"))))
                time.sleep(0.1)
        assert heard.announced(index) == Announced(url.decode(), "ra")
        heard.forget(index)
        assert heard.announced(index) is None
        heard.close()
