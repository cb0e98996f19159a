"""N2: nl80211 answers made byte by byte, through a fake kernel; the real one speaks in tests/radio."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Awaitable, Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.host import HostError
from daemon.linux import nl80211, rtnetlink
from daemon.linux.nl80211 import Nl80211
from policies.facts import Security, WifiNetwork, WifiSource
from tests.daemon.linux.fake_nl80211 import (
    AUTHORISED,
    BSSID,
    NOT_YET,
    OTHER,
    PLAIN,
    RSN,
    SAE,
    WPS,
    FakeKernel,
    bss,
    flags,
    name,
)  # fmt: skip


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> FakeKernel:
    kernel = FakeKernel()
    monkeypatch.setattr(rtnetlink, "open_socket", kernel)
    return kernel


def read(source: Nl80211 | None = None) -> dict[str, WifiNetwork | None]:
    async def ask() -> dict[str, WifiNetwork | None]:
        return dict(await (source or Nl80211()).read())

    return asyncio.run(ask())


def run(work: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(20):
            await work()

    asyncio.run(limited())


# --- what is joined --------------------------------------------------------------------------------------------------


def test_the_network_of_each_card(kernel: FakeKernel) -> None:
    kernel.station(3, b"wlan0", bss(name(b"near by"), status=None), bss(name(b"Home") + RSN), flags=AUTHORISED)
    kernel.station(4, b"wlan1", bss(name(b"Cafe"), capability=PLAIN, bssid=OTHER), flags=AUTHORISED, mac=OTHER, keys=())
    assert read() == {
        "wlan0": WifiNetwork(b"Home", BSSID, Security.WPA2, source=WifiSource.NL80211),
        "wlan1": WifiNetwork(b"Cafe", OTHER, Security.OPEN, source=WifiSource.NL80211),
    }


def test_a_card_that_has_joined_nothing_is_none(kernel: FakeKernel) -> None:
    authenticated, adhoc = 0, 2
    kernel.station(3, b"wlan0", bss(name(b"Home"), status=None))
    kernel.station(4, b"wlan1", bss(name(b"Home"), status=authenticated), bss(name(b"Home"), status=adhoc))
    assert read() == {"wlan0": None, "wlan1": None}


def test_an_access_point_of_our_own_and_a_monitor_are_no_stations(kernel: FakeKernel) -> None:
    for ifindex, kind in enumerate((3, 6), 3):  # NL80211_IFTYPE_AP, _MONITOR
        kernel.station(ifindex, b"wlan%d" % ifindex, bss(name(b"Mine") + RSN), flags=AUTHORISED, kind=kind)
    kernel.station(9, b"p2p0", bss(name(b"DIRECT-") + RSN), flags=AUTHORISED, kind=nl80211.P2P_CLIENT)
    assert list(read()) == ["p2p0"]


def test_a_password_that_is_not_proven_yet(kernel: FakeKernel) -> None:
    """Associated, and the four-way handshake goes on: no data passes, and whoever it is has proven nothing."""
    kernel.station(3, b"wlan0", bss(name(b"Home") + RSN), flags=NOT_YET)
    assert read() == {"wlan0": None}


def test_the_access_point_is_told_from_other_stations(kernel: FakeKernel) -> None:
    """A tunnelled direct link (TDLS) to a neighbour is a station as well; and between two dumps one may roam."""
    kernel.station(3, b"wlan0", bss(name(b"Home") + RSN), flags=AUTHORISED, mac=OTHER)
    assert read() == {"wlan0": None}
    kernel.stations[3].append(kernel.stations[3][0].replace(OTHER, BSSID))
    assert read()["wlan0"] is not None


@pytest.mark.parametrize("told", [None, flags(0, 0), b"", b"\x02\0\0\0"], ids=repr)
def test_a_driver_that_hides_whether_data_may_pass(kernel: FakeKernel, told: bytes | None) -> None:
    """Not known, so that another source may tell."""
    kernel.station(3, b"wlan0", bss(name(b"Home") + RSN), flags=told)
    assert read() == {}


def test_a_driver_without_stations(kernel: FakeKernel) -> None:
    kernel.station(3, b"wlan0", bss(name(b"Home") + RSN), flags=AUTHORISED)
    kernel.refuse[nl80211.GET_STATION] = errno.EOPNOTSUPP
    assert read() == {}


def test_a_card_that_is_pulled_out_meanwhile(kernel: FakeKernel) -> None:
    kernel.station(3, b"wlan0", bss(name(b"Home") + RSN), flags=AUTHORISED)
    for gone in (errno.ENODEV, errno.ENETDOWN):
        kernel.refuse[nl80211.GET_SCAN] = gone
        assert read() == {}


# --- the name --------------------------------------------------------------------------------------------------------


def test_the_name_of_a_hidden_network_is_in_the_probe_response_or_told_by_the_driver(kernel: FakeKernel) -> None:
    kernel.station(3, b"wlan0", bss(name(b"Home") + RSN, name(bytes(4)) + RSN), flags=AUTHORISED, ssid=b"old")
    kernel.station(4, b"wlan1", bss(name(b"") + RSN, name(bytes(4)) + RSN), flags=AUTHORISED, ssid=b"told")
    kernel.station(5, b"wlan2", bss(name(b"") + RSN), flags=AUTHORISED)
    found = read()
    assert [network and network.ssid for network in found.values()] == [b"Home", b"told", b""]
    assert not any(network and network.malformed for network in found.values())


@pytest.mark.parametrize("ssid", [b"caf\xe9", "☕ 🛜".encode(), b"a\nb\x1b[31m", b"\0a", b" ", bytes(range(1, 33))])
def test_names_are_bytes(kernel: FakeKernel, ssid: bytes) -> None:
    kernel.station(3, b"wlan0", bss(name(ssid) + RSN), flags=AUTHORISED)
    network = read()["wlan0"]
    assert network is not None
    assert network.ssid == ssid


# --- what it announces -----------------------------------------------------------------------------------------------


def test_the_weaker_of_beacon_and_probe_response_counts(kernel: FakeKernel) -> None:
    pairs = ((SAE, RSN), (RSN, SAE), (SAE, SAE + WPS), (SAE, b""))
    for ifindex, (elements, beacon) in enumerate(pairs, 3):
        said = bss(name(b"Home") + elements, name(b"Home") + beacon)
        kernel.station(ifindex, b"wlan%d" % ifindex, said, flags=AUTHORISED)
    found = [network for network in read().values() if network]
    assert [network.security for network in found] == [Security.WPA2, Security.WPA2, Security.WPA3, Security.WEP]
    assert [network.wps for network in found] == [False, False, True, False]


def test_two_names_for_one_access_point_are_damage(kernel: FakeKernel) -> None:
    kernel.station(3, b"wlan0", bss(name(b"Home") + RSN, name(b"Work") + RSN), flags=AUTHORISED)
    network = read()["wlan0"]
    assert network is not None
    assert network.malformed


def test_several_links_of_one_network_count_as_their_weakest(kernel: FakeKernel) -> None:
    """Multi-link operation: each link has a BSS; the station bears the address of the multi-link device."""
    links = [
        bss(name(b"Home") + elements, bssid=BSSID[:5] + bytes([at]), mld=OTHER)
        for at, elements in enumerate((SAE, RSN))
    ]
    kernel.station(3, b"wlan0", *links, flags=AUTHORISED, mac=OTHER)
    network = read()["wlan0"]
    assert network is not None
    assert (network.ssid, network.security, network.malformed) == (b"Home", Security.WPA2, False)


@pytest.mark.parametrize(
    "said",
    [bss(None), bss(b"\x30"), bss(b"\x00\x21" + bytes(33) + RSN), bss(name(b"Home") + RSN, capability=None),
     bss(name(b"Home") + RSN, capability=b"\x11\x04\0"), bss(name(b"Home") + RSN, b"\xff")],
    ids=["no elements", "cut short", "long name", "no capability", "odd capability", "beacon cut short"],
)  # fmt: skip
def test_damage_is_never_a_network_to_trust(kernel: FakeKernel, said: bytes) -> None:
    kernel.station(3, b"wlan0", said, flags=AUTHORISED)
    network = read()["wlan0"]
    assert network is not None
    assert (network.malformed, network.security) == (True, Security.UNKNOWN)


@given(data=st.data())
def test_whatever_is_flipped_or_cut_off_ends_in_an_answer(data: st.DataObject) -> None:
    """Any damage within an entry: an answer or HostError; and never a stronger network than the one that is there."""
    whole = bytearray(bss(name(b"Home") + RSN, name(b"Home") + RSN))
    for at in data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=4)):
        whole[at] ^= data.draw(st.integers(1, 255))
    kernel = FakeKernel()
    kernel.station(3, b"wlan0", bytes(whole[: data.draw(st.integers(0, len(whole)))]), flags=AUTHORISED)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rtnetlink, "open_socket", kernel)
        network = read().get("wlan0")
    assert network is None or isinstance(network.security, Security)


# --- the key ---------------------------------------------------------------------------------------------------------


def test_encryption_that_is_announced_and_not_used_is_an_open_network(kernel: FakeKernel) -> None:
    """Beacons are not signed: whoever runs an open network can change them after it was joined."""
    kernel.station(3, b"wlan0", bss(name(b"Home") + RSN), flags=AUTHORISED, keys=())
    network = read()["wlan0"]
    assert network is not None
    assert (network.ssid, network.security, network.malformed) == (b"Home", Security.OPEN, True)


def test_a_renewed_key_may_have_the_other_number(kernel: FakeKernel) -> None:
    kernel.station(3, b"wlan0", bss(name(b"Home") + RSN), flags=AUTHORISED, keys=(1,))
    network = read()["wlan0"]
    assert network is not None
    assert network.security is Security.WPA2


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.EPERM])
def test_a_driver_that_does_not_tell_of_keys(kernel: FakeKernel, code: int) -> None:
    kernel.station(3, b"wlan0", bss(name(b"Home") + RSN), flags=AUTHORISED, keys=())
    kernel.refuse[nl80211.GET_KEY] = code
    network = read()["wlan0"]
    assert network is not None
    assert network.security is Security.WPA2


def test_open_networks_and_wep_have_no_key_of_a_pair(kernel: FakeKernel) -> None:
    kernel.station(3, b"wlan0", bss(name(b"Cafe"), capability=PLAIN), flags=AUTHORISED, keys=())
    kernel.station(4, b"wlan1", bss(name(b"Attic")), flags=AUTHORISED, keys=())
    found = [(network.security, network.malformed) for network in read().values() if network]
    assert found == [(Security.OPEN, False), (Security.WEP, False)]
    assert nl80211.GET_KEY not in kernel.asked


# --- absent, refused -------------------------------------------------------------------------------------------------


def test_a_kernel_without_wifi_knows_nothing(kernel: FakeKernel) -> None:
    kernel.loaded = False
    assert read() == {}
    assert kernel.asked == []


@pytest.mark.parametrize("code", [errno.EPERM, errno.EACCES])
def test_not_permitted_is_no_absence(kernel: FakeKernel, code: int) -> None:
    kernel.refuse[nl80211.GET_INTERFACE] = code
    with pytest.raises(HostError, match="read the Wi-Fi networks: not permitted"):
        read()


def test_other_refusals_say_what_the_kernel_says(kernel: FakeKernel) -> None:
    kernel.refuse[nl80211.GET_INTERFACE] = errno.ENOMEM
    with pytest.raises(HostError, match=os.strerror(errno.ENOMEM)):
        read()


def test_the_kernel_of_this_machine_answers() -> None:
    """Whether it has Wi-Fi or not."""
    assert all(network is None or network.source is WifiSource.NL80211 for network in read().values())


# --- events ----------------------------------------------------------------------------------------------------------


class Ears:
    """In place of the sockets that listen: datagram pairs, `say` puts an event in. `groups`: what was joined."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._mouths: dict[int, socket.socket] = {}
        self._ears: list[socket.socket] = []
        self.groups: list[int] = []
        monkeypatch.setattr(nl80211, "_listening", self._listening)
        monkeypatch.setattr(nl80211, "_join", lambda _, family: self.groups.extend(family.groups.values()))

    def _listening(self, protocol: int, _group: int) -> socket.socket:
        mouth, ear = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        ear.setblocking(False)
        self._mouths[protocol] = mouth
        self._ears.append(ear)
        return ear

    def say(self, protocol: int) -> None:
        self._mouths[protocol].send(b"something has happened")

    def close(self) -> None:
        assert all(ear.fileno() < 0 for ear in self._ears)  # closed with the watch
        for mouth in self._mouths.values():
            mouth.close()


