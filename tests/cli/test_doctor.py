"""tunwarden doctor: what is well, what is not, and what to do about it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from cli import doctor_places
from cli.doctor import Finding, checks_connectivity, of_machine, of_status, processes
from ipc import VERSION
from ipc.structs import Status
from tests.cli.running import daemon, tunwarden
from tests.ipc.fake_service import IDLE
from tests.ipc.places import STRANGER, public_folder

CONNECTED = replace(
    IDLE, state="connected", target="protected", protected=True, blocking=True, profile="home", version=VERSION
)
OBSTACLE = "The firewall table `inet corporate` of another program drops the VPN's own packets."


def wrong(status: Status) -> list[str]:
    return [finding.check for finding in of_status(status) if finding.ok is False]


@pytest.mark.parametrize(
    "status, checks",
    [
        (CONNECTED, []),
        (replace(IDLE, version=VERSION), []),
        (IDLE, ["version"]),
        (replace(CONNECTED, alarm="a probe got out"), ["alarm"]),
        (replace(CONNECTED, warnings=(OBSTACLE, "another")), ["warning", "warning"]),
        (replace(CONNECTED, state="blocked", protected=False, cause_text="No answer."), ["cause"]),
        (replace(CONNECTED, state="blocked", protected=False, blocking=False), ["protection"]),
        (replace(IDLE, version=VERSION, lockdown=True), ["protection"]),
    ],
)
def test_what_a_status_means(status: Status, checks: list[str]) -> None:
    assert wrong(status) == checks


def test_a_kill_switch_that_is_off_is_said() -> None:
    (said,) = (
        finding for finding in of_status(replace(CONNECTED, kill_switch=False)) if finding.check == "kill-switch"
    )
    assert (said.ok, said.remedy) == (None, "tunwarden killswitch on")


def machine(root: Path, *, library: bool = False) -> dict[str, Finding]:
    def load(name: str) -> None:
        assert name == "libnftables.so.1"
        if not library:
            raise OSError("cannot open shared object file")

    return {finding.check: finding for finding in of_machine(root, load)}


def put(root: Path, path: str, text: str = "") -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def test_a_machine_without_anything(tmp_path: Path) -> None:
    found = machine(tmp_path)
    assert {check: finding.ok for check, finding in found.items()} == {
        "kernel": False, "ipv6": None, "firewall": False, "tunnel": False, "resolver": None, "network": None,
    }  # fmt: skip
    assert found["firewall"].remedy == "apt install nftables"
    assert found["tunnel"].remedy == "apt install wireguard-go"


def test_a_machine_with_what_is_needed(tmp_path: Path) -> None:
    assert machine(tmp_path, library=True)["firewall"].ok
    put(tmp_path, "usr/sbin/nft")
    assert machine(tmp_path)["firewall"].ok
    put(tmp_path, "usr/bin/wireguard-go")
    assert machine(tmp_path)["tunnel"].remedy == "modprobe tun"
    put(tmp_path, "dev/net/tun")
    assert machine(tmp_path)["tunnel"].ok


@pytest.mark.parametrize("name", ["modules.dep", "modules.builtin"])
def test_wireguard_of_the_kernel(tmp_path: Path, name: str) -> None:
    put(tmp_path, f"lib/modules/{os.uname().release}/{name}", "kernel/drivers/net/wireguard/wireguard.ko.xz: x.ko\n")
    assert machine(tmp_path)["tunnel"].text == "The kernel has WireGuard."


@pytest.mark.parametrize("name", ["firewalld", "dockerd", "tailscaled"])
def test_a_neighbour_is_explained_and_no_fault(tmp_path: Path, name: str) -> None:
    put(tmp_path, "proc/12/comm", "bash\n")
    assert name not in machine(tmp_path)
    put(tmp_path, "proc/4711/comm", f"{name}\n")
    assert machine(tmp_path)[name].ok is None


def test_ufw_counts_when_it_is_on(tmp_path: Path) -> None:
    put(tmp_path, "etc/ufw/ufw.conf", "# comment\nENABLED=no\n")
    assert "ufw" not in machine(tmp_path)
    put(tmp_path, "etc/ufw/ufw.conf", "ENABLED=yes\nLOGLEVEL=low\n")
    assert machine(tmp_path)["ufw"].ok is None


DEBIAN = "[connectivity]\nuri=http://nmcheck.gnome.org/check_network_status.txt\n"


@pytest.mark.parametrize(
    "files, checks",
    [
        ({}, False),
        ({"usr/lib/NetworkManager/conf.d/20-connectivity-debian.conf": DEBIAN}, True),
        (
            {
                "usr/lib/NetworkManager/conf.d/20-connectivity-debian.conf": DEBIAN,
                "etc/NetworkManager/conf.d/20-connectivity-debian.conf": "",  # hides it: nm-connectivity's own advice
            },
            False,
        ),
        (
            {
                "usr/lib/NetworkManager/conf.d/20-connectivity-debian.conf": DEBIAN,
                "etc/NetworkManager/conf.d/30-off.conf": "[connectivity]\nenabled=false\n",
            },
            False,
        ),
        ({"etc/NetworkManager/NetworkManager.conf": DEBIAN + "interval=0\n"}, False),
        ({"etc/NetworkManager/NetworkManager.conf": "no section\n"}, False),
    ],
)
def test_networkmanagers_connectivity_check(tmp_path: Path, files: dict[str, str], checks: bool) -> None:
    put(tmp_path, "proc/7/comm", "NetworkManager\n")
    for path, text in files.items():
        put(tmp_path, path, text)
    assert checks_connectivity(tmp_path) is checks
    assert ("connectivity" in machine(tmp_path)) is checks


def test_the_processes_of_this_machine() -> None:
    assert Path("/proc/self/comm").read_text().strip() in processes()


# --- the program ------------------------------------------------------------------------------------------------------


@pytest.mark.netns  # needs root: another user asks
def test_the_program_for_any_user() -> None:
    with daemon() as folder:
        ended = tunwarden(folder, "doctor", who=STRANGER)
        assert (ended.code, ended.err) == (1, "")  # the fake has a version of its own
        assert "[ok] The daemon answers (version 9.8.7).\n" in ended.out
        assert f"[!!] The daemon has version 9.8.7, this program {VERSION}.\n     Remedy: sudo systemctl" in ended.out
        told = tunwarden(folder, "doctor", "--json", who=STRANGER).json
        assert isinstance(told, dict)
        assert told["well"] is False
        assert {"check", "ok", "text", "remedy"} == told["findings"][0].keys()


def test_without_a_daemon() -> None:
    with public_folder() as folder:
        ended = tunwarden(folder, "doctor")
    assert ended.code == 3
    assert ended.out.startswith("[!!] tunwardend does not answer")
    assert "sudo systemctl start tunwarden" in ended.out
    assert "nftables" in ended.out, "the rest is looked at all the same"


def test_the_kernel(tmp_path: Path) -> None:
    assert "CONFIG_NF_TABLES" in machine(tmp_path)["kernel"].remedy
    put(tmp_path, f"lib/modules/{os.uname().release}/modules.dep", "kernel/net/netfilter/nf_tables.ko.xz: x.ko\n")
    assert machine(tmp_path)["kernel"].ok
    put(tmp_path, "proc/net/if_inet6")
    assert "ipv6" not in machine(tmp_path)


@pytest.mark.parametrize(
    "content, mounts, ok, text",
    [
        ("nameserver 192.0.2.1\n", "", True, "which is replaced while connected"),
        ("# stub\nnameserver 127.0.0.53\noptions edns0\n", "", True, "systemd-resolved"),
        ("search example\n", "", None, "no nameserver"),
        ("nameserver 192.0.2.1\n", "tmpfs /etc/resolv.conf tmpfs rw 0 0\n", False, "mounted on /etc/resolv.conf"),
    ],
)
def test_the_resolver(tmp_path: Path, content: str, mounts: str, ok: bool | None, text: str) -> None:
    put(tmp_path, "etc/resolv.conf", content)
    put(tmp_path, "proc/mounts", f"proc /proc proc rw 0 0\n{mounts}")
    found = machine(tmp_path)["resolver"]
    assert (found.ok, text in found.text) == (ok, True)
    assert bool(found.remedy) is (ok is False)


def test_who_joins_networks(tmp_path: Path) -> None:
    assert machine(tmp_path)["network"].ok is None
    for number, name in enumerate(("NetworkManager", "wpa_supplicant")):
        put(tmp_path, f"proc/{number}/comm", f"{name}\n")
    assert machine(tmp_path)["network"].text == "Networks are joined by NetworkManager and wpa_supplicant."


def test_nftables_service(tmp_path: Path) -> None:
    put(tmp_path, "etc/systemd/system/sysinit.target.wants/nftables.service")
    assert "within milliseconds" in machine(tmp_path)["nftables"].text


@pytest.mark.parametrize(
    "uid, gids, group, ok, text",
    [
        (0, {0}, True, True, "You are root"),
        (1000, {1000, 77}, True, True, "you may connect, disconnect and tighten"),
        (1000, {1000}, True, None, "You may look, not change"),
        (1000, {1000}, False, None, "There is no group tunwarden"),
    ],
)
def test_who_may_do_what(tmp_path: Path, uid: int, gids: set[int], group: bool, ok: bool | None, text: str) -> None:
    put(tmp_path, "etc/group", "root:x:0:\n" + ("tunwarden:x:77:\n" if group else "") + "broken\n")
    (found,) = doctor_places.permissions(tmp_path, str(tmp_path / "run"), uid, frozenset(gids))
    assert (found.ok, text in found.text) == (ok, True)
    assert bool(found.remedy) is (ok is None)


@pytest.mark.skipif(os.geteuid() != 0, reason="files of root's are judged")
def test_files_that_others_could_write(tmp_path: Path) -> None:
    def wrong() -> dict[str, str]:
        found = doctor_places.permissions(tmp_path, str(tmp_path / "run"), 0, frozenset({0}))
        return {finding.text.split()[0]: finding.remedy for finding in found if finding.ok is False}

    put(tmp_path, "etc/tunwarden/tunwarden.toml")
    put(tmp_path, "etc/tunwarden/tunwarden.d/1.toml")
    assert wrong() == {}
    (tmp_path / "etc/tunwarden/tunwarden.d/1.toml").chmod(0o664)
    os.chown(tmp_path / "etc/tunwarden/tunwarden.toml", 65534, 0)
    file = "/etc/tunwarden/tunwarden.toml"
    assert wrong() == {
        file: f"sudo chown root:root {file} && sudo chmod go-w {file}",
        "/etc/tunwarden/tunwarden.d/1.toml": "sudo chown root:root /etc/tunwarden/tunwarden.d/1.toml && "
        "sudo chmod go-w /etc/tunwarden/tunwarden.d/1.toml",
    }
