"""T5 with the real systemd-logind: the service, inside its sandbox, gets the lock that delays sleep."""

from __future__ import annotations

import json

import pytest

from tests.boot.machine import Machine

pytestmark = pytest.mark.boot

MANAGER = "org.freedesktop.login1", "/org/freedesktop/login1", "org.freedesktop.login1.Manager"


def held(machine: Machine) -> bool:
    locks = json.loads(machine.run("busctl", "--json=short", "call", *MANAGER, "ListInhibitors").stdout)["data"][0]
    return ["sleep", "tunwarden", "delay", 0] in [[what, who, mode, uid] for what, who, _, mode, uid, _ in locks]


def test_logind_delays_sleep_for_the_service(fresh: Machine) -> None:
    fresh.run("systemctl", "start", "systemd-logind")
    fresh.wait("holding the lock", lambda: held(fresh), 20)
    fresh.run("systemctl", "restart", "systemd-logind")
    fresh.wait("holding the lock of the next logind", lambda: held(fresh), 20)
