"""The pages of requests and of help."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_not_required, login_required
from django.core.exceptions import ValidationError
from django.http import FileResponse, Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from portal.api import limits
from portal.support import attachments, help_pages, tickets, words
from portal.support.forms import MessageForm, TicketForm
from portal.support.models import Attachment, Status, Ticket


def origin(request: HttpRequest) -> str:
    return f"{request.scheme}://{request.get_host()}"


def of(request: HttpRequest, pk: int) -> Ticket:
    """One's own request; others' are not there."""
    if pk > 2**63 - 1:
        raise Http404
    return get_object_or_404(Ticket.objects.select_related("owner", "product"), pk=pk, owner=request.user)


def status_of(err: ValidationError) -> int:
    return 429 if err.error_list[0].code == "too_many_tries" else 400


def rules() -> dict[str, object]:
    """What a form says about files."""
    types = attachments.allowed()
    return {
        "types": ", ".join(types),
        "accept": ",".join(f".{each}" for each in types),
        "most": settings.ATTACHMENT_COUNT,
        "megabytes": settings.ATTACHMENT_MEGABYTES,
    }


@login_required
@require_safe
def tickets_list(request: HttpRequest) -> HttpResponse:
    user: Any = request.user
    return render(request, "support/tickets.html", {"tickets": user.tickets.select_related("product")[:200]})


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def new(request: HttpRequest) -> HttpResponse:
    user: Any = request.user
    form = TicketForm(request.POST if request.method == "POST" else None)
    error: ValidationError | None = None
    if request.method == "POST" and form.is_valid():
        given = form.cleaned_data
        try:
            made = tickets.open_ticket(
                user,
                given["subject"],
                given["text"],
                origin(request),
                product=given["product"],
                platform=given["platform"],
                files=attachments.uploaded(request),
            )
        except ValidationError as err:
            error = err
        else:
            messages.success(request, _("Your request has arrived. We answer here and by e-mail."))
            return redirect("support:ticket", pk=made.pk)
    status = status_of(error) if error else 400 if form.errors else 200
    return render(request, "support/new.html", {"form": form, "error": error, "rules": rules()}, status=status)


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def ticket(request: HttpRequest, pk: int) -> HttpResponse:
    """One request with all that was written. POST writes; a closed one is open again then."""
    found = of(request, pk)
    form = MessageForm(request.POST if request.method == "POST" else None)
    error: ValidationError | None = None
    if request.method == "POST" and form.is_valid():
        try:
            tickets.write(found, form.cleaned_data["text"], origin(request), files=attachments.uploaded(request))
        except ValidationError as err:
            error = err
        else:
            messages.success(request, _("Sent."))
            return redirect("support:ticket", pk=pk)
    context = {
        "ticket": found,
        "thread": found.messages.prefetch_related("attachments"),
        "history": found.events.all(),
        "closed": found.status == Status.CLOSED,
        "form": form,
        "error": error,
        "rules": rules(),
    }
    status = status_of(error) if error else 400 if form.errors else 200
    return render(request, "support/ticket.html", context, status=status)


@login_required
@require_POST
def close(request: HttpRequest, pk: int) -> HttpResponse:
    user: Any = request.user
    tickets.close(of(request, pk), user)
    return redirect("support:ticket", pk=pk)


@login_required
@require_POST
def reopen(request: HttpRequest, pk: int) -> HttpResponse:
    user: Any = request.user
    tickets.reopen(of(request, pk), user)
    return redirect("support:ticket", pk=pk)


def attachment_of(user: Any, pk: int) -> Attachment:
    """The owner's, and any for staff that may see requests. Raises Http404."""
    found = Attachment.objects.select_related("message__ticket")
    if not user.has_perm("support.view_ticket"):
        found = found.filter(message__ticket__owner=user)
    if pk > 2**63 - 1:
        raise Http404
    return get_object_or_404(found, pk=pk)


@login_required
@require_safe
def attachment(request: HttpRequest, pk: int) -> FileResponse:
    try:
        return attachments.download(attachment_of(request.user, pk))
    except FileNotFoundError as err:
        raise Http404 from err


@login_not_required
@require_safe
def help_list(request: HttpRequest) -> HttpResponse:
    query = request.GET.get("q", "").strip()[: help_pages.MOST_QUERY]
    found = [(each, help_pages.excerpt(each, query)) for each in help_pages.search(query)]
    return render(request, "support/help.html", {"query": query, "found": found})


def help_of(slug: str) -> help_pages.Help:
    found = help_pages.page(slug)
    if found is None:
        raise Http404
    return found


@login_not_required
@require_safe
def help_page(request: HttpRequest, slug: str) -> HttpResponse:
    return render(request, "support/help_page.html", {"page": help_of(slug)})


@login_not_required
@require_POST
def verdict(request: HttpRequest, slug: str) -> HttpResponse:
    """ "Was this helpful?" Counted once: for an account, or for the session that begins with the answer."""
    found = help_of(slug)
    comment = request.POST.get("comment", "").strip()
    error, status = "", 400
    try:
        limits.take("verdict", request, 60)
        if comment:
            comment = words.line(" ".join(comment.split()), 1000)
    except ValidationError as err:
        error, status = " ".join(err.messages), status_of(err)
    answer = request.POST.get("helpful")
    if not error and answer not in ("yes", "no"):
        error = _("Choose Yes or No.")
    if error:
        return render(request, "support/help_page.html", {"page": found, "error": error}, status=status)
    if request.user.is_authenticated:
        who = f"account {request.user.pk}"
    else:
        if request.session.session_key is None:
            request.session.create()
        who = f"session {request.session.session_key}"
    help_pages.vote(found, who, answer == "yes", comment)
    messages.success(request, _("Thank you. That helps us to write better help."))
    return redirect("support:help_page", slug=slug)
