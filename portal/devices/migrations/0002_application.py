"""The application that may begin a device authorisation: it is public, and may only connect a device."""

from __future__ import annotations

from typing import Any

from django.db import migrations


def add(apps: Any, schema_editor: Any) -> None:
    apps.get_model("allauth_idp_oidc", "Client").objects.get_or_create(
        id="tunwarden",
        defaults={
            "name": "tunwarden",
            "secret": "!",  # no password hash: there is none
            "type": "public",
            "grant_types": "urn:ietf:params:oauth:grant-type:device_code",
            "scopes": "device",
            "default_scopes": "device",
            "response_types": "",
            "redirect_uris": "",
        },
    )


class Migration(migrations.Migration):
    dependencies = [("devices", "0001_initial"), ("allauth_idp_oidc", "0003_client_allow_uri_wildcards")]
    operations = [migrations.RunPython(add, migrations.RunPython.noop)]
