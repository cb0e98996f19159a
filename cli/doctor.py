"""tunwarden doctor: what is well, what is not, and what to do about it. Looks only; any user may run it."""

from __future__ import annotations

import argparse
import configparser
import ctypes
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from cli.codes import Exit
from cli.output import Output, safe
from cli.words import headline
from ipc import VERSION
from ipc.client import Client, NotRunningError, ProtocolError
from ipc.errors import ServiceError
from ipc.structs import Status

WHY = "journalctl -u tunwarden tells why it does not"
SIGNS = {True: ("[ok]", "green"), False: ("[!!]", "red"), None: ("[--]", "dim")}
# What another program means for tunwarden, by the name of its process.
NEIGHBOURS = {
    "firewalld": "firewalld runs. Both may stay: its rules cannot open what tunwarden closes. If the VPN does not "
    "connect beside it, a warning above names its chain.",
    "dockerd": "Docker runs. Its containers may go where this computer may: while it is protected, through the tunnel.",
    "mullvad-daemon": "Mullvad's own daemon runs. Use one of the two at a time: each would block the other's server.",
    "nordvpnd": "NordVPN's own daemon runs. Use one of the two at a time: each would block the other's server.",
    "openvpn": "OpenVPN runs. While tunwarden protects, a tunnel that is not tunwarden's own reaches its server only "
    "where the profile in use is of the kind external and names it (docs/external.md).",
    "tailscaled": "Tailscale runs. While tunwarden protects, its traffic to the internet is blocked like any other "
    "program's that bypasses the tunnel; do not use an exit node at the same time.",
}
CONNECTIVITY = ("etc/NetworkManager", "run/NetworkManager", "usr/lib/NetworkManager")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `ok`: well (True), wrong (False), or just good to know (None)."""

    check: str  # a stable word for programs
    ok: bool | None
    text: str
    remedy: str = ""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "Exits with 1 when something is wrong, with 3 when no daemon answers."


def run(options: argparse.Namespace, out: Output) -> int:
    _, findings = look(options.run_folder)
    wrong = any(finding.ok is False for finding in findings)
    out.data({"well": not wrong, "findings": [asdict(finding) for finding in findings]})
    for finding in findings:
        sign, colour = SIGNS[finding.ok]
        text = safe(finding.text) if finding.ok is not False else out.paint(finding.text, "bold")
        out.line(f"{out.paint(sign, colour)} {text}")
        if finding.remedy:
            out.line(f"     Remedy: {out.paint(finding.remedy, 'yellow')}")
    if any(finding.check == "daemon" and not finding.ok for finding in findings):
        return Exit.NOT_RUNNING
    return Exit.FAILED if wrong else Exit.OK


def look(run_folder: str) -> tuple[Status | None, list[Finding]]:
    """Everything, as this user sees it."""
    status, findings = ask(run_folder)
    if status is not None:
        findings += of_status(status)
    if os.uname().sysname == "Linux":
        findings += of_machine()
        from cli import doctor_places

        gids = frozenset((os.getgid(), *os.getgroups()))
        findings += doctor_places.permissions(Path("/"), run_folder, os.geteuid(), gids)
    return status, findings


def ask(run_folder: str) -> tuple[Status | None, list[Finding]]:
    """What the daemon says of itself, if it does."""
    try:
        with Client(run_folder) as client:
            status = client.get_status()
    except NotRunningError as err:
        return None, [Finding("daemon", False, str(err), WHY)]
    except (ProtocolError, ServiceError, TimeoutError, OSError) as err:
        return None, [Finding("answers", False, f"The daemon does not answer as it should: {err}", WHY)]
    return status, [Finding("daemon", True, f"The daemon answers (version {status.version}).")]


def of_status(status: Status) -> Iterator[Finding]:
    """What its status means."""
    if status.version != VERSION:
        yield Finding(
            "version", False, f"The daemon has version {status.version}, this program {VERSION}.",
            "sudo systemctl restart tunwarden (what is blocked stays blocked)",
        )  # fmt: skip
    _, text = headline(status)
    wanted = status.target == "protected" or status.lockdown
    leaking = wanted and not status.blocking and not status.protected
    yield Finding("protection", not leaking if wanted else None, text)
    if status.alarm:
        yield Finding("alarm", False, f"ALARM: {status.alarm}", "journalctl -u tunwarden tells more")
    if status.cause_text:
        yield Finding("cause", False, status.cause_text)
    for warning in status.warnings:
        yield Finding("warning", False, warning)
    if status.mtu and status.mtu_source == "search":
        yield Finding("mtu", True, f"Packets of {status.mtu} bytes get through the tunnel and back.")
    elif status.mtu and status.mtu_source == "default":
        yield Finding(
            "mtu", None, f"Nobody in the tunnel has answered large packets: whether those of {status.mtu} bytes get "
            "through is not known.", "if large transfers hang, set MTU = 1280 in the profile",
        )  # fmt: skip
    if not status.kill_switch:
        yield Finding(
            "kill-switch", None, "The kill switch is off: when the tunnel drops, traffic leaves outside of it.",
            "tunwarden killswitch on",
        )  # fmt: skip


def of_machine(root: Path = Path("/"), load: Callable[[str], object] = ctypes.CDLL) -> Iterator[Finding]:
    """What tunwarden needs of this machine, and the other programs on it that concern it."""
    from cli import doctor_places

    yield from doctor_places.kernel(root, _has_module)
    yield _firewall(root, load)
    yield _wireguard(root)
    yield from doctor_places.resolver(root)
    running = processes(root)
    yield from doctor_places.wifi(running)
    yield from doctor_places.firewalls(root)
    for name, text in NEIGHBOURS.items():
        if name in running:
            yield Finding(name, None, text)
    if "ENABLED=yes" in _words(root / "etc/ufw/ufw.conf"):
        text = "ufw is on. Both may stay: its rules cannot open what tunwarden closes."
        yield Finding("ufw", None, f"{text} If the VPN does not connect beside it, a warning above names its rule.")
    if "NetworkManager" in running and checks_connectivity(root):
        yield Finding(
            "connectivity", None, "NetworkManager asks the internet now and then whether it is there. While everything "
            "is blocked it calls the network limited; that is so, and no fault.",
        )  # fmt: skip


def _firewall(root: Path, load: Callable[[str], object]) -> Finding:
    try:
        load("libnftables.so.1")
    except OSError:
        if not (root / "usr/sbin/nft").exists():
            return Finding("firewall", False, "There is no nftables: nothing can be blocked.", "apt install nftables")
        return Finding("firewall", True, "The firewall is nftables, by its program.")
    return Finding("firewall", True, "The firewall is nftables, by its library.")


def _wireguard(root: Path) -> Finding:
    if (root / "sys/module/wireguard").exists() or _has_module(root, "wireguard.ko"):
        return Finding("tunnel", True, "The kernel has WireGuard.")
    if not (root / "usr/bin/wireguard-go").exists():
        text = "Neither the kernel has WireGuard, nor is there wireguard-go: no tunnel can be made."
        return Finding("tunnel", False, text, "apt install wireguard-go")
    if not (root / "dev/net/tun").exists():
        return Finding("tunnel", False, "There is no /dev/net/tun, which wireguard-go needs.", "modprobe tun")
    return Finding("tunnel", True, "WireGuard is wireguard-go.")


def _has_module(root: Path, module: str) -> bool:
    """Whether the running kernel could load it."""
    folder = root / "lib/modules" / os.uname().release
    for name in ("modules.dep", "modules.builtin"):
        try:
            if f"/{module}" in (folder / name).read_text(encoding="utf-8", errors="replace"):
                return True
        except OSError:
            continue
    return False


def processes(root: Path = Path("/")) -> set[str]:
    """Names of the processes that this user may see."""
    found = set()
    for name in (root / "proc").glob("[0-9]*/comm"):
        try:
            found.add(name.read_text(encoding="utf-8", errors="replace").strip())
        except OSError:
            continue  # it has ended
    return found


def checks_connectivity(root: Path = Path("/")) -> bool:
    """Whether NetworkManager's configuration makes it look for the internet (NetworkManager.conf(5))."""
    # A file in /etc hides one of the same name below; among the rest the last name wins.
    files: dict[str, Path] = {}
    for place in reversed(CONNECTIVITY):
        files |= {path.name: path for path in (root / place / "conf.d").glob("*.conf")}
    ordered = [files[name] for name in sorted(files)]
    config = configparser.ConfigParser(strict=False, interpolation=None)
    for path in (*ordered, root / "etc/NetworkManager/NetworkManager.conf"):
        try:
            config.read_string(path.read_text(encoding="utf-8", errors="replace"))
        except (OSError, configparser.Error):
            continue
    section = config["connectivity"] if config.has_section("connectivity") else {}
    return bool(section.get("uri")) and section.get("enabled", "true") != "false" and section.get("interval") != "0"


def _words(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").split()
    except OSError:
        return []
