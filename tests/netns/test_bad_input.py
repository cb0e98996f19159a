"""Bad input and broken surroundings, at the real daemon: nothing leaves, nothing is lost, and people are told why.

Every `sealed` block sends nine kinds of traffic, judged at the wire, and ends with the meter's positive control.
"""

from __future__ import annotations

import os
from typing import Any

import pytest

from cli.output import safe
from ipc.errors import ServiceError
from ipc.structs import Status
from lab.subject import Subject
from lab.topology import Laboratory
from policies.firewall import TUNNEL_IFNAME
from tests.netns.bad_input import STATE, connected, exchange, told

__all__ = ["connected"]
pytestmark = pytest.mark.netns

# --- resolv.conf ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["folder", "read-only", "giant"])
def test_a_resolv_conf_that_cannot_be_written(connected: Subject, sealed: Any, way: str) -> None:
    """Names would go past the tunnel, so there is none: blocked, told, and tried again until it can be written."""
    lab, path, other = connected.lab, "/etc/resolv.conf", "/run/lab/resolv.conf"
    with sealed():
        match way:
            case "folder":
                lab.laptop.run("mkdir", f"{path}.new")
                exchange(lab.laptop, path)
            case "read-only":  # already when it gets there, or the daemon would still write it
                lab.laptop.write(other, f"nameserver {lab.plan.cafe.host4(1)}\n")
                lab.laptop.run("mount", "--bind", other, other)
                lab.laptop.run("mount", "-o", "remount,bind,ro", other)
                lab.laptop.run("mount", "--bind", other, path)
            case "giant":
                lab.laptop.run("truncate", "-s", "1M", path)
        connected.cli("reconnect")
        told(connected, "point name resolution into the tunnel: ")
        status = connected.wait("blocked")
        assert (status.cause, status.blocking, status.protected) == ("resolver-failed", True, False)
        if way == "read-only":
            lab.laptop.run("umount", path)
        lab.laptop.run("rm", "-rf", path)
        lab.laptop.write(path, "# empty\n")
        connected.wait(lambda status: status.protected and not status.warnings)


def test_a_resolv_conf_that_is_a_link_is_given_back(subject: Subject) -> None:
    lab = subject.lab
    lab.join("cafe")
    subject.wait("connected")
    subject.cli("disconnect")
    subject.wait("idle")
    lab.laptop.run("ln", "-sf", "/run/lab/elsewhere", "/etc/resolv.conf")
    subject.cli("connect", "--wait")
    assert str(lab.plan.tunnel_server[0]) in lab.laptop.read("/etc/resolv.conf")
    assert not lab.laptop.path("/run/lab/elsewhere").exists(), "root does not write through a link"
    subject.cli("disconnect")
    subject.wait("idle")
    assert lab.laptop.run("readlink", "/etc/resolv.conf").stdout.strip() == "/run/lab/elsewhere"


# --- WireGuard text ---------------------------------------------------------------------------------------------------


def refused(config: str) -> dict[str, tuple[str, str]]:
    """Texts, and what the refusal must name."""
    key = next(line.split(" = ", 1)[1] for line in config.splitlines() if line.startswith("PrivateKey"))
    in_interface = config.replace("[Interface]\n", "[Interface]\n{}\n", 1)
    scripts = {
        name: (in_interface.replace("{}", f"{name} = touch /run/lab/ran"), f"line 2: {name}")
        for name in ("PostUp", "PreUp", "PostDown", "PreDown")
    }
    return scripts | {
        "table": (in_interface.replace("{}", "Table = 51820"), "line 2: Table"),
        "unknown": (in_interface.replace("{}", "Colour = red"), "line 2: directive: is not known"),
        "short key": (config.replace(key, key[:-3] + "="), "PrivateKey"),
        "no base64": (config.replace(key, "!" * 44), "PrivateKey"),
        "endpoint": (config.replace("Endpoint = ", "Endpoint = $(id)"), "Endpoint"),
        "allowed": (config.replace("AllowedIPs = ", "AllowedIPs = 10.0.0.0/33, "), "AllowedIPs"),
        "NUL": (config + "\0", "text"),
        "too long": (config + "# " + "x" * (1 << 20), "text"),
        "name": (config.replace("Endpoint = ", "Endpoint = nowhere.invalid:1\n# "), "nowhere.invalid"),
        "nothing": ("", "PrivateKey|section|Interface"),
    }


def test_a_refused_import_leaves_nothing(lab: Laboratory) -> None:
    """Named by line and directive; no file, no script has run, and the key is nowhere to be read."""
    subject = Subject(lab)
    subject.start()
    config = lab.client_config()
    key = next(line.split(" = ", 1)[1] for line in config.splitlines() if line.startswith("PrivateKey"))
    said = ""
    for name, (text, expected) in refused(config).items():
        with subject.client() as client, pytest.raises(ServiceError, match=expected) as err:
            client.import_profile("bad", text)
        said += f"{name}: {err.value}\n"
    with subject.client() as client:
        for name in ("", "../up", "a/b", ".hidden", "a b", "a\nb", "x" * 65, "\u202ename"):
            with pytest.raises(ServiceError):
                client.import_profile(name, config)
        assert client.list_profiles() == ()
    assert os.listdir(lab.laptop.path(f"{STATE}/profiles")) == []
    with subject.client() as client:
        ignored = client.import_profile("good", config.replace("[Interface]\n", "[Interface]\nSaveConfig = true\n", 1))
        assert [(notice.line, notice.directive) for notice in ignored] == [(2, "SaveConfig")]
    lab.join("cafe")
    subject.wait("connected")
    assert subject.process is not None
    assert not lab.laptop.path("/run/lab/ran").exists()
    for text in (said, subject.process.output(), subject.cli("status", "--json"), subject.cli("profiles", "list")):
        assert key not in text and key[:12] not in text
    for each in lab.laptop.run("sh", "-c", "cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline", check=False).stdout.split(
        "\0"
    ):
        assert key not in each
    assert lab.laptop.run("find", STATE, "-perm", "/077", check=True).stdout == "", "root's alone"


