from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import URLPattern, path
from django.utils.translation import gettext_lazy as _

from portal.accounts.models import User
from portal.subscriptions import sharing
from portal.subscriptions.models import ActivationCode, Move, Plan, Product, Subscription, Term

admin.site.register(Product, list_display=("name", "slug", "shareable"))
admin.site.register(Plan, list_display=("product", "name", "tier", "days", "seats"), list_display_links=("name",))


class Seen(admin.ModelAdmin):  # type: ignore[type-arg]
    """For looking only: the commands and pages that change these keep their rules."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(ActivationCode)
class CodeAdmin(Seen):
    list_display = ("batch", "plan", "created_at", "redeemed_by", "redeemed_at")
    list_filter = ("plan", "batch")
    exclude = ("digest",)


@admin.register(Move)
class MoveAdmin(Seen):
    list_display = ("at", "subscription", "from_email", "to_email", "by", "reason")


class TermInline(admin.TabularInline):  # type: ignore[type-arg]
    model = Term
    extra = 0
    fields = readonly_fields = ("plan", "starts_at", "ends_at", "payment")
    can_delete = False

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class MoveForm(forms.Form):
    email = forms.EmailField(label=_("E-mail of the account it should be in"))
    reason = forms.CharField(label=_("Reason"), widget=forms.Textarea)


@admin.register(Subscription)
class SubscriptionAdmin(Seen):
    list_display = ("owner", "product", "state", "ends_at")
    search_fields = ("owner__email",)
    inlines = (TermInline,)
    change_form_template = "subscriptions/admin_change.html"

    def get_urls(self) -> list[URLPattern]:
        move = self.admin_site.admin_view(self.move)
        return [path("<int:pk>/move/", move, name="subscription_move"), *super().get_urls()]

    def move(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Support puts a subscription into the right account; the entry stays."""
        if not request.user.has_perm("subscriptions.change_subscription"):
            raise PermissionDenied
        subscription = get_object_or_404(Subscription, pk=pk)
        form = MoveForm(request.POST or None)
        if request.method == "POST" and form.is_valid():
            to = User.objects.filter(email=form.cleaned_data["email"].lower()).first()
            staff: Any = request.user
            if to is None:
                form.add_error("email", _("There is no account with this e-mail."))
            else:
                try:
                    sharing.move(subscription, to, staff, form.cleaned_data["reason"])
                except ValidationError as err:
                    form.add_error(None, err)
                else:
                    messages.success(request, _("Moved."))
                    return redirect("admin:subscriptions_subscription_changelist")
        context = {**self.admin_site.each_context(request), "form": form, "subscription": subscription}
        return render(request, "subscriptions/admin_move.html", context)
