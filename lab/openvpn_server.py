"""An OpenVPN server: the real openvpn, certificates made on the spot, NAT and a resolver inside the tunnel.

It takes the place of a host's WireGuard (`VpnServer`), at the same port and with the same addresses inside.
"""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.addresses import Plan
from lab.frames import Expect
from lab.hosts import Host
from lab.processes import Process
from lab.routers import dnsmasq, names
from lab.vpn_server import VpnServer

LINK = "tun0"
USER, PASSWORD = "alice", 'open "sesame" \\ #1'
PROGRAM = "/usr/sbin/openvpn"
CHECK = """#!/bin/sh
# $1 has the user name and the password, one a line.
[ "$(cat "$1")" = "$(cat /etc/lab/openvpn/login)" ]
"""


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key, PEM."""

    certificate: str
    key: str


class Authority:
    """A certificate authority in a folder of the test."""

    def __init__(self, folder: Path, name: str = "lab") -> None:
        self._folder, self._name = folder, name
        folder.mkdir(parents=True, exist_ok=True)
        self._openssl(
            "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
            "-subj", f"/CN={name} authority", "-keyout", self._path("ca.key"), "-out", self._path("ca.pem"),
        )  # fmt: skip
        self.certificate = self._path("ca.pem").read_text()

    def pair(self, name: str, use: str = "clientAuth", days: int = 2) -> Pair:
        """`days` below zero: it has expired."""
        key, request, certificate = (self._path(f"{name}.{kind}") for kind in ("key", "csr", "pem"))
        extensions = self._path(f"{name}.ext")
        usage = "digitalSignature"
        extensions.write_text(f"basicConstraints=CA:FALSE\nkeyUsage={usage}\nextendedKeyUsage={use}\n")
        self._openssl(
            "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", f"/CN={name}",
            "-keyout", key, "-out", request,
        )  # fmt: skip
        self._openssl(
            "x509", "-req", "-in", request, "-CA", self._path("ca.pem"), "-CAkey", self._path("ca.key"),
            "-set_serial", str(secrets.randbits(60)), "-days", str(days), "-extfile", extensions, "-out", certificate,
        )  # fmt: skip
        return Pair(certificate.read_text(), key.read_text())

    def _path(self, name: str) -> Path:
        return self._folder / f"{self._name}-{name}"

    @staticmethod
    def _openssl(*argv: str | Path) -> None:
        subprocess.run(["openssl", *argv], check=True, capture_output=True, timeout=60)


def static_key() -> str:
    """As `openvpn --genkey secret` writes it."""
    lines = [secrets.token_hex(16) for _ in range(16)]
    return "\n".join(["-----BEGIN OpenVPN Static key V1-----", *lines, "-----END OpenVPN Static key V1-----"])


class OpenVpnServer:
    """Of one laptop. `start` may be called again after `kill`, with other ways."""

    def __init__(self, vpn: VpnServer, plan: Plan, folder: Path) -> None:
        self.host: Host = vpn.host
        self.site, self._plan, self._vpn = vpn.site, plan, vpn
        self.authority = Authority(folder)
        self.client = self.authority.pair("laptop")
        self.server = self.authority.pair("server", "serverAuth")
        self.static_key, self._folder = static_key(), folder
        self.wrap_key = self.static_key  # the laptop's half, where there are two
        self.protocol, self.wrap, self.login, self.keepalive = "udp", "tls-crypt", False, ""
        self.process: Process | None = None
        self._resolver: Process | None = None

    # --- life ---------------------------------------------------------------------------------------------------------

    def start(
        self,
        protocol: str = "udp",
        wrap: str = "tls-crypt",
        login: bool = False,
        pushes: Sequence[str] = (),
        settings: Sequence[str] = (),
        pair: Pair | None = None,
        keepalive: str = "1 5",
    ) -> None:
        """`protocol`: "udp" or "tcp"; `wrap`: "tls-crypt", "tls-auth", "tls-crypt-v2" or ""; `pushes`: beside DNS.

        `keepalive`: seconds between its pings, and after which the client gives up.

        Ends the WireGuard of the host. Returns when it listens.
        """
        if self._vpn.running:
            self._vpn.kill()
        self.kill()
        self.protocol, self.wrap, self.login, self.keepalive = protocol, wrap, login, keepalive
        own = pair or self.server
        self.wrap_key, theirs = self._v2_keys() if wrap == "tls-crypt-v2" else (self.static_key, self.static_key)
        files = {
            "ca.pem": self.authority.certificate, "server.pem": own.certificate, "server.key": own.key,
            "wrap.key": theirs, "login": f"{USER}\n{PASSWORD}\n", "check": CHECK,
        }  # fmt: skip
        for name, text in files.items():
            self.host.write(f"/etc/lab/openvpn/{name}", text, mode=0o700)
        self.host.write("/etc/lab/openvpn/server.conf", "\n".join(self._settings(pushes, settings)) + "\n")
        self.process = self.host.start(PROGRAM, "--cd", "/etc/lab/openvpn", "--config", "server.conf")
        self.process.wait_output("Initialization Sequence Completed")
        v4, v6 = self.site.inside_server
        self._resolver = dnsmasq(
            self.host, f"listen-address={v4},{v6}", *names(self._plan, v4, v6), f"server={self._plan.internet4}"
        )
        self._resolver.wait_output("started")

    def _settings(self, pushes: Sequence[str], settings: Sequence[str]) -> list[str]:
        tunnel = self.site.tunnel
        assert tunnel.v4 is not None
        v4, v6 = self.site.inside_server
        protocol = {"udp": "udp6", "tcp": "tcp6-server"}[self.protocol]  # both families
        lines = [
            f"dev {LINK}", "dev-type tun", "topology subnet", f"proto {protocol}", f"port {self.site.port}",
            f"server {tunnel.v4.network_address} {tunnel.v4.netmask}", f"server-ipv6 {tunnel.v6}",
            "ca ca.pem", "cert server.pem", "key server.key", "dh none", "duplicate-cn",
            f"keepalive {self.keepalive}", "verb 3",
            "data-ciphers AES-256-GCM:AES-128-GCM:CHACHA20-POLY1305", "script-security 2", "persist-tun",
            *(f'push "{each}"' for each in (f"dhcp-option DNS {v4}", f"dhcp-option DNS6 {v6}", *pushes)), *settings,
        ]  # fmt: skip
        if self.wrap:
            lines.append(f"{self.wrap} wrap.key" + (" 0" if self.wrap == "tls-auth" else ""))
        if self.login:
            lines += ["auth-user-pass-verify /etc/lab/openvpn/check via-file", "verify-client-cert none"]
        return lines

    def _v2_keys(self) -> tuple[str, str]:
        """The laptop's, which the server's can open, and the server's."""
        ours, theirs = self._folder / "v2-client.key", self._folder / "v2-server.key"
        for argv in (
            ("--genkey", "tls-crypt-v2-server", theirs),
            ("--tls-crypt-v2", theirs, "--genkey", "tls-crypt-v2-client", ours),
        ):
            subprocess.run([PROGRAM, *argv], check=True, capture_output=True, timeout=60)
        return ours.read_text(), theirs.read_text()

    def kill(self) -> None:
        """SIGKILL: without a word to the client. Idempotent."""
        for process in (self._resolver, self.process):
            if process is not None:
                process.kill()
        self._resolver = self.process = None
        self.host.run("ip", "link", "delete", LINK, check=False)

    # --- for the laptop -----------------------------------------------------------------------------------------------

    def expect(self) -> Expect:
        """What a meter takes for this tunnel."""
        ends = frozenset((address, self.site.port) for address in (self.site.public4, self.site.public6))
        return Expect(frozenset(), ends) if self.protocol == "tcp" else Expect(ends)

    def client_config(
        self,
        *,
        pair: Pair | None = None,
        authority: str | None = None,
        remotes: Sequence[str] = (),
        extra: Sequence[str] = (),
    ) -> str:
        """As a provider would hand it out. `remotes`: other servers, as "address port", instead of this one."""
        own = pair or self.client
        parts = [
            "client\ndev tun", f"proto {self.protocol}",
            *(f"remote {each}" for each in remotes or [f"{self.site.public4} {self.site.port}"]),
            "remote-cert-tls server\nnobind\npersist-key\npersist-tun\nverb 3",
            *extra,
            block("ca", authority or self.authority.certificate),
        ]  # fmt: skip
        if self.login:
            parts.append("auth-user-pass")
        else:
            parts += [block("cert", own.certificate), block("key", own.key)]
        if self.wrap:
            parts += [block(self.wrap, self.wrap_key), "key-direction 1" if self.wrap == "tls-auth" else ""]
        return "\n".join(part for part in parts if part) + "\n"


def block(name: str, content: str) -> str:
    """As it stands in a configuration."""
    return f"<{name}>\n{content.strip()}\n</{name}>"
