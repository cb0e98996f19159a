"""The booted machine as the tests handle it, and its one neighbour on the wire.

box (the container)                     neighbour (a network namespace in it)
uplink 198.51.100.2  ── veth ──  eth0 198.51.100.1   the default gateway; a WireGuard server on port 51820;
                                                     counts what reaches its port 9: that has left in the clear
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lab.container import Container
from lab.hosts import CommandError
from lab.processes import LabError

PROJECT, WHEELS = "/mnt/project", "/mnt/wheels"  # places of the binds
UNIT, WATCH = "tunwarden.service", "tunwarden-watch.service"
TABLE = ("nft", "list", "table", "inet", "tunwarden")
# pip inside may use nothing but the folder of wheels.
OFFLINE = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": WHEELS, "PIP_CONFIG_FILE": "/dev/null", "PIP_CACHE_DIR": "/dev/null"}

NETWORK = """
ip netns add neighbour
ip link add uplink type veth peer name eth0 netns neighbour
ip address add 198.51.100.2/24 dev uplink
ip link set uplink up
ip route add default via 198.51.100.1
ip -n neighbour address add 198.51.100.1/24 dev eth0
ip -n neighbour link set eth0 up
ip -n neighbour link set lo up
ip netns exec neighbour nft 'add table inet sink; add counter inet sink seen;
    add chain inet sink input { type filter hook input priority 0; };
    add rule inet sink input iifname eth0 udp dport 9 counter name seen'
"""
SERVER = """
umask 077
wg genkey >/run/server.key
wg genkey >/run/client.key
ip -n neighbour link add wg0 type wireguard 2>/dev/null || ip netns exec neighbour wireguard-go wg0
ip netns exec neighbour wg set wg0 private-key /run/server.key listen-port 51820 \\
    peer "$(wg pubkey </run/client.key)" allowed-ips 10.7.0.2/32
ip -n neighbour address add 10.7.0.1/24 dev wg0
ip -n neighbour link set wg0 up
"""
PROFILE = """
[Interface]
PrivateKey = {client}
Address = 10.7.0.2/32
DNS = 10.7.0.1
[Peer]
PublicKey = {server}
Endpoint = {endpoint}
AllowedIPs = 0.0.0.0/0, ::/0
"""
# Sends a datagram every 5 ms. A firewall that refuses it is what we hope for.
TALKS = "/run/talks"  # there from its first attempt on
TALKER = f"""
import pathlib, socket, time
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    while True:
        try:
            sock.sendto(b"in the clear", ("198.51.100.1", 9))
        except OSError:
            pass
        pathlib.Path("{TALKS}").touch()
        time.sleep(0.005)
