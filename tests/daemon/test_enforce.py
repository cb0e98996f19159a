"""Two layers: narrow first, widen last, and where one refuses the other still holds."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from ipaddress import ip_network

import pytest

from daemon.enforce import EnforceError, Enforcer
from daemon.host import HostError
from policies.facts import Tunnel
from policies.firewall import TUNNEL_IFNAME, FirewallPolicy, without_beside
from policies.states import Cause, Phase
from tests.daemon.fake_host import FakeHost

OPEN = FirewallPolicy(Phase.IDLE, cleared=frozenset({"eth0", "wlan0"}))
LESS = replace(OPEN, cleared=frozenset({"eth0"}))
HELD = FirewallPolicy(Phase.HELD, capture=True)
BESIDE = replace(
    FirewallPolicy(Phase.BLOCKED, capture=True), never=True, beside=frozenset({"eth0"}), beside_dns=30054,
    subnets=(ip_network("203.0.113.0/24"),), subnet_links=frozenset({"eth0"}),
)  # fmt: skip
CONNECTED = FirewallPolicy(Phase.CONNECTED, tunnel=Tunnel(TUNNEL_IFNAME, ()), capture=True)
NARROWS, WIDENS = ["firewall", "routes"], ["routes", "firewall"]


def made() -> tuple[FakeHost, Enforcer]:
    fake = FakeHost()
    return fake, Enforcer(fake.host.firewall, fake.host.routes)


@pytest.mark.parametrize(
    "before, after, order",
    [
        (None, HELD, NARROWS),
        (None, OPEN, WIDENS),
        (None, CONNECTED, WIDENS),
        (OPEN, HELD, NARROWS),
        (OPEN, LESS, NARROWS),
        (LESS, OPEN, WIDENS),
        (HELD, OPEN, WIDENS),
        (HELD, CONNECTED, WIDENS),
        (CONNECTED, HELD, NARROWS),
        (None, BESIDE, WIDENS),
        (HELD, BESIDE, WIDENS),
        (LESS, BESIDE, NARROWS),  # what was open may stay so
        (BESIDE, HELD, NARROWS),
        (BESIDE, replace(BESIDE, beside_dns=0), NARROWS),
        (BESIDE, replace(BESIDE, subnets=(ip_network("198.51.100.0/24"),)), WIDENS),
    ],
)
def test_order(before: FirewallPolicy | None, after: FirewallPolicy, order: list[str]) -> None:
    async def check() -> None:
        fake, enforcer = made()
        if before is not None:
            assert await enforcer.set(before)
        fake.asked.clear()
        assert await enforcer.set(after)
        assert fake.order("firewall", "routes") == order
        assert enforcer.enforced == after
        assert enforcer.blocking is after.closed

    asyncio.run(check())


@pytest.mark.parametrize("before", [None, OPEN, HELD])
def test_t8_where_the_routes_refuse_the_firewall_closes_and_nothing_is_beside_it(before: FirewallPolicy | None) -> None:
    async def check() -> None:
        fake, enforcer = made()
        if before is not None:
            await enforcer.set(before)
        fake.refuses = {"routes"}
        with pytest.raises(EnforceError):
            await enforcer.set(BESIDE)
        firewall = fake.kernel["firewall"]
        assert firewall is not None and firewall.closed
        assert firewall == (BESIDE if before is OPEN else without_beside(BESIDE))
        assert enforcer.blocking and enforcer.enforced is None

    asyncio.run(check())


def test_a2_an_allowance_that_cannot_be_set_is_a_failure_and_set_at_the_next_try() -> None:
    """A new table lets nothing through a metered tunnel (golden connected-metered.nft), so until then none passes."""

    async def check() -> None:
        fake, enforcer = made()
        enforcer.left = lambda: 1234
        metered = replace(CONNECTED, metered=True)
        fake.refuses = {"allow"}
        with pytest.raises(EnforceError) as err:
            await enforcer.set(metered)
        assert err.value.cause is Cause.FIREWALL_FAILED
        assert enforcer.enforced is None and enforcer.blocking
        assert {fake.kernel["firewall"], fake.kernel["routes"]} == {metered}
        fake.refuses = set()
        assert await enforcer.set(metered)
        assert fake.asked[-1] == ("allow", 1234)
        assert enforcer.enforced == metered
        fake.asked.clear()
        fake.refuses = {"firewall"}
        with pytest.raises(EnforceError):
            await enforcer.set(metered)
        assert fake.order("allow") == [], "the old table's stays as it is"

    asyncio.run(check())


def test_the_same_again_is_looked_at_and_repaired() -> None:
    async def check() -> None:
        fake, enforcer = made()
        assert await enforcer.set(HELD)
        fake.kernel.update(firewall=None)
        assert not await enforcer.set(HELD), "nothing new to tell"
        assert fake.kernel == {"firewall": HELD, "routes": HELD}

    asyncio.run(check())


@pytest.mark.parametrize("refuses", ["firewall", "routes"])
@pytest.mark.parametrize("after", [HELD, LESS], ids=["held", "less"])
def test_narrowing_the_other_layer_is_set_all_the_same(refuses: str, after: FirewallPolicy) -> None:
    async def check() -> None:
        fake, enforcer = made()
        await enforcer.set(OPEN)
        fake.refuses = {refuses}
        with pytest.raises(EnforceError, match=f"^{refuses}: refused$") as err:
            await enforcer.set(after)
        assert err.value.cause == f"{refuses}-failed"
        other = "routes" if refuses == "firewall" else "firewall"
        assert fake.kernel[other] == after
        assert enforcer.enforced is None
        assert enforcer.blocking == (refuses == "routes" and after.closed), "said without the firewall's word"

    asyncio.run(check())


@pytest.mark.parametrize("after", [OPEN, CONNECTED], ids=["open", "connected"])
def test_widening_stops_at_the_first_refusal(after: FirewallPolicy) -> None:
    async def check() -> None:
        fake, enforcer = made()
        await enforcer.set(HELD)
        fake.refuses = {"routes"}
        with pytest.raises(EnforceError):
            await enforcer.set(after)
        assert fake.kernel["firewall"] == HELD

    asyncio.run(check())


def test_both_refuse() -> None:
    async def check() -> None:
        fake, enforcer = made()
        fake.refuses = {"routes", "firewall"}
        with pytest.raises(EnforceError, match="firewall: refused; routes: refused") as err:
            await enforcer.set(HELD)
        assert err.value.cause is Cause.FIREWALL_FAILED
        fake.refuses.clear()
        assert await enforcer.set(HELD), "said again once it works"

    asyncio.run(check())


def test_a_failed_narrowing_is_not_taken_for_done() -> None:
    """After the firewall refused to close, a policy that clears the same links is no widening: it must be tried."""

    async def check() -> None:
        fake, enforcer = made()
        await enforcer.set(OPEN)
        fake.refuses = {"firewall", "routes"}
        with pytest.raises(EnforceError):
            await enforcer.set(HELD)
        fake.refuses = {"routes"}
        with pytest.raises(EnforceError):
            await enforcer.set(LESS)
        assert fake.kernel["firewall"] == LESS

    asyncio.run(check())


def test_reset_opens_the_routes_first() -> None:
    async def check() -> None:
        fake, enforcer = made()
        await enforcer.set(OPEN)
        await enforcer.reset()
        assert [detail for what, detail in fake.asked if what == "reset"] == ["routes", "firewall"]
        assert enforcer.enforced is None

    asyncio.run(check())


def test_what_a_refused_change_leaves_is_read_back_before_it_is_said() -> None:
    """The old rules may stand, or may have gone: only the kernel knows."""

    async def refuse(policy: FirewallPolicy) -> None:
        raise HostError("apply the firewall", "No such file or directory")

    async def check() -> None:
        for gone in (False, True):
            fake, enforcer = made()
            await enforcer.set(HELD)
            fake.host.firewall.set = refuse  # type: ignore[method-assign]
            if gone:
                fake.kernel["firewall"] = None
            with pytest.raises(EnforceError, match="No such file"):
                await enforcer.set(replace(HELD, phase=Phase.BLOCKED))
            assert (enforcer.enforced, enforcer.blocking) == (None, not gone)

    asyncio.run(check())


@pytest.mark.parametrize("layer", ["firewall", "routes"])
def test_looking_finds_what_others_took_away(layer: str) -> None:
    async def check() -> None:
        fake, enforcer = made()
        assert not await enforcer.intact(), "nothing was ever confirmed"
        await enforcer.set(HELD)
        assert (await enforcer.intact(), enforcer.blocking) == (True, True)
        fake.kernel[layer] = None
        assert not await enforcer.intact()
        assert enforcer.blocking == (layer == "routes"), "said of the firewall, as it is now"
        await enforcer.set(HELD)
        assert (await enforcer.intact(), enforcer.blocking) == (True, True)

    asyncio.run(check())


def test_what_cannot_be_looked_at_is_not_believed() -> None:
    async def check() -> None:
        fake, enforcer = made()
        await enforcer.set(HELD)

        async def unable(policy: FirewallPolicy) -> bool:
            raise HostError("check the firewall", "Operation not permitted")

        fake.host.firewall.verify = unable  # type: ignore[method-assign]
        assert not await enforcer.intact()
        assert not enforcer.blocking

    asyncio.run(check())