# --- names from the air -----------------------------------------------------------------------------------------------

NAMES = (
    b"$(id)`id`;reboot #",
    b"line\nPostUp = id\r\n<3>forged",
    b"\x1b]0;title\x07\x1b[31mred",
    "\u202eevil\u2066\u200b".encode(),
    bytes(range(224, 256)),
    b"'; DROP TABLE known; --",
)


def wait_ssid(subject: Subject, ssid: bytes) -> Status:
    return subject.wait(lambda status: [each.ssid_hex for each in status.networks] == [ssid.hex()])


def test_e3_names_that_try_to_do_something(subject: Subject, sealed: Any) -> None:
    """E2, E3: they are classified, shown and logged; no shell, line, terminal or database obeys them."""
    lab = subject.lab
    with sealed():
        for name in NAMES:
            lab.join("cafe", ssid=name, dhcp=False)
            status = wait_ssid(subject, name)
            assert status.blocking
            (network,) = status.networks
            assert network.ssid is not None
            assert network.verdict == "unsecured" and safe(network.ssid) == network.ssid and network.ssid.isprintable()
            with subject.client() as client:
                client.add_known(ssid_hex=name.hex(), security="wpa2", action="disconnect")
                assert name.hex() in [each.ssid_hex for each in client.list_known()]
        with subject.client() as client:
            assert len(client.list_known()) == len(NAMES) + 1
    assert subject.process is not None
    log = subject.process.output()
    assert not set(log) & (set(map(chr, range(32))) - {"\n"}) and "\u202e" not in log
    assert not [line for line in log.splitlines() if line.startswith(("PostUp", "<3>forged"))]


# --- what others do to us ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("victim", ["NetworkManager", "bus"])
def test_the_source_of_names_dies_while_held(subject: Subject, sealed: Any, victim: str) -> None:
    """Nobody will ever say what network this is: it is a strange one, after the time limit."""
    lab = subject.lab
    assert lab.networkmanager is not None
    with sealed():
        lab.networkmanager.associating()
        lab.associate(lab.networks["cafe"])
        subject.went_through("held")
        kill(lab, victim)
        lab.card.configure("wlan0", lab.networks["cafe"].subnet, metric=600, wait_ipv6=False, timeout=25)
        status = subject.wait("connected")
        assert status.networks[0].verdict == "unidentified"


@pytest.mark.parametrize("victim", ["NetworkManager", "bus"])
def test_the_source_of_names_dies_while_connected(connected: Subject, sealed: Any, victim: str) -> None:
    with sealed():
        kill(connected.lab, victim)
        status = connected.wait(lambda status: status.networks[0].verdict == "unidentified")
        assert status.protected


def test_the_source_of_names_dies_at_home(subject: Subject, sealed: Any) -> None:
    """A known network that nobody vouches for any more is a strange one: held, then protected."""
    lab = subject.lab
    lab.join("home")
    subject.wait("idle")
    before = len(subject.states())
    kill(lab, "NetworkManager")
    subject.went_through("held", since=before)
    with sealed():
        assert subject.wait("connected").networks[0].verdict == "unidentified"


def kill(lab: Laboratory, victim: str) -> None:
    assert lab.networkmanager is not None
    if victim == "NetworkManager":
        lab.networkmanager.kill()
    else:
        pids = lab.laptop.run("pidof", "dbus-daemon").stdout.split()
        lab.laptop.run("kill", "-KILL", *pids)


def test_the_card_is_pulled_out(connected: Subject, sealed: Any) -> None:
    lab = connected.lab
    with sealed("eth0"):
        lab.laptop.run("ip", "link", "del", "wlan0")
        status = connected.wait(lambda status: status.cause == "no-network")
        assert status.blocking
        lab.plug()
        connected.wait("connected")
    assert TUNNEL_IFNAME in lab.laptop.run("ip", "-o", "link").stdout


def test_the_card_is_renamed(connected: Subject, sealed: Any) -> None:
    lab = connected.lab
    with sealed():
        lab.laptop.run("ip", "link", "set", "wlan0", "name", "wlan7")
        connected.wait(lambda status: [each.ifname for each in status.networks] == ["wlan7"])
        connected.wait("connected")
        lab.laptop.run("ip", "link", "set", "wlan7", "name", "wlan0")
        connected.wait(lambda status: [each.ifname for each in status.networks] == ["wlan0"])
        assert connected.wait("connected").blocking
