"""T6: a service that answers with something else than expected is an error, and never ends the loop."""

from __future__ import annotations

import asyncio
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from dbus_fast import Variant

from daemon.host import HostError
from daemon.linux.resolver_networkmanager import GLOBAL, NetworkManagerDns
from daemon.linux.resolver_resolved import Resolved
from daemon.linux.system_bus import BusError, SystemBus
from policies.facts import Tunnel

TUNNEL = Tunnel("lo", (), (ip_address("192.0.2.53"),))  # a link that every machine has


class LyingBus(SystemBus):
    """Answers with bodies that no real service sends."""

    def __init__(self, **bodies: list[Any]) -> None:
        super().__init__()
        self.bodies = bodies

    async def call(self, to: str, path: str, member: str, signature: str = "", *body: object) -> list[Any]:
        return self.bodies.get(member.rpartition(".")[2], [])


@pytest.mark.parametrize("body", [[], ["text"], [7], [[]]], ids=repr)
def test_properties_that_are_none(body: list[Any]) -> None:
    with pytest.raises(BusError, match="something else than properties"):
        asyncio.run(LyingBus(GetAll=body).get("org.example", "/", "org.example"))


@pytest.mark.parametrize("value", [Variant("s", "text"), Variant("as", ["text"]), Variant("u", 7)], ids=repr)
def test_networkmanager_of_strange_shape(tmp_path: Path, value: Variant) -> None:
    with pytest.raises(HostError, match="NetworkManager: its GlobalDnsConfiguration is no dictionary"):
        asyncio.run(NetworkManagerDns(LyingBus(GetAll=[{GLOBAL: value}]), tmp_path / "record").set(TUNNEL))
    assert not (tmp_path / "record").exists()


@pytest.mark.parametrize(
    "properties",
    [
        {},
        {"DNS": Variant("u", 7), "Domains": Variant("as", []), "DefaultRoute": Variant("b", True)},
        {"DNS": Variant("as", ["text"]), "Domains": Variant("as", []), "DefaultRoute": Variant("b", True)},
        {"DNS": Variant("ai", [7]), "Domains": Variant("as", []), "DefaultRoute": Variant("b", True)},
    ],
    ids=["none", "a number", "text", "numbers"],
)
def test_resolved_of_strange_shape(tmp_path: Path, properties: dict[str, Variant]) -> None:
    bus = LyingBus(GetLink=["/link"], GetAll=[properties])
    with pytest.raises(HostError, match=r"point systemd-resolved into the tunnel: .*something else than expected"):
        asyncio.run(Resolved(bus, tmp_path / "record").set(TUNNEL))
    assert not (tmp_path / "record").exists()
