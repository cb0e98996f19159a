"""The radio laboratory, inside the virtual machine: the machine itself is the laptop, a network namespace has the rest.

wlan0   the laptop's card             access points    two radios in the host "air", all networks on one bridge
wlan1   its second card                                with DHCP and a VPN server (the kernel's WireGuard)
wlan4   nobody's                      hwsim0           hears every frame of every radio: the leak meter's ear
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from lab.hosts import Host
from lab.processes import LabError, Process
from lab.radio.networks import ACCESS_POINTS, NETWORKS, PASSWORD, hostapd_conf
from lab.vpn_server import private_key

TOP = Path(__file__).parents[2]
BUS = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus")
RADIOS = 5
GATEWAY, LAPTOP, PORT = "10.77.0.1", "10.77.0.9", 51820
INSIDE_SERVER, INSIDE_CLIENT = "10.9.0.1", "10.9.0.2"
CARDS = {1: "wlan2", 2: "wlan3"}  # of the access points


def run(*argv: str, check: bool = True, timeout: float = 60) -> str:
    """A program on the laptop; its standard output. Raises LabError when `check`."""
    done = subprocess.run(argv, capture_output=True, text=True, errors="replace", check=False, timeout=timeout)
    if check and done.returncode != 0:
        raise LabError(f"{' '.join(argv)} -> {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def wait_for(done: Callable[[], object], what: str, timeout: float = 40.0) -> None:
    """Raises LabError."""
    deadline = time.monotonic() + timeout
    while not done():
        if time.monotonic() > deadline:
            raise LabError(f"after {timeout} s still not: {what}")
        time.sleep(0.02)


class ThisMachine(Host):
    """The virtual machine itself, seen as a laboratory host."""

    def boot(self) -> None:
        Path("/run/lab").mkdir(exist_ok=True)

    def ready(self) -> None:
        self.boot()

    @property
    def pid(self) -> int:
        return 1

    def close(self) -> None:
        for process in self._processes:
            if process.running:
                process.kill()
            process.close()
        self._processes.clear()


class RadioLaboratory:
    """`with RadioLaboratory() as lab:` and then `load()` the radios. Has what `lab.subject.Subject` needs."""

    def __init__(self) -> None:
        self.python = sys.executable
        self.laptop = ThisMachine("laptop")
        self.air = Host("air")
        self._points: dict[int, Process] = {}

    def __enter__(self) -> RadioLaboratory:
        # Its package would do that: the daemon may own its name on the system bus.
        shutil.copy(TOP / "systemd" / "org.tunwarden.Daemon1.conf", "/etc/dbus-1/system.d/")
        run("busctl", "call", *BUS, "ReloadConfig")
        self.laptop.ready()
        self.air.ready()
        return self

    def __exit__(self, *_: object) -> None:
        self.laptop.close()
        self.air.close()

    # --- the air ------------------------------------------------------------------------------------------------------

    def load(self) -> None:
        """The driver and all radios, two of them as access points with all networks."""
        run("modprobe", "mac80211_hwsim", f"radios={RADIOS}")
        run("udevadm", "settle")
        run("iw", "reg", "set", "BO")  # 22 channels instead of 76: a full scan takes 2 s, not 8
        run("ip", "link", "set", "hwsim0", "up")
        for card in CARDS.values():
            phy = Path(f"/sys/class/net/{card}/phy80211/name").read_text().strip()
            run("iw", "phy", phy, "set", "netns", str(self.air.pid))
        self.air.ip(
            "link set lo up", "link add lan type bridge", f"address add {GATEWAY}/24 dev lan", "link set lan up"
        )
        self.air.write("/run/lab/eap-users", f'"user" PWD "{PASSWORD}"\n')
        self._dhcp = self.air.start(
            "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--user=root", "--interface=lan",
            "--bind-interfaces", "--dhcp-range=10.77.0.50,10.77.0.99,1h", "--dhcp-leasefile=/run/lab/leases",
            "--no-resolv", "--no-hosts", f"--address=/internet.test/{GATEWAY}",
        )  # fmt: skip
        for point in ACCESS_POINTS:
            self.power_on(point)

    def unload(self) -> None:
        """Everything that `load` has made."""
        for point in tuple(self._points):
            self.power_off(point)
        self._dhcp.stop()
        self.air.ip("link delete lan")
        run("modprobe", "-r", "mac80211_hwsim", "mac80211", "cfg80211")

    def power_on(self, point: int) -> None:
        """Start an access point; returns when it sends beacons."""
        card = CARDS[point]
        self.air.write(f"/run/lab/point-{point}.conf", hostapd_conf(point, card))
        self._points[point] = self.air.start("hostapd", f"/run/lab/point-{point}.conf")
        self._points[point].wait_output("AP-ENABLED", 60)

    def power_off(self, point: int) -> None:
        self._points.pop(point).stop(30)

    def deauthenticate(self, point: int, name: str) -> None:
        """The access point sends the laptop away."""
        number = tuple(NETWORKS).index(name)
        interface = CARDS[point] if name == ACCESS_POINTS[point][1][0] else f"{CARDS[point]}_{number}"
        self.air.run("hostapd_cli", "-p", "/run/lab/hostapd", "-i", interface, "deauthenticate", "02:00:00:00:00:00")

    # --- the VPN ------------------------------------------------------------------------------------------------------

    def start_server(self) -> None:
        """The kernel's WireGuard at the gateway; the laptop's profile is `client_config`."""
        self.air.ip("link add wg0 type wireguard", f"address add {INSIDE_SERVER}/24 dev wg0")
        self.air.run(
            "wg", "setconf", "wg0", "/dev/stdin",
            input=f"[Interface]\nPrivateKey = {private_key(0, 'server')}\nListenPort = {PORT}\n"
            f"[Peer]\nPublicKey = {self._public('laptop')}\nAllowedIPs = {INSIDE_CLIENT}/32\n",
        )  # fmt: skip
        self.air.ip("link set wg0 up")

    @contextlib.contextmanager
    def echo(self, timeout: float = 30.0) -> Iterator[socket.socket]:
        """A TCP connection to the gateway, beside the VPN, which says everything back."""
        with self.air.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
            listener.bind((GATEWAY, 0))
            listener.listen()

            def answer() -> None:
                with listener.accept()[0] as heard, contextlib.suppress(OSError):
                    while said := heard.recv(4096):
                        heard.sendall(said)

            thread = threading.Thread(target=answer, daemon=True)
            thread.start()
            with socket.create_connection((GATEWAY, listener.getsockname()[1]), timeout) as connection:
                yield connection
            thread.join(timeout)

    def stop_server(self) -> None:
        self.air.ip("link delete wg0")

    def _public(self, name: str) -> str:
        return self.laptop.run("wg", "pubkey", input=private_key(0, name)).stdout.strip()

    def client_config(self) -> str:
        """As a provider would hand it out."""
        return (
            f"[Interface]\nPrivateKey = {private_key(0, 'laptop')}\nAddress = {INSIDE_CLIENT}/32\n"
            f"DNS = {INSIDE_SERVER}\n\n[Peer]\nPublicKey = {self._public('server')}\n"
            f"Endpoint = {GATEWAY}:{PORT}\nAllowedIPs = 0.0.0.0/0\n"
        )


def authorised(card: str = "wlan0") -> bool:
    """Whether data may pass, as the kernel tells through iw(8)."""
    return any(
        line.split() == ["authorized:", "yes"]
        for line in run("iw", "dev", card, "station", "dump", check=False).splitlines()
    )
