"""Whether an OpenVPN tunnel still carries anything: a question to its resolver when silence has become suspicious.

openvpn gives its server up after `ping-restart`, mostly one or two minutes. When data goes out and nothing comes back,
the tunnel's own resolver is asked for the root's name servers, which every resolver knows, through the tunnel and
nowhere else. That says something only of a resolver that has answered before; where none has, openvpn is waited for.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
from collections.abc import Callable, Iterable, Sequence

from daemon.linux.wireguard_device import PeerState
from daemon.linux.wireguard_vigil import PATIENCE, Vigil
from policies.facts import Address
from policies.firewall import TUNNEL_IFNAME

FIRST_WAITS = (0.3, 0.7, 1.0, 2.0, 4.0, 8.0)  # seconds between questions until one has answered at all
# Afterwards: eight, for each may be lost on its way or back; the last has a second. With SILENCE, 6 s under traffic.
WAITS = (*(0.3,) * 7, 1.0)
DNS_PORT, NS, IN = 53, 2, 1  # RFC 1035


async def silent(resolvers: Sequence[Address], state: Callable[[], PeerState], moved: asyncio.Event) -> str:
    """Returns, with the reason, when nothing comes back. `state` reads the link; `moved`: the way has changed."""
    now = asyncio.get_running_loop().time
    resolver = await first_to_answer(resolvers)
    if resolver is None:
        await moved.wait()
        return "the way to the server has changed"
    vigil = Vigil(now(), state(), 0)
    while True:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(vigil.wait):
                await moved.wait()
        vigil.look(now(), state())
        if moved.is_set() or vigil.suspicious:
            moved.clear()
            if not await answers(resolver, WAITS):
                return "nothing comes back, and the tunnel's resolver does not answer"
            vigil = Vigil(now(), state(), 0, PATIENCE)


async def first_to_answer(resolvers: Sequence[Address]) -> Address | None:
    """The first that answers; None when none does in time."""
    for wait in FIRST_WAITS:
        for resolver in resolvers:
            if await answers(resolver, (wait,)):
                return resolver
    return None


async def answers(resolver: Address, waits: Iterable[float]) -> bool:
    """Whether it answers one of as many questions; each waits so many seconds before the next is asked."""
    running = asyncio.get_running_loop()
    family = socket.AF_INET if resolver.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as asker:
        asker.setblocking(False)
        try:
            asker.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, TUNNEL_IFNAME.encode())
            asker.connect((str(resolver), DNS_PORT))
        except OSError:  # the link is gone, or IPv6 is off
            return False
        number = secrets.token_bytes(2)
        question = number + bytes((1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, NS, 0, IN))
        for wait in waits:
            until = running.time() + wait
            with contextlib.suppress(OSError):
                asker.send(question)
            while (left := until - running.time()) > 0:
                try:
                    if (await asyncio.wait_for(running.sock_recv(asker, 512), left))[:2] == number:
                        return True
                except OSError:  # refused on the way, perhaps by our own rules: no answer of anybody's
                    await asyncio.sleep(min(left, 0.05))
                except TimeoutError:
                    break
    return False
