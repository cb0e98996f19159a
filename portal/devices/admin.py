from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.http import HttpRequest

from portal.devices import connecting
from portal.devices.models import Device


@admin.register(Device)
class DeviceAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """For looking, and for disconnecting a lost one. Support sends no commands: those are the person's own."""

    list_display = ("name", "user", "platform", "version", "last_seen_at", "country")
    list_filter = ("platform",)
    search_fields = ("user__email", "name")
    exclude = ("machine", "seat")

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        connecting.disconnect(obj)

    def delete_queryset(self, request: HttpRequest, queryset: Any) -> None:
        for each in queryset:
            connecting.disconnect(each)
