"""Ready before NetworkManager: the real one, as Debian's own unit starts it, on a machine that is protected."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.boot.machine import UNIT, Machine

pytestmark = pytest.mark.boot

THERE = Path("/usr/local/lib/tunwarden-lab/network-manager")  # unpacked by lab/install-missing
NETWORKMANAGER = "NetworkManager.service"
# Debian's unit (1.42.4), but for where the program lies.
NETWORKMANAGER_UNIT = f"""
[Unit]
Description=Network Manager
Wants=network.target
After=network-pre.target dbus.service
Before=network.target
[Service]
Type=dbus
BusName=org.freedesktop.NetworkManager
Environment=LD_LIBRARY_PATH={THERE}
ExecStart={THERE}/NetworkManager --no-daemon
Restart=on-failure
KillMode=process
[Install]
WantedBy=multi-user.target
"""
POLICY = """
<busconfig>
  <policy user="root"><allow own="org.freedesktop.NetworkManager"/></policy>
  <policy context="default"><allow send_destination="org.freedesktop.NetworkManager"/></policy>
</busconfig>
"""


def moment(machine: Machine, unit: str, event: str) -> int:
    """In microseconds of the machine's clock; 0: never in this boot."""
    return int(machine.box.show(unit, f"{event}TimestampMonotonic")[f"{event}TimestampMonotonic"])


@pytest.fixture
def managed(machine: Machine) -> Machine:
    """The machine, with NetworkManager from the next boot on."""
    if not (THERE / "NetworkManager").exists():
        pytest.skip("NetworkManager could not be unpacked here: run lab/install-missing")
    machine.box.write(f"/etc/systemd/system/{NETWORKMANAGER}", NETWORKMANAGER_UNIT)
    machine.box.write("/etc/dbus-1/system.d/org.freedesktop.NetworkManager.conf", POLICY)
    # The wire of these tests is made by hand, after the boot; NetworkManager would make it its own.
    machine.box.write("/etc/NetworkManager/NetworkManager.conf", "[keyfile]\nunmanaged-devices=*\n")
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "--quiet", "enable", NETWORKMANAGER)
    return machine


def test_it_is_ready_before_networkmanager(managed: Machine) -> None:
    managed.start_over()
    managed.protect()
    managed.reboot()
    managed.wait("NetworkManager", lambda: managed.run("systemctl", "is-active", NETWORKMANAGER))
    assert 0 < moment(managed, UNIT, "ActiveEnter") <= moment(managed, NETWORKMANAGER, "InactiveExit")
    assert 0 < moment(managed, "tunwarden-lockdown.service", "ActiveEnter") <= moment(managed, UNIT, "InactiveExit")
    assert "ordering cycle" not in managed.box.journal()
    # It is the real one, it runs, and the daemon is there with it.
    state = ("busctl", "get-property", "org.freedesktop.NetworkManager", "/org/freedesktop/NetworkManager")
    assert managed.run(*state, "org.freedesktop.NetworkManager", "Version").stdout.startswith('s "1.')
    managed.wait_state("connecting", "blocked", "reconnecting")
    managed.talk()
    assert not managed.open()
