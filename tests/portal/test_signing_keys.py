"""P13: the signing keys, their rotation, and what is no token of theirs."""

from __future__ import annotations

import base64
import json
import os
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from django.conf import settings
from django.core.management import CommandError
from django.test import Client

from portal import signing
from tests.portal.signed import command, keys, pinned

__all__ = ["keys"]  # fixtures


def token(**claims: Any) -> str:
    return signing.sign({"exp": int(time.time()) + 600, **claims}, "test+jwt")


def test_keys_are_files_of_the_portal_alone(keys: Path) -> None:
    """P13: outside the database, 0600 in a folder 0700; made once; nothing private is shown."""
    assert stat.S_IMODE(keys.stat().st_mode) == 0o600
    assert stat.S_IMODE(keys.parent.stat().st_mode) == 0o700
    before = keys.read_bytes()
    shown = command("make") + command("show")
    assert keys.read_bytes() == before
    kept = json.loads(before)
    assert len(kept["current"]) == len(kept["next"]) == 43
    assert kept["current"] not in shown and kept["next"] not in shown
    database = Path(settings.DATABASES["default"]["NAME"]).read_bytes()
    assert kept["current"].encode() not in database and kept["next"].encode() not in database
    keys.chmod(0o640)
    with pytest.raises(signing.SigningError, match="others may read"):
        signing.sign({"exp": 1}, "test+jwt")


def test_without_keys_nothing_is_signed(keys: Path) -> None:
    """P13: an error that says what to do, to the administrator; to applications, that it is not ready."""
    keys.unlink()
    with pytest.raises(signing.SigningError, match="signing_keys make"):
        signing.public_keys()
    with pytest.raises(CommandError, match="signing_keys make"):
        command("rotate")
    for path in ("/api/v1/keys", "/api/v1/servers/free"):
        answer = Client().get(path)
        assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
        assert str(keys.parent) not in answer.content.decode()
    keys.write_text("{}")
    keys.chmod(0o600)
    with pytest.raises(signing.SigningError):
        signing.public_keys()


def test_rotation(keys: Path) -> None:
    """P13: next becomes current, so a daemon that pinned both believes it; old tokens hold until they expire."""
    current, following = signing.public_keys()
    old, listed = token(), b'{"x":1}'
    name, signature = signing.sign_bytes(listed)
    command("rotate")
    assert signing.public_keys()[0] == following
    assert signing.public_keys()[1] not in (current, following)
    assert jwt.get_unverified_header(token())["kid"] == following["kid"]
    signing.verify(old, "test+jwt")
    signing.verify_bytes(listed, name, signature)
    command("rotate")
    signing.verify(old, "test+jwt")
    # The former keys are public ones only, and go when nothing they signed can still be valid.
    kept = json.loads(keys.read_text())
    assert [each["x"] for each in kept["former"]] == [current["x"], following["x"]]
    kept["former"][0]["until"] = time.time() - 1
    keys.write_text(json.dumps(kept))
    with pytest.raises(signing.TokenError):
        signing.verify(old, "test+jwt")
    command("rotate")
    assert current["x"] not in keys.read_text()


def test_stolen_key() -> None:
    """P13: what it signed counts no more, at once."""
    old = token()
    command("rotate", "--stolen")
    with pytest.raises(signing.TokenError):
        signing.verify(old, "test+jwt")


def test_simultaneous_rotation(keys: Path) -> None:
    """P13: each rotation follows from the one before it: no key is skipped, none is lost."""
    with ThreadPoolExecutor(4) as pool:
        said = list(pool.map(lambda _each: command("rotate").split(), range(8)))
    currents = [words[1] for words in said]
    assert len(set(currents)) == 8
    assert len(json.loads(keys.read_text())["former"]) == 8
    assert [each.name for each in keys.parent.iterdir() if each.name.startswith(".")] == []


def test_the_next_key_is_learnt_from_a_signed_statement() -> None:
    """P13: a daemon that was offline while keys rotated checks the new pair with the next key that it had pinned."""
    _current, following = pinned()
    command("rotate")
    answer = Client().get("/api/v1/keys").json()
    header = jwt.get_unverified_header(answer["token"])
    assert (header["typ"], header["kid"]) == ("vpn-keys+jwt", answer["keys"][0]["kid"])
    claims = jwt.decode(answer["token"], following, algorithms=["EdDSA"])
    assert claims["keys"] == answer["keys"]


