"""Pages: products to download, the offers for this visitor, a release with its QR code and link, and the file."""

from __future__ import annotations

from typing import Any

import qrcode
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse, HttpResponseBase, HttpResponseRedirect
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.cache import patch_vary_headers
from django.utils.safestring import SafeString, mark_safe
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_safe
from qrcode.image.svg import SvgPathImage

from portal.api.problems import STATUS
from portal.downloads import links, offers, serving, visitor
from portal.downloads.models import Package, Release
from portal.subscriptions.models import Product


def refused(request: HttpRequest, err: ValidationError, product: Product | None = None) -> HttpResponse:
    """The reason, and what to do about it."""
    status = STATUS.get(err.code or "", 403)
    return render(request, "downloads/refused.html", {"error": err, "product": product}, status=status)


def qr_code(text: str) -> SafeString:
    """An SVG element, black on white in both schemes."""
    image = qrcode.make(text, image_factory=SvgPathImage, border=4)
    svg: str = image.to_string(encoding="unicode")
    return mark_safe(svg)  # noqa: S308 - squares; the text itself is not in it


@login_required
@never_cache
@require_safe
def index(request: HttpRequest) -> HttpResponse:
    user: Any = request.user
    products = {each.product_id: each.product for each in offers.subscriptions(user)}
    found = sorted(products.values(), key=lambda product: product.name)
    return render(request, "downloads/index.html", {"products": found})


@login_required
@never_cache
@require_safe
def product(request: HttpRequest, slug: str) -> HttpResponse:
    """The default download of this visitor's platform, and the others."""
    user: Any = request.user
    found = get_object_or_404(Product, slug=slug)
    try:
        offers.check_product(user, found)
    except ValidationError as err:
        response = refused(request, err, found)
    else:
        seen = visitor.of(request)
        context = {"product": found, "offers": offers.of(user, found, seen), "platforms": seen.platforms}
        response = render(request, "downloads/product.html", context)
    # Asked for here, and once more at once by a browser that did not send them yet.
    response["Accept-CH"] = response["Critical-CH"] = visitor.HINTS
    patch_vary_headers(response, ["User-Agent", *visitor.HINTS.split(", ")])
    return response


def _release(pk: int) -> Release:
    return get_object_or_404(Release.objects.select_related("product"), pk=pk, published=True)


@login_required
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def release(request: HttpRequest, pk: int) -> HttpResponse:
    """One release: its checksum, a QR code and a link by mail. POST mails it."""
    user: Any = request.user
    found = _release(pk)
    try:
        offers.check(user, found)
    except ValidationError as err:
        return refused(request, err, found.product)
    error: ValidationError | None = None
    if request.method == "POST":
        try:
            to = links.mail(request, user, found, request.POST.get("email", ""))
        except ValidationError as err:
            error = err
        else:
            messages.success(request, _("The link is on its way to %(email)s.") % {"email": to})
            return redirect("downloads:release", pk=pk)
    if found.package == Package.STORE:
        link, expires = found.store_url, None
    else:
        link, expires = links.make(request, user, found)
    context = {"release": found, "qr": qr_code(link), "expires": expires, "error": error}
    status = STATUS.get(error.code or "", 400) if error else 200
    return render(request, "downloads/release.html", context, status=status)


@login_required
@never_cache
@require_safe
def start(request: HttpRequest, pk: int) -> HttpResponse:
    """To the file, or to the store."""
    user: Any = request.user
    found = _release(pk)
    try:
        offers.check(user, found)
    except ValidationError as err:
        return refused(request, err, found.product)
    if found.package == Package.STORE:
        return HttpResponseRedirect(found.store_url)
    return HttpResponseRedirect(links.make(request, user, found)[0])


@require_safe
def get(request: HttpRequest, token: str) -> HttpResponseBase:
    """What a signed link opens. Its account's rights are looked at again; somebody else's session does not fit."""
    try:
        found, user = links.find(token)
        if request.user.is_authenticated and request.user.pk != user.pk:
            raise ValidationError(
                _("This link was made for another account. Ask for one in your own downloads."), "not_holder"
            )
        offers.check(user, found)
    except ValidationError as err:
        response = refused(request, err)
        response["Cache-Control"] = "no-store"
        return response
    if found.package == Package.STORE:
        return HttpResponseRedirect(found.store_url)
    return serving.send(request, found)
