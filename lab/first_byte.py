"""How long until the first answer comes through a tunnel: what a user waits for after a change."""

from __future__ import annotations

import errno
import selectors
import socket
import time
from ipaddress import IPv4Address, IPv6Address

from lab.addresses import WEB_PORT, Site
from lab.hosts import Host
from lab.processes import LabError
from lab.subject import Subject

INTERVAL_S = 0.01  # between two connections, which is also how exact the result is
KEPT = 100  # connections that wait at the same time: one whose first packet was lost would wait a second
REQUEST = b"GET / HTTP/1.1\r\nHost: internet.test\r\nConnection: close\r\n\r\n"


def first_byte(
    host: Host, web: IPv4Address | IPv6Address, exit: IPv4Address | IPv6Address, begun: float, timeout: float = 30.0
) -> float:
    """Seconds from `begun` (time.monotonic) until a web server has answered the host and saw it as `exit`.

    A new connection every 10 ms, so that no lost packet makes the result worse than it is. Waits `timeout` seconds from
    the call on. Raises LabError.
    """
    waiting: dict[socket.socket, bytes] = {}
    with selectors.DefaultSelector() as selector:

        def begin() -> None:
            asker = host.socket(socket.AF_INET if web.version == 4 else socket.AF_INET6, socket.SOCK_STREAM)
            asker.setblocking(False)
            if asker.connect_ex((str(web), WEB_PORT)) not in (
                0,
                errno.EINPROGRESS,
            ):  # refused by the firewall or routes
                asker.close()
                return
            waiting[asker] = b""
            selector.register(asker, selectors.EVENT_WRITE)

        def end(asker: socket.socket) -> None:
            selector.unregister(asker)
            del waiting[asker]
            asker.close()

        def advance(asker: socket.socket, events: int) -> bool:
            """Whether it has brought the answer."""
            if events & selectors.EVENT_WRITE:
                asker.send(REQUEST)
                selector.modify(asker, selectors.EVENT_READ)
                return False
            part = asker.recv(4096)
            waiting[asker] += part
            if part:
                return False
            seen = waiting[asker].rpartition(b"\r\n\r\n")[2].decode("ascii", "replace").strip()
            end(asker)
            return seen == str(exit)

        due = time.monotonic()
        until = due + timeout
        try:
            while (now := time.monotonic()) < until:
                if now >= due:
                    due = now + INTERVAL_S
                    begin()
                    for oldest in list(waiting)[:-KEPT]:
                        end(oldest)
                for key, events in selector.select(max(0.0, due - now)):
                    assert isinstance(key.fileobj, socket.socket)
                    try:
                        if advance(key.fileobj, events):
                            return time.monotonic() - begun
                    except OSError:
                        end(key.fileobj)
        finally:
            for asker in list(waiting):
                end(asker)
    raise LabError(f"nothing came back from {web} as {exit} within {timeout} s")


def protected_again(subject: Subject, site: Site | None = None, timeout: float = 30.0) -> None:
    """Wait until the daemon says so and both families leave by that server, the first unless told. Raises LabError."""
    lab, begun = subject.lab, time.monotonic()
    site = site or lab.plan.site
    for web, exit in ((lab.plan.internet4, site.public4), (lab.plan.internet6, site.public6)):
        try:
            first_byte(lab.laptop, web, exit, begun, timeout)
        except LabError as err:
            log = subject.process.output()[-6000:] if subject.process else ""
            raise LabError(f"{err}\n{subject.status()}\n{log}") from None
    subject.wait("connected", timeout)