"""
# A unit as cloud-init has one: needs the network, and sysinit.target waits for it. It tells what it found.
EARLY = """
[Unit]
DefaultDependencies=no
Wants=network-pre.target
After=network-pre.target
Before=network.target sysinit.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c "nft list table inet tunwarden >/run/early.table; ls /run/dbus >/run/early.bus || true"
[Install]
WantedBy=sysinit.target
"""


class Machine:
    """The container with the daemon in it."""

    def __init__(self, box: Container) -> None:
        self.box, self.run = box, box.run
        self.installed_output = ""  # of the first time
        self.settings = ""

    def prepare(self) -> None:
        """Users, the neighbour, a unit that looks early."""
        # Their passwords do not matter: nobody logs in.
        self.run("useradd", "--create-home", "alice")
        self.run("sh", "-ec", NETWORK)
        self.box.write("/etc/systemd/system/early.service", EARLY)

    def install(self) -> str:
        """`make install` as an administrator runs it; what it printed."""
        done = self.run("make", "-C", PROJECT, "install", env=OFFLINE, timeout=300)
        self.run("usermod", "--append", "--groups", "tunwarden", "alice")
        self.settings = self.box.read("/etc/tunwarden/tunwarden.toml")
        self.installed_output = self.installed_output or done.stdout + done.stderr
        return done.stdout

    def reboot(self, network: bool = True) -> None:
        """`network` False: a unit of this machine makes it."""
        self.run("systemctl", "--quiet", "enable", "early.service")
        self.box.reboot()
        if network:
            self.run("sh", "-ec", NETWORK)

    def start_over(self) -> None:
        """What an earlier test left goes; the daemon starts as on the day of the installation."""
        self.run("systemctl", "stop", UNIT, "talker.service", check=False)
        self.run("systemctl", "reset-failed", check=False)
        self.run("ip", "link", "delete", "tunwarden0", check=False)  # and wireguard-go with it
        self.run("tunwarden", "panic-reset", "--yes")
        self.run("sysctl", "--quiet", *(f"net.ipv4.conf.all.{name}=0" for name in ("src_valid_mark", "arp_ignore")))
        self.run("sh", "-c", "rm -rf /var/lib/tunwarden/*")
        self.box.write("/etc/tunwarden/tunwarden.toml", self.settings)
        self.run("systemctl", "start", UNIT)

    # --- the daemon ---------------------------------------------------------------------------------------------------

    @property
    def main_pid(self) -> int:
        return int(self.box.show(UNIT, "MainPID")["MainPID"])

    @property
    def restarts(self) -> int:
        return int(self.box.show(UNIT, "NRestarts")["NRestarts"])

    def active(self) -> str:
        return self.box.show(UNIT, "ActiveState")["ActiveState"]

    def status(self) -> dict[str, object]:
        answer: dict[str, object] = json.loads(self.run("tunwarden", "--json", "status").stdout)
        return answer

    def wait(self, what: str, condition: Callable[[], object], seconds: float = 25.0) -> float:
        """The seconds until `condition` held. Raises LabError with the journal."""
        begun = time.monotonic()
        while True:
            try:
                if condition():
                    return time.monotonic() - begun
            except CommandError:
                pass  # nobody answers just now
            if time.monotonic() > begun + seconds:
                raise LabError(f"{what}: not within {seconds} s\n{self.box.journal('--unit', UNIT)[-6000:]}")
            time.sleep(0.01)

    def wait_state(self, *states: str) -> dict[str, object]:
        self.wait(f"state {' or '.join(states)}", lambda: self.status()["state"] in states)
        return self.status()

    def import_profile(self, endpoint: str = "198.51.100.1:51820") -> None:
        """A provider's file. Nobody answers at any port but the server's."""
        if not self.box.path("/run/server.key").exists():
            self.run("sh", "-ec", SERVER)
        keys = {
            "client": self.box.read("/run/client.key").strip(),
            "server": self.run("wg", "pubkey", input=self.box.read("/run/server.key")).stdout.strip(),
        }
        self.box.write("/run/office.conf", PROFILE.format(endpoint=endpoint, **keys), mode=0o600)
        self.run("tunwarden", "profiles", "import", "office", "/run/office.conf")

    def protect(self) -> None:
        """Protection is wanted, and its server does not answer: the machine is closed."""
        self.import_profile("198.51.100.1:1")
        self.run("tunwarden", "connect")
        self.wait_state("connecting", "blocked", "reconnecting")

    # --- what the kernel does -----------------------------------------------------------------------------------------

    def table(self) -> str:
        """The firewall table; "" when there is none."""
        return self.run(*TABLE, check=False).stdout

    def rules(self) -> str:
        """The routing rules of both families."""
        return self.run("ip", "-4", "rule").stdout + self.run("ip", "-6", "rule").stdout

    def left_in_the_clear(self) -> int:
        """Datagrams that the neighbour has received at port 9 so far."""
        listed = self.run("ip", "netns", "exec", "neighbour", "nft", "-j", "list", "counter", "inet", "sink", "seen")
        return next(
            int(each["counter"]["packets"]) for each in json.loads(listed.stdout)["nftables"] if "counter" in each
        )

    def talk(self) -> None:
        """Somebody on this machine sends without end."""
        self.run("rm", "-f", TALKS)
        self.run("systemd-run", "--quiet", "--collect", "--unit=talker", "/usr/bin/python3", "-I", "-c", TALKER)
        self.wait_talking()

    def wait_talking(self) -> None:
        """Whoever sends without end has begun."""
        self.wait("somebody sends", self.box.path(TALKS).exists)

    def open(self) -> bool:
        """Whether what the talker sends arrives."""
        before = self.left_in_the_clear()
        time.sleep(0.15)
        return self.left_in_the_clear() > before

    @contextmanager
    def sealed(self) -> Iterator[None]:
        """Nothing leaves in the clear, and our table is seen at every look, some 200 a second."""
        self.run("rm", "-f", "/run/looks")
        self.run(
            "systemd-run", "--quiet", "--collect", "--unit=looker", "--property=Type=exec", "/bin/sh", "-c",
            "while nft list table inet tunwarden >/dev/null 2>&1; do echo >>/run/looks; sleep 0.004; done",
        )  # fmt: skip
        self.talk()
        before = self.left_in_the_clear()
        try:
            yield
            looker = self.box.show("looker.service", "ActiveState")["ActiveState"]
        finally:
            self.run("systemctl", "stop", "looker.service", "talker.service", check=False)
        assert looker == "active", "our table was gone for a moment"
        assert self.left_in_the_clear() == before
        looks = Path(self.box.path("/run/looks")).read_text(encoding="ascii")
        assert len(looks) > 5