@pytest.fixture
def ears(monkeypatch: pytest.MonkeyPatch) -> Iterator[Ears]:
    ears = Ears(monkeypatch)
    yield ears
    ears.close()


async def silent(watch: asyncio.Future[None]) -> bool:
    done, _ = await asyncio.wait([watch], timeout=0.2)
    return not done


def test_hints_of_radios_and_of_links(kernel: FakeKernel, ears: Ears) -> None:
    async def work() -> None:
        watch = Nl80211().watch()
        await anext(watch)
        assert ears.groups == [5, 6]
        for protocol in (nl80211.NETLINK_GENERIC, socket.NETLINK_ROUTE):
            hint = asyncio.ensure_future(anext(watch))
            assert await silent(hint)
            ears.say(protocol)
            ears.say(protocol)
            await hint
        await watch.aclose()

    run(work)


def test_a_driver_that_is_loaded_later_and_again(kernel: FakeKernel, ears: Ears) -> None:
    async def work() -> None:
        kernel.loaded = False
        watch = Nl80211().watch()
        await anext(watch)
        assert ears.groups == []
        for loaded, groups in ((True, [5, 6]), (False, [5, 6]), (True, [5, 6, 5, 6])):
            kernel.loaded = loaded
            ears.say(nl80211.NETLINK_GENERIC)
            await anext(watch)
            assert ears.groups == groups
        await watch.aclose()

    run(work)


