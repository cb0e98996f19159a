from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.core.management import call_command
from django.db.models.signals import post_migrate


def make_cache_table(sender: Any, using: str, **kwargs: Any) -> None:
    """`migrate` is all an operator runs: the shared cache's table comes with it."""
    call_command("createcachetable", database=using, verbosity=0)


class AccountsConfig(AppConfig):
    name = "portal.accounts"

    def ready(self) -> None:
        post_migrate.connect(make_cache_table, sender=self)
