"""The account's own pages; signing up and in are allauth's, with our forms and templates."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import Any

from allauth.account.decorators import reauthentication_required
from allauth.account.internal.decorators import login_not_required
from captcha import views as captcha_views
from captcha.models import CaptchaStore
from django import forms
from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_safe

from portal.accounts import countries, deletion, export

captcha_image = login_not_required(never_cache(captcha_views.captcha_image))


@never_cache
@require_safe
def captcha_audio(request: HttpRequest, key: str) -> HttpResponse:
    """The same characters, spoken."""
    kept = CaptchaStore.objects.filter(hashkey=key).first()
    if kept is None or not settings.CAPTCHA_FLITE_PATH:
        return HttpResponse(status=410)
    spoken = ", ".join(kept.challenge)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "captcha.wav")
        command = [settings.CAPTCHA_FLITE_PATH, "-t", spoken, "-o", str(file)]
        subprocess.run(command, check=True, timeout=20, env={}, stdin=subprocess.DEVNULL, capture_output=True)
        return HttpResponse(file.read_bytes(), content_type="audio/wav")


class LanguageForm(forms.Form):
    language = forms.ChoiceField(
        label=gettext_lazy("Language"),
        choices=[("", gettext_lazy("As the browser asks")), *settings.LANGUAGES],
        required=False,
    )


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def overview(request: HttpRequest) -> HttpResponse:
    user: Any = request.user
    form = LanguageForm(request.POST if request.method == "POST" else None, initial={"language": user.language})
    if request.method == "POST" and form.is_valid():
        user.language = form.cleaned_data["language"]
        user.save(update_fields=["language"])
        messages.success(request, _("Saved."))
        return redirect("accounts:overview")
    country = dict(countries.choices()).get(user.country, "")
    return render(request, "accounts/overview.html", {"form": form, "country": country})


@login_required
@reauthentication_required  # type: ignore[untyped-decorator]
@never_cache
@require_safe
def download(request: HttpRequest) -> HttpResponse:
    """The export, as a file."""
    user: Any = request.user
    response = JsonResponse(export.document(user), json_dumps_params={"indent": 2, "ensure_ascii": False})
    response["Content-Disposition"] = 'attachment; filename="account.json"'
    return response


@login_required
@reauthentication_required  # type: ignore[untyped-decorator]
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def delete(request: HttpRequest) -> HttpResponse:
    """Two steps: ask for the code, then type it."""
    user: Any = request.user
    error: ValidationError | None = None
    if request.method == "POST":
        try:
            if "code" in request.POST:
                deletion.confirm(user, request.POST["code"])
                request.session.flush()
                messages.success(request, _("The account is deleted."))
                return redirect("account_login")
            deletion.request_code(user)
            messages.success(request, _("A code is on its way to %(email)s.") % {"email": user.email})
            return redirect("accounts:delete")
        except ValidationError as err:
            error = err
    context = {"error": error, "waiting": hasattr(user, "deletion_code")}
    return render(request, "accounts/delete.html", context, status=400 if error else 200)
