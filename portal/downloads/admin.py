from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.http import HttpRequest

from portal.downloads.models import Grant, Release


@admin.register(Release)
class ReleaseAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Made once; afterwards only where and whether it is offered changes."""

    list_display = ("product", "version", "platform", "architecture", "package", "channel", "language", "published")
    list_display_links = ("product", "version")
    list_filter = ("product", "platform", "channel", "published")
    list_editable = ("published",)
    fields = (
        "product", "platform", "architecture", "package", "version", "channel", "language", "file", "store_url",
        "allowed_countries", "denied_countries", "published", "size", "sha256", "created_at",
    )  # fmt: skip
    lasting = ("product", "platform", "architecture", "package", "version", "channel", "language", "store_url")

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        facts = ("size", "sha256", "created_at")
        return facts if obj is None else (*facts, *self.lasting)

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        # The file has no address, and what it is called on the disk means nothing.
        return [name for name in self.fields if obj is None or name != "file"]


@admin.register(Grant)
class GrantAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    list_display = ("release", "user", "by", "at", "reason")
    autocomplete_fields = ("user",)
    raw_id_fields = ("release",)

    def save_model(self, request: HttpRequest, obj: Grant, form: Any, change: bool) -> None:
        if not change:
            obj.by = request.user  # type: ignore[assignment]
        super().save_model(request, obj, form, change)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False
