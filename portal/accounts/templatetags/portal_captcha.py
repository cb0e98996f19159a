"""`{% captcha form %}`: the image and its field, when the form's errors or the counted failures ask for one."""

from __future__ import annotations

from typing import Any

from allauth.account.adapter import get_adapter
from django import template
from django.core.exceptions import NON_FIELD_ERRORS
from django.forms import BaseForm

from portal.accounts import attempts, captcha

register = template.Library()


@register.inclusion_tag("accounts/captcha.html", takes_context=True)
def show_captcha(context: dict[str, Any], form: BaseForm, purpose: str) -> dict[str, Any]:
    request = context["request"]
    if form.is_bound:
        email = str(form.data.get("login") or form.data.get("email") or "")
        codes = {each.code for each in form.errors.as_data().get(NON_FIELD_ERRORS, [])}
        codes |= {each.code for errors in form.errors.as_data().values() for each in errors}
        asked = bool(codes & set(captcha.ERRORS))
    else:
        email, asked = "", False
    if request.user.is_authenticated:
        email = request.user.email
    asked = asked or attempts.exceeded(attempts.limits(purpose, get_adapter(request).get_client_ip(request), email))
    return {"challenge": captcha.new() if asked else None}
