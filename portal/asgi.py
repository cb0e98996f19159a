"""The events process: `uvicorn portal.asgi:application`, one of it. Everything else is portal.wsgi."""

from __future__ import annotations

import os

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings")
django.setup()

from portal.devices.events import application  # noqa: E402

__all__ = ["application"]
