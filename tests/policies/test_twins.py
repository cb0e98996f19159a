"""Evil twins among the access points near by, and the houses that look as if they had one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.facts import Evidence, Security, WifiNetwork
from policies.twins import evil_twin

CISCO, OTHER = b"\x00\x1b\x0d", b"\x00\x26\x5a"


def point(number: int, security: Security = Security.OPEN, maker: bytes = CISCO, ssid: bytes = b"Cafe") -> WifiNetwork:
    return WifiNetwork(ssid, maker + bytes([0, 0, number]), security)


PASSWORDS = (Security.WPA, Security.WPA2, Security.WPA2_WPA3, Security.WPA3)
OPEN = (Security.OPEN, Security.OWE, Security.OWE_TRANSITION)
ACCOUNTS = (Security.ENTERPRISE, Security.ENTERPRISE_192)


@pytest.mark.parametrize("joined", PASSWORDS)
@pytest.mark.parametrize("twin", [*OPEN, Security.WEP, *ACCOUNTS])
def test_a_twin_asks_for_another_secret(joined: Security, twin: Security) -> None:
    """Whichever of the two was joined."""
    here, there = point(1, joined), point(2, twin, OTHER)
    for mine, near in ((here, there), (there, here)):
        found = evil_twin(mine, [mine, near])
        assert found is not None and found.evidence is Evidence.EVIL_TWIN
        assert near.bssid.hex(":") in found.what


@pytest.mark.parametrize("group", [PASSWORDS, OPEN, ACCOUNTS])
def test_one_network_speaks_several_dialects(group: tuple[Security, ...]) -> None:
    """Extenders with WPA2 only, WPA3 alone on 6 GHz, enhanced open beside open: a mesh of several makers."""
    points = [point(number, security, (CISCO, OTHER)[number % 2]) for number, security in enumerate(group * 2)]
    assert all(evil_twin(each, points) is None for each in points)


def test_an_open_access_point_of_another_maker() -> None:
    near = [point(number) for number in range(4)]
    twin = point(9, maker=OTHER)
    assert evil_twin(twin, [*near, twin]) is not None
    assert evil_twin(near[0], [*near, twin]) is None  # it is not where we are


def test_houses_that_mix_makers() -> None:
    """Too few to tell, or more than one maker among the others, or a password."""
    twin = point(9, maker=OTHER)
    assert evil_twin(twin, [point(1), point(2)]) is None
    assert evil_twin(twin, [point(1), point(2), point(3), point(4, maker=b"\x00\x33\x44")]) is None
    secured = [point(number, Security.WPA2) for number in range(5)]
    assert evil_twin(point(9, Security.WPA2, OTHER), secured) is None


def test_networks_of_one_access_point_have_addresses_alike() -> None:
    """The second and third network of a radio: another first byte, locally administered."""
    near = [WifiNetwork(b"Cafe", bytes([first]) + CISCO[1:] + b"\0\0\1", Security.OPEN) for first in (0, 2, 6, 0xF2)]
    assert all(evil_twin(each, near) is None for each in near)


@pytest.mark.parametrize(
    "near",
    [
        point(2, ssid=b"cafe"),
        point(2, Security.UNKNOWN),
        WifiNetwork(b"Cafe", CISCO + b"\0\0\2", Security.OPEN, malformed=True),
        WifiNetwork(b"Cafe", b"", Security.OPEN),
        point(1),
    ],
    ids=["another name", "unreadable", "damaged", "no address", "itself"],
)
def test_what_is_no_twin(near: WifiNetwork) -> None:
    assert evil_twin(point(1, Security.WPA2), [near]) is None


@pytest.mark.parametrize("ssid", [b"", b"\0\0\0\0"])
def test_without_a_name_there_are_no_twins(ssid: bytes) -> None:
    assert evil_twin(point(1, Security.WPA2, ssid=ssid), [point(2, ssid=ssid)]) is None


POINTS = st.builds(
    WifiNetwork, ssid=st.sampled_from([b"Cafe", b"", b"\0"]) | st.binary(max_size=33),
    bssid=st.binary(max_size=8) | st.integers(0, 9).map(lambda number: CISCO + bytes([0, 0, number])),
    security=st.sampled_from(Security), malformed=st.booleans(),
)  # fmt: skip


@given(POINTS, st.lists(POINTS, max_size=8))
def test_whatever_is_near_has_an_answer(joined: WifiNetwork, near: list[WifiNetwork]) -> None:
    found = evil_twin(joined, near)
    assert found is None or any(each.ssid == joined.ssid for each in near)
