"""What a probe asks for, and which of a stranger's words may count as the address of a login (N11, N12)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.portals import LONGEST_URL, PROBES, Probe, Site, address, portal_url, probe, site


def test_probes() -> None:
    assert probe("http://a.example/x?y#Yes%2C%20it%20is") == Probe("a.example", "/x?y", b"Yes, it is")
    assert probe("http://a.example:80") == Probe("a.example", "/", None)
    assert probe("http://192.0.2.9/generate_204") == Probe("192.0.2.9", "/generate_204", None)
    assert [probe(each).body for each in PROBES] == [b"NetworkManager is online"] * 2 + [b"success"]


@pytest.mark.parametrize(
    "url, leads",
    [
        ("http://portal.example", Site(False, "portal.example", 80, "/")),
        ("https://portal.example/login?mac=02%3A00", Site(True, "portal.example", 443, "/login?mac=02%3A00")),
        ("http://192.168.1.1:8080/cgi#top", Site(False, "192.168.1.1", 8080, "/cgi")),
        ("https://[2001:db8::1]/", Site(True, "2001:db8::1", 443, "/")),
        ("https://portal.example?a=b", Site(True, "portal.example", 443, "/?a=b")),
    ],
)
def test_where_people_log_in(url: str, leads: Site) -> None:
    assert site(url) == leads
    assert portal_url(url) == url


@pytest.mark.parametrize(
    "hostile",
    [
        "javascript:alert(1)", "file:///etc/passwd", "data:text/html,hello", "ftp://portal.example/",
        "//portal.example/",
        "http:portal.example", "HTTP//portal.example", "http://", "http:///login", "http://user@portal.example/",
        "http://user:pass@portal.example/", "http://portal.example:0/", "http://portal.example:65536/",
        "http://portal.example:80x/", "http://portal.example\\@evil.example/", "http://por tal.example/",
        "http://portal.example/\n", "http://portal.example/\x1b[31m", "http://portal.example/\x00",
        "http://pörtal.example/",
        "http://portal.example/ü", "http://[::1%25eth0]/", "http://[2001:db8::1/", "http://[x]/", "http://-a.example/",
        "http://a..example/", f"http://{'a.' * 150}example/", "http://portal.example/" + "x" * LONGEST_URL, "", " ",
        "x" * (1 << 20), None, 7, b"http://portal.example/", ["http://portal.example/"],
    ],
)  # fmt: skip
def test_hostile_urls_are_none(hostile: object) -> None:
    assert portal_url(hostile) == ""


@given(st.text(max_size=60) | st.builds("http://{}/{}".format, st.text(max_size=20), st.text(max_size=20)))
def test_whatever_passes_can_be_shown(text: str) -> None:
    if url := portal_url(text):
        assert url.isascii() and url.isprintable() and " " not in url
        assert url.startswith(("http://", "https://")) and "@" not in url.split("/")[2]


@pytest.mark.parametrize("text", ["127.0.0.1", "::1", "0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255",
                                  "::ffff:127.0.0.1", "fe80::1", "169.254.1.1", "240.0.0.1", "a", "",
                                  "1.2.3"])  # fmt: skip
def test_addresses_that_lead_nowhere(text: str) -> None:
    assert address(text) is None


def test_portals_may_have_private_addresses() -> None:
    assert [str(address(text)) for text in ("192.168.1.1", "10.0.0.1", "fd00::1", "2001:db8::1")] == [
        "192.168.1.1", "10.0.0.1", "fd00::1", "2001:db8::1",
    ]  # fmt: skip