def forged(header: dict[str, Any], payload: dict[str, Any], key: Ed25519PrivateKey | None = None) -> str:
    def part(of: bytes) -> str:
        return base64.urlsafe_b64encode(of).rstrip(b"=").decode()

    head = part(json.dumps(header).encode()) + "." + part(json.dumps(payload).encode())
    return head + "." + (part(key.sign(head.encode())) if key else "")


def test_forged_tokens() -> None:
    """P13: tampered with, without a signature, with another algorithm or key, for another use, expired: refused."""
    now = int(time.time())
    payload = {"plan": "premium", "exp": now + 60, "iat": now, "aud": "vpn"}
    good = signing.sign(dict(payload), "test+jwt")
    current = signing.keys().current
    kid = signing.kid(current.public_key())
    public = current.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    right = {"alg": "EdDSA", "typ": "test+jwt", "kid": kid}
    assert signing.verify(forged(right, payload, current), "test+jwt", audience="vpn")["plan"] == "premium"
    assert signing.verify(good, "test+jwt", audience="vpn")["plan"] == "premium"
    head, body, signature = good.split(".")
    swapped = base64.urlsafe_b64encode(json.dumps({**payload, "plan": "free"}).encode()).rstrip(b"=").decode()
    attempts = {
        "tampered": f"{head}.{swapped}.{signature}",
        "cut": f"{head}.{body}.{signature[:-4]}",
        "unsigned": f"{head}.{body}.",
        "none": forged({**right, "alg": "none"}, payload),
        "HS256 with the public key": jwt.encode(payload, public, "HS256", {"typ": "test+jwt", "kid": kid}),
        "other key": forged(right, payload, Ed25519PrivateKey.generate()),
        "unknown kid": forged({**right, "kid": "x"}, payload, current),
        "kid of the next key": forged({**right, "kid": signing.public_keys()[1]["kid"]}, payload, current),
        "no kid": forged({"alg": "EdDSA", "typ": "test+jwt"}, payload, current),
        "no typ": forged({"alg": "EdDSA", "kid": kid}, payload, current),
        "other typ": signing.sign(dict(payload), "vpn-cmd+jwt"),
        "own key in the header": forged({**right, "jwk": {"kty": "OKP"}}, payload, current),
        "expired": forged(right, {**payload, "exp": now - 1}, current),
        "never expires": forged(right, {"iat": now, "aud": "vpn"}, current),
        "other audience": forged(right, {**payload, "aud": "mail"}, current),
        "no audience": forged(right, {"exp": now + 60, "iat": now}, current),
        "too long": "a" * 20_000,
        "nothing": "",
        "no token": "a.b.c",
        "not ASCII": "é.é.é",
    }
    for name, attempt in attempts.items():
        with pytest.raises(signing.TokenError):
            signing.verify(attempt, "test+jwt", audience="vpn")
            pytest.fail(name)
    # A token that is for somebody is not for everybody.
    with pytest.raises(signing.TokenError):
        signing.verify(good, "test+jwt")


def test_no_token_outlives_its_key() -> None:
    """P13: every token says when it ends, and that is before a rotated key is forgotten."""
    for exp in ({}, {"exp": int(time.time()) + signing.LONGEST + 60}, {"exp": "never"}):
        with pytest.raises(ValueError, match="exp"):
            signing.sign(dict(exp), "test+jwt")


def test_signed_bytes() -> None:
    """P13: exactly these bytes; a token's signature is none of a list."""
    name, signature = signing.sign_bytes(b'{"a":1}')
    signing.verify_bytes(b'{"a":1}', name, signature)
    for raw, key, said in (
        (b'{"a":1} ', name, signature),
        (b'{"a":1}', "other", signature),
        (b'{"a":1}', name, signature[:-2]),
        (b'{"a":1}', name, signature + "="),
        (b'{"a":1}', name, "\u00e9"),
    ):
        with pytest.raises(signing.TokenError):
            signing.verify_bytes(raw, key, said)
    with pytest.raises(ValueError, match="JSON object"):
        signing.sign_bytes(b"eyJ.eyJ")


def test_the_file_is_read_again(keys: Path) -> None:
    """P13: a rotation by another process counts at once; no worker restarts."""
    import subprocess
    import sys

    before = signing.public_keys()
    environment = os.environ | {"PORTAL_KEYS": str(keys.parent)}
    run = [sys.executable, "-m", "portal", "signing_keys", "rotate"]
    subprocess.run(run, env=environment, cwd=Path(__file__).parents[2], check=True, capture_output=True, timeout=120)
    assert signing.public_keys()[0] == before[1]
