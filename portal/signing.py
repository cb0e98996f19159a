"""What the portal signs, and daemons verify: Ed25519 keys in a file, tokens (JWS), and signatures over raw bytes.

The keys are in `signing.json` of the folder `keys`, never in the database: whoever reads a copy of that can forge
nothing. There are two: the current one signs; daemons pin both, so the next one is known before it signs anything.
`python -m portal signing_keys` makes and rotates them. What a rotated key signed is accepted until it has expired.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import time
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import jwt
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from django.conf import settings

# The name of RFC 8037. RFC 9864 calls it Ed25519, which PyJWT does not know yet.
ALGORITHM = "EdDSA"
HEADER = {"alg", "kid", "typ"}  # a token with anything else in its header is not ours
MOST = 16_384  # characters of a token
LONGEST = 30 * 86_400  # seconds: no token lives longer, so a rotated key is kept for this long


class SigningError(Exception):
    """No usable keys here: what is wrong, and what to do."""


class TokenError(ValueError):
    """A token or signature that is not ours, not for this use, or expired."""


@dataclass(frozen=True)
class Former:
    """A rotated key: it signs no more, and what it signed counts until then (seconds since 1970)."""

    public: Ed25519PublicKey
    until: float


@dataclass(frozen=True)
class Keys:
    current: Ed25519PrivateKey
    next: Ed25519PrivateKey
    former: tuple[Former, ...] = ()

    @cached_property
    def kid(self) -> str:
        """The name of the current one."""
        return kid(self.current.public_key())


def _encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _decoded(text: str) -> bytes:
    raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if _encoded(raw) != text:
        raise ValueError("not base64url")  # one text a value, or a signature could be written in several ways
    return raw


def _raw(key: Ed25519PublicKey) -> bytes:
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw)


def kid(key: Ed25519PublicKey) -> str:
    """The key's name: its RFC 7638 thumbprint."""
    canonical = f'{{"crv":"Ed25519","kty":"OKP","x":"{_encoded(_raw(key))}"}}'
    return _encoded(hashlib.sha256(canonical.encode()).digest())


def jwk(key: Ed25519PublicKey) -> dict[str, str]:
    """The public key as RFC 8037 writes it."""
    named = {"kid": kid(key), "alg": ALGORITHM, "use": "sig"}
    return {"kty": "OKP", "crv": "Ed25519", "x": _encoded(_raw(key)), **named}


def file() -> Path:
    return Path(settings.SIGNING_KEYS) / "signing.json"


def write(keys: Keys) -> None:
    """Replaces the file at once. Raises OSError."""

    def private(key: Ed25519PrivateKey) -> str:
        return _encoded(key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption()))

    former = [{"x": _encoded(_raw(each.public)), "until": each.until} for each in keys.former]
    text = json.dumps({"current": private(keys.current), "next": private(keys.next), "former": former}, indent=1)
    target = file()
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = target.with_name(f".{target.name}.{os.getpid()}")
    new.unlink(missing_ok=True)
    handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    new.replace(target)


@lru_cache(maxsize=4)
def _read(path: Path, _stamp: tuple[int, int, int]) -> Keys:
    kept = json.loads(path.read_bytes())
    return Keys(
        Ed25519PrivateKey.from_private_bytes(_decoded(kept["current"])),
        Ed25519PrivateKey.from_private_bytes(_decoded(kept["next"])),
        tuple(
            Former(Ed25519PublicKey.from_public_bytes(_decoded(each["x"])), float(each["until"]))
            for each in kept["former"]
        ),
    )


def keys() -> Keys:
    """The keys in force; read again when the file was replaced, so no worker has to restart. Raises SigningError."""
    path = file()
    try:
        seen = path.stat()
        if seen.st_mode & 0o077:
            raise SigningError(f"{path}: others may read the signing keys; chmod 600 it, then rotate them")
        return _read(path, (seen.st_ino, seen.st_mtime_ns, seen.st_size))
    except FileNotFoundError:
        raise SigningError(f"{path}: there are no signing keys yet; run python -m portal signing_keys make") from None
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise SigningError(f"{path}: {err}") from err


def public_keys() -> list[dict[str, str]]:
    """The two to pin, as JWKs: current, next. Raises SigningError."""
    found = keys()
    return [jwk(found.current.public_key()), jwk(found.next.public_key())]


def _accepted(name: object) -> Ed25519PublicKey:
    """The key of this name, when it may still be believed. Raises TokenError."""
    found = keys()
    believed = [found.current.public_key(), found.next.public_key()]
    believed += [each.public for each in found.former if each.until > time.time()]
    for key in believed:
        if kid(key) == name:
            return key
    raise TokenError("signed by a key that is not, or no longer, ours")


def sign(payload: dict[str, object], typ: str) -> str:
    """A token for one use, named by `typ`. `exp` (seconds since 1970) is a must; `iat` is now. Raises SigningError."""
    now = int(time.time())
    expires = payload.get("exp")
    if not isinstance(expires, int) or expires > now + LONGEST:
        raise ValueError(f"exp: at most {LONGEST} seconds from now")
    found = keys()
    headers = {"typ": typ, "kid": found.kid}
    return jwt.encode({"iat": now, **payload}, found.current, algorithm=ALGORITHM, headers=headers)


def verify(token: str, typ: str, *, audience: str | None = None) -> dict[str, object]:
    """The claims of our own token for this use, and for this audience if it names one. Raises TokenError."""
    if len(token) > MOST:
        raise TokenError("too long")
    try:
        header = jwt.get_unverified_header(token)
        if set(header) != HEADER or header["alg"] != ALGORITHM or header["typ"] != typ:
            raise TokenError(f"not a token of type {typ}")
        options: Any = {"require": ["exp", "iat"], "verify_aud": True}
        claims: dict[str, object] = jwt.decode(
            token, _accepted(header["kid"]), algorithms=[ALGORITHM], audience=audience, options=options
        )
    except (jwt.PyJWTError, UnicodeError) as err:
        raise TokenError(str(err)) from err
    return claims


def sign_bytes(raw: bytes) -> tuple[str, str]:
    """(kid, base64url signature) over these bytes; for JSON documents, which begin with `{`.

    What a token's signature covers begins with a letter, so neither can be taken for the other. Raises SigningError.
    """
    if not raw.startswith(b"{"):
        raise ValueError("only a JSON object is signed so")
    found = keys()
    return found.kid, _encoded(found.current.sign(raw))


def verify_bytes(raw: bytes, name: str, signature: str) -> None:
    """Raises TokenError."""
    try:
        _accepted(name).verify(_decoded(signature), raw)
    except (InvalidSignature, ValueError) as err:
        raise TokenError("the signature does not fit") from err
