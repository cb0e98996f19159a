"""Evidence from the air (N13): access points of the same name that cannot belong to the network that was joined.

Nobody is made to scan. Whenever somebody did (NetworkManager and wpa_supplicant do so now and then), the kernel's list
is looked at.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from daemon.host import HostError
from daemon.linux import nl80211
from policies.facts import Link, WifiNetwork
from policies.hostile import Finding
from policies.twins import evil_twin

APART_S = 5.0  # between two looks at least: the list may hold a thousand access points


class Twins:
    """A Lookout of daemon/host.py."""

    def watch(self, link: Link) -> LinkTwins:
        return LinkTwins(link)


class LinkTwins:
    def __init__(self, link: Link) -> None:
        self._ifindex = link.ifindex
        self._network: WifiNetwork | None = None
        self._named = asyncio.Event()

    def follow(self, link: Link, network: WifiNetwork | None) -> None:
        if network is not None:
            self._network = network
            self._named.set()

    async def found(self) -> AsyncGenerator[Finding, None]:
        await self._named.wait()  # without a name there are no twins
        assert self._network is not None
        try:
            async with aclosing(nl80211.scans(self._ifindex, self._network.ssid)) as scans:
                async for near in scans:
                    if finding := evil_twin(self._network, near):
                        yield finding
                        break
                    await asyncio.sleep(APART_S)
        except OSError as err:
            raise HostError("look at the networks near by", err.strerror or str(err)) from err
        await asyncio.Event().wait()  # told once

    def close(self) -> None:
        """Nothing is open but in `found`."""
