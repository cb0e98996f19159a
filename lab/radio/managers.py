"""Who manages the laptop's card: wpa_supplicant alone, NetworkManager or iwd. All join a network until it works."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Self

from lab.processes import Process
from lab.radio.laboratory import PATIENCE, PAUSE, RadioLaboratory, authorised, run, wait_for
from lab.radio.networks import CAMPUS, NETWORKS, PASSWORD, bssid, colons, supplicant_conf
from policies.facts import Security

# How NetworkManager's connections sign in to the campus network, by their names.
SIGN_INS = {
    "802.1x": ("eap=pwd;", "identity=user"),
    "802.1x, any server": ("eap=ttls;", "identity=tunnelled", "phase2-auth=pap"),
    "802.1x, its server": ("eap=ttls;", "identity=tunnelled", "phase2-auth=pap", f"ca-cert={CAMPUS}"),
}
PROFILES = Path("/etc/NetworkManager/system-connections")
ROAM_S = 15.0  # seconds until it is asked for again
IWD = Path("/var/lib/iwd")


class Manager(ABC):
    """`with SomeManager(lab) as manager: manager.join("wpa2")`. One at a time."""

    def __init__(self, lab: RadioLaboratory, card: str = "wlan0") -> None:
        self.lab, self.card = lab, card

    @abstractmethod
    def start(self) -> None: ...

    @abstractmethod
    def ask(self, name: str, password: str = PASSWORD) -> None:
        """Begin to join this network, leaving any other; returns at once."""

    @abstractmethod
    def leave(self) -> None: ...

    @abstractmethod
    def stop(self) -> None: ...

    def join(self, name: str) -> None:
        """Returns when data may pass. Raises LabError."""
        self.ask(name)
        wait_for(lambda: authorised(self.card), f"{type(self).__name__} has joined {name}")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class Supplicant(Manager):
    """wpa_supplicant(8), started anew for each network."""

    _process: Process | None = None

    def start(self) -> None:
        return None

    def ask(self, name: str, password: str = PASSWORD) -> None:
        self.leave()
        conf = f"/run/lab/{self.card}.conf"
        self.lab.laptop.write(conf, supplicant_conf(name, password))
        self._process = self.lab.laptop.start("wpa_supplicant", "-D", "nl80211", "-i", self.card, "-c", conf)

    def leave(self) -> None:
        if self._process is not None and self._process.running:
            self._process.stop(PATIENCE)
        self._process = None

    def stop(self) -> None:
        self.leave()

    def cli(self, *argv: str) -> str:
        return run("wpa_cli", "-p", "/run/lab/wpa", "-i", self.card, *argv)

    def output(self) -> str:
        return self._process.output() if self._process else ""

    def ask_to_roam(self, point: int, name: str) -> None:
        """To that access point of the network, which it then looks for first; returns when that is asked for."""
        address = colons(bssid(point, name))
        self.cli("scan", "freq=2412,2437")
        wait_for(lambda: address in self.cli("scan_results"), f"{address} in the scan results")
        self.cli("roam", address)

    def roam(self, point: int, name: str) -> None:
        """The same; returns when data may pass there. Raises LabError."""
        address = colons(bssid(point, name))

        def there() -> bool:
            link = run("iw", "dev", self.card, "link", check=False)
            return f"Connected to {address}" in link and authorised(self.card)

        def asked_and_there() -> bool:
            """An access point's answer may be too late under emulation: then the supplicant returns where it was."""
            if not there():
                self.ask_to_roam(point, name)
            deadline = time.monotonic() + ROAM_S
            while not there():
                if time.monotonic() > deadline:
                    return False
                time.sleep(PAUSE)
            return True

        wait_for(asked_and_there, f"roamed to {address}")


