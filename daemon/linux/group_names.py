"""DNS for the processes of a control group: sockets on the loopback where they ask, and sockets to resolvers.

Firewall rules lead the group's questions here and keep everybody else's away; `dns_forwarder.py` stands in between.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AsyncExitStack
from ipaddress import IPv6Address
from pathlib import Path

from daemon.linux import nameservers
from policies.facts import Address, Link
from policies.firewall import MARK

PORTS_TRIED = 20  # until one is free for IPv4 and IPv6


def listeners() -> tuple[list[socket.socket], int]:
    """UDP sockets on both loopback addresses, with the same port. Raises OSError."""
    for _ in range(PORTS_TRIED):
        four = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        four.setblocking(False)
        four.bind(("127.0.0.1", 0))
        port = int(four.getsockname()[1])
        try:
            six = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        except OSError:  # a kernel without IPv6
            return [four], port
        six.setblocking(False)
        try:
            six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            six.bind(("::1", port))
        except OSError as err:
            six.close()
            if not Path("/proc/sys/net/ipv6").exists() or not has_loopback6():
                return [four], port
            four.close()
            last = err
            continue
        return [four, six], port
    raise last


def has_loopback6() -> bool:
    """Whether ::1 is there."""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            return False
    return True


def addresses(links: Sequence[Link], written: Sequence[Path] = nameservers.WRITTEN) -> list[Address]:
    """The resolvers of the network, as its manager has written them down, and its routers: mostly they are some."""
    found = nameservers.of_the_network(written)
    routers = (gateway for link in links for gateway in link.gateways)
    return [*dict.fromkeys((*found, *routers))][: nameservers.MOST]


def connected(links: Iterable[Link], addresses: Sequence[Address], held: AsyncExitStack) -> Iterator[socket.socket]:
    """Sockets to the resolvers, over these links and with our mark; one that has no way there is left out."""
    for link in links:
        for address in addresses:
            six = isinstance(address, IPv6Address)
            one = socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM)
            held.enter_context(one)
            try:
                one.setblocking(False)
                one.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK)
                one.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, link.ifname.encode() + b"\0")
                one.connect((str(address).partition("%")[0], 53, 0, link.ifindex) if six else (str(address), 53))
            except OSError:
                continue
            yield one
