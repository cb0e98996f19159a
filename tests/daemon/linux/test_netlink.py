"""The stub package around pyroute2 is not a promise of that library: these tests notice when it stops working."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from lab.hosts import Host

COUNT = """
import sys
from daemon.linux import netlink
loaded = [name for name in sys.modules if name.startswith("pyroute2")]
print(len(sys.modules), len(loaded), "pyroute2.ndb.main" in sys.modules, netlink.AsyncIPRoute.__module__)
"""


def test_the_stub_keeps_the_large_init_out() -> None:
    result = subprocess.run([sys.executable, "-c", COUNT], capture_output=True, text=True, check=True)
    everything, loaded, database, module = result.stdout.split()
    assert module == "pyroute2.iproute.linux"
    assert database == "False"
    assert int(loaded) < 150, "the real __init__ loads 337 modules"
    assert int(everything) < 450


def test_a_pyroute2_imported_before_is_left_alone() -> None:
    code = "import pyroute2; from daemon.linux import netlink; assert pyroute2.NDB and netlink.requests"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with Host("netlink") as made:
        made.ip("link set lo up")
        yield made


@pytest.mark.netns
def test_requests_carry_the_kernels_own_sentence(host: Host) -> None:
    from daemon.linux.netlink import NetlinkError, requests

    async def ask() -> tuple[list[str], NetlinkError]:
        async with requests() as ip:
            names = [link.get("ifname") async for link in await ip.get_links()]
            with pytest.raises(NetlinkError) as refused:
                await ip.link("add", ifname="x0", kind="nosuchkind")
            return names, refused.value

    names, refused = host.inside(lambda: asyncio.run(ask()))
    assert "lo" in names
    assert "Unknown device type" in str(refused)


@pytest.mark.netns
def test_events_come_on_a_socket_of_their_own_with_a_large_queue(host: Host) -> None:
    from daemon.linux.netlink import Group, events, requests

    async def watch() -> tuple[int, str, set[str]]:
        async with await events(Group.IPV4_RULE | Group.LINK) as watcher, requests() as ip:
            queue = watcher.socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
            await ip.addr("add", index=1, address="127.0.0.9", prefixlen=32)  # a group nobody asked for
            await ip.rule("add", family=socket.AF_INET, priority=7, table=7)
            async with asyncio.timeout(5):
                async for message in watcher.get():
                    return queue, message["event"], {name for name in ("family",) if message[name] == socket.AF_INET}
        raise AssertionError("no event")

    queue, event, families = host.inside(lambda: asyncio.run(watch()))
    assert queue >= 8 * 1024 * 1024
    assert event == "RTM_NEWRULE", "neither an acknowledgement nor an event of another group"
    assert families
