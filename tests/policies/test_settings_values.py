from __future__ import annotations

import json
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.settings import parse_settings
from policies.settings_errors import SettingsError
from tests.policies.settings_texts import problems


@pytest.mark.parametrize(
    "written, seconds", [("1s", 1.0), ("1500ms", 1.5), ("2m", 120.0), ("0.05h", 180.0), ("1.25s", 1.25), ("5m", 300.0)]
)
def test_times(written: str, seconds: float) -> None:
    assert parse_settings(f'tunnel.connect_timeout = "{written}"').tunnel.connect_timeout == pytest.approx(seconds)


# --- what can be local ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "subnet, problem",
    [
        *((public, "reaches beyond private networks") for public in (
            "0.0.0.0/0", "::/0", "8.8.8.0/24", "1.1.1.1/32", "2000::/3", "2606:4700::/32", "10.0.0.0/7", "172.0.0.0/8",
            "100.0.0.0/8", "100.64.0.0/9", "192.168.0.0/15", "fc00::/6", "198.18.0.0/14", "192.0.2.0/23", "0.0.0.0/8",
            "240.0.0.0/4", "64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "::ffff:10.0.0.0/104", "2001::/32",
        )),
        ("127.0.0.0/8", "loopback"), ("::1/128", "loopback"),
        ("169.254.0.0/16", "link-local"), ("fe80::/10", "link-local"),
        ("224.0.0.0/4", "multicast"), ("239.1.0.0/16", "multicast"), ("ff05::/16", "multicast"),
    ],
)  # fmt: skip
def test_l8_what_is_not_private_never_counts_as_local(subnet: str, problem: str) -> None:
    try:
        ip_network(subnet)
    except ValueError:
        problem = "is not a network"  # 100.64.0.0/9 has host bits
    (found,) = problems(f"[protection]\nlan_subnets = ['{subnet}']")
    assert problem in found.problem
    assert "host bits" in found.problem or found.allowed


@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)), st.integers(0, 128))
def test_l8_no_subnet_covers_a_public_address(address: object, length: int) -> None:
    network = ip_network(f"{address}/{min(length, address.max_prefixlen)}", strict=False)  # type: ignore[attr-defined]
    try:
        taken = parse_settings(f'[protection]\nlan_subnets = ["{network}"]').protection.lan_subnets
    except SettingsError:
        return
    assert taken == (network,)
    for edge in (network.network_address, network.broadcast_address):
        assert not edge.is_global and not edge.is_multicast and not edge.is_loopback and not edge.is_unspecified


def test_five_thousand_subnets_on_one_line() -> None:
    subnets = [f"100.{64 + number // 256}.{number % 256}.0/24" for number in range(5000)]
    settings = parse_settings(f"[protection]\nlan_subnets = {json.dumps(subnets)}")
    assert [str(network) for network in settings.protection.lan_subnets] == subnets
