"""Signing in stops here until every required statement is accepted in its newest version."""

from __future__ import annotations

from allauth.account.stages import LoginStage
from django.http import HttpResponse, HttpResponseRedirect
from django.urls import reverse

from portal.consents import ledger


class ConsentStage(LoginStage):  # type: ignore[misc]
    key = "portal_statement"
    urlname = "consents:required"

    def handle(self) -> tuple[HttpResponse | None, bool]:
        if self.login.user is None or not ledger.missing(self.login.user):
            return None, True
        return HttpResponseRedirect(reverse(self.urlname)), True
