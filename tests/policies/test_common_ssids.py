from __future__ import annotations

import pytest

from policies.common_ssids import COMMON, is_common, plain


@pytest.mark.parametrize(
    "ssid", [b"linksys", b"NETGEAR", b"xfinitywifi", b"Free Public WiFi", b"free_public_wi-fi", b"WLAN"]
)
def test_common(ssid: bytes) -> None:
    assert is_common(ssid)


@pytest.mark.parametrize("ssid", [b"", b" ", b"---", b"Linksys of Anna", b"\xff\xfe", b"A", b"a" * 64])
def test_not_common(ssid: bytes) -> None:
    assert not is_common(ssid)


def test_the_list_is_clean() -> None:
    assert 100 < len(COMMON) < 1000
    assert all(2 <= len(name) <= 32 and plain(name) == name for name in COMMON)
