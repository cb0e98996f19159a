"""S4, I6 in a service as it is sandboxed: settings files are noticed, journald gets fields, a trace can be written."""

from __future__ import annotations

import json

import pytest

from tests.boot.machine import Machine

pytestmark = pytest.mark.boot

DROP_IN = "/etc/tunwarden/tunwarden.d/50-boot.toml"


def test_a_drop_in_is_noticed_and_locks(fresh: Machine) -> None:
    fresh.run("mkdir", "-p", "/etc/tunwarden/tunwarden.d")
    try:
        fresh.box.write(DROP_IN, "[protection]\nallow_lan = false\n")
        found = json.dumps({})

        def managed() -> bool:
            nonlocal found
            found = fresh.run("tunwarden", "settings", "get", "protection.allow_lan", "--json").stdout
            return bool(json.loads(found)[0]["origin"] == "administrator")

        fresh.wait("managed", managed)
        assert json.loads(found)[0]["place"] == f"{DROP_IN}:2"
        refused = fresh.run("tunwarden", "settings", "set", "protection.allow_lan", "true", check=False)
        assert refused.returncode == 1 and DROP_IN in refused.stderr
        assert fresh.run("tunwarden", "settings", "set", "wifi.criteria.wps", "true", user="alice").returncode == 0
        refused = fresh.run("tunwarden", "settings", "set", "wifi.criteria.wps", "false", user="alice", check=False)
        assert refused.returncode == 4
        fresh.run("tunwarden", "settings", "reset", "--all")
    finally:
        fresh.run("rm", "-r", "/etc/tunwarden/tunwarden.d")


def test_journald_has_the_fields(fresh: Machine) -> None:
    told = fresh.run("journalctl", "-u", "tunwarden", "-o", "json", "TUNWARDEN_PHASE=idle").stdout.splitlines()
    record = json.loads(told[-1])
    assert record["SYSLOG_IDENTIFIER"] == "tunwardend"
    assert record["_SYSTEMD_UNIT"] == "tunwarden.service"
    assert "phase=idle" in record["MESSAGE"]


def test_a_trace_in_the_sandbox(fresh: Machine) -> None:
    fresh.run("tunwarden", "trace", "on", "--minutes", "5")
    fresh.run("systemctl", "restart", "tunwarden")
    fresh.wait_state("idle")
    trace = json.loads(fresh.run("tunwarden", "trace", "off", "--json").stdout)
    assert trace["trouble"] is None and trace["bytes"] > 0
    assert fresh.run("stat", "--format=%a %U", f"{trace['folder']}/trace.jsonl").stdout == "600 root\n"
    assert fresh.run("ls", trace["folder"], user="alice", check=False).returncode != 0
    fresh.run("rm", "-r", trace["folder"])
