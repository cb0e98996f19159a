"""A laboratory leaves nothing behind, however its owner dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.netns

CHECKOUT = str(Path(__file__).parents[2])
OWNER = """
import json, os, signal, sys, time
sys.path.insert(0, sys.argv[1])
from lab.topology import Laboratory
with Laboratory(77) as lab:
    lab.join("cafe")
    traffic = lab.traffic().__enter__()
    meter = lab.meter().__enter__()
    lab.laptop.start("sleep", "60").send(signal.SIGSTOP)
    time.sleep(0.05)
    print(json.dumps([os.readlink(f"/proc/{host.pid}/ns/net") for host in lab.hosts.values()]), flush=True)
    time.sleep(60)
"""


def namespaces() -> dict[str, list[str]]:
    """The network namespaces in use, each with the process ids that use it."""
    found: dict[str, list[str]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                found.setdefault(os.readlink(f"/proc/{entry}/ns/net"), []).append(entry)
            except OSError:
                continue
    return found


def machine() -> tuple[str, list[str], list[str], bytes]:
    """What a laboratory could change: mounts, links, named namespaces, resolvers."""
    named = sorted(os.listdir("/run/netns")) if Path("/run/netns").exists() else []
    resolvers = Path("/etc/resolv.conf").read_bytes() if Path("/etc/resolv.conf").exists() else b""
    return Path("/proc/self/mountinfo").read_text(), sorted(os.listdir("/sys/class/net")), named, resolvers


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_trace_after_the_owner_dies(number: signal.Signals) -> None:
    before = machine()
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, CHECKOUT], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert owner.stdout is not None
    with owner.stdout:
        mine = json.loads(owner.stdout.readline())
    assert set(mine) <= set(namespaces())
    owner.send_signal(number)
    owner.wait(30)
    deadline = time.monotonic() + 25
    while left := {name: users for name, users in namespaces().items() if name in mine}:
        assert time.monotonic() < deadline, f"still alive: {left}"
        time.sleep(0.02)
    assert machine() == before
