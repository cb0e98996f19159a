"""Device authorisation (RFC 8628): the grant is allauth's, the page where a person types the code is ours.

Ours counts wrong codes across workers, takes a code however it is typed, and says `expired_token` where allauth's says
`invalid_grant`.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from pathlib import Path
from typing import Any

from allauth.account.adapter import get_adapter
from allauth.idp.oidc import views as oidc
from allauth.idp.oidc.adapter import DefaultOIDCAdapter
from allauth.idp.oidc.internal.oauthlib import device_codes
from allauth.idp.oidc.models import Client, PrivateKey, Token
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from django.conf import settings
from django.contrib.auth.decorators import login_required
from django.core.cache import cache
from django.core.exceptions import ValidationError
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils.http import urlencode
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_http_methods, require_POST, require_safe
from qrcode import QRCode
from qrcode.image.svg import SvgPathFillImage

from portal.accounts import attempts

LETTERS = "BCDFGHJKLMNPQRSTVWXZ"  # RFC 8628, 6.1: no vowels, so no words
CODES_AN_ADDRESS = 60  # begun within an hour
AFTERWARDS = 3600  # seconds for which an expired code is told from one that never was


def key_file() -> Path:
    return Path(settings.SIGNING_KEYS) / "oidc.pem"


class OIDCAdapter(DefaultOIDCAdapter):  # type: ignore[misc]
    """The key that signs ID tokens is a file, outside of the database. Connecting a device needs none."""

    def list_private_keys(self, **kwargs: Any) -> list[PrivateKey]:
        try:
            return [PrivateKey(pem=key_file().read_text(encoding="ascii"))]
        except FileNotFoundError:
            return []


def make_key() -> str:
    """A new private key, PEM."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=3072)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def canonical(text: str) -> str:
    """XXXX-XXXX, whatever the case, spaces and dashes; empty when it cannot be a code."""
    bare = re.sub(r"[\s-]", "", text[:40]).upper()
    return f"{bare[:4]}-{bare[4:]}" if len(bare) == 8 and set(bare) <= set(LETTERS) else ""


def _address(request: HttpRequest) -> str:
    return attempts.network(get_adapter(request).get_client_ip(request))


def _find(request: HttpRequest, text: str) -> tuple[str, str, Client]:
    """(user code, device code, application). Raises ValidationError code_wrong or too_many_tries."""
    user: Any = request.user
    limits = attempts.limits("device code", get_adapter(request).get_client_ip(request), user.email)
    counted = attempts.begin(limits)
    if counted.exceeded:
        raise ValidationError(_("Too many wrong codes. Try again in a quarter of an hour."), "too_many_tries")
    code = canonical(text)
    try:
        if not code:
            raise ValidationError("", "incorrect_code")
        device_code, client = device_codes.validate_user_code(code)
    except ValidationError as err:
        raise ValidationError(_("This code is wrong, was used, or has expired."), "code_wrong") from err
    counted.give_back()
    return code, device_code, client


@never_cache
@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def page(request: HttpRequest) -> HttpResponse:
    """Type the code, or come by its link; see which application asks; allow or deny."""
    given = request.POST.get("code", "") if request.method == "POST" else request.GET.get("code", "")
    context: dict[str, object] = {"code": given[:40]}
    if not given:
        return render(request, "devices/code.html", context)
    try:
        code, device_code, client = _find(request, given)
    except ValidationError as err:
        status = 429 if err.code == "too_many_tries" else 400
        return render(request, "devices/code.html", context | {"error": err}, status=status)
    context |= {"code": code, "client": client}
    action = request.POST.get("action", "")
    if action in ("allow", "deny"):
        if device_codes.confirm_or_deny_device_code(request.user, device_code, confirm=action == "allow"):
            return render(request, "devices/code_answered.html", context | {"allowed": action == "allow"})
        error = ValidationError(_("This code is wrong, was used, or has expired."), "code_wrong")
        return render(request, "devices/code.html", context | {"error": error}, status=400)
    return render(request, "devices/code_confirm.html", context)


@never_cache
@require_safe
def qr(request: HttpRequest, code: str) -> HttpResponse:
    """The link with the code, as an image: a device without a keyboard shows it."""
    if canonical(code) != code:
        raise Http404
    link = request.build_absolute_uri(f"{reverse('idp:oidc:device_authorization')}?{urlencode({'code': code})}")
    drawn = QRCode(border=4, image_factory=SvgPathFillImage)
    drawn.add_data(link)
    drawn.make(fit=True)
    out = io.BytesIO()
    drawn.make_image().save(out)
    return HttpResponse(out.getvalue(), content_type="image/svg+xml")


def _known(device_code: str) -> str:
    return f"portal.devices.code.{hashlib.sha256(device_code.encode()).hexdigest()}"


def _unusable(request: HttpRequest) -> HttpResponse | None:
    """What cannot be a name or a code: neither the cache nor PostgreSQL takes it."""
    for value in request.POST.values():
        if not re.fullmatch(r"[\x20-\x7e]{0,200}", str(value)):
            return JsonResponse({"error": "invalid_request", "error_description": "A value is no ASCII."}, status=400)
    return None


@csrf_exempt
@require_POST
def begin(request: HttpRequest) -> HttpResponse:
    """RFC 8628, 3.1. Limited by address: each one is kept until it expires."""
    if unusable := _unusable(request):
        return unusable
    if attempts.begin(attempts.hourly("device code", address=(_address(request), CODES_AN_ADDRESS))).exceeded:
        return JsonResponse(
            {"error": "temporarily_unavailable", "error_description": "Too many codes for one address."}, status=429
        )
    response = oidc.device_code(request)
    if response.status_code == 200:
        made = json.loads(response.content)
        cache.set(_known(made["device_code"]), True, made["expires_in"] + AFTERWARDS)
    return response  # type: ignore[no-any-return]


def _without_refresh(response: HttpResponse) -> HttpResponse:
    """allauth gives a refresh token whether the application may use one or not: ours may not, so there is none."""
    given = json.loads(response.content)
    refresh = given.pop("refresh_token", None)
    if refresh is not None:
        Token.objects.by_value(refresh).filter(type=Token.Type.REFRESH_TOKEN).delete()
    return JsonResponse(given, headers={"Cache-Control": "no-store"})


@csrf_exempt
@require_POST
def token(request: HttpRequest) -> HttpResponse:
    """RFC 8628, 3.4 and 3.5."""
    if unusable := _unusable(request):
        return unusable
    response: HttpResponse = oidc.token(request)
    given = request.POST.get("device_code", "")
    if request.POST.get("grant_type") != Client.GrantType.DEVICE_CODE or not given:
        return response
    if response.status_code == 200:
        cache.delete(_known(given))  # used: whoever shows it again is told invalid_grant
        return _without_refresh(response)
    if b'"invalid_grant"' in response.content and cache.get(_known(given)):
        body = {"error": "expired_token", "error_description": "The code has expired: begin again."}
        return JsonResponse(body, status=400)
    return response
