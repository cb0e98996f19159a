"""Five ways to be protected, for bench_drops: tunwarden, two of wg-quick, OpenVPN, and routes alone."""

from __future__ import annotations

import hashlib
import ssl
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from lab.addresses import SERVER_PORT
from lab.hosts import Host
from lab.processes import LabError, Process
from lab.routers import dnsmasq, names
from lab.subject import SETTINGS, Subject
from lab.topology import Laboratory
from policies.firewall import TUNNEL_IFNAME

PEER = "peer0"
OURS = SETTINGS[: SETTINGS.index("[[known]]")].replace('secured = "ignore"', 'secured = "auto_connect"')


class Vpn(Protocol):
    """What is dropped. It is up after `up`, and should be again some time after `revive`."""

    lab: Laboratory
    ifname: str

    def up(self) -> None: ...
    def processes(self) -> Sequence[str]:
        """Ids of the processes that carry the tunnel, inside the laptop."""
        ...

    def control(self) -> Process | None:
        """The process that watches over the tunnel; None: there is none, or it is the same."""
        ...

    def revive(self) -> None:
        """What a supervisor would do at once after the tunnel broke, or after its control process died."""
        ...

    def rejoined(self) -> None:
        """What the network's manager would do for it on a new network."""
        ...

    def noticed(self) -> None:
        """Wait until it has noticed that its server is away, if it can. Raises LabError."""
        ...

    def kill_server(self) -> None: ...
    def start_server(self) -> None: ...


class Tunwarden:
    ifname = TUNNEL_IFNAME

    def __init__(self, lab: Laboratory) -> None:
        self.lab = lab
        self.subject = Subject(lab, OURS)

    def up(self) -> None:
        self.subject.start(30)
        self.subject.set_up()
        self.lab.join("cafe")
        self.subject.wait("connected", 30)

    def processes(self) -> Sequence[str]:
        return self.lab.laptop.run("pidof", "wireguard-go", check=False).stdout.split()

    def control(self) -> Process | None:
        return self.subject.process

    def revive(self) -> None:
        if self.subject.process is None or not self.subject.process.running:
            self.subject.start(30)

    def rejoined(self) -> None: ...
    def noticed(self) -> None:
        self.subject.wait(lambda status: status.state != "connected", 30)

    def kill_server(self) -> None:
        self.lab.kill_server()

    def start_server(self) -> None:
        self.lab.start_server()


class WgQuick:
    ifname = PEER
    post_up = ""

    def __init__(self, lab: Laboratory) -> None:
        self.lab = lab

    def up(self) -> None:
        # Its resolver would need resolvconf; without, it leaves the names to the resolvers of the network as they were.
        lines = [line for line in self.lab.client_config().splitlines() if not line.startswith("DNS")]
        lines.insert(1, self.post_up)
        self.lab.laptop.write(f"/etc/wireguard/{PEER}.conf", "\n".join(lines) + "\n", mode=0o600)
        self.lab.join("cafe")
        self.lab.laptop.run("wg-quick", "up", PEER)

    def processes(self) -> Sequence[str]:
        return self.lab.laptop.run("pidof", "wireguard-go", check=False).stdout.split()

    def control(self) -> Process | None:
        return None

    def revive(self) -> None:
        """It refuses to go down without its link and leaves its rules, so they are taken away for it."""
        laptop = self.lab.laptop
        self._clear()
        for family in ("-4", "-6"):
            for rule in (("not", "fwmark", "51820"), ("table", "main", "suppress_prefixlength", "0")):
                laptop.run("ip", family, "rule", "delete", *rule, check=False)
        laptop.run("wg-quick", "up", PEER)

    def rejoined(self) -> None: ...
    def noticed(self) -> None: ...
    def kill_server(self) -> None:
        self.lab.kill_server()

    def start_server(self) -> None:
        self.lab.start_server()

    def _clear(self) -> None:
        """What is left of a broken tunnel; its process must be gone before its successor can have the socket."""
        if pids := self.processes():
            self.lab.laptop.run("kill", "-KILL", *pids, check=False)
            wait_until(lambda: not self.processes(), "wireguard-go does not end")
        self.lab.laptop.run("ip", "link", "delete", PEER, check=False)
        self.lab.laptop.run("rm", "-f", f"/run/wireguard/{PEER}.sock")


class WgQuickIptables(WgQuick):
    """wg-quick(8), EXAMPLES. The rule of the broken tunnel stands until the next one's does."""

    rule = "OUTPUT ! -o %i -m mark ! --mark 51820 -m addrtype ! --dst-type LOCAL -j REJECT"
    post_up = f"PostUp = iptables -I {rule} && ip6tables -I {rule}"

    def revive(self) -> None:
        super().revive()
        for program in ("iptables", "ip6tables"):
            self.lab.laptop.run(program, "-D", *self.rule.replace("%i", PEER).split())


