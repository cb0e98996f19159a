from __future__ import annotations

from django.apps import AppConfig


class DownloadsConfig(AppConfig):
    name = "portal.downloads"
