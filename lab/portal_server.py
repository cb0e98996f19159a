"""The captive portal's web server: whatever is asked over HTTP is sent to the login page, and who logs in is let out.

A script of its own (`python -I -S portal_server.py`, one JSON argument), run in the café's router. Prints "ready" once
it listens. With a certificate it also is the portal's API over HTTPS (RFC 8908). A word in the file `lie` makes it
hostile: see LIES.
"""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

SETS = {4: "open4", 6: "open6"}


def peer_of(connection: socket.socket) -> str:
    return str(connection.getpeername()[0]).removeprefix("::ffff:")


def let_out(peer: str) -> None:
    family = 6 if ":" in peer else 4
    subprocess.run(["nft", f"add element inet lab_portal {SETS[family]} {{ {peer} }}"], check=True)


def answer(status: str, body: str, *headers: str) -> bytes:
    lines = (f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers, "", body)
    return "\r\n".join(lines).encode()


def web(connection: socket.socket, host: str, lie: str) -> None:
    """GET /login shows the form, POST /login lets the asker out, everything else leads there."""
    request = connection.recv(65536).decode("latin-1")
    try:
        with open(lie, encoding="ascii") as file:
            word = file.read().strip()
    except OSError:
        word = ""
    if word:
        LIES[word](connection)
        return
    first = request.split("\r\n", 1)[0]
    named = f"\r\nhost: {host}\r\n" in request.lower()
    if named and first.startswith("POST /login"):
        let_out(peer_of(connection))
        connection.sendall(answer("200 OK", "<p>You are logged in.</p>\n", "Content-Type: text/html"))
    elif named and first.startswith("GET /login"):
        form = '<form method="post"><button>I agree to everything</button></form>\n'
        connection.sendall(answer("200 OK", form, "Content-Type: text/html"))
    else:
        connection.sendall(answer("302 Found", "", f"Location: http://{host}/login"))


def api(connection: socket.socket, host: str) -> None:
    connection.recv(65536)
    peer = peer_of(connection)
    family = 6 if ":" in peer else 4
    out = subprocess.run(["nft", "get", "element", "inet", "lab_portal", SETS[family], f"{{ {peer} }}"],
                         capture_output=True, check=False).returncode == 0  # fmt: skip
    body = json.dumps({"captive": not out, "user-portal-url": f"http://{host}/login"})
    connection.sendall(answer("200 OK", body, "Content-Type: application/captive+json"))


def slow_loris(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    for number in range(600):
        connection.sendall(f"X-{number}: y\r\n".encode())
        time.sleep(0.5)


def header_bomb(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: y\r\n" % number for number in range(1_000_000)))


def body_bomb(connection: socket.socket) -> None:
    size = 10 << 20
    connection.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n".encode() + bytes(size))


def redirect_loop(connection: socket.socket) -> None:
    connection.sendall(answer("302 Found", "", "Location: /again"))


def redirect_to(url: bytes) -> Callable[[socket.socket], None]:
    return lambda connection: connection.sendall(b"HTTP/1.1 302 Found\r\nLocation: " + url + b"\r\n\r\n")


def noise(connection: socket.socket) -> None:
    connection.sendall(bytes(range(256)) * 64)


LIES: dict[str, Callable[[socket.socket], None]] = {
    "slow": slow_loris,
    "headers": header_bomb,
    "body": body_bomb,
    "loop": redirect_loop,
    "script": redirect_to(b"javascript:alert(1)"),
    "file": redirect_to(b"file:///etc/shadow"),
    "control": redirect_to(b"http://portal.test/\x1b[2J\x07"),
    "latin": redirect_to(b"http://portal.test/\xff\xfe"),
    "long": redirect_to(b"http://portal.test/" + b"x" * 1_000_000),
    "noise": noise,
    "silence": lambda connection: time.sleep(300),
}


def serve(listener: socket.socket, work: Callable[[socket.socket], None], tls: ssl.SSLContext | None) -> None:
    def one(connection: socket.socket) -> None:
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            stack.enter_context(connection)
            connection.settimeout(10)
            work(stack.enter_context(tls.wrap_socket(connection, server_side=True)) if tls else connection)

    while True:
        connection, _ = listener.accept()
        threading.Thread(target=one, args=(connection,), daemon=True).start()


def listen(port: int) -> socket.socket:
    return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=64)


def main() -> None:
    task: dict[str, Any] = json.loads(sys.argv[1])
    host, lie = task["host"], task["lie"]
    work: list[tuple[socket.socket, Callable[[socket.socket], None], ssl.SSLContext | None]] = [
        (listen(task["port"]), lambda connection: web(connection, host, lie), None)
    ]
    if task["certificate"]:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(*task["certificate"])
        work.append((listen(443), lambda connection: api(connection, host), tls))
    for each in work:
        threading.Thread(target=serve, args=each, daemon=True).start()
    print("ready", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
