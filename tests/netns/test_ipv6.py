"""T7: IPv6 in the tunnel when it has it, blocked when not; and networks that have one of the two protocols alone."""

from __future__ import annotations

from typing import Any

import pytest

from lab.probes import exit_address
from lab.subject import PROFILE, Subject

pytestmark = pytest.mark.netns

PATIENCE = 25.0  # seconds


def one_protocol(subject: Subject, version: int) -> str:
    """The provider's file for a tunnel with that protocol alone; AllowedIPs stay those of both."""
    site = subject.lab.plan.site
    own = next(address for address in site.inside_client if address.version == version)
    resolver = next(address for address in site.inside_server if address.version == version)
    lines = []
    for line in subject.lab.client_config().splitlines():
        key = line.partition(" = ")[0]
        lines.append({"Address": f"Address = {own}", "DNS": f"DNS = {resolver}"}.get(key, line))
    return "\n".join(lines) + "\n"


def bring(subject: Subject, config: str) -> None:
    with subject.client() as client:
        client.import_profile(PROFILE, config)


@pytest.mark.parametrize("version", [4, 6], ids=["IPv4", "IPv6"])
def test_t7_the_protocol_that_the_tunnel_lacks_is_blocked(subject: Subject, sealed: Any, version: int) -> None:
    """The network has both: before, both leave; afterwards the one goes through the tunnel, and the other nowhere."""
    lab = subject.lab
    bring(subject, one_protocol(subject, version))
    lab.join("home")
    subject.wait("idle", PATIENCE)
    assert exit_address(lab.laptop, lab.plan.internet4) == lab.plan.home_uplink.host4(2)
    assert exit_address(lab.laptop, lab.plan.internet6) in lab.plan.home.v6
    lab.leave()
    inside, outside = lab.plan.internet4, lab.plan.internet6
    server = lab.plan.server4
    if version == 6:
        (inside, outside), server = (outside, inside), lab.plan.server6  # type: ignore[assignment]
    with sealed():
        lab.join("cafe")
        subject.wait("connected", PATIENCE)
        assert exit_address(lab.laptop, inside) == server
        with pytest.raises(OSError):
            exit_address(lab.laptop, outside, timeout=1.0)
        lab.block_server()
        subject.cli("reconnect")
        subject.wait(lambda status: status.state != "connected", PATIENCE)
        for internet in (inside, outside):
            with pytest.raises(OSError):
                exit_address(lab.laptop, internet, timeout=1.0)


def test_t7_both_protocols_through_a_server_reached_by_ipv6(subject: Subject, sealed: Any) -> None:
    lab = subject.lab
    bring(subject, lab.client_config(ipv6_endpoint=True))
    with sealed():
        lab.join("cafe6")
        subject.wait("connected", PATIENCE)
        assert exit_address(lab.laptop, lab.plan.internet4) == lab.plan.server4
        assert exit_address(lab.laptop, lab.plan.internet6) == lab.plan.server6


@pytest.mark.parametrize("network, by_ipv6", [("cafe6", False), ("cafe", True)])
def test_t7_no_way_to_the_server(subject: Subject, sealed: Any, network: str, by_ipv6: bool) -> None:
    """A network of one protocol, a server of the other (no NAT64 of ours): blocked, said, and nothing leaves."""
    lab = subject.lab
    bring(subject, lab.client_config(ipv6_endpoint=by_ipv6))
    if by_ipv6:
        lab.laptop.sysctl(("net/ipv6/conf/wlan0/accept_ra", "0"))
    with sealed():
        lab.join(network, wait_ipv6=not by_ipv6)
        status = subject.wait(lambda status: status.cause == "no-route" and status.state == "blocked", PATIENCE)
        assert status.blocking
        if by_ipv6:
            return
        lab.join("cafe")
        subject.wait("connected", PATIENCE)
        assert exit_address(lab.laptop, lab.plan.internet6) == lab.plan.server6
