from __future__ import annotations

from django.contrib import admin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.forms import AdminUserCreationForm
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from portal.accounts.models import User
from portal.accounts.steps.views import turn_off_and_tell


class CreationForm(AdminUserCreationForm):  # type: ignore[type-arg]
    class Meta:
        model = User
        fields = ("email", "country")


@admin.register(User)
class UserAdmin(DjangoUserAdmin):  # type: ignore[type-arg]
    """Support changes a country here, and lets in who lost phone and recovery codes; nobody else can."""

    ordering = ("email",)
    list_display = ("email", "country", "is_active", "is_staff", "date_joined")
    list_filter = ("is_staff", "is_active", "country")
    search_fields = ("email",)
    readonly_fields = ("last_login", "date_joined")
    actions = ("turn_two_steps_off",)
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

    @admin.action(description=_("Turn two-step verification off"))
    def turn_two_steps_off(self, request: HttpRequest, chosen: QuerySet[User]) -> None:
        for user in chosen:
            turn_off_and_tell(request, user)
            self.log_change(request, user, "Two-step verification turned off.")
        self.message_user(request, _("Two-step verification is off."))
