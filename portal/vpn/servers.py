"""The list of servers: bytes, and a signature over exactly these bytes."""

from __future__ import annotations

import hashlib
import ipaddress
import json
import time
from dataclasses import dataclass
from functools import lru_cache

from django.conf import settings
from django.db import transaction

from portal import signing
from portal.subscriptions.models import Plan
from portal.vpn.models import Serial, Server

TYPE = "vpn-servers"


@dataclass(frozen=True)
class Published:
    """A list as it is sent. `etag` names these bytes and this signature."""

    body: bytes
    kid: str
    signature: str
    etag: str


def entry(server: Server) -> dict[str, object]:
    """As docs/servers.md has it, with the protocol and the plan."""
    host = f"[{server.host}]" if ipaddress.ip_address(server.host).version == 6 else server.host
    return {
        "name": server.name,
        "country": server.country,
        "city": server.city,
        "tags": server.tags.split(),
        "endpoints": [f"{host}:{server.port}"],
        "public_key": server.public_key,
        "protocol": server.protocol,
        "plan": server.tier,
    }


@lru_cache(maxsize=8)
def _made(tier: str, _serial: int, _kid: str, issued: int) -> Published:
    with transaction.atomic():
        # Who changes a server holds this row until both are there: the number and the servers fit each other.
        number = Serial.objects.select_for_update().filter(pk=1).values_list("number", flat=True).first() or 0
        found = Server.objects.filter(active=True)
        chosen = list(found if tier == Plan.Tier.PREMIUM else found.filter(tier=Plan.Tier.FREE))
    document = {
        "type": TYPE,
        "version": 1,
        "serial": number,
        "plan": tier,
        "issued_at": issued,
        "expires_at": issued + settings.SERVER_LIST_HOURS * 3600,
        "servers": [entry(each) for each in chosen],
    }
    body = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
    kid, signature = signing.sign_bytes(body)
    return Published(body, kid, signature, f'"{hashlib.sha256(body + kid.encode()).hexdigest()[:32]}"')


def published(tier: str) -> Published:
    """The list of a plan. The same bytes for an hour unless a server or the key changes. Raises SigningError."""
    number = Serial.objects.filter(pk=1).values_list("number", flat=True).first() or 0
    kid = signing.public_keys()[0]["kid"]
    return _made(tier, number, kid, int(time.time()) // 3600 * 3600)
