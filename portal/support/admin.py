"""The staff's side: requests are answered, assigned and closed here; help pages show what people thought of them."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.core.exceptions import ValidationError
from django.db.models import Count, Q, QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from portal.support import attachments, tickets, words
from portal.support.models import Event, Message, Status, Ticket, Verdict
from portal.support.views import origin


class Never(admin.TabularInline):  # type: ignore[type-arg]
    """For looking only."""

    extra = 0
    can_delete = False

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class MessageInline(Never):
    model = Message
    verbose_name_plural = _("Messages")
    fields = readonly_fields = ("at", "author", "text", "files")

    @admin.display(description=_("Files"))
    def files(self, message: Message) -> SafeString:
        found = [(reverse("support:attachment", args=[each.pk]), each.name) for each in message.attachments.all()]
        return format_html_join("\n", '<a href="{}">{}</a><br>', found)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Message]:
        found: QuerySet[Message] = super().get_queryset(request).select_related("author")
        return found.prefetch_related("attachments")


class EventInline(Never):
    model = Event
    verbose_name_plural = _("History")
    fields = readonly_fields = ("at", "what", "by")


class Files(forms.FileInput):
    """Several at once; attachments.py judges them."""

    allow_multiple_selected = True

    def value_from_datadict(self, data: Any, files: Any, name: str) -> Any:
        return None


class AnswerForm(forms.ModelForm):  # type: ignore[type-arg]
    """The request's fields that staff changes, and an answer."""

    answer = forms.CharField(
        label=_("Answer"),
        required=False,
        strip=False,
        widget=forms.Textarea(attrs={"rows": 8, "cols": 90}),
        help_text=_("The owner of the request gets it by e-mail and reads it on the page."),
    )
    attached = forms.FileField(label=_("Files"), required=False, widget=Files(attrs={"multiple": True}))
    then = forms.ChoiceField(
        label=_("And then the request is"),
        choices=[(each.value, each.label) for each in (Status.ANSWERED, Status.WAITING, Status.CLOSED)],
    )

    class Meta:
        model = Ticket
        fields = ("product", "platform", "status", "assignee")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "then" in self.fields:
            self.fields["then"].required = False

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        files = self.files.getlist("attached") if hasattr(self.files, "getlist") else []
        if files and not cleaned.get("answer", "").strip():
            raise ValidationError(_("Write an answer to go with the files."), "text_missing")
        try:
            attachments.judge_all(files, [words.file_name(each.name or "") for each in files])
        except ValidationError as err:
            self.add_error("attached", err)
        return cleaned


@admin.register(Ticket)
class TicketAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    list_display = ("number", "subject", "owner", "product", "status", "assignee", "updated_at")
    list_display_links = ("number", "subject")
    list_filter = ("status", ("assignee", admin.RelatedOnlyFieldListFilter), "product", "platform")
    search_fields = ("subject", "owner__email", "messages__text")
    list_select_related = ("owner", "product", "assignee")
    date_hierarchy = "created_at"
    actions = ("assign_to_me", "close")
    form = AnswerForm
    readonly_fields = ("subject", "owner", "created_at", "updated_at")
    fieldsets = (
        (None, {"fields": ("subject", "owner", "product", "platform", "created_at", "updated_at")}),
        (_("State"), {"fields": ("status", "assignee")}),
        (_("Answer"), {"fields": ("answer", "attached", "then")}),
    )
    inlines = (MessageInline, EventInline)

    @admin.display(description=_("Number"), ordering="pk")
    def number(self, ticket: Ticket) -> str:
        return f"#{ticket.pk}"

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def save_model(self, request: HttpRequest, obj: Ticket, form: Any, change: bool) -> None:
        staff: Any = request.user
        wanted = Status(obj.status)
        obj.save(update_fields=["product", "platform", "assignee"])
        if "assignee" in form.changed_data:
            tickets.assigned(obj, staff)
        if form.cleaned_data.get("answer", "").strip():
            then = Status(form.cleaned_data.get("then") or Status.ANSWERED)
            files = request.FILES.getlist("attached")
            tickets.answer(obj, staff, form.cleaned_data["answer"], origin(request), then=then, files=files)
        elif "status" in form.changed_data:
            obj.status = form.initial["status"]
            tickets.set_status(obj, staff, wanted)

    def log_change(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        """Django's own log says that it was changed; what was answered is in the history."""
        return super().log_change(request, obj, "")

    @admin.action(description=_("Assign to me"), permissions=["change"])
    def assign_to_me(self, request: HttpRequest, queryset: QuerySet[Ticket]) -> None:
        staff: Any = request.user
        for each in queryset.exclude(assignee=staff):
            each.assignee = staff
            each.save(update_fields=["assignee"])
            tickets.assigned(each, staff)

    @admin.action(description=_("Close"), permissions=["change"])
    def close(self, request: HttpRequest, queryset: QuerySet[Ticket]) -> None:
        staff: Any = request.user
        for each in queryset:
            tickets.close(each, staff, staff=True)


@admin.register(Verdict)
class VerdictAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """What visitors said about help pages; who said it is not known."""

    list_display = ("page", "language", "helpful", "comment", "on")
    list_filter = ("page", "helpful", "language")
    exclude = ("voter",)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        counts = Verdict.objects.values("page").annotate(
            yes=Count("pk", filter=Q(helpful=True)), no=Count("pk", filter=Q(helpful=False))
        )
        title = " · ".join(f"{each['page']}: {each['yes']} + / {each['no']} −" for each in counts.order_by("page"))
        return super().changelist_view(request, {"subtitle": format_html("{}", title), **(extra_context or {})})
