"""The VPN server: WireGuard, NAT of both families, and a resolver that listens inside the tunnel only."""

from __future__ import annotations

import base64
import hashlib
import time

from lab.addresses import Plan, Site
from lab.hosts import Host
from lab.processes import LabError, Process
from lab.routers import MASQUERADE4, MASQUERADE6, default_routes, dnsmasq, names

LINK = "wg0"
BLOCK = """
table inet block {
    chain input {
        type filter hook input priority filter
        udp dport PORT drop
    }
}
"""


def private_key(seed: int, name: str) -> str:
    """A WireGuard private key, the same for the same seed and name: a laboratory keeps no secret. RFC 7748, 5."""
    key = bytearray(hashlib.sha256(f"tunwarden lab {seed} {name}".encode()).digest())
    key[0] &= 248
    key[31] = (key[31] & 127) | 64
    return base64.b64encode(key).decode()


class VpnServer:
    """WireGuard at both addresses of a site, `plan.site` unless another is given, for one client: the laptop."""

    def __init__(self, host: Host, plan: Plan, site: Site | None = None) -> None:
        self.host, self._plan = host, plan
        self.site = site or plan.site
        self._private = private_key(plan.seed, self.site.name)
        self.client_private = private_key(plan.seed, f"laptop at {self.site.name}")
        self.public = self.client_public = ""
        self._engine: Process | None = None  # wireguard-go; None: not running, or the kernel's own
        self._resolver: Process | None = None

    @property
    def running(self) -> bool:
        return self._resolver is not None

    @property
    def engine(self) -> str:
        """What drives the tunnel while it runs; the laptop, on the same kernel, uses the same."""
        return "the kernel's WireGuard" if self._engine is None else "wireguard-go"

    def prepare(self) -> None:
        """Addresses, routes and NAT; needs no tunnel yet."""
        uplink = self.site.uplink
        self.host.ip(
            "link set lo up", f"address add {uplink.face4(2)} dev wan", f"address add {uplink.face6(2)} dev wan",
            "link set wan up", *default_routes(uplink),
        )  # fmt: skip
        self.host.run("nft", "-f", "-", input=MASQUERADE4 + MASQUERADE6)
        self.public = self.host.run("wg", "pubkey", input=self._private).stdout.strip()
        self.client_public = self.host.run("wg", "pubkey", input=self.client_private).stdout.strip()

    def start(self) -> None:
        """Create the tunnel (about 60 ms): the kernel's WireGuard where there is one, else wireguard-go."""
        if self.running:
            return
        if self.host.run("ip", "link", "add", LINK, "type", "wireguard", check=False).returncode != 0:
            self._engine = self.host.start("wireguard-go", "--foreground", LINK, env={"LOG_LEVEL": "error"})
            self._wait_for_link()
        peer = ", ".join(str(address) for address in self.site.inside_client)
        self.host.run(
            "wg", "setconf", LINK, "/dev/stdin",
            input=f"[Interface]\nPrivateKey = {self._private}\nListenPort = {self.site.port}\n"
            f"[Peer]\nPublicKey = {self.client_public}\nAllowedIPs = {peer}\n",
        )  # fmt: skip
        tunnel = self.site.tunnel
        self.host.ip(
            f"address add {tunnel.face4(1)} dev {LINK}", f"address add {tunnel.face6(1)} dev {LINK}",
            f"link set {LINK} mtu 1420 up",
        )  # fmt: skip
        v4, v6 = self.site.inside_server
        self._resolver = dnsmasq(
            self.host, f"listen-address={v4},{v6}", *names(self._plan, v4, v6), f"server={self._plan.internet4}",
            "edns-packet-max=4096",  # it takes large questions; by itself, dnsmasq takes 1232 bytes
        )  # fmt: skip
        self._resolver.wait_output("started")

    def _wait_for_link(self, timeout: float = 20.0) -> None:
        assert self._engine is not None
        deadline = time.monotonic() + timeout
        # The control socket comes after the link, and its file before it listens: `wg` would take the file away.
        while not self.host.listens(f"/run/wireguard/{LINK}.sock"):
            if not self._engine.running or time.monotonic() > deadline:
                raise LabError(f"wireguard-go did not start: {self._engine.output()}")
            time.sleep(0.002)

    def kill(self) -> None:
        """The server's VPN dies at once, without a word to the client (SIGKILL); the machine stays reachable."""
        if self._resolver is not None:
            self._resolver.kill()
            self._resolver = None
        if self._engine is not None:
            self._engine.kill()
            self._engine = None
            self.host.run("rm", "-f", f"/run/wireguard/{LINK}.sock")
        else:
            self.host.run("ip", "link", "delete", LINK, check=False)

    def block(self) -> None:
        """A firewall on the way swallows everything to the VPN's port; nothing answers. Idempotent."""
        self.unblock()
        self.host.run("nft", "-f", "-", input=BLOCK.replace("PORT", str(self.site.port)))

    def unblock(self) -> None:
        """Idempotent."""
        self.host.run("nft", "delete", "table", "inet", "block", check=False)

    def handshake_age(self) -> float | None:
        """Seconds since the last handshake, as the server sees it; None: never."""
        lines = self.host.run("wg", "show", LINK, "latest-handshakes").stdout.split()
        moment = int(lines[1]) if len(lines) == 2 else 0
        return time.time() - moment if moment else None

    def client_config(self, ipv6_endpoint: bool = False) -> str:
        """The laptop's configuration in the syntax of wg-quick(8)."""
        address = f"[{self.site.public6}]" if ipv6_endpoint else str(self.site.public4)
        inside4, inside6 = self.site.inside_client
        return (
            "[Interface]\n"
            f"PrivateKey = {self.client_private}\n"
            f"Address = {inside4}/32, {inside6}/128\n"
            f"DNS = {', '.join(str(resolver) for resolver in self.site.inside_server)}\n"
            "\n[Peer]\n"
            f"PublicKey = {self.public}\n"
            f"Endpoint = {address}:{self.site.port}\n"
            "AllowedIPs = 0.0.0.0/0, ::/0\n"
        )
