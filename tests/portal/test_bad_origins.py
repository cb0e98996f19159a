"""Bad input by who has no right to it: other sites; sessions, tokens and links that are forged, replayed or expired.

Never a 500; refused with the right status, and then nothing at all is done; what was taken holds none of it.
"""

from __future__ import annotations

import re
from copy import deepcopy

import pytest
from django.test import Client
from django.utils.http import urlencode

from portal.accounts.models import User
from tests.portal.conftest import GOOD
from tests.portal.judge import DOCUMENT, FORM, Judge
from tests.portal.world import (
    RIGHT,
    World,
    bare,
    browser,
    contents,
    difference,
    frozen,
    routes,
    world,
)

__all__ = ["frozen", "world"]  # fixtures


# From elsewhere

# No cookie counts there: a token in a header does, or a code in the body. logout ends a session and asks before.
EXEMPT = re.compile(
    r"api/v1/|_allauth/|identity/o/(api/.+|authorize|logout)$|accounts/(apple/login/callback|google/login/token)/$"
)


def test_csrf(world: World) -> None:
    """Every address that takes POST refuses one without the page's own token."""
    signed = Client(enforce_csrf_checks=True, raise_request_exception=False)
    signed.cookies = deepcopy(world.clients["ann"][0].cookies)
    judge = Judge()
    refused_at, exempt = set(), set()
    for route, view in routes():
        path = world.filled(route)
        if path in refused_at | exempt:
            continue
        if getattr(view, "csrf_exempt", False):
            assert EXEMPT.fullmatch(bare(route)) or EXEMPT.match(route), route
            exempt.add(path)
            continue
        for method in ("POST", "PUT", "PATCH", "DELETE"):
            found = judge.ask("csrf", signed, method, path, data=urlencode(RIGHT), content_type=FORM)
            assert found.status_code == 403, (method, path, found.status_code)
        refused_at.add(path)
    judge.done(300)
    for form in world.found:
        if form.action not in refused_at | exempt:
            assert judge.ask("csrf", signed, "POST", form.action).status_code == 403, form


def test_a_browsers_session_is_nothing_to_the_interface(world: World) -> None:
    """So nothing there needs a form's token."""
    judge = Judge()
    client = Client(raise_request_exception=False)
    client.cookies = deepcopy(world.clients["ann"][0].cookies)
    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            if "security" in operation:
                path = world.filled(path.replace("{", "<").replace("}", ">")[1:])
                assert judge.ask("cookie", client, method.upper(), path).status_code == 401, (method, path)
    judge.done(30)


TARGETS = [
    "https://evil.example/", "//evil.example/", "///evil.example", "/\\evil.example", "\\\\evil.example",
    "javascript:alert(1)", "data:text/html,x", "http:evil.example", "https:///evil.example", "http://testserver@evil.example/",
    "http://testserver.evil.example/", "/%09/evil.example", "\t//evil.example", "//evil%E3%80%82example", "http://[::1",
]  # fmt: skip
NAMES = ("next", "redirect", "url", "return", "continue", "callback_url", "post_logout_redirect_uri", "redirect_uri")


@pytest.mark.parametrize("target", TARGETS)
def test_redirects(world: World, target: str) -> None:
    """Nobody is led elsewhere, by whatever address or form. The judge looks at each Location."""
    judge = Judge()
    more = urlencode(dict.fromkeys(NAMES, target))
    for page in world.pages():
        if target != TARGETS[0] and not page.startswith(("/accounts/", "/identity/", "/language")):
            continue  # the first one shows that nothing else takes it
        for who in ("stranger", "ann"):
            joined = page + ("&" if "?" in page else "?") + more
            found = judge.ask("redirect", world.clients[who][0], "GET", joined, headers={"Referer": target})
            if found.status_code == 200 and "html" in found.headers["Content-Type"]:
                links = re.findall(r'(?:href|action|src)="([^"]*evil[^"]*)"', found.content.decode())
                assert not [each for each in links if not each.startswith(("?", "/")) or each[1:2] in "/\\"], (
                    page,
                    links,
                )
    for form in world.found:
        data = urlencode(form.right() | dict.fromkeys(NAMES, target))
        client = world.clients[form.who][0]
        judge.ask("redirect", client, "POST", form.action + "?" + more, data=data, content_type=FORM,
                  headers={"Referer": target})  # fmt: skip
    judge.done(100)


# Sessions, tokens and links: replayed, forged, expired


def test_session_changes_at_sign_in(world: World) -> None:
    """A cookie that was planted before is not the one of after; scripts do not read it, other sites do not send it."""
    client = browser()
    client.post("/help/connect/verdict/", {"helpful": "yes"})
    before = client.cookies["sessionid"].value
    client.post("/accounts/login/", {"login": "ann@example.org", "password": GOOD})
    cookie = client.cookies["sessionid"]
    assert cookie.value != before and cookie["httponly"] and cookie["samesite"] == "Lax"
    old = Client()
    old.cookies["sessionid"] = before
    assert old.get("/account/").status_code == 302


def test_ended_sessions_stay_ended(world: World) -> None:
    """A cookie or a token that was kept from before signing out opens nothing."""
    client = world.clients["ann"][0]
    kept = client.cookies["sessionid"].value
    assert client.get("/account/").status_code == 200
    client.post("/accounts/logout/")
    client.cookies["sessionid"] = kept
    assert client.get("/account/").status_code == 302
    held = world.app.token
    assert world.app.call("get", "/api/v1/subscriptions").status_code == 200
    world.app.sign_out()
    world.app.token = held
    answer = world.app.call("get", "/api/v1/subscriptions")
    world.app.token = held
    assert answer.status_code == 401


