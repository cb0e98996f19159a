from __future__ import annotations

from django.contrib import admin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.forms import AdminUserCreationForm
from django.utils.translation import gettext_lazy as _

from portal.accounts.models import User


class CreationForm(AdminUserCreationForm):  # type: ignore[type-arg]
    class Meta:
        model = User
        fields = ("email", "country")


@admin.register(User)
class UserAdmin(DjangoUserAdmin):  # type: ignore[type-arg]
    """Support changes a country here; nobody else can."""

    ordering = ("email",)
    list_display = ("email", "country", "is_active", "is_staff", "date_joined")
    list_filter = ("is_staff", "is_active", "country")
    search_fields = ("email",)
    readonly_fields = ("last_login", "date_joined")
    add_form = CreationForm
    add_fieldsets = (
        (None, {"classes": ("wide",), "fields": ("email", "country", "usable_password", "password1", "password2")}),
    )
    fieldsets = (
        (None, {"fields": ("email", "password")}),
        (_("Region"), {"fields": ("country", "language")}),
        (_("Rights"), {"fields": ("is_active", "is_staff", "is_superuser", "groups", "user_permissions")}),
        (_("Times"), {"fields": ("last_login", "date_joined")}),
    )
