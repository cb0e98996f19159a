"""Tunnels that somebody else brings up on the laptop: wg-quick, and an openvpn by hand under a user of its own."""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
from collections.abc import Iterator

from lab.hosts import Host
from lab.openvpn_server import PROGRAM, OpenVpnServer
from lab.processes import Process
from lab.topology import Laboratory

WG_LINK, OVPN_LINK = "peer0", "tun7"
FWMARK = 51820  # what wg-quick would take by itself, but only after the first handshake has begun, without a mark
USER = 4242  # under whom openvpn runs
RIGHTS = "+net_admin,+dac_override"  # links and routes; /dev/net/tun is root's alone on some machines
TUNSETIFF, IFF_TUN, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x1, 0x2, 0x1000  # <linux/if_tun.h>


class WgQuick:
    """The laboratory's VPN by wg-quick(8)."""

    def __init__(self, lab: Laboratory, routes: bool = True) -> None:
        """`routes`: it sets rules and routes of its own, too. The kernel puts such rules before all there are."""
        self.lab = lab
        # Its resolver would need resolvconf; without, it leaves the names to the resolvers of the network as they were.
        lines = [line for line in lab.client_config().splitlines() if not line.startswith("DNS")]
        more = [f"FwMark = {FWMARK:#x}", *([] if routes else ["Table = off"])]
        at = lines.index("[Interface]") + 1
        lines[at:at] = more
        lab.laptop.write(f"/etc/wireguard/{WG_LINK}.conf", "\n".join(lines) + "\n", mode=0o600)

    def profile(self, **other: str) -> str:
        """As an administrator would write it. `other`: values in the place of those, or more."""
        site = self.lab.vpn.site
        keys = {
            "link": f'"{WG_LINK}"',
            "endpoints": f'["{site.public4}:{site.port}/udp", "[{site.public6}]:{site.port}/udp"]',
            "fwmark": f"{FWMARK:#x}",
        }
        return "[external]\n" + "".join(f"{key} = {value}\n" for key, value in {**keys, **other}.items() if value)

    def up(self) -> None:
        self.lab.laptop.run("wg-quick", "up", WG_LINK)

    def down(self) -> None:
        self.lab.laptop.run("wg-quick", "down", WG_LINK)


class PlainOpenVpn:
    """openvpn with its own file, which sets its addresses and routes itself."""

    def __init__(self, lab: Laboratory, server: OpenVpnServer) -> None:
        self.lab, self.server = lab, server
        self.process: Process | None = None

    def profile(self, **other: str) -> str:
        site = self.server.site
        keys = {
            "link": f'"{OVPN_LINK}"',
            "kind": '"tun"',
            "endpoints": f'["{site.public4}:{site.port}/{self.server.protocol}"]',
            "uid": str(USER),
        }
        return "[external]\n" + "".join(f"{key} = {value}\n" for key, value in {**keys, **other}.items() if value)

    def up(self) -> None:
        """Starts it; it goes on trying until it is stopped."""
        config = self.server.client_config(extra=("redirect-gateway def1 ipv6", "connect-retry 1 2"))
        config = config.replace("dev tun\n", f"dev {OVPN_LINK}\ndev-type tun\n")
        self.lab.laptop.write("/etc/lab/client.ovpn", config)
        self.process = self.lab.laptop.start(
            "setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", f"--inh-caps={RIGHTS}",
            f"--ambient-caps={RIGHTS}", PROGRAM, "--config", "/etc/lab/client.ovpn",
        )  # fmt: skip

    def down(self) -> None:
        if self.process is not None:
            process, self.process = self.process, None
            with contextlib.suppress(ProcessLookupError):
                process.stop(20)


@contextlib.contextmanager
def device(host: Host, name: str, address: str, *, tap: bool = False) -> Iterator[None]:
    """A tun or tap link that a process holds and nobody reads, up and with an address."""

    def make() -> int:
        held = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
        fcntl.ioctl(held, TUNSETIFF, struct.pack("=16sH22x", name.encode(), (IFF_TAP if tap else IFF_TUN) | IFF_NO_PI))
        return held

    held = host.inside(make)
    try:
        host.ip(f"address add {address} dev {name}", f"link set {name} up")
        yield
    finally:
        os.close(held)
