"""What the tests of WireGuard profiles are made of: golden files, a small text, whether an error shows a key."""

from __future__ import annotations

import base64
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import strategies as st

from policies.profiles_errors import Notice, ProfileError
from policies.wireguard import WireGuardProfile
from policies.wireguard_reader import parse_wireguard

GOLDEN = Path(__file__).parents[1] / "golden" / "profiles"
GOLDEN_NAMES = sorted(path.stem for path in GOLDEN.glob("*.conf"))

PRIVATE, PUBLIC, SHARED, OTHER = (
    base64.b64encode(random.Random(seed).randbytes(32)).decode() for seed in ("private", "public", "shared", "other")
)
KEYS = (PRIVATE, PUBLIC, SHARED, OTHER)

INTERFACE = f"[Interface]\nPrivateKey = {PRIVATE}\nAddress = 10.0.0.2/32\nDNS = 10.0.0.1\n"
PEER = f"[Peer]\nPublicKey = {PUBLIC}\nEndpoint = 192.0.2.1:51820\nAllowedIPs = 0.0.0.0/0, ::/0\n"
VALID = INTERFACE + PEER  # nine lines: [Peer] is the fifth


def parse(text: str) -> WireGuardProfile:
    return parse_wireguard("home", text)[0]


def notices(text: str) -> tuple[Notice, ...]:
    return parse_wireguard("home", text)[1]


def refusal(text: str, name: str = "home") -> ProfileError:
    with pytest.raises(ProfileError) as caught:
        parse_wireguard(name, text)
    assert_no_key(caught.value)
    return caught.value


KEY = base64.b64decode(OTHER)


def chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def assert_no_key(error: BaseException) -> None:
    """Not even a piece of one, in anything that a log could print of the error or of what led to it."""
    for each in chain(error):
        shown = f"{each} {each!r} {each.args!r} {vars(each)!r}"
        for key in KEYS:
            assert not any(key[start : start + 8] in shown for start in range(0, 37))
            assert base64.b64decode(key).hex()[:16] not in shown and repr(base64.b64decode(key))[2:12] not in shown


FRAGMENTS = st.sampled_from(
    [
        *VALID.splitlines(keepends=True), *KEYS, "\n", "\r\n", "=", " ", "#", "[", "]", ",", "\0", "\x1b", "é",
        "\ud800", "PostUp = id\n", "[Peer]\n", "[Interface]\n", "PrivateKey = ", "PublicKey = ", "PresharedKey = ",
        "AllowedIPs = ", "Endpoint = ", "DNS = ", "MTU = ", "0.0.0.0/0", "::/0", "vpn.example.com", ":51820",
        "Table = ", "off", "65536",
    ]
)  # fmt: skip
TEXTS = st.text(st.one_of(st.characters(max_codepoint=0x2FF), st.sampled_from("\u2028\ud800\U0001f600\ufeff")))
