"""What the internet offers: the peer's address over HTTP, a byte sink, a byte source and a UDP echo, on both families.

A script of its own (`python -I -S services.py IPV4 IPV6`), run in the `internet` host. Prints "ready" once it listens.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
from collections.abc import Callable

WEB_PORT, SINK_PORT, SOURCE_PORT, ECHO_PORT = 80, 9, 19, 7  # as in addresses.py; a script imports nothing of ours
CHUNK = bytes(1 << 18)


def peer_name(address: tuple[str, int, int, int]) -> str:
    """The peer as text; IPv4 peers reach a dual-stack socket as ::ffff:a.b.c.d."""
    return address[0].removeprefix("::ffff:")


def web(connection: socket.socket, peer: str) -> None:
    connection.settimeout(10)
    asked = b""
    while b"\r\n\r\n" not in asked:  # what is not read when we close would make of the answer a reset
        more = connection.recv(65536)
        if not more:
            return
        asked += more
    body = f"{peer}\n".encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    connection.sendall(head.encode() + body)


def sink(connection: socket.socket, _: str) -> None:
    """Answer with the number of bytes read, once the peer has closed its half."""
    buffer, total = bytearray(1 << 18), 0
    while count := connection.recv_into(buffer):
        total += count
    connection.sendall(str(total).encode())


def source(connection: socket.socket, _: str) -> None:
    while True:
        connection.sendall(CHUNK)


def serve(listener: socket.socket, answer: Callable[[socket.socket, str], None]) -> None:
    def one(connection: socket.socket, address: tuple[str, int, int, int]) -> None:
        with connection, contextlib.suppress(OSError):
            answer(connection, peer_name(address))

    while True:
        threading.Thread(target=one, args=listener.accept(), daemon=True).start()


def echo(receiver: socket.socket) -> None:
    while True:
        data, address = receiver.recvfrom(65536)
        with contextlib.suppress(OSError):
            receiver.sendto(data, address)


def main() -> None:
    for port, answer in ((WEB_PORT, web), (SINK_PORT, sink), (SOURCE_PORT, source)):
        listener = socket.create_server(("::", port), family=socket.AF_INET6, backlog=256, dualstack_ipv6=True)
        threading.Thread(target=serve, args=(listener, answer), daemon=True).start()
    # Bound to the exact addresses: an answer from the nearest link's address would not get through the client's NAT.
    for family, address in zip((socket.AF_INET, socket.AF_INET6), sys.argv[1:], strict=True):
        receiver = socket.socket(family, socket.SOCK_DGRAM)
        receiver.bind((address, ECHO_PORT))
        threading.Thread(target=echo, args=(receiver,), daemon=True).start()
    print("ready", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
