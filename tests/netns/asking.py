"""Questions between hosts of the laboratory, and small servers that answer them."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv6Address

from lab.addresses import ECHO_PORT, WEB_PORT
from lab.hosts import Host
from lab.subject import Subject
from lab.topology import Laboratory
from tests.netns.test_dead_tunnels import asking

Address = IPv4Address | IPv6Address
REFUSED = {"ConnectionRefusedError", "OSError"}  # at once, by the firewall's reset or the router's "no route"
FAST = 10.0  # seconds within which a refusal is there, even if the kernel keeps back some of its ICMP errors


def echoes(host: Host, target: Address, timeout: float = 1.0, mark: int = 0, port: int = ECHO_PORT) -> bool:
    family = socket.AF_INET if target.version == 4 else socket.AF_INET6
    with host.socket(family, socket.SOCK_DGRAM) as asker:
        asker.settimeout(timeout)
        asker.setsockopt(socket.SOL_SOCKET, 36, mark)  # SO_MARK
        try:
            asker.connect((str(target), port))
            asker.send(b"is anybody there?")
            return asker.recv(100) == b"is anybody there?"
        except OSError:
            return False


def refusal(host: Host, target: Address, port: int = WEB_PORT) -> str:
    """What became of a connection: "connected", the name of the error, or "silence"."""
    family = socket.AF_INET if target.version == 4 else socket.AF_INET6
    with host.socket(family, socket.SOCK_STREAM) as client:
        client.settimeout(FAST)
        try:
            client.connect((str(target), port))
        except TimeoutError:
            return "silence"
        except OSError as err:
            return type(err).__name__
        return "connected"


@contextlib.contextmanager
def echo_server(host: Host, port: int = 7777) -> Iterator[int]:
    """A UDP echo of both families on a host, for as long as the context lasts."""
    end = threading.Event()

    def serve(receiver: socket.socket) -> None:
        while not end.is_set():
            if select.select([receiver], [], [], 0.1)[0]:
                data, sender = receiver.recvfrom(2048)
                with contextlib.suppress(OSError):
                    receiver.sendto(data, sender)

    with contextlib.ExitStack() as stack:
        for family in (socket.AF_INET, socket.AF_INET6):
            receiver = stack.enter_context(host.socket(family, socket.SOCK_DGRAM))
            if family == socket.AF_INET6:
                receiver.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            receiver.bind(("", port))
            thread = threading.Thread(target=serve, args=(receiver,))
            thread.start()
            stack.callback(thread.join)
        stack.callback(end.set)
        yield port


@contextlib.contextmanager
def web_server(host: Host, port: int = WEB_PORT) -> Iterator[None]:
    """TCP of both families that says "container" to whoever connects."""
    end = threading.Event()
    with host.inside(
        lambda: socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    ) as listener:

        def serve() -> None:
            while not end.is_set():
                if select.select([listener], [], [], 0.1)[0]:
                    with contextlib.suppress(OSError), listener.accept()[0] as client:
                        client.sendall(b"container")

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            end.set()
            thread.join()


def says(host: Host, target: Address, port: int, timeout: float = 1.5) -> bytes:
    """What a TCP server says first; empty when there is none to be reached."""
    family = socket.AF_INET if target.version == 4 else socket.AF_INET6
    with host.socket(family, socket.SOCK_STREAM) as client:
        client.settimeout(timeout)
        try:
            client.connect((str(target), port))
            return client.recv(100)
        except OSError:
            return b""


def until(done: Callable[[], bool], timeout: float = 20.0) -> bool:
    deadline = time.monotonic() + timeout
    while not (found := done()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


def server_dies(lab: Laboratory, subject: Subject) -> None:
    """Kill the VPN server and wait until all is blocked for it: under traffic, for without nobody notices."""
    with asking(lab):
        lab.kill_server()
        subject.wait(lambda status: status.state == "blocked" and status.cause == "server-unreachable", 40)


def link_address(lab: Laboratory) -> IPv4Address:
    """The laptop's own address on wlan0."""
    text = lab.laptop.run("ip", "-4", "-o", "address", "show", "dev", "wlan0").stdout
    return IPv4Address(text.split()[3].partition("/")[0])
