"""What `doctor` looks at besides firewall, tunnel and neighbours: kernel, names, Wi-Fi, who may do what."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from cli.doctor import Finding

GROUP = "tunwarden"
MANAGERS = {
    "NetworkManager": "NetworkManager",
    "iwd": "iwd",
    "wpa_supplicant": "wpa_supplicant",
    "systemd-network": "systemd-networkd",  # as the kernel cuts it
    "connmand": "ConnMan",
}
STUB = "127.0.0.53"


def kernel(root: Path, has_module: Callable[[Path, str], bool]) -> Iterator[Finding]:
    """nf_tables and IPv6. Routing by rules cannot be seen without trying; the daemon says when it fails."""
    if not (root / "sys/module/nf_tables").exists() and not has_module(root, "nf_tables.ko"):
        yield Finding(
            "kernel", False, "This kernel has no nf_tables: nothing can be blocked.",
            "run a kernel with CONFIG_NF_TABLES, or install the modules of the one that runs",
        )  # fmt: skip
    else:
        yield Finding("kernel", True, "The kernel has nf_tables.")
    if not (root / "proc/net/if_inet6").exists():
        yield Finding("ipv6", None, "IPv6 is off in this kernel. Nothing leaves by it; the tunnel has none either.")


def resolver(root: Path) -> Iterator[Finding]:
    """/etc/resolv.conf, which is replaced while connected."""
    file = root / "etc/resolv.conf"
    if any(line.split()[1:2] == ["/etc/resolv.conf"] for line in _lines(root / "proc/mounts")):
        yield Finding(
            "resolver", False, "Something is mounted on /etc/resolv.conf, so it cannot be replaced while connected: "
            "names would be asked of the wrong resolver, and are blocked.", "umount /etc/resolv.conf",
        )  # fmt: skip
        return
    servers = [line.split()[1] for line in _lines(file) if line.split()[:1] == ["nameserver"] and len(line.split()) > 1]
    if not servers:
        text = "There is no nameserver in /etc/resolv.conf: no names can be resolved now."
        yield Finding("resolver", None, f"{text} While connected, the VPN's are used all the same.")
    elif servers == [STUB]:
        yield Finding("resolver", True, "Names are resolved by systemd-resolved; while connected, by the VPN.")
    else:
        yield Finding("resolver", True, "Names are resolved by /etc/resolv.conf, which is replaced while connected.")


def wifi(running: set[str]) -> Iterator[Finding]:
    """Who joins networks. The kernel tells which one it is, whoever does."""
    names = [name for process, name in MANAGERS.items() if process in running]
    if names:
        yield Finding("network", True, f"Networks are joined by {' and '.join(names)}.")
    else:
        text = "No program that joins networks is seen here. Whatever joins them: the kernel tells which network it is."
        yield Finding("network", None, text)


def firewalls(root: Path) -> Iterator[Finding]:
    """Others' that may take our rules along."""
    if list((root / "etc/systemd/system").glob("*.wants/nftables.service")):
        yield Finding(
            "nftables", None, "nftables.service is on. Its start and reload empty the whole ruleset; tunwarden's comes "
            "back within milliseconds, and a warning says so.",
        )  # fmt: skip


def permissions(root: Path, run_folder: str, uid: int, gids: frozenset[int]) -> Iterator[Finding]:
    """Who may ask, and whether anybody else could write what the daemon believes."""
    groups = {line.split(":")[0]: line.split(":")[2] for line in _lines(root / "etc/group") if line.count(":") == 3}
    gid = groups.get(GROUP)
    if uid == 0:
        yield Finding("permission", True, "You are root: you may do everything.")
    elif gid is None:
        yield Finding(
            "permission", None, f"There is no group {GROUP}: only root may connect and disconnect.",
            f"sudo groupadd --system {GROUP}, then restart the service",
        )  # fmt: skip
    elif gid.isdigit() and int(gid) in gids:
        yield Finding("permission", True, f"You are in the group {GROUP}: you may connect, disconnect and tighten.")
    else:
        yield Finding(
            "permission", None, f"You may look, not change: you are not in the group {GROUP}.",
            f"sudo usermod -aG {GROUP} NAME, then log in anew",
        )  # fmt: skip
    for file in _believed(root):
        try:
            about = file.stat()
        except OSError:
            continue
        if about.st_uid != 0 or about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            shown = f"/{file.relative_to(root)}"
            yield Finding(
                "owner", False, f"{shown} could be written by somebody else than root, so it is not believed.",
                f"sudo chown root:root {shown} && sudo chmod go-w {shown}",
            )  # fmt: skip
    if Path(run_folder, "tunwarden.sock").exists() and not os.access(f"{run_folder}/read.sock", os.W_OK):
        yield Finding(
            "socket", False, f"{run_folder}/read.sock cannot be used by you, though everybody may ask there.",
            "sudo systemctl restart tunwarden",
        )  # fmt: skip


def _believed(root: Path) -> Iterator[Path]:
    folder = root / "etc/tunwarden"
    yield from (folder, folder / "tunwarden.toml", folder / "tunwarden.d")
    yield from sorted((folder / "tunwarden.d").glob("*.toml"))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