class Routes(WgQuick):
    """Two default routes: into the tunnel, and with a worse metric into a link that leads nowhere. Beside them, one to
    the server. The metrics lie below those of DHCP and router advertisements."""

    def up(self) -> None:
        laptop = self.lab.laptop
        self.lab.join("cafe")
        laptop.ip("tuntap add dev nowhere0 mode tun", "link set nowhere0 up")
        for family, metric in (("-4", "98"), ("-6", "95")):
            laptop.run("ip", family, "route", "add", "default", "dev", "nowhere0", "metric", metric)
        lines = [line for line in self.lab.client_config().splitlines() if not line.startswith(("DNS", "Address"))]
        laptop.write(f"/etc/wireguard/{PEER}.conf", "\n".join(lines) + "\n", mode=0o600)
        self.rejoined()
        self._tunnel()

    def revive(self) -> None:
        self._clear()
        self._tunnel()

    def rejoined(self) -> None:
        assert self.lab.joined is not None
        gateway = self.lab.joined.subnet.host4(1)
        self.lab.laptop.ip(f"route replace {self.lab.plan.server4}/32 via {gateway} dev wlan0")

    def _tunnel(self) -> None:
        laptop = self.lab.laptop
        if laptop.run("ip", "link", "add", PEER, "type", "wireguard", check=False).returncode != 0:
            laptop.run("wireguard-go", PEER)  # into the background, when the link is there
        laptop.run("wg", "setconf", PEER, f"/etc/wireguard/{PEER}.conf")
        inside4, inside6 = self.lab.plan.tunnel_client
        laptop.ip(
            f"address add {inside4}/32 dev {PEER}", f"address add {inside6}/128 dev {PEER}",
            f"link set {PEER} mtu 1420 up",
        )  # fmt: skip
        for family in ("-4", "-6"):
            laptop.run("ip", family, "route", "add", "default", "dev", PEER, "metric", "50")


class OpenVpn:
    ifname = PEER

    def __init__(self, lab: Laboratory) -> None:
        self.lab = lab
        self._client: Process | None = None
        self._server: list[Process] = []

    def up(self) -> None:
        self.lab.kill_server()  # of WireGuard: its port and its addresses are needed
        for host, name in ((self.lab.server, "server"), (self.lab.laptop, "client")):
            key, cert = f"/etc/openvpn/{name}.key", f"/etc/openvpn/{name}.crt"
            host.run("mkdir", "-p", "/etc/openvpn")
            new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", key, "-out", cert)
            host.run("openssl", "req", "-x509", "-days", "9", "-subj", f"/CN={name}", *new)
        prints = {
            name: hashlib.sha256(self._der(host, f"/etc/openvpn/{name}.crt")).hexdigest()
            for host, name in ((self.lab.server, "server"), (self.lab.laptop, "client"))
        }
        self._prints = {name: ":".join(text[at : at + 2] for at in range(0, 64, 2)) for name, text in prints.items()}
        self.lab.join("cafe")
        self.start_server()
        self.revive()

    @staticmethod
    def _der(host: Host, path: str) -> bytes:
        return ssl.PEM_cert_to_DER_cert(host.read(path))

    def _options(self, own: str, other: str) -> list[str]:
        plan = self.lab.plan
        ends = [plan.tunnel_server, plan.tunnel_client]
        (own4, own6), (other4, other6) = ends if own == "server" else reversed(ends)
        return [
            "openvpn", "--dev-type", "tun", "--proto", "udp", "--ifconfig", str(own4), str(other4),
            "--ifconfig-ipv6", f"{own6}/64", str(other6), "--key", f"/etc/openvpn/{own}.key",
            "--cert", f"/etc/openvpn/{own}.crt", "--peer-fingerprint", self._prints[other],
            "--ping", "1", "--ping-restart", "3", "--verb", "3",
        ]  # fmt: skip

    def processes(self) -> Sequence[str]:
        return self.lab.laptop.run("pidof", "openvpn", check=False).stdout.split()

    def control(self) -> Process | None:
        return None  # one process does it all

    def revive(self) -> None:
        if self._client is not None:
            self._client.kill()
        self.lab.laptop.run("ip", "link", "delete", PEER, check=False)
        to = ["--remote", str(self.lab.plan.server4), str(SERVER_PORT), "--nobind", "--tls-client", "--dev", PEER]
        gateway = ["--redirect-gateway", "def1", "ipv6"]
        self._client = self.lab.laptop.start(*self._options("client", "server"), *to, *gateway)

    def rejoined(self) -> None: ...
    def noticed(self) -> None: ...

    def kill_server(self) -> None:
        while self._server:
            self._server.pop().kill()

    def start_server(self) -> None:
        plan, server = self.lab.plan, self.lab.server
        at = ["--lport", str(SERVER_PORT), "--float", "--tls-server", "--dh", "none", "--dev", "ovpn0"]
        self._server.append(server.start(*self._options("server", "client"), *at))
        v4, v6 = plan.tunnel_server
        self._server.append(dnsmasq(server, f"listen-address={v4},{v6}", *names(plan, v4, v6)))


SUBJECTS: dict[str, Callable[[Laboratory], Vpn]] = {
    "tunwarden": Tunwarden,
    "wg-quick": WgQuick,
    "wg-quick, iptables": WgQuickIptables,
    "OpenVPN": OpenVpn,
    "routes on a link": Routes,
}


def wait_until(done: Callable[[], bool], complaint: str) -> None:
    """Raises LabError."""
    deadline = time.monotonic() + 30
    while not done():
        if time.monotonic() > deadline:
            raise LabError(complaint)
        time.sleep(0.01)
