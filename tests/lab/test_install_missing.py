"""lab/install-missing is silent when nothing is missing, and names what it installs and why when something is."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from lab.hosts import Host

SCRIPT = str(Path(__file__).parents[2] / "lab" / "install-missing")
STUB = '#!/bin/sh\necho "${0##*/} $*" >>/run/lab/calls\n[ "${0##*/}" != apt-cache ]\n'

pytestmark = pytest.mark.netns


def test_silent_when_complete() -> None:
    result = subprocess.run([SCRIPT], capture_output=True, text=True, check=True)
    assert (result.stdout, result.stderr) == ("", "")


def test_says_what_and_why_and_updates_only_when_it_must() -> None:
    """In a host where dbusmock is hidden, dpkg knows nothing (its /var/lib is empty) and apt is a recorder."""
    with Host("box") as host:
        host.run("mount", "-t", "tmpfs", "tmpfs", "/usr/lib/python3/dist-packages")
        for name in ("apt-get", "apt-cache"):
            host.write(f"/etc/lab/bin/{name}", STUB, mode=0o755)
        result = host.run(SCRIPT, env={"PATH": "/etc/lab/bin:/usr/sbin:/usr/bin:/sbin:/bin"})
        assert result.stdout.splitlines() == [
            "installing python3-dbusmock: the NetworkManager stand-in",
            "installing python3-prometheus-client: judges the file for Prometheus",
        ]
        calls = host.read("/run/lab/calls").splitlines()
    assert calls[0] == "apt-cache show python3-dbusmock python3-prometheus-client"
    assert calls[1] == "apt-get update --quiet=2"
    assert calls[2].startswith("apt-get install --yes") and "--no-install-recommends" in calls[2]
    assert calls[2].endswith("python3-dbusmock python3-prometheus-client")


def test_where_there_are_no_lists_they_are_fetched_before_the_rest_is_left_out() -> None:
    """On a fresh machine `apt-get download` knows no package. Nothing of it fails the laboratory: tests are skipped."""
    stub = '#!/bin/sh\necho "$*" >>/run/lab/calls\n[ "$1" != download ]\n'
    with Host("box") as host:
        host.run("mount", "-t", "tmpfs", "tmpfs", "/usr/local/lib")
        host.write("/etc/lab/bin/apt-get", stub, mode=0o755)
        result = host.run(SCRIPT, env={"PATH": "/etc/lab/bin:/usr/sbin:/usr/bin:/sbin:/bin"})
        assert "unpacking resolvconf: " in result.stdout
        assert host.run("ls", "-A", "/usr/local/lib").stdout == ""
        calls = [line.split()[0] for line in host.read("/run/lab/calls").splitlines()]
    assert calls[:3] == ["download", "update", "download"]
    assert set(calls) == {"download", "update"}
