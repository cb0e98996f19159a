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
