"""How often one may ask within an hour: counted in the database, so it holds across workers and machines."""

from __future__ import annotations

from allauth.account.adapter import get_adapter
from django.core.exceptions import ValidationError
from django.http import HttpRequest
from django.utils.translation import gettext as _

from portal.accounts import attempts


def take(purpose: str, request: HttpRequest, most: int, account: str = "") -> None:
    """One of `most` an hour: of the account, or else of the network address. Raises ValidationError too_many_tries."""
    address = attempts.network(get_adapter(request).get_client_ip(request))
    counts = {"account": (account, most)} if account else {"address": (address, most)}
    # times=1: what is over the limit is refused and no longer counted, so exactly `most` of any number at once pass.
    if attempts.begin(attempts.hourly(purpose, **counts), times=1).exceeded:
        raise ValidationError(_("Too many requests. Try again in an hour."), "too_many_tries")
