"""Activation codes: XXXXX-XXXXX-XXXXX-XXXXX, 18 random characters (90 bits) and two that find typing errors."""

from __future__ import annotations

import hashlib
import secrets

# No 0, 1, I and O. 32 characters, five bits each.
ALPHABET = "23456789ABCDEFGHJKLMNPQRSTUVWXYZ"
LENGTH, CHECK, GROUP = 20, 2, 5
# A prime under 32²: one wrong character, or two in each other's place, always change the sum.
PRIME = 1021


class MalformedCode(ValueError):
    """It cannot be a code: a length, a character or the check is wrong."""


def _check(body: str) -> str:
    total = sum((position + 1) * ALPHABET.index(char) for position, char in enumerate(body)) % PRIME
    return ALPHABET[total // 32] + ALPHABET[total % 32]


def new() -> str:
    body = "".join(secrets.choice(ALPHABET) for _ in range(LENGTH - CHECK))
    whole = body + _check(body)
    return "-".join(whole[at : at + GROUP] for at in range(0, LENGTH, GROUP))


def parse(text: str) -> str:
    """The code as it is written, whatever its case, spaces and dashes. Raises MalformedCode."""
    bare = "".join(text.split()).replace("-", "").upper()
    if len(bare) != LENGTH or any(char not in ALPHABET for char in bare):
        raise MalformedCode("20 letters and digits expected, without 0, 1, I and O")
    if _check(bare[:-CHECK]) != bare[-CHECK:]:
        raise MalformedCode("a character is mistyped")
    return "-".join(bare[at : at + GROUP] for at in range(0, LENGTH, GROUP))


def digest(code: str) -> str:
    """What is kept. 90 random bits need no salt and no slow hash."""
    return hashlib.sha256(code.encode()).hexdigest()
