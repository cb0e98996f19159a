"""From the wish to be connected to the first answer through an OpenVPN tunnel, beside openvpn alone.

Both have the same server, file and network, and begin unprotected: ours with a call to the daemon, which
closes everything first, its peer with the start of `openvpn --config`, which sets addresses and routes by itself.
Usage: python -m bench.bench_openvpn [TIMES]
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from bench.common import report, title
from lab.first_byte import first_byte
from lab.openvpn_server import LINK, PROGRAM, OpenVpnServer
from lab.processes import LabError
from lab.subject import SETTINGS, Subject
from lab.topology import Laboratory

NAME = "office"
UNASKED = SETTINGS.replace('unsecured = "auto_connect"', 'unsecured = "ignore"')
SETTLE_S = 0.5  # between two connections


def ours(lab: Laboratory, server: OpenVpnServer, times: int) -> list[float]:
    subject = Subject(lab, UNASKED)
    subject.start(30)
    with subject.client() as client:
        client.import_profile(NAME, server.client_config())
    lab.join("cafe")
    subject.wait("idle", 30)
    taken = []
    for _ in range(times):
        time.sleep(SETTLE_S)
        begun = time.monotonic()
        with subject.client() as client:
            client.connect(NAME)
        taken.append(1000 * first_byte(lab.laptop, lab.plan.internet4, lab.plan.server4, begun, 30))
        subject.wait("connected", 30)
        with subject.client() as client:
            client.disconnect()
        subject.wait("idle", 30)
    return taken


def alone(lab: Laboratory, server: OpenVpnServer, times: int) -> list[float]:
    lab.laptop.write("/etc/openvpn/office.conf", f"{server.client_config()}redirect-gateway def1 ipv6\n", mode=0o600)
    lab.join("cafe")
    taken = []
    for _ in range(times):
        time.sleep(SETTLE_S)
        begun = time.monotonic()
        process = lab.laptop.start(PROGRAM, "--config", "/etc/openvpn/office.conf")
        taken.append(1000 * first_byte(lab.laptop, lab.plan.internet4, lab.plan.server4, begun, 30))
        process.stop()
        until = time.monotonic() + 30
        while lab.laptop.run("ip", "link", "show", LINK, check=False).returncode == 0:
            if time.monotonic() > until:
                raise LabError("openvpn left its link behind")
            time.sleep(0.05)
    return taken


def main() -> None:
    times = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    title("connect to the first answer, OpenVPN over UDP")
    figures = []
    for side in (ours, alone):
        with Laboratory(7) as lab, tempfile.TemporaryDirectory() as folder:
            server = OpenVpnServer(lab.vpn, lab.plan, Path(folder))
            server.start()
            figures.append(side(lab, server, times))
    own = report("tunwarden", figures[0], "ms")
    peer = report("openvpn alone", figures[1], "ms")
    print(f"ratio {own / peer:.2f}  (goal 1.1)")


if __name__ == "__main__":
    main()
