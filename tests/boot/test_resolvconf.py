"""Names through resolvconf, which the daemon runs within the unit's sandbox."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.boot.machine import UNIT, Machine

pytestmark = pytest.mark.boot

PLACES = Path("/usr/local/lib/tunwarden-lab")  # filled by lab/install-missing
THEIRS = "198.51.100.53"


@pytest.mark.parametrize("package", ["openresolv", "resolvconf"])
def test_resolvconf(fresh: Machine, package: str) -> None:
    """T6. Its records are in /run, in a folder that comes after the daemon."""
    if not (PLACES / package).exists():
        pytest.skip(f"{package} is not here: run lab/install-missing")
    before = fresh.box.read("/etc/resolv.conf")
    fresh.run("sh", "-ec", f"cp -a {PLACES}/{package}/etc/. /etc")
    fresh.run("sh", "-ec", f"cd {PLACES}/{package}/usr; find . -type f -o -type l >/run/added; cp -a . /usr")
    try:
        if package == "resolvconf":
            fresh.run(
                "sh", "-ec", "ln -sfn ../run/resolvconf/resolv.conf /etc/resolv.conf; resolvconf --enable-updates"
            )
        fresh.run("resolvconf", "-a", "uplink.test", input=f"nameserver {THEIRS}\n")
        assert THEIRS in fresh.box.read("/etc/resolv.conf")
        fresh.import_profile()
        fresh.run("tunwarden", "connect", "--wait", "--timeout", "25")
        written = fresh.box.read("/etc/resolv.conf")
        assert written.index("nameserver 10.7.0.1") < (written + THEIRS).index(THEIRS)
        assert "resolvconf" in written
        assert fresh.status()["warnings"] == []
        fresh.run("tunwarden", "disconnect")
        fresh.wait_state("idle")
        written = fresh.box.read("/etc/resolv.conf")
        assert THEIRS in written and "10.7.0.1" not in written
    finally:
        fresh.run("tunwarden", "disconnect", check=False)
        fresh.run("sh", "-c", "cd /usr; while read -r each; do rm -f $each; done </run/added; rm -rf /run/resolvconf/*")
        fresh.run("rm", "-f", "/etc/resolv.conf")
        fresh.box.write("/etc/resolv.conf", before)
        fresh.run("systemctl", "restart", UNIT)
