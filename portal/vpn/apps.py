from __future__ import annotations

from django.apps import AppConfig


class VpnConfig(AppConfig):
    name = "portal.vpn"
