"""The driver under test, worked by lines on standard input, inside a laboratory host. Not a test itself.

The argument is the backend: "go", "kernel", or "any" for the driver's own choice. The first line is the profile as
JSON; each further line is a method of `WireGuard` to call, several at a time if need be. Every call answers with one
line of JSON: {"call", "ms", "result" or "error"}.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

from daemon.host import HostError, TunnelError
from daemon.linux.wireguard import WireGuard
from daemon.linux.wireguard_go import WireGuardGo
from daemon.linux.wireguard_kernel import WireGuardKernel
from policies.wireguard import WireGuardPeer, WireGuardProfile


def profile_of(fields: dict[str, Any]) -> WireGuardProfile:
    peers = tuple(
        WireGuardPeer(
            public_key=bytes.fromhex(peer["public_key"]),
            host=peer["host"],
            port=peer["port"],
            allowed_ips=tuple(ip_network(text) for text in peer["allowed_ips"]),
            preshared_key=bytes.fromhex(peer["preshared_key"]) if peer.get("preshared_key") else None,
            keepalive=peer["keepalive"],
            addresses=tuple(ip_address(text) for text in peer["addresses"]),
        )
        for peer in fields["peers"]
    )
    return WireGuardProfile(
        name="lab",
        private_key=bytes.fromhex(fields["private_key"]),
        addresses=tuple(ip_interface(text) for text in fields["addresses"]),
        resolvers=(),
        search=(),
        peers=peers,
        mtu=fields.get("mtu"),
    )


async def call(driver: WireGuard, profile: WireGuardProfile, line: str) -> None:
    started = time.perf_counter()
    answer: dict[str, Any] = {"call": line}
    try:
        match line.split():
            case ["open"]:
                result: Any = await driver.open(profile)
            case ["open-cancelled", seconds]:
                async with asyncio.timeout(float(seconds)):
                    result = await driver.open(profile)
            case ["answers"]:
                assert driver._tunnel is not None
                result = await driver._tunnel.answers()
            case [name]:
                result = await getattr(driver, name)()
            case _:
                raise ValueError(line)
        answer["result"] = str(result)
    except TunnelError as err:
        answer["error"] = f"{err.cause}: {err}"
    except (HostError, TimeoutError) as err:
        answer["error"] = f"{type(err).__name__}: {err}"
    answer["ms"] = round((time.perf_counter() - started) * 1000, 1)
    print(json.dumps(answer), flush=True)


async def main() -> None:
    logging.basicConfig(level=logging.DEBUG)  # everything a library might say: the test looks for keys in it
    logging.getLogger("console").debug("logs are on")
    reader = asyncio.StreamReader(limit=1 << 20)  # the profile is one line
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    profile = profile_of(json.loads(await reader.readline()))
    driver = WireGuard({"go": [WireGuardGo()], "kernel": [WireGuardKernel()]}.get(sys.argv[1]))
    calls = set()
    while line := (await reader.readline()).decode().strip():
        task = asyncio.create_task(call(driver, profile, line))
        calls.add(task)
        if not line.startswith(("dead", "established")):
            await task
    for task in calls:
        task.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    transport.close()


if __name__ == "__main__":
    asyncio.run(main())