def test_without_wifi_the_links_of_containers_are_no_hints(kernel: FakeKernel, ears: Ears) -> None:
    async def work() -> None:
        kernel.loaded = False
        watch = Nl80211().watch()
        await anext(watch)
        hint = asyncio.ensure_future(anext(watch))
        ears.say(socket.NETLINK_ROUTE)
        assert await silent(hint)
        ears.say(nl80211.NETLINK_GENERIC)
        await hint
        await watch.aclose()

    run(work)


def test_a_handshake_is_asked_for_again_until_it_ends(kernel: FakeKernel, ears: Ears) -> None:
    """Nobody announces that a port is authorised."""

    async def work() -> None:
        source = Nl80211()
        watch = source.watch()
        await anext(watch)
        kernel.station(3, b"wlan0", bss(name(b"Home") + RSN), flags=NOT_YET)
        for _ in range(3):
            assert await source.read() == {"wlan0": None}
            await anext(watch)
        kernel.interfaces.clear()
        kernel.station(3, b"wlan0", bss(name(b"Home") + RSN), flags=AUTHORISED)
        assert (await source.read())["wlan0"] is not None
        hint = asyncio.ensure_future(anext(watch))
        assert await silent(hint)
        hint.cancel()
        await asyncio.wait([hint])

    run(work)


def test_an_overrun_is_a_hint() -> None:
    """More was said than fits into the queue: the socket goes on, and everything is read anew."""

    class Overrun:
        def __init__(self) -> None:
            self.answers = [errno.ENOBUFS, errno.EAGAIN]

        def recv(self, _size: int) -> bytes:
            code = self.answers.pop(0)
            raise BlockingIOError(code, "") if code == errno.EAGAIN else OSError(code, "")

    overrun = Overrun()
    nl80211._drain(overrun)  # type: ignore[arg-type]
    assert overrun.answers == []


def test_it_listens_to_the_kernel_of_this_machine() -> None:
    async def work() -> None:
        watch = Nl80211().watch()
        await anext(watch)
        await watch.aclose()

    run(work)
