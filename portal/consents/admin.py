from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.http import HttpRequest

from portal.consents.models import Consent, Statement


@admin.register(Statement)
class StatementAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """New versions are published here; a published one is never changed or removed."""

    list_display = ("kind", "version", "language", "published_at")
    list_filter = ("kind", "language")
    readonly_fields = ("sha256", "published_at")

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(Consent)
class ConsentAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """For looking only: a consent is the person's own."""

    list_display = ("user", "statement", "given_at", "address", "withdrawn_at")
    search_fields = ("user__email",)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False
