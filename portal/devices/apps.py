from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.db.models.signals import post_delete, post_save


def changed(sender: Any, instance: Any, **kwargs: Any) -> None:
    from portal.devices.changes import announce

    announce(instance.device_id)


def signed_out(sender: Any, user: Any, **kwargs: Any) -> None:
    """Signed out everywhere: on the devices too."""
    from portal.devices.connecting import disconnect

    for device in user.devices.all():
        disconnect(device)


class DevicesConfig(AppConfig):
    name = "portal.devices"

    def ready(self) -> None:
        from portal.consents.ledger import sessions_ended

        # A deleted account takes its devices along: signals see that too, a function of ours would not.
        post_delete.connect(changed, sender="devices.Credential")
        post_save.connect(changed, sender="devices.Command")
        sessions_ended.connect(signed_out)
