"""Makes the key that signs OpenID Connect's ID tokens. Only a host that adds such applications needs it."""

from __future__ import annotations

import os
from typing import Any

from django.core.management.base import BaseCommand

from portal.devices import authorisation


class Command(BaseCommand):
    help = "Makes oidc.pem in the folder of the keys, when it is not there."

    def handle(self, *args: Any, **options: Any) -> None:
        file = authorisation.key_file()
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            self.stdout.write(f"{file} is there already")
            return
        with os.fdopen(handle, "w") as stream:
            stream.write(authorisation.make_key())
        self.stdout.write(f"made {file}")
