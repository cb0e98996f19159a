"""802.1X: whether a connection checks the network's server, from its settings in NetworkManager (N4)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.linux.sign_in import trusts_any_server

CA = b"file:///etc/ssl/campus.pem\0"
CASES: dict[str, tuple[dict[str, object], bool]] = {
    "nothing at all": ({}, True),
    "no method": ({"eap": [], "ca-cert": CA}, True),
    "nonsense": ({"eap": "pwd"}, True),
    "PEAP": ({"eap": ["peap"]}, True),
    "PEAP, an authority of its own": ({"eap": ["peap"], "ca-cert": CA}, False),
    "TTLS, an authority of its own": ({"eap": ["ttls"], "ca-cert": CA}, False),
    "TLS, an authority of its own": ({"eap": ["tls"], "ca-cert": CA}, False),
    "TLS with a certificate of ours": ({"eap": ["tls"], "client-cert": CA}, True),
    "PEAP, an empty authority": ({"eap": ["peap"], "ca-cert": b""}, True),
    "PEAP, any public authority": ({"eap": ["peap"], "system-ca-certs": True}, True),
    "PEAP, any public authority, switched off": ({"eap": ["peap"], "system-ca-certs": False, "ca-cert": CA}, False),
    "PEAP, any of a folder": ({"eap": ["peap"], "ca-path": "/etc/ssl/certs"}, True),
    "PEAP, its own or any public authority": ({"eap": ["peap"], "ca-cert": CA, "system-ca-certs": True}, True),
    "PEAP, a public authority, a name": (
        {"eap": ["peap"], "system-ca-certs": True, "domain-suffix-match": "campus.example"}, False,
    ),
    "PEAP, a public authority, other names": (
        {"eap": ["peap"], "ca-path": "/etc/ssl/certs", "altsubject-matches": ["DNS:radius.campus.example"]}, False,
    ),
    "PEAP, a public authority, no names": (
        {"eap": ["peap"], "system-ca-certs": True, "altsubject-matches": [], "domain-match": ""}, True,
    ),
    "PEAP, a name that anybody may claim": ({"eap": ["peap"], "domain-match": "radius.campus.example"}, True),
    "PEAP, checked inside only": ({"eap": ["peap"], "phase2-ca-cert": CA}, True),
    "PWD": ({"eap": ["pwd"]}, False),
    "PWD or PEAP": ({"eap": ["pwd", "peap"]}, True),
    "PWD or PEAP, an authority": ({"eap": ["pwd", "peap"], "ca-cert": CA}, False),
    "LEAP": ({"eap": ["leap"], "ca-cert": CA}, True),
    "a method from the future": ({"eap": ["teap"], "ca-cert": CA}, True),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_settings(case: str) -> None:
    settings, unchecked = CASES[case]
    assert trusts_any_server({"connection": {"id": "Campus"}, "802-1x": settings}) is unchecked


def test_a_connection_without_a_sign_in() -> None:
    assert trusts_any_server({"connection": {}, "802-11-wireless-security": {"key-mgmt": "wpa-eap"}})


VALUES = st.one_of(st.none(), st.booleans(), st.binary(max_size=3), st.text(max_size=3), st.lists(st.text(max_size=3)))
METHODS = st.lists(st.sampled_from(["pwd", "peap", "tls", "leap", ""]))


@given(st.dictionaries(st.sampled_from(["ca-cert", "ca-path", "system-ca-certs", "domain-match"]), VALUES), METHODS)
def test_one_method_more_never_makes_it_better(settings: dict[str, object], methods: list[str]) -> None:
    if methods and trusts_any_server({"802-1x": {**settings, "eap": methods}}):
        assert trusts_any_server({"802-1x": {**settings, "eap": [*methods, "pwd"]}})
