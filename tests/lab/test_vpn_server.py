"""The VPN works with plain wg-quick, without tunwarden: this proves the laboratory itself."""

from __future__ import annotations

import pytest

from lab.frames import Kind
from lab.probes import AAAA, exit_address, resolve
from lab.topology import Laboratory

pytestmark = pytest.mark.netns

# wg-quick hands its DNS line to resolvconf(8); Debian has two of them, both too busy for this host.
RESOLVCONF = """#!/bin/sh
[ "$1" = -a ] && cat >/etc/resolv.conf
exit 0
"""


def wg_quick(lab: Laboratory, what: str) -> None:
    lab.laptop.run("wg-quick", what, "lab0", env={"PATH": "/etc/lab/bin:/usr/sbin:/usr/bin:/sbin:/bin"})


def connect(lab: Laboratory, ipv6_endpoint: bool = False) -> None:
    lab.laptop.write("/etc/lab/bin/resolvconf", RESOLVCONF, mode=0o755)
    lab.laptop.write("/etc/wireguard/lab0.conf", lab.client_config(ipv6_endpoint), mode=0o600)
    wg_quick(lab, "up")


def test_leaves_with_the_servers_address(lab: Laboratory) -> None:
    lab.join("cafe")
    connect(lab)
    plan = lab.plan
    with lab.meter() as meter:
        assert exit_address(lab.laptop, plan.internet4) == plan.server4
        assert exit_address(lab.laptop, plan.internet6) == plan.server6
        assert str(plan.internet4) in lab.laptop.run("getent", "ahostsv4", "internet.test").stdout
        assert resolve(lab.laptop, plan.tunnel_server[0], "whoami.test") == plan.tunnel_server[0]
        assert resolve(lab.laptop, plan.tunnel_server[1], "whoami.test", AAAA) == plan.tunnel_server[1]
        assert meter.counts()[Kind.TUNNEL] > 10
        assert meter.leaks() == []
    assert lab.vpn.handshake_age() is not None
    wg_quick(lab, "down")
    assert exit_address(lab.laptop, plan.internet4) == plan.cafe_uplink.host4(2)


def test_over_ipv6_alone(lab: Laboratory) -> None:
    lab.join("cafe6")
    connect(lab, ipv6_endpoint=True)
    assert exit_address(lab.laptop, lab.plan.internet4) == lab.plan.server4


def test_the_resolver_listens_inside_the_tunnel_only(lab: Laboratory) -> None:
    lab.join("cafe")
    with pytest.raises(OSError):
        resolve(lab.laptop, lab.plan.server4, "whoami.test", timeout=0.5)


@pytest.mark.parametrize("how", ["kill", "block"])
def test_a_server_that_is_gone_comes_back(lab: Laboratory, how: str) -> None:
    lab.join("cafe", wait_ipv6=False)
    connect(lab)
    assert exit_address(lab.laptop, lab.plan.internet4) == lab.plan.server4
    if how == "kill":
        lab.kill_server()
    else:
        lab.block_server()
    with pytest.raises(OSError):
        exit_address(lab.laptop, lab.plan.internet4, timeout=0.5)
    if how == "kill":
        lab.start_server()
        wg_quick(lab, "down")  # the dead server forgot the session: a new one at once instead of in some seconds
        wg_quick(lab, "up")
    else:
        lab.unblock_server()
    assert exit_address(lab.laptop, lab.plan.internet4) == lab.plan.server4
