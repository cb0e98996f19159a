"""A laptop and a VPN server with real WireGuard at both ends, in private network namespaces.

Where the kernel has WireGuard the laptop can use it or wireguard-go; the server uses the kernel's then. Elsewhere both
ends are wireguard-go.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.hosts import Host
from lab.processes import Process

ROOT = Path(__file__).parents[3]
CONSOLE = Path(__file__).with_name("wireguard_console.py")
LINK = "tunwarden0"
OUTSIDE, OUTSIDE6 = "192.0.2.1", "2001:db8::1"  # the server's addresses
INSIDE, CLIENT = "198.51.100.129", "198.51.100.130"  # in the tunnel
PORT = 51820
SINK = 9  # UDP, never answers


def kernel_has_wireguard() -> bool:
    probe = ("unshare", "--net", "ip", "link", "add", "probe", "type", "wireguard")
    with contextlib.suppress(OSError):
        return subprocess.run(probe, capture_output=True).returncode == 0
    return False


IN_KERNEL = kernel_has_wireguard()
BACKENDS = ("go", "kernel") if IN_KERNEL else ("go",)
only_go = pytest.mark.parametrize("backend", ["go"])


class Key:
    def __init__(self) -> None:
        self.text = subprocess.run(["wg", "genkey"], capture_output=True, text=True, check=True).stdout.strip()
        derived = subprocess.run(["wg", "pubkey"], input=self.text, capture_output=True, text=True, check=True)
        self.public = derived.stdout.strip()


def hexadecimal(key: str) -> str:
    return base64.b64decode(key).hex()


class Console:
    """One `WireGuard` driver in a process of the client host."""

    def __init__(self, host: Host, profile: dict[str, Any], backend: str) -> None:
        self.process: Process = host.start(
            sys.executable, "-W", "default", str(CONSOLE), backend,
            env={"PYTHONPATH": str(ROOT)}, stdin=subprocess.PIPE,
        )  # fmt: skip
        self.tell(json.dumps(profile))

    def tell(self, line: str) -> None:
        os.write(self.process.stdin, f"{line}\n".encode())

    def answers(self, call: str) -> list[dict[str, Any]]:
        lines = [line for line in self.process.output().splitlines() if line.startswith('{"call"')]
        return [answer for answer in map(json.loads, lines) if answer["call"] == call]

    def wait(self, call: str, count: int, timeout: float = 25.0) -> dict[str, Any]:
        deadline = time.monotonic() + timeout
        while len(found := self.answers(call)) < count:
            assert time.monotonic() < deadline, (
                f"{call} did not return in {timeout} s:\n{self.process.output()[-3000:]}"
            )
            assert self.process.running, self.process.output()[-3000:]
            time.sleep(0.005)
        return found[count - 1]

    def ask(self, call: str, timeout: float = 25.0) -> dict[str, Any]:
        count = len(self.answers(call)) + 1
        self.tell(call)
        return self.wait(call, count, timeout)

    def good(self, call: str, timeout: float = 25.0) -> dict[str, Any]:
        answer = self.ask(call, timeout)
        assert "error" not in answer, answer
        return answer

    def connect(self) -> None:
        self.good("open")
        self.good("established")


class Pair:
    """A client and a VPN server, joined by one cable."""

    def __init__(self, client: Host, server: Host, backend: str) -> None:
        """`backend` is the client's, "go" or "kernel"."""
        self.client, self.server, self.backend = client, server, backend
        self.client_key, self.server_key = Key(), Key()
        self.preshared = Key().text
        client.ip(
            f"link add up0 type veth peer name srv0 netns {server.pid}",
            "address add 192.0.2.2/24 dev up0", "address add 2001:db8::2/64 dev up0 nodad", "link set up0 up",
            "link set lo up",
        )  # fmt: skip
        server.ip(
            f"address add {OUTSIDE}/24 dev srv0", f"address add {OUTSIDE6}/64 dev srv0 nodad", "link set srv0 up",
            "link set lo up",
        )  # fmt: skip
        self.vpn: Process | None = None
        self._sockets = contextlib.ExitStack()

    def start_server(self) -> None:
        server = self.server
        server.write("/run/lab/key", self.server_key.text, 0o600)
        server.write("/run/lab/preshared", self.preshared, 0o600)
        if IN_KERNEL:
            server.ip("link add wg0 type wireguard")
        else:
            self.vpn = server.start("/usr/bin/wireguard-go", "-f", "wg0", env={"WG_PROCESS_FOREGROUND": "1"})
            deadline = time.monotonic() + 20
            while server.run("wg", "show", "wg0", check=False).returncode:
                assert time.monotonic() < deadline, self.vpn.output()
        server.run(
            "wg", "set", "wg0", "private-key", "/run/lab/key", "listen-port", str(PORT), "peer", self.client_key.public,
            "preshared-key", "/run/lab/preshared", "allowed-ips", f"{CLIENT}/32,2001:db8:5::2/128",
        )  # fmt: skip
        server.ip(f"address add {INSIDE}/26 dev wg0", "link set wg0 up")

    def profile(self, **changes: Any) -> dict[str, Any]:
        peer = {
            "public_key": hexadecimal(self.server_key.public), "preshared_key": hexadecimal(self.preshared),
            "host": "vpn.example", "port": PORT, "allowed_ips": ["0.0.0.0/0", "::/0"], "keepalive": 25,
            "addresses": changes.pop("resolved", [OUTSIDE]),
        }  # fmt: skip
        peer |= {name: changes.pop(name) for name in ("port", "keepalive", "allowed_ips") if name in changes}
        profile = {
            "private_key": hexadecimal(self.client_key.text), "addresses": [f"{CLIENT}/26", "2001:db8:5::2/64"],
            "peers": [peer],
        }  # fmt: skip
        return profile | changes

    def console(self, **changes: Any) -> Console:
        # Where there is but one backend, the driver is to find that out by itself.
        return Console(self.client, self.profile(**changes), self.backend if IN_KERNEL else "any")

    def silence(self) -> None:
        """From here on the server hears nothing and says nothing, not even by ICMP."""
        rules = ("add table inet silent", "add chain inet silent in { type filter hook input priority 0; }",
                 f"add rule inet silent in udp dport {PORT} counter drop")  # fmt: skip
        self.server.run("nft", "; ".join(rules))

    def unheard(self) -> int:
        """Packets that came since the silence began."""
        counted = re.search(r"counter packets (\d+)", self.server.run("nft", "list", "table", "inet", "silent").stdout)
        assert counted is not None
        return int(counted[1])

    def speak(self) -> None:
        self.server.run("nft", "delete", "table", "inet", "silent")

    def route(self) -> None:
        self.client.ip(f"route add 198.51.100.128/26 dev {LINK}")

    def udp(self, host: Host) -> socket.socket:
        return self._sockets.enter_context(host.socket(socket.AF_INET, socket.SOCK_DGRAM))

    def sink(self) -> socket.socket:
        """Something in the server's tunnel that takes datagrams and answers none, not even by ICMP."""
        sink = self.udp(self.server)
        sink.bind((INSIDE, SINK))
        return sink

    def sender(self, port: int = SINK) -> socket.socket:
        sender = self.udp(self.client)
        sender.connect((INSIDE, port))
        return sender

    def processes(self) -> list[int]:
        """wireguard-go processes of the client, as it numbers them."""
        script = (
            'for p in /proc/[0-9]*; do [ "$(readlink $p/exe)" = /usr/bin/wireguard-go ] && echo ${p#/proc/}; done; :'
        )
        return [int(pid) for pid in self.client.run("sh", "-c", script).stdout.split()]

    def nothing_left(self) -> bool:
        assert self.processes() == []
        assert self.client.run("ip", "link", "show", LINK, check=False).returncode != 0
        assert self.client.run("ls", "/run/wireguard").stdout == ""
        assert self.client.run("ls", "-A", "/run/tunwarden", check=False).stdout == ""
        return True

    def close(self) -> None:
        self._sockets.close()


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def pair(backend: str) -> Iterator[Pair]:
    with Host("client") as client, Host("server") as server:
        pair = Pair(client, server, backend)
        pair.start_server()
        yield pair
        pair.close()
