from __future__ import annotations

from django.apps import AppConfig


class SupportConfig(AppConfig):
    name = "portal.support"

    def ready(self) -> None:
        from portal.support import attachments

        attachments.connect()
