"""Makes and rotates the keys that sign entitlements, server lists and commands (portal/signing.py)."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from django.core.management.base import BaseCommand, CommandError, CommandParser

from portal import signing


@contextmanager
def alone() -> Iterator[None]:
    """Two rotations at once would lose a key that daemons have pinned."""
    folder = signing.file().parent
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def rotated(keys: signing.Keys, *, stolen: bool) -> signing.Keys:
    """Next becomes current. What the former one signed is believed until it has expired, unless it was stolen."""
    now = time.time()
    former = tuple(each for each in keys.former if each.until > now)
    if not stolen:
        former = (*former, signing.Former(keys.current.public_key(), now + signing.LONGEST))
    return signing.Keys(keys.next, Ed25519PrivateKey.generate(), former)


class Command(BaseCommand):
    help = "The signing keys: make (when there are none), rotate (next becomes current), show (public ones, as JWKs)."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("action", choices=("make", "rotate", "show"))
        parser.add_argument("--stolen", action="store_true", help="rotate: what the old key signed counts no more")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            if options["action"] == "show":
                self.stdout.write(json.dumps({"keys": signing.public_keys()}, indent=2))
                return
            with alone():
                if options["action"] == "rotate":
                    signing.write(rotated(signing.keys(), stolen=options["stolen"]))
                elif not signing.file().exists():
                    signing.write(signing.Keys(Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()))
            current, following = signing.public_keys()
            self.stdout.write(f"current: {current['kid']}\nnext: {following['kid']}")
        except (signing.SigningError, OSError) as err:
            raise CommandError(str(err)) from err
