"""N11 in the words of `status`: where the login is stands there as what it is, a stranger's word."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cli.words import headline, network_words
from ipc.structs import Network
from tests.ipc.fake_service import IDLE

WLAN = Network("wlan0", "wifi", "Cafe", "43616665", "open", "unsecured", (), None, None, False)


@pytest.mark.parametrize(
    "internet, url, said",
    [
        (None, None, "wlan0 “Cafe”: open, unsecured"),
        ("internet", None, "wlan0 “Cafe”: open, unsecured"),
        ("nothing", None, "wlan0 “Cafe”: open, unsecured – no Internet"),
        ("portal", None, "wlan0 “Cafe”: open, unsecured – a portal"),
        ("portal", "http://a.example/in", "wlan0 “Cafe”: open, unsecured – a portal, which says “http://a.example/in”"),
    ],
)
def test_networks(internet: str | None, url: str | None, said: str) -> None:
    assert network_words(replace(WLAN, internet=internet, portal_url=url)) == said


def test_headline() -> None:
    status = replace(IDLE, state="portal", protected=False, blocking=True, target="protected", networks=(WLAN,))
    assert headline(status) == ("yellow", "Blocked: this network wants you to log in first.")
