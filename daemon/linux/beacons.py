"""Asks a beacon over one link: the connection is ours, what is said on it is read by a confined process."""

from __future__ import annotations

import asyncio
import os
import socket
import struct

from daemon.host import HostError
from daemon.linux import confined
from policies.facts import Endpoint
from policies.firewall import MARK
from policies.settings_values import endpoint_text

SO_MARK = 36  # <asm-generic/socket.h>
CONNECT_S = 5.0  # the kernel repeats a lost SYN after one second and after three
ANSWER_S = 10.0  # for the handshake: a small router takes a second for its signature
DIGEST_BYTES = 32


class LinuxBeacons:
    """Implements `daemon.host.Beacons`. Needs CAP_NET_ADMIN; before Linux 5.7 also CAP_NET_RAW."""

    async def fingerprint(self, ifname: str, server: Endpoint) -> bytes:
        what = f"ask the beacon {endpoint_text(server)} over {ifname}"
        family = socket.AF_INET6 if server.address.version == 6 else socket.AF_INET
        try:
            with socket.socket(family, socket.SOCK_STREAM) as connection:
                connection.setblocking(False)
                # Marked for the firewall's exception, bound so that no other link can be taken for this one.
                connection.setsockopt(socket.SOL_SOCKET, SO_MARK, MARK)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, ifname.encode() + b"\0")
                # Nothing is left to be sent when the exception has ended: closed is gone.
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                to: tuple[str, int] | tuple[str, int, int, int] = (str(server.address), server.port)
                if server.address.is_link_local and family is socket.AF_INET6:
                    to = (*to[:2], 0, socket.if_nametoindex(ifname))
                async with asyncio.timeout(CONNECT_S):
                    await asyncio.get_running_loop().sock_connect(connection, to)
                connection.setblocking(True)  # for the child: the two share the flag
                digest = await confined.run("daemon.linux.confined_tls", [connection], b"", seconds=ANSWER_S)
        except TimeoutError as err:
            raise HostError(what, "nobody answers") from err
        except OSError as err:  # of asyncio's, only the number is the kernel's
            raise HostError(what, os.strerror(err.errno) if err.errno else str(err)) from err
        except HostError as err:
            raise HostError(what, err.why) from err
        if len(digest) != DIGEST_BYTES:
            raise HostError(what, f"{len(digest)} bytes are no SHA-256")
        return digest