class NetworkManager(Manager):
    """The real one, with the wpa_supplicant that it starts over the system bus."""

    def start(self) -> None:
        conf = Path("/etc/NetworkManager/conf.d/lab.conf")
        conf.write_text(f"[keyfile]\nunmanaged-devices=except:interface-name:{self.card}\n[main]\nno-auto-default=*\n")
        for name in NETWORKS:
            self._profile(name, PASSWORD)
        for sign_in in SIGN_INS:
            self._profile("802.1x", PASSWORD, sign_in)
        run("systemctl", "start", "NetworkManager")
        wait_for(lambda: ":disconnected" in self._device(), "NetworkManager has the card")

    def _device(self) -> str:
        return run("nmcli", "-t", "-f", "DEVICE,STATE", "device", check=False)

    def _profile(self, name: str, password: str, sign_in: str = "802.1x") -> None:
        network, label = NETWORKS[name], sign_in if name == "802.1x" else name
        key = {
            Security.OWE: "owe", Security.WPA3: "sae", Security.ENTERPRISE: "wpa-eap",
            Security.OPEN: "", Security.OWE_TRANSITION: "", Security.WEP: "none",
        }.get(network.security, "wpa-psk")  # fmt: skip
        lines = [
            "[connection]", f"id={label}", "type=wifi", f"interface-name={self.card}", "autoconnect=false",
            "[wifi]", f"ssid={''.join(f'{byte};' for byte in network.ssid)}", f"hidden={str(network.hidden).lower()}",
            "[ipv4]", "method=manual", "address1=10.77.0.9/24", "[ipv6]", "method=disabled",
        ]  # fmt: skip
        if key:
            lines += ["[wifi-security]", f"key-mgmt={key}"]
        if key in ("wpa-psk", "sae"):
            lines.append(f"psk={password}")
        if key == "none":
            lines.append("wep-key0=12345")
        if key == "wpa-eap":
            lines += ["[802-1x]", *SIGN_INS[sign_in], f"password={password}"]
        file = PROFILES / f"{label}.nmconnection"
        file.write_text("\n".join(lines) + "\n")
        file.chmod(0o600)

    def ask(self, name: str, password: str = PASSWORD) -> None:
        if password != PASSWORD:
            self._profile(name, password)
            run("nmcli", "connection", "reload")
        run("nmcli", "--wait", "0", "connection", "up", name)

    def join(self, name: str) -> None:
        """By the connection of that name, which NetworkManager can when it has seen the network."""
        wait_for(lambda: self._up(name), f"NetworkManager has joined {name}")

    def _up(self, name: str) -> bool:
        run("nmcli", "--wait", "30", "connection", "up", name, check=False)
        return f"{self.card}:connected" in self._device() and authorised(self.card)

    def leave(self) -> None:
        run("nmcli", "device", "disconnect", self.card, check=False)

    def stop(self) -> None:
        run("systemctl", "stop", "NetworkManager", "wpa_supplicant")
        run("ip", "address", "flush", "dev", self.card, check=False)


class Iwd(Manager):
    """iwd(8), which deletes the interface it finds and makes a new one with the same name."""

    def start(self) -> None:
        IWD.mkdir(exist_ok=True)
        for network in NETWORKS.values():
            plain = network.ssid.isalnum() or network.ssid.replace(b" ", b"").isalnum()
            name = network.ssid.decode() if plain else f"={network.ssid.hex()}"
            if network.security in (Security.OPEN, Security.OWE, Security.OWE_TRANSITION):
                (IWD / f"{name}.open").write_text("[Settings]\nAutoConnect=false\n")
            else:
                (IWD / f"{name}.psk").write_text(
                    f"[Security]\nPassphrase={PASSWORD}\n[Settings]\nAutoConnect=false\nHidden={str(network.hidden).lower()}\n"
                )
        # Its own unit, for whoever asks for iwd on the system bus starts that one.
        extra = Path("/run/systemd/system/iwd.service.d/lab.conf")
        extra.parent.mkdir(parents=True, exist_ok=True)
        extra.write_text(f"[Service]\nExecStart=\nExecStart=/usr/libexec/iwd --interfaces {self.card}\n")
        run("systemctl", "daemon-reload")
        run("systemctl", "start", "iwd")
        wait_for(lambda: self.card in run("iwctl", "device", "list", check=False), "iwd has the card")

    def ask(self, name: str, password: str = PASSWORD) -> None:
        run("iwctl", "--dont-ask", "station", self.card, "connect", NETWORKS[name].ssid.decode(), check=False)

    def join(self, name: str) -> None:
        """Networks can be joined once they have been seen; under emulation an access point's answer may be too late."""
        wait_for(lambda: self._connected(name), f"iwd has joined {name}")

    def _connected(self, name: str) -> bool:
        if NETWORKS[name].ssid.decode() in run("iwctl", "station", self.card, "get-networks", check=False):
            self.ask(name)
        else:
            run("iwctl", "station", self.card, "scan", check=False)
        return authorised(self.card)

    def leave(self) -> None:
        run("iwctl", "station", self.card, "disconnect", check=False)

    def stop(self) -> None:
        run("systemctl", "stop", "iwd")


MANAGERS: dict[str, type[Manager]] = {"wpa_supplicant": Supplicant, "networkmanager": NetworkManager, "iwd": Iwd}