def test_links_work_once(world: World) -> None:
    """The confirming link, the resetting link, the code of deletion and the invitation: the second time, nothing."""
    from allauth.account.models import EmailAddress, EmailConfirmationHMAC

    ann = EmailAddress.objects.get(email="ann@example.org")
    EmailAddress.objects.filter(pk=ann.pk).update(verified=False)
    key = EmailConfirmationHMAC(EmailAddress.objects.get(pk=ann.pk)).key
    stranger = browser()
    stranger.post(f"/accounts/confirm-email/{key}/")
    assert EmailAddress.objects.get(pk=ann.pk).verified
    before = contents()
    stranger.post(f"/accounts/confirm-email/{key}/")
    assert difference(before, contents()) == {}
    forgetful, pages = world.clients["dora"]
    new = {"password1": "Green8kettle", "password2": "Green8kettle"}
    assert forgetful.post(pages[0], new).status_code == 302
    before = contents()
    assert forgetful.post(pages[0], {"password1": "White9kettle", "password2": "White9kettle"}).status_code < 500
    assert difference(before, contents()) == {}
    invited = world.clients["ann"][0]
    path = f"/subscriptions/invitations/{world.invitation}/"
    assert invited.post(path).status_code == 302
    before = contents()
    assert world.clients["hans"][0].post(path).status_code == 400
    assert difference(before, contents()) == {}


def test_codes_that_expired(world: World) -> None:
    """The code of deletion after half an hour, and the links of mails after their time: refused, nothing done."""
    from datetime import timedelta

    from allauth.account.forms import default_token_generator
    from django.utils import timezone

    from portal.accounts import deletion
    from portal.accounts.models import DeletionCode

    hans = User.objects.get(email="hans@example.org")
    kept = DeletionCode.objects.get(user=hans)
    kept.digest, kept.expires_at = deletion._digest(hans, "ABCD2345"), timezone.now() - timedelta(seconds=1)
    kept.save()
    refusal = world.clients["hans"][0].post("/account/delete/", {"code": "ABCD2345"})
    assert refusal.status_code == 400 and User.objects.filter(pk=hans.pk).exists()
    token = default_token_generator._make_token_with_timestamp(hans, 1, default_token_generator.secret)
    assert not default_token_generator.check_token(hans, token)


def test_forged_signatures(world: World) -> None:
    """One character changed, cut off, or signed with another key: worth nothing, never a 500."""
    from allauth.account.models import EmailAddress, EmailConfirmationHMAC
    from django.core import signing

    from portal.downloads import links

    key = EmailConfirmationHMAC(EmailAddress.objects.get(email="ann@example.org")).key
    download = links._signer().sign(f"{world.release.pk}-{world.ann.pk}")
    other = signing.TimestampSigner(key="another", salt="portal.downloads.link").sign(
        f"{world.release.pk}-{world.ann.pk}"
    )

    def changed(text: str) -> list[str]:
        # A session's name is random: what is put in its place must not be what stands there.
        first, last = ("x" if text[0] != "x" else "y"), ("A" if text[-1] != "A" else "B")
        return [text[:-1] + last, text[:-5], text + "=", first + text[1:], text[::-1]]

    judge = Judge()
    for each in [*changed(download), other]:
        found = judge.ask("link", world.clients["ann"][0], "GET", f"/downloads/get/{each}/")
        assert found.status_code in (400, 403, 404), found.status_code
    for each in changed(key):
        judge.ask("confirmation", world.clients["stranger"][0], "POST", f"/accounts/confirm-email/{each}/")
    for each in changed(world.credential):
        headers = {"Authorization": f"Bearer {each}"}
        assert judge.ask("device", Client(), "GET", "/api/v1/device", headers=headers).status_code == 401
    for each in changed(world.app.token):
        headers = {"X-Session-Token": each}
        assert judge.ask("token", Client(), "GET", "/api/v1/devices", headers=headers).status_code == 401
    for each in changed(world.clients["ann"][0].cookies["sessionid"].value):
        forged = Client()
        forged.cookies["sessionid"] = each
        assert judge.ask("session", forged, "GET", "/account/").status_code == 302
    judge.done(25)


# Headers of every answer


def test_answers_have_their_headers(world: World) -> None:
    """A type with its charset, no guessing, no frames, no referrer; nothing for other origins."""
    for route, _view in routes():
        answer = world.clients["ann"][0].get(world.filled(route), headers={"Origin": "https://evil.example"})
        kind = answer.headers.get("Content-Type", "")
        assert kind or not answer.content, route
        assert not kind.startswith("text/") or "charset=utf-8" in kind, route
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"], route
        assert answer.headers["Referrer-Policy"] == "same-origin", route
        if not route.startswith(".well-known/"):  # what everybody may read
            assert not [name for name in answer.headers if name.lower().startswith("access-control-")], route


def test_permissions_policy(world: World) -> None:
    answer = world.clients["ann"][0].get("/account/")
    for each in ("camera", "microphone", "geolocation"):
        assert f"{each}=()" in answer.headers["Permissions-Policy"]


def test_private_pages_are_not_cached(world: World) -> None:
    """Of who is signed in, by page and interface: so the back button shows nothing after signing out."""
    for page in world.pages():
        answer = world.clients["ann"][0].get(page)
        if answer.status_code == 200 and not page.startswith("/.well-known"):
            assert re.search(r"no-store|private", answer.headers.get("Cache-Control", "")), page
    for path in ("subscriptions", "devices", "account/consents", "support/requests"):
        assert "no-store" in world.app.call("get", f"/api/v1/{path}").headers["Cache-Control"], path
