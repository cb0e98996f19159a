"""What the tests of quick sign-in share: the five providers, played on loopback, and a browser's way there and back."""

from __future__ import annotations

import atexit
import re
import urllib.error
import urllib.request
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import pytest
from allauth.socialaccount.providers.apple.views import AppleOAuth2Adapter
from allauth.socialaccount.providers.facebook import flows as facebook
from allauth.socialaccount.providers.facebook.views import FacebookOAuth2Adapter
from allauth.socialaccount.providers.google import views as google
from allauth.socialaccount.providers.vk.views import VKOAuth2Adapter
from allauth.socialaccount.providers.yandex.views import YandexOAuth2Adapter
from django.conf import settings
from django.test import Client

from portal import config
from tests.portal.providers import KEY_ID, NAMES, SECRET, TEAM, Persona, Played, serve


@cache
def running() -> Played:
    """One server for all tests of a process."""
    played = Played()
    httpd = serve(played)
    atexit.register(httpd.server_close)
    atexit.register(httpd.shutdown)
    return played


def configured(monkeypatch: pytest.MonkeyPatch) -> Played:
    """The five, configured as a host does it; only their addresses are those of loopback."""
    server = running()
    server.persona = Persona()
    for kept in (server.grants, server.tokens, server.seen, server.broken):
        kept.clear()
    given: dict[str, Any] = {name: {"client_id": f"{name}-client", "secret": SECRET} for name in NAMES}
    given["apple"] |= {"secret": server.apple_secret(), "team_id": TEAM, "key_id": KEY_ID}
    found = config.providers(config.Config.model_validate({"debug": True, "social": given}))
    monkeypatch.setattr(settings, "SOCIALACCOUNT_PROVIDERS", found)
    # allauth's five seconds: both sides are threads of this process, which may stand still for longer.
    monkeypatch.setattr(settings, "SOCIALACCOUNT_REQUESTS_TIMEOUT", 60, raising=False)
    for adapter in (AppleOAuth2Adapter, FacebookOAuth2Adapter, google.GoogleOAuth2Adapter, VKOAuth2Adapter,
                    YandexOAuth2Adapter):  # fmt: skip
        monkeypatch.setattr(adapter, "authorize_url", f"{server.base}/{adapter.provider_id}/authorize")
        monkeypatch.setattr(adapter, "access_token_url", f"{server.base}/{adapter.provider_id}/token")
    monkeypatch.setattr(AppleOAuth2Adapter, "public_key_url", f"{server.base}/apple/keys")
    monkeypatch.setattr(facebook, "GRAPH_API_URL", f"{server.base}/facebook/graph")
    monkeypatch.setattr(YandexOAuth2Adapter, "profile_url", f"{server.base}/yandex/info")
    monkeypatch.setattr(VKOAuth2Adapter, "profile_url", f"{server.base}/vk/user_info")
    return server


class Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_args: Any, **_kwargs: Any) -> None:
        return None


def at_provider(location: str) -> tuple[str, dict[str, str] | None]:
    """What the browser is sent back with: an address, and a form where the provider posts."""
    try:
        with urllib.request.build_opener(Stay).open(location, timeout=60) as page:
            text = page.read().decode()
    except urllib.error.HTTPError as moved:
        moved.close()
        assert moved.code == 302, moved
        return str(moved.headers["Location"]), None
    action = re.search(r"<form action='([^']+)'", text)
    assert action is not None
    return action[1], dict(re.findall(r"name='([^']+)' value='([^']*)'", text))


def go(client: Client, name: str, process: str = "login", tamper: dict[str, str] | None = None, **headers: str) -> Any:
    """Presses the button, goes to the provider and comes back; the portal's answer."""
    start = client.post(f"/accounts/{name}/login/?process={process}", headers=headers)
    assert start.status_code == 302, start.status_code
    back, form = at_provider(start.headers["Location"])
    url = urlsplit(back)
    assert (url.netloc, url.path) == ("testserver", f"/accounts/{name}/login/callback/")
    if form is None:
        return client.get(f"{url.path}?{url.query}", headers=headers)
    # The browser sends no cookies with a form from elsewhere (SameSite=Lax).
    stranger = Client(enforce_csrf_checks=True)
    posted = stranger.post(url.path, form | (tamper or {}), headers={"Origin": "https://appleid.apple.com"})
    assert posted.status_code == 302
    for cookie in posted.cookies.values():
        client.cookies[cookie.key] = cookie.value
    on = urlsplit(posted.headers["Location"])
    return client.get(f"{on.path}?{on.query}", headers=headers)


def said(client: Client, answer: Any) -> str:
    """The message on the page that a refusal leads to."""
    assert answer.status_code == 302
    return str(client.get(answer.headers["Location"]).content.decode())
