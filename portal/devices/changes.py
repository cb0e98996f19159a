"""Tells the events process that something changed for a device. On SQLite it looks by itself (hub.py)."""

from __future__ import annotations

from django.db import connection

CHANNEL = "portal_devices"


def announce(device: int) -> None:
    """Part of the transaction: PostgreSQL delivers it when that commits, and never when it does not."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_notify(%s, %s)", [CHANNEL, str(device)])
