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
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from ipc.client import Client
from lab.addresses import ECHO_PORT, WEB_PORT
from lab.hosts import Host
from lab.processes import LabError, Process
from lab.radio.networks import ACCESS_POINTS, CAMPUS, NETWORKS, PASSWORD, hostapd_conf
from lab.subject import Subject
from lab.traffic import Talker
from lab.vpn_server import private_key

TOP = Path(__file__).parents[2]
BUS = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus")
RADIOS = 5
GATEWAY, LAPTOP, PORT = "10.77.0.1", "10.77.0.9", 51820
GATEWAY6, LAPTOP6 = "2001:db8:77::1", "2001:db8:77::9"
INTERNET, INTERNET6 = "198.51.100.1", "2001:db8:64::1"  # addresses of the gateway as well
INSIDE_SERVER, INSIDE_CLIENT = "10.9.0.1", "10.9.0.2"
CLI = Path(sys.executable).with_name("tunwarden")  # where a virtual environment has it
HOOK = Path("/usr/lib/systemd/system-sleep/lab")  # systemd-sleep(8) runs it before and after, and waits for its end
AWAKE, TOLD = Path("/run/lab/awake"), Path("/run/lab/told")
PREPARING = (
    "busctl", "get-property", "org.freedesktop.login1", "/org/freedesktop/login1", "org.freedesktop.login1.Manager",
    "PreparingForSleep",
)  # fmt: skip
CARDS = {1: "wlan2", 2: "wlan3"}  # of the access points


# Everything waits for states. Beside other load the machine may be 60 times slower than outside, and its clock twice as
# fast: the kernel measures it while it boots.
PATIENCE = 240.0  # seconds
PAUSE = 0.05  # seconds between two looks, which cost time as well


