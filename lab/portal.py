"""A captive portal in the café: until somebody has logged in, every name is the portal and nothing gets through.

    laptop ──▶ cafe ── DNS to anybody   -> our own dnsmasq, for which every name is the router
                    ── HTTP to anybody  -> portal_server.py: 302 to http://portal.test/login
                    ── all else         -> dropped, until the address is in `open4` or `open6`

`POST http://portal.test/login` opens, for the address it comes from. `announcing()` makes the DHCP options with which
the network says so by itself (RFC 8910), and `trust()` lets a host believe the API's certificate (RFC 8908).
"""

from __future__ import annotations

import json
from pathlib import Path

from lab.addresses import Plan
from lab.hosts import Host
from lab.processes import Process
from lab.topology import Laboratory

SERVER = Path(__file__).with_name("portal_server.py")
NAME = "portal.test"
LOGIN = f"http://{NAME}/login"
API = f"https://{NAME}/captive-portal"
WEB_PORT, DNS_PORT = 8080, 5353
LIE = "/run/lab/portal-lie"
BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
GATE = f"""
table inet lab_portal {{
    set open4 {{ type ipv4_addr; }}
    set open6 {{ type ipv6_addr; }}
    chain lead {{
        type nat hook prerouting priority dstnat
        iifname != {{ "lan", "lan6" }} accept
        ip saddr @open4 accept
        ip6 saddr @open6 accept
        meta l4proto {{ tcp, udp }} th dport 53 redirect to :{DNS_PORT}
        tcp dport 80 redirect to :{WEB_PORT}
    }}
    chain gate {{
        type filter hook forward priority filter
        iifname != {{ "lan", "lan6" }} accept
        ip saddr @open4 accept
        ip6 saddr @open6 accept
        counter drop
    }}
}}
"""
# A router whose line is dead: it answers DHCP, and nothing else comes or goes.
DEAD = """
table inet lab_dead {
    chain forward { type filter hook forward priority filter; oifname "wan" drop; }
    chain output { type filter hook output priority filter; oifname "wan" drop; }
}
"""


class Portal:
    """The portal of the café's network, closed; `api`: also over HTTPS."""

    def __init__(self, lab: Laboratory, *, api: bool = False) -> None:
        self.lab, self.router = lab, lab.cafe
        self._certificate = self._sign() if api else None
        lines = [
            "no-resolv",
            "no-hosts",
            "bind-dynamic",
            "log-facility=-",
            "user=root",
            "pid-file=",
            f"port={DNS_PORT}",
        ]
        lines += [f"address=/#/{address}" for address in (lab.plan.cafe.host4(1), lab.plan.cafe.host6(1))]
        self.router.write("/etc/lab/portal-dns.conf", "\n".join(lines) + "\n")
        resolver = self.router.start("dnsmasq", "--keep-in-foreground", "--conf-file=/etc/lab/portal-dns.conf")
        resolver.wait_output("started")
        task = {"host": NAME, "port": WEB_PORT, "lie": LIE, "certificate": self._certificate}
        self.server: Process = self.router.start(lab.python, "-I", "-S", str(SERVER), json.dumps(task))
        self.server.wait_output("ready")
        self.router.run("nft", "-f", "-", input=GATE)  # last: nothing hangs between a gate and whoever stands in it

    def lie(self, word: str) -> None:
        """From now on be hostile: one of portal_server.LIES."""
        self.router.write(LIE, word)

    def log_in(self) -> None:
        """Let the laptop out, as if somebody behind the counter had: by its addresses in this network."""
        lease = self.lab.laptop.read("/run/lab/lease-wlan0").strip()
        self.router.run("nft", f"add element inet lab_portal open4 {{ {lease} }}")
        if address := self.lab.card.address6("wlan0", self.lab.plan.cafe):
            self.router.run("nft", f"add element inet lab_portal open6 {{ {address} }}")

    def let_out(self) -> bool:
        """Whether somebody has logged in over both families."""
        sets = (self.router.run("nft", "list", "set", "inet", "lab_portal", name) for name in ("open4", "open6"))
        return all("elements" in each.stdout for each in sets)

    def close(self) -> None:
        """Forget everybody who has logged in."""
        for name in ("open4", "open6"):
            self.router.run("nft", f"flush set inet lab_portal {name}")

    def trust(self, host: Host) -> None:
        """Let a host believe the API's certificate, beside what it believes already."""
        assert self._certificate is not None, "a portal without an API"
        own = self.router.read(self._certificate[0])
        host.write(BUNDLE, host.read(BUNDLE) + own)

    def _sign(self) -> tuple[str, str]:
        files = "/etc/lab/portal.pem", "/etc/lab/portal.key"
        self.router.write(files[0], "")
        self.router.run(
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30",
            "-subj", f"/CN={NAME}", "-addext", f"subjectAltName=DNS:{NAME}", "-out", files[0], "-keyout", files[1],
        )  # fmt: skip
        return files


def announcing(url: str = API) -> dict[str, list[str]]:
    """DHCP options for `Laboratory(dhcp_options=...)`: the café says that there is a portal."""
    return {"cafe": [f"114,{url}"]}


def probe(plan: Plan) -> str:
    """A probe whose right answer the internet of this laboratory gives to the café's clients: their own address."""
    return f"http://probe.test/#{plan.cafe_uplink.host4(2)}%0A"


def cut(lab: Laboratory) -> None:
    """The café's line is dead."""
    lab.cafe.run("nft", "-f", "-", input=DEAD)


def mend(lab: Laboratory) -> None:
    """And alive again, over IPv4: a probe under way would try IPv6 next, and get another answer than its own."""
    only6 = DEAD.replace('oifname "wan"', 'oifname "wan" meta nfproto ipv6')
    lab.cafe.run("nft", "-f", "-", input="delete table inet lab_dead\n" + only6)
