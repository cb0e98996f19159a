"""A TLS server that a network is known by, and what strangers put in its place.

A script of its own: `python -I -S tls_beacon.py ADDRESS PORT CERTIFICATE KEY [BEHAVIOUR]`. Prints "ready" once it
listens and "asked" for each connection, with the peer's address.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import sys
import threading
import time
import warnings

HANDSHAKE, SERVER_KEY_EXCHANGE = 22, 12  # RFC 5246
APART_S = 0.2


def context(certificate: str, key: str) -> ssl.SSLContext:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key)
    return server


def answer(connection: socket.socket, behaviour: str, server: ssl.SSLContext) -> None:
    match behaviour:
        case "proves" | "tls12" | "tls11":
            with server.wrap_socket(connection, server_side=True) as tls:
                tls.recv(100)
        case "silent":
            connection.recv(1 << 16)
            threading.Event().wait()
        case "closes":
            return
        case "garbage":
            connection.sendall(os.urandom(1 << 12))
            connection.recv(1 << 16)
        case "endless":  # well-formed records of alerts that say nothing, as fast as they are taken
            while True:
                connection.sendall(bytes((21, 3, 3, 0, 2, 1, 90)) * 10_000)
        case "drips":  # a byte now and then of what would be a long message
            connection.sendall(bytes((HANDSHAKE, 3, 3, 0x40, 0)))
            while True:
                time.sleep(APART_S)
                connection.sendall(b"\2")
        case "keyless":
            forged(connection, server)
        case _:
            raise AssertionError(behaviour)


def forged(connection: socket.socket, server: ssl.SSLContext) -> None:
    """Show the certificate without its private key: with a signature that somebody else made."""
    ours, theirs = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = server.wrap_bio(theirs, ours, server_side=True)
    theirs.write(connection.recv(1 << 16))
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    connection.sendall(with_a_foreign_signature(ours.read()))
    print("forged", flush=True)
    connection.recv(1 << 16)


def with_a_foreign_signature(flight: bytes) -> bytes:
    """The last byte of the ServerKeyExchange turned round. RFC 5246, 6.2.1 and 7.4.3."""
    out, at, forgeries = bytearray(flight), 0, 0
    while at < len(out):
        kind, end = out[at], at + 5 + int.from_bytes(out[at + 3 : at + 5])
        message = at + 5
        while kind == HANDSHAKE and message < end:
            after = message + 4 + int.from_bytes(out[message + 1 : message + 4])
            if out[message] == SERVER_KEY_EXCHANGE:
                out[after - 1] ^= 0xFF
                forgeries += 1
            message = after
        at = end
    assert forgeries == 1, "no ServerKeyExchange in the server's first flight"
    return bytes(out)


def serve(listener: socket.socket, behaviour: str, server: ssl.SSLContext) -> None:
    def one(connection: socket.socket, peer: str) -> None:
        print(f"asked by {peer}", flush=True)
        with connection, contextlib.suppress(OSError):
            answer(connection, behaviour, server)

    while True:
        connection, address = listener.accept()
        threading.Thread(target=one, args=(connection, address[0]), daemon=True).start()


def main() -> None:
    address, port, certificate, key, *behaviours = sys.argv[1:]
    behaviour = behaviours[0] if behaviours else "proves"
    server = context(certificate, key)
    if behaviour in ("tls12", "keyless"):
        server.maximum_version = ssl.TLSVersion.TLSv1_2
        server.set_ciphers("ECDHE+AESGCM")
    if behaviour == "tls11":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it is out of date: that is what it is here for
            server.minimum_version = server.maximum_version = ssl.TLSVersion.TLSv1_1
        server.set_ciphers("DEFAULT@SECLEVEL=0")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, int(port)), family=family, backlog=64) as listener:
        print("ready", flush=True)
        serve(listener, behaviour, server)


if __name__ == "__main__":
    main()
