"""From the wish to be connected to the first answer through the tunnel: ours beside `wg-quick up` and openvpn alone.

Both sides have the same server, file and network, and begin unprotected: ours with a call to the daemon, which closes
everything first, its peers with the start of the program, which sets addresses and routes by itself. They take turns,
so that whatever else the machine does is the same for both; the ratio is that of the medians. Twice: on the wire of the
laboratory, where only work takes time, and on a line as people have it, whose round trip of 30 ms both wait for.
Then: from one network to another, from the moment that it has given an address, while protected. wg-quick is not told.
Usage: python -m bench.bench_bringup [TIMES]
"""

from __future__ import annotations

import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from bench.common import report, title
from lab import slow_line
from lab.air import Air
from lab.control_groups import control_groups
from lab.first_byte import first_byte
from lab.openvpn_server import LINK, PROGRAM, OpenVpnServer
from lab.processes import LabError, Process
from lab.subject import PROFILE, SETTINGS, Subject
from lab.topology import Laboratory

UNASKED = SETTINGS.replace('unsecured = "auto_connect"', 'unsecured = "ignore"')
PEER = "peer0"
SETTLE_S = 0.5  # between two connections
ONE_WAY_S = 0.015  # of the line, each way

Bring = Callable[[], Callable[[], None]]  # begins to connect; what it returns ends the connection


def ours(lab: Laboratory, config: str) -> Bring:
    subject = Subject(lab, UNASKED)
    subject.start(30)
    with subject.client() as client:
        client.import_profile(PROFILE, config)
    lab.join("cafe")
    subject.wait("idle", 30)

    def end() -> None:
        subject.wait("connected", 30)
        with subject.client() as client:
            client.disconnect()
        subject.wait("idle", 30)

    def begin() -> Callable[[], None]:
        with subject.client() as client:
            client.connect(PROFILE)
        return end

    return begin


def wg_quick(lab: Laboratory, config: str) -> Bring:
    # Its resolver would need resolvconf; without, it leaves the names to the resolvers of the network as they were.
    lines = [line for line in config.splitlines() if not line.startswith("DNS")]
    lab.laptop.write(f"/etc/wireguard/{PEER}.conf", "\n".join(lines) + "\n", mode=0o600)
    lab.join("cafe")

    def end() -> None:
        lab.laptop.run("wg-quick", "down", PEER)

    def begin() -> Callable[[], None]:
        lab.laptop.run("wg-quick", "up", PEER)
        return end

    return begin


def openvpn(lab: Laboratory, config: str) -> Bring:
    lab.laptop.write("/etc/openvpn/office.conf", f"{config}redirect-gateway def1 ipv6\n", mode=0o600)
    lab.join("cafe")

    def begin() -> Callable[[], None]:
        process: Process = lab.laptop.start(PROGRAM, "--config", "/etc/openvpn/office.conf")

        def end() -> None:
            process.stop()
            until = time.monotonic() + 30
            while lab.laptop.run("ip", "link", "show", LINK, check=False).returncode == 0:
                if time.monotonic() > until:
                    raise LabError("openvpn left its link behind")
                time.sleep(0.05)

        return end

    return begin


def beside(labs: Sequence[Laboratory], sides: Sequence[Bring], times: int) -> list[list[float]]:
    """Milliseconds of each side, by turns."""
    taken: list[list[float]] = [[] for _ in sides]
    for _ in range(times):
        for lab, begin, values in zip(labs, sides, taken, strict=True):
            time.sleep(SETTLE_S)
            begun = time.monotonic()
            end = begin()
            values.append(1000 * first_byte(lab.laptop, lab.plan.internet4, lab.plan.server4, begun, 30))
            end()
    return taken


def told(labs: Sequence[Laboratory], sides: Sequence[Bring], times: int, peer: str, goal: float) -> None:
    """On the bare wire, then on the line."""
    for place in ("", f", {2000 * ONE_WAY_S:.0f} ms there and back"):
        if place:
            for lab in labs:
                line = slow_line.in_front_of(lab.vpn, lab.python, ONE_WAY_S, 0.0, lab.seed)
                line.send(signal.SIGUSR1)
                line.wait_output("slow")
        own, others = beside(labs, sides, times)
        ratio = report(f"tunwarden{place}", own, "ms") / report(f"{peer}{place}", others, "ms")
        print(f"ratio {ratio:.2f}  (goal {goal})", flush=True)


def switch(lab: Laboratory, times: int) -> list[float]:
    """Milliseconds from an address in the other network to the first answer through the tunnel."""
    subject = Subject(lab)
    subject.start(30)
    subject.set_up()
    lab.join("cafe")
    subject.wait("connected", 30)
    taken = []
    for number in range(times):
        time.sleep(SETTLE_S)
        if number % 2 == 0:
            lab.join("home", ssid=b"Hotel", air=Air.OPEN, wait_ipv6=False)
        else:
            lab.join("cafe", wait_ipv6=False)
        begun = time.monotonic()
        taken.append(1000 * first_byte(lab.laptop, lab.plan.internet4, lab.plan.server4, begun, 30))
        subject.wait("connected", 30)
    return taken


def main() -> None:
    times = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    title("connect to the first answer, WireGuard")
    with Laboratory(7) as one, Laboratory(8) as other:
        sides = ours(one, one.client_config()), wg_quick(other, other.client_config())
        told((one, other), sides, times, f"wg-quick ({one.vpn.engine})", 1.2)
    title("connect to the first answer, OpenVPN over UDP")
    with ExitStack() as stack:
        labs = [stack.enter_context(Laboratory(seed)) for seed in (7, 8)]
        stack.enter_context(control_groups(labs[0]))
        configs = []
        for lab in labs:
            server = OpenVpnServer(lab.vpn, lab.plan, Path(stack.enter_context(tempfile.TemporaryDirectory())))
            server.start()
            configs.append(server.client_config())
        sides = ours(labs[0], configs[0]), openvpn(labs[1], configs[1])
        told(labs, sides, times, "openvpn alone", 1.1)
    title("another network to the first answer, WireGuard")
    with Laboratory(7) as lab:
        report("tunwarden", switch(lab, times), "ms")


if __name__ == "__main__":
    main()