def run(*argv: str, check: bool = True, timeout: float = PATIENCE) -> str:
    """A program on the laptop; its standard output. Raises LabError when `check`."""
    done = subprocess.run(argv, capture_output=True, text=True, errors="replace", check=False, timeout=timeout)
    if check and done.returncode != 0:
        raise LabError(f"{' '.join(argv)} -> {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def wait_for(done: Callable[[], object], what: str, timeout: float = PATIENCE) -> None:
    """Raises LabError."""
    deadline = time.monotonic() + timeout
    while not done():
        if time.monotonic() > deadline:
            raise LabError(f"after {timeout} s still not: {what}")
        time.sleep(PAUSE)


class ThisMachine(Host):
    """The virtual machine itself, seen as a laboratory host."""

    def boot(self) -> None:
        Path("/run/lab").mkdir(exist_ok=True)

    def ready(self) -> None:
        self.boot()

    @property
    def pid(self) -> int:
        return 1

    def run(
        self, *argv: str, check: bool = True, input: str | None = None, timeout: float = PATIENCE,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:  # fmt: skip
        return super().run(*argv, check=check, input=input, timeout=timeout, env=env)

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
        self._services: tuple[Process, ...] = ()

    def __enter__(self) -> RadioLaboratory:
        # Its package would do that: the daemon may own its name on the system bus.
        shutil.copy(TOP / "systemd" / "org.tunwarden.Daemon1.conf", "/etc/dbus-1/system.d/")
        run("busctl", "call", *BUS, "ReloadConfig")
        CLI.write_text('#!/bin/sh\nexec python3 -I -m cli.main "$@"\n')
        CLI.chmod(0o755)
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
        addresses = f"{GATEWAY}/24", f"{INTERNET}/32", f"{GATEWAY6}/64 nodad", f"{INTERNET6}/128 nodad"
        self.air.ip("link set lo up", "link add lan type bridge", "link set lan up")
        self.air.ip(*(f"address add {address} dev lan" for address in addresses))
        users = '"user" PWD "{0}"\n"tunnelled" TTLS\n"tunnelled" TTLS-PAP "{0}" [2]\n'
        self.air.write("/run/lab/eap-users", users.format(PASSWORD))
        self._certificate()
        names = self.air.start(
            "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--user=root", "--interface=lan",
            "--interface=wg0", "--bind-dynamic", "--dhcp-range=10.77.0.50,10.77.0.99,1h",
            "--dhcp-leasefile=/run/lab/leases", "--no-resolv", "--no-hosts", f"--address=/internet.test/{INTERNET}",
        )  # fmt: skip
        web = self.air.start(self.python, "-I", "-S", str(TOP / "lab" / "services.py"), INTERNET, INTERNET6)
        self._services = names, web
        web.wait_output("ready", PATIENCE)
        for point in ACCESS_POINTS:
            self.power_on(point)

    def unload(self) -> None:
        """Everything that `load` has made."""
        for point in tuple(self._points):
            self.power_off(point)
        for service in self._services:
            service.stop(PATIENCE)
        self.air.ip("link delete lan")
        run("modprobe", "-r", "mac80211_hwsim", "mac80211", "cfg80211")

    def _certificate(self) -> None:
        """Of the server that stands behind the campus network: its own authority, as in most of them."""
        if not Path(CAMPUS).exists():
            run(
                "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days",
                "365", "-subj", "/CN=radius.campus.example", "-keyout", f"{CAMPUS}.key", "-out", CAMPUS,
            )  # fmt: skip
        for file in (CAMPUS, f"{CAMPUS}.key"):
            self.air.write(file, Path(file).read_text(encoding="ascii"), 0o600)

    def power_on(self, point: int) -> None:
        """Start an access point; returns when it sends beacons."""
        card = CARDS[point]
        self.air.write(f"/run/lab/point-{point}.conf", hostapd_conf(point, card))
        self._points[point] = self.air.start("hostapd", f"/run/lab/point-{point}.conf")
        self._points[point].wait_output("AP-ENABLED", PATIENCE)

    def power_off(self, point: int) -> None:
        self._points.pop(point).stop(PATIENCE)

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
    def echo(self) -> Iterator[tuple[str, int]]:
        """Where the gateway, beside the VPN, says everything back that comes over TCP."""

        def answer(heard: socket.socket) -> None:
            with heard, contextlib.suppress(OSError):
                while said := heard.recv(4096):
                    heard.sendall(said)

        def accept() -> None:
            with contextlib.suppress(OSError):  # closed
                while True:
                    threading.Thread(target=answer, args=listener.accept()[:1], daemon=True).start()

        with self.air.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
            listener.bind((GATEWAY, 0))
            listener.listen()
            threading.Thread(target=accept, daemon=True).start()
            yield listener.getsockname()
            listener.shutdown(socket.SHUT_RDWR)

    def stop_server(self) -> None:
        self.air.ip("link delete wg0")

    # --- the laptop ---------------------------------------------------------------------------------------------------

    def address(self, card: str = "wlan0") -> None:
        """Static addresses and routes: nothing waits for DHCP, so whatever may leave, leaves at once."""
        run("ip", "link", "set", card, "up")
        run("ip", "address", "replace", f"{LAPTOP}/24", "dev", card)
        run("ip", "address", "replace", f"{LAPTOP6}/64", "dev", card, "nodad")
        run("ip", "route", "replace", "default", "via", GATEWAY, "dev", card)
        run("ip", "-6", "route", "replace", "default", "via", GATEWAY6, "dev", card)

    def forget(self, card: str = "wlan0") -> None:
        """Of `address`."""
        run("ip", "address", "flush", "dev", card, "scope", "global", check=False)
        run("ip", "-6", "route", "flush", "dev", card, "default", check=False)

    def traffic(self, rate: float = 5.0, device: str = "wlan0") -> Talker:
        """Nine kinds of traffic, `rate` tries a second each: `with lab.traffic() as traffic: ...`."""
        plan = {
            "rate": rate, "device": device, "target4": INTERNET, "target6": INTERNET6,
            "resolvers": [GATEWAY, GATEWAY6, INTERNET, INSIDE_SERVER], "echo_port": ECHO_PORT, "web_port": WEB_PORT,
        }  # fmt: skip
        return Talker(self.laptop, self.python, plan)

    @contextlib.contextmanager
    def night(self) -> Iterator[None]:
        """The machine sleeps, and within this is awake already, but systemd-logind has not told anybody yet.

        logind, its locks, signals and systemd-sleep are the real ones, and the kernel freezes all processes. What is
        left out are the drivers' parts (/sys/power/pm_test): the checkout's file system would not survive them.
        """
        slept = Path("/sys/power/suspend_stats/success")
        before = int(slept.read_text())
        for file in (AWAKE, TOLD):
            file.unlink(missing_ok=True)
        HOOK.write_text(f"#!/bin/sh\n[ $1 = post ] || exit 0\ntouch {AWAKE}\nuntil [ -e {TOLD} ]; do sleep 0.1; done\n")
        HOOK.chmod(0o755)
        Path("/sys/power/pm_test").write_text("freezer")
        Path("/sys/module/suspend/parameters/pm_test_delay").write_text("1")
        wait_for(lambda: "tunwarden" in run("systemd-inhibit", "--list"), "the daemon asks logind to wait for it")
        try:
            run("systemctl", "suspend")
            wait_for(AWAKE.exists, "the machine has slept, and is awake")
            yield
        finally:
            TOLD.touch()
        wait_for(lambda: "true" not in run(*PREPARING), "systemd-logind has told that the machine is awake")
        if int(slept.read_text()) != before + 1:
            raise LabError("the kernel did not freeze the machine")

    def _public(self, name: str) -> str:
        return self.laptop.run("wg", "pubkey", input=private_key(0, name)).stdout.strip()

    def client_config(self) -> str:
        """As a provider would hand it out."""
        return (
            f"[Interface]\nPrivateKey = {private_key(0, 'laptop')}\nAddress = {INSIDE_CLIENT}/32\n"
            f"DNS = {INSIDE_SERVER}\n\n[Peer]\nPublicKey = {self._public('server')}\n"
            f"Endpoint = {GATEWAY}:{PORT}\nAllowedIPs = 0.0.0.0/0\n"
        )


class RadioSubject(Subject):
    """The daemon in the virtual machine, where looking all the time would slow it down."""

    pause = PAUSE

    def __init__(self, lab: RadioLaboratory, settings: str) -> None:
        super().__init__(cast(Any, lab), settings)

    def start(self, timeout: float = PATIENCE) -> float:
        return super().start(timeout)

    def client(self, timeout: float = PATIENCE) -> Client:
        return super().client(timeout)


def authorised(card: str = "wlan0") -> bool:
    """Whether data may pass, as the kernel tells through iw(8)."""
    return any(
        line.split() == ["authorized:", "yes"]
        for line in run("iw", "dev", card, "station", "dump", check=False).splitlines()
    )
