from __future__ import annotations

from django.contrib import admin

from portal.vpn.models import Server


@admin.register(Server)
class ServerAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    list_display = ("name", "country", "city", "host", "port", "tier", "active")
    list_filter = ("tier", "active", "country")
    search_fields = ("name", "city", "host", "tags")
