"""Facts from readings: what outlives a reading, and what a change of the way out means for the tunnel."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from ipaddress import ip_interface
from pathlib import Path

from policies.facts import Link, LinkKind
from policies.firewall import TUNNEL_IFNAME
from policies.states import Phase
from tests.daemon.fake_host import WLAN
from tests.daemon.test_loop import Running, impatient, run

__all__ = ["impatient"]


def test_a_network_whose_source_is_gone_is_held_then_a_strange_one(tmp_path: Path) -> None:
    async def check(here: Running) -> None:
        await here.at_home()
        await here.until(Phase.IDLE)
        await asyncio.sleep(1.2 * here.loop.settings.wifi.identify_timeout)  # the association's own time limit is over
        here.fake.wifi = {}
        await here.hint("wifi")
        await here.until(Phase.HELD)
        await here.until(Phase.CONNECTED)
        assert here.loop.facts.overdue == {"wlan0"}

    run(tmp_path, check)


def test_a_link_that_turns_out_to_be_wifi_is_identified_anew(tmp_path: Path) -> None:
    async def check(here: Running) -> None:
        here.fake.links = (replace(WLAN, kind=LinkKind.WIRED),)
        await here.hint("links")
        await here.until(Phase.IDLE)
        here.fake.links = (WLAN,)
        await here.hint("links")
        await here.until(Phase.HELD)
        await here.until(Phase.CONNECTED)

    run(tmp_path, check)


def test_a_new_association_forgets_the_former_network(tmp_path: Path) -> None:
    async def check(here: Running) -> None:
        await here.at_home()
        here.fake.links = (replace(WLAN, carrier_changes=11),)
        await here.loop._read_links()
        assert here.loop.facts.wifi == {}

    run(tmp_path, check)


def test_a_tunnel_is_told_of_another_way_once_there_is_one(tmp_path: Path) -> None:
    """wireguard-go would go on sending from an address that is gone, for 15 s."""

    async def check(here: Running) -> None:
        fake = here.fake
        await here.at_the_cafe()
        await here.until(Phase.CONNECTED)
        await here.turn()
        fake.asked.clear()
        await here.hint("links", "wifi")
        assert fake.order("moved", "open") == [], "nothing has changed"
        fake.links = (replace(WLAN, addresses=(), gateways=()),)
        await here.hint("links")
        assert fake.order("moved", "open") == [], "no way at all: a probe would be lost"
        fake.links = (replace(WLAN, addresses=(ip_interface("192.0.2.77/24"),)),)
        await here.hint("links")
        assert fake.order("moved", "open") == ["moved"]
        await here.hint("links", "wifi")
        assert fake.order("moved", "open") == ["moved"], "once"

    run(tmp_path, check)


def test_a_tunnel_that_loses_an_address_is_lost(tmp_path: Path) -> None:
    """L12: whoever switches IPv6 off and on again takes the tunnel's address away, and nothing else would tell."""

    async def check(here: Running) -> None:
        address = ip_interface("10.9.0.2/32")
        tunnel = Link(9, TUNNEL_IFNAME, LinkKind.TUNNEL, up=True, carrier=True, addresses=(address,))
        await here.at_the_cafe()
        here.fake.links = (WLAN, tunnel)
        await here.until(Phase.CONNECTED)
        await here.hint("links")
        attempt = here.loop.state.attempt
        await here.hint("links")
        assert here.loop.state.attempt == attempt
        here.fake.links = (WLAN, replace(tunnel, addresses=()))
        await here.hint("links")
        await here.until(lambda loop: loop.state.phase is Phase.CONNECTED and loop.state.attempt > attempt)

    run(tmp_path, check)
