"""One HTTP answer: the confined part of `portals.py`, for what a portal says is a stranger's.

RFC 9112 as far as a single GET needs it. Nothing is followed, nothing is decoded but chunks, and nothing is read beyond
what the answer needs. The time is the caller's to limit.
"""

from __future__ import annotations

import encodings.idna  # noqa: F401  what ssl needs for a host's name, which cannot be opened later
import json
import re
import socket
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

HEAD, HEADERS = 16 << 10, 100  # bytes, and lines, of an answer's head
BODY = 32 << 10  # bytes: an answer of the API is a few hundred
SPOKEN = "HTTP/1."
# Where distributions keep the authorities; the first that is there. Afterwards no file can be opened.
BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem",
           "/etc/ssl/ca-bundle.pem")  # fmt: skip
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9][0-9])(?: [^\r\n]*)?")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,8})(?:;[^\r\n]*)?\r\n")


class WebError(Exception):
    """Not an answer that can be read. The text is ours."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]  # names in lower case; the first of each
    body: bytes  # as far as it was asked for


def authorities() -> ssl.SSLContext:
    """Whom we believe that a server is itself: this machine's authorities."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    for bundle in BUNDLES:
        try:
            context.load_verify_locations(bundle)
        except OSError:
            continue
        break
    return context


TLS = authorities()


def main(sockets: Sequence[socket.socket], argument: bytes) -> bytes:
    """`sockets`: one, connected and blocking. `argument`: JSON, see `portals.py`. JSON of what was answered.

    Raises OSError and WebError.
    """
    task = json.loads(argument)
    connection = sockets[0]
    if task["secure"]:
        connection = TLS.wrap_socket(connection, server_hostname=task["host"])
    if task["api"]:
        return json.dumps(
            _captive(ask(connection, task["host"], task["path"], "application/captive+json", BODY))
        ).encode()
    right = None if task["right"] is None else bytes.fromhex(task["right"])
    got = ask(connection, task["host"], task["path"], "*/*", 1 if right is None else len(right))
    is_right = (got.status, got.body) == ((204, b"") if right is None else (200, right))
    return json.dumps({"status": got.status, "right": is_right, "location": got.headers.get("location", "")}).encode()


def _captive(got: Answer) -> dict[str, object]:
    """RFC 8908, 5: `captive` must be there; the address of the login should."""
    try:
        said = json.loads(got.body)
    except (ValueError, RecursionError):
        said = None
    if got.status != 200 or not isinstance(said, dict) or not isinstance(said.get("captive"), bool):
        raise WebError("no answer of a captive portal's API")
    url = said.get("user-portal-url")
    return {"captive": said["captive"], "url": url if isinstance(url, str) else ""}


def ask(connection: socket.socket, host: str, path: str, accept: str, body: int) -> Answer:
    """GET, and the answer with at most `body` bytes of its body. Raises OSError and WebError."""
    named = f"[{host}]" if ":" in host else host
    lines = (
        f"GET {path} HTTP/1.1",
        f"Host: {named}",
        f"Accept: {accept}",
        "Cache-Control: no-cache",
        "Connection: close",
    )
    connection.sendall("".join(f"{line}\r\n" for line in (*lines, "")).encode("ascii"))
    data = b""
    while (end := data.find(b"\r\n\r\n")) < 0:
        if len(data) > HEAD:
            raise WebError(f"a head of more than {HEAD} bytes")
        if not (more := connection.recv(4096)):
            raise WebError("it ends within its head")
        data += more
    status, headers = read_head(data[:end])
    rest = data[end + 4 :]
    if status in (204, 304) or status < 200:
        return Answer(status, headers, rest[:body])
    length = headers.get("content-length", "")
    chunked = headers.get("transfer-encoding", "").lower().strip() == "chunked"
    if chunked:
        while not (told := dechunked(rest))[1] and len(told[0]) < body and len(rest) < 2 * body + HEAD:
            if not (more := connection.recv(4096)):
                break
            rest += more
        return Answer(status, headers, dechunked(rest)[0][:body])
    limit = min(body, int(length)) if re.fullmatch(r"[0-9]{1,12}", length) else body
    while len(rest) < limit and (more := connection.recv(min(65536, limit - len(rest)))):
        rest += more
    return Answer(status, headers, rest[:limit])


def read_head(head: bytes) -> tuple[int, dict[str, str]]:
    """Status and headers. Raises WebError."""
    first, *lines = head.split(b"\r\n")
    if (match := _STATUS.fullmatch(first)) is None:
        raise WebError("no HTTP")
    if len(head) > HEAD or len(lines) > HEADERS:
        raise WebError("too much of a head")
    headers: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(b":")
        # Latin-1 takes any byte; what a header says is checked by whoever needs it.
        headers.setdefault(name.decode("latin-1").lower(), value.decode("latin-1").strip(" \t"))
    return int(match[1]), headers


def dechunked(data: bytes) -> tuple[bytes, bool]:
    """The body so far, and whether it has ended (RFC 9112, 7.1). What cannot be read ends it."""
    body, at = b"", 0
    while match := _CHUNK.match(data, at):
        size = int(match[1], 16)
        chunk = data[match.end() : match.end() + size]
        body += chunk
        if size == 0 or len(chunk) < size:
            return body, size == 0
        at = match.end() + size + 2
    return body, at + 10 < len(data)  # no number is that long
