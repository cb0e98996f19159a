"""Whether NetworkManager says that a sign-in checks the server (802.1X)."""

from __future__ import annotations

import asyncio

import pytest
from dbus_fast import Variant
from structlog.testing import capture_logs

from daemon.linux.networkmanager import NetworkManager
from lab.air import AccessPoint, Air
from lab.hosts import Host
from lab.networkmanager_stand_in import NAME, WIFI, NetworkManagerStandIn
from policies.facts import Security
from tests.daemon.linux.test_networkmanager import address, aside, host, network, run, stand_in, update, watching

__all__ = ["host", "stand_in"]
CAMPUS = AccessPoint(b"campus", "02:00:00:00:00:0e", Air.ENTERPRISE)
TRUSTING = {"connection": {"id": "Campus"}, "802-1x": {"eap": ["peap"], "identity": "user"}}
CHECKING = {"connection": {"id": "Campus"}, "802-1x": {"eap": ["peap"], "ca-cert": b"file:///campus.pem\0"}}


@pytest.mark.netns
def test_whether_a_sign_in_checks_the_server(host: Host, stand_in: NetworkManagerStandIn) -> None:
    """N4: told from the beginning of an activation on; of a card that NetworkManager leaves alone it knows nothing."""

    async def work() -> None:
        async with watching(host) as watched:
            ask = watched.source.server_unchecked
            while await ask("eth7") is not False:  # not its; first there is no connection to the bus
                await watched.hints.get()
            assert await ask("wlan0") is None  # it is about to be joined, or just left
            await aside(stand_in.settings, TRUSTING)
            await aside(stand_in.associating)
            assert await ask("wlan0") is True
            await aside(stand_in.associated, CAMPUS)
            assert await ask("wlan0") is True
            await aside(stand_in.gone)
            await aside(stand_in.settings, CHECKING)
            assert await ask("wlan0") is None
            await aside(stand_in.associating)
            await aside(stand_in.associated, CAMPUS)
            await watched.until(network(CAMPUS, Security.ENTERPRISE))
            assert await ask("wlan0") is False
            await aside(stand_in.settings, {})
            assert await ask("wlan0") is True
            wanted = {0: False, 10: False, 20: None, 30: None, **dict.fromkeys((40, 50, 60, 70, 80, 90, 100), True)}
            for state, unchecked in {**wanted, 110: None, 120: None, 255: None}.items():
                await aside(update, stand_in, WIFI, f"{NAME}.Device", {"State": Variant("u", state)})
                assert await ask("wlan0") is unchecked, state

    run(work)


@pytest.mark.netns
def test_whether_a_sign_in_checks_the_server_and_nobody_says(host: Host, stand_in: NetworkManagerStandIn) -> None:
    """Refused, nonsense, silence: not known yet, and asked again. NetworkManager gone: not its network."""
    stand_in.settings(TRUSTING)
    stand_in.associating()
    stand_in.associated(CAMPUS)

    def answers(signature: str, code: str) -> None:
        add = "org.freedesktop.DBus.Mock.AddMethod"
        stand_in.client.call(NAME, WIFI, add, "sssss", f"{NAME}.Device", "GetAppliedConnection", "u", signature, code)

    async def work() -> None:
        async with watching(host) as watched:
            await watched.until(network(CAMPUS, Security.ENTERPRISE))
            assert await watched.source.server_unchecked("wlan0") is True
            await aside(answers, "a{sa{sv}}t", "raise dbus.exceptions.DBusException('no', name='org.test.NotActive')")
            assert await watched.source.server_unchecked("wlan0") is None
            await aside(answers, "s", "ret = 'peap'")
            with capture_logs() as logs:
                assert await watched.source.server_unchecked("wlan0") is None
            assert [entry["event"] for entry in logs] == ["NetworkManager did not answer"]
            while not watched.hints.empty():
                watched.hints.get_nowait()
            await asyncio.wait_for(watched.hints.get(), 20)  # nobody announces when it can be asked again
            await aside(stand_in.kill)
            await watched.until({})
            assert await watched.source.server_unchecked("wlan0") is False

    run(work)


@pytest.mark.netns
def test_whether_a_sign_in_checks_the_server_without_a_bus(host: Host) -> None:
    """Before the first try nobody knows whether there is a NetworkManager; where there is no bus, there is none."""

    async def work() -> None:
        source = NetworkManager(address(host))
        watch = source.watch()
        await anext(watch)
        assert await source.server_unchecked("wlan0") is None
        await anext(watch)  # a hint to look again
        assert await source.server_unchecked("wlan0") is False
        await watch.aclose()  # type: ignore[attr-defined]

    run(work)
