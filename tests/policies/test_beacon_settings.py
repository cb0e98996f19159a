"""N5: [[known]] beacon and beacon_sha256, in the file and in what users saved."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from policies.facts import Endpoint
from policies.known_network import KnownNetwork
from policies.settings import parse_settings
from policies.settings_errors import SettingsError
from policies.settings_known import known_from_json, known_to_json
from policies.settings_values import endpoint_text

DIGEST = bytes(range(32))
PLAIN, COLONS = DIGEST.hex(), DIGEST.hex(":").upper()
HALF_SHA = "beacon_sha256 of its certificate; `tunwarden known edit NAME --beacon ...` takes what is there now"


def entry(beacon: str = "192.0.2.1:443", digest: str = PLAIN) -> str:
    return f'[[known]]\nssid = "Home"\nbeacon = "{beacon}"\nbeacon_sha256 = "{digest}"\n'


def problems(text: str) -> list[tuple[int, str, str]]:
    with pytest.raises(SettingsError) as caught:
        parse_settings(text)
    return [(each.line, each.key, each.problem) for each in caught.value.problems]


@pytest.mark.parametrize(
    "text, address, port",
    [
        ("192.0.2.1:443", "192.0.2.1", 443),
        ("192.0.2.1:1", "192.0.2.1", 1),
        ("10.0.0.254:65535", "10.0.0.254", 65535),
        ("[2001:db8::1]:443", "2001:db8::1", 443),
        ("[2001:DB8:0:0::1]:8443", "2001:db8::1", 8443),
        ("[fe80::1]:443", "fe80::1", 443),
    ],
)
@pytest.mark.parametrize("digest", [PLAIN, COLONS])
def test_a_beacon(text: str, address: str, port: int, digest: str) -> None:
    (known,) = parse_settings(entry(text, digest)).known
    assert (known.beacon, known.beacon_sha256) == (Endpoint(ip_address(address), port, "tcp"), DIGEST)
    assert known_from_json(known_to_json(known)) == known


@pytest.mark.parametrize(
    "text",
    [
        "192.0.2.1", "192.0.2.1:0", "192.0.2.1:65536", "192.0.2.1:0443", "192.0.2.1:443 ", "192.0.2.256:443",
        "192.0.2.01:443", "192.0.2.1/32:443", "2001:db8::1:443", "[2001:db8::1]", "[192.0.2.1]:443",
        "[fe80::1%eth0]:443", "router.example:443", "localhost:443", "", "https://192.0.2.1:443", "[:::]:443",
        "192.0.2.1:४४३",
    ],
)  # fmt: skip
def test_what_is_not_an_address_and_a_port(text: str) -> None:
    assert problems(entry(text)) == [(3, "known.beacon", f"{text!a} is not an address and a port")]


@pytest.mark.parametrize(
    "text, why",
    [
        ("0.0.0.0:443", "no server in a network can have this address"),
        ("127.0.0.1:443", "no server in a network can have this address"),
        ("224.0.0.1:443", "no server in a network can have this address"),
        ("255.255.255.255:443", "no server in a network can have this address"),
        ("[::]:443", "no server in a network can have this address"),
        ("[::1]:443", "no server in a network can have this address"),
        ("[ff02::1]:443", "no server in a network can have this address"),
        ("[::ffff:192.0.2.1]:443", "IPv4 in the clothes of IPv6"),
    ],
)
def test_where_no_beacon_can_be(text: str, why: str) -> None:
    assert problems(entry(text)) == [(3, "known.beacon", f"{text!a}: {why}")]


@pytest.mark.parametrize(
    "digest", ["", PLAIN[:-2], PLAIN + "00", PLAIN[:-1] + "g", "sha256:" + PLAIN, ":" * 95, " " + PLAIN[1:]]
)
def test_what_is_no_digest(digest: str) -> None:
    ((line, key, problem),) = problems(entry(digest=digest))
    assert (line, key) == (4, "known.beacon_sha256")
    assert problem.endswith("is not a SHA-256")


@pytest.mark.parametrize("value", ["443", "true", '["192.0.2.1:443"]', "{a = 1}"])
def test_other_types_are_refused(value: str) -> None:
    text = f'[[known]]\nssid = "Home"\nbeacon = {value}\nbeacon_sha256 = {value}\n'
    assert [(line, key) for line, key, _ in problems(text)] == [(3, "known.beacon"), (4, "known.beacon_sha256")]


def test_both_or_none() -> None:
    text = (
        f'[[known]]\nssid = "Home"\nbeacon = "192.0.2.1:443"\n\n[[known]]\nssid = "Work"\nbeacon_sha256 = "{PLAIN}"\n'
    )
    with pytest.raises(SettingsError) as caught:
        parse_settings(text)
    assert [(each.line, each.key, each.problem, each.allowed) for each in caught.value.problems] == [
        (1, "known", "a beacon without beacon_sha256", HALF_SHA),
        (5, "known", "beacon_sha256 without a beacon", "both, or none"),
    ]


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"beacon": Endpoint(ip_address("192.0.2.1"), 443, "udp"), "beacon_sha256": DIGEST}, "not a TCP port"),
        ({"beacon": Endpoint(ip_address("192.0.2.1"), 0, "tcp"), "beacon_sha256": DIGEST}, "not a TCP port"),
        ({"beacon": Endpoint(ip_address("::1"), 443, "tcp"), "beacon_sha256": DIGEST}, "no server"),
        ({"beacon": Endpoint(ip_address("192.0.2.1"), 443, "tcp"), "beacon_sha256": DIGEST[:31]}, "31 bytes"),
        ({"beacon": Endpoint(ip_address("192.0.2.1"), 443, "tcp")}, "without beacon_sha256"),
        ({"beacon_sha256": DIGEST}, "without a beacon"),
    ],
)
def test_whoever_makes_it_it_is_whole(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        KnownNetwork(ssid=b"Home", **changes)  # type: ignore[arg-type]


@given(st.ip_addresses(), st.integers(1, 65535))
def test_what_is_written_is_read_again(address: object, port: int) -> None:
    server = Endpoint(address, port, "tcp")  # type: ignore[arg-type]
    try:
        known = KnownNetwork(ssid=b"Home", beacon=server, beacon_sha256=DIGEST)
    except ValidationError:
        with pytest.raises(SettingsError):
            parse_settings(entry(endpoint_text(server)))
        return
    assert parse_settings(entry(endpoint_text(server))).known == (known,)
    assert known_from_json(known_to_json(known)) == known
