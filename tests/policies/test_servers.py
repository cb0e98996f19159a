"""T4: what a list of servers may say, what a choice means, and in which order servers are tried."""

from __future__ import annotations

import base64
import json
import random
from dataclasses import replace
from ipaddress import ip_address, ip_interface

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.facts import Endpoint
from policies.profiles_errors import ProfileError
from policies.server_lists import MOST_SERVERS, from_json, parse_servers, to_json
from policies.servers import (
    MOST_TRIED,
    Choice,
    How,
    Measured,
    Server,
    ServerList,
    batches,
    by_speed,
    endpoints_of,
    is_choice,
    meant,
    parse_choice,
    why_no_list,
    with_server,
)
from policies.wireguard_reader import parse_wireguard

KEY, SHARED = (base64.b64encode(random.Random(seed).randbytes(32)).decode() for seed in ("key", "shared"))
CONF = (
    f"[Interface]\nPrivateKey = {KEY}\nAddress = 10.0.0.2/32\nDNS = 10.0.0.1\n"
    f"[Peer]\nPublicKey = {SHARED}\nPresharedKey = {SHARED}\nEndpoint = 192.0.2.1:51820\nAllowedIPs = 0.0.0.0/0\n"
)
ENTRY = f'[[servers]]\nname = "se-1"\npublic_key = "{KEY}"\nendpoints = ["192.0.2.1:51820"]\n'
VALID = f"version = 1\n{ENTRY}"
FULL = (
    f'{VALID}country = "SE"\ncity = "Malm\N{LATIN SMALL LETTER O WITH DIAERESIS}"\ntags = ["fast", "p2p"]\n'
    f'addresses = ["10.1.0.2/32", "fd00::2/128"]\nresolvers = ["10.1.0.1"]\npreshared_key = "{SHARED}"\n'
).replace('["192.0.2.1:51820"]', '["192.0.2.1:51820", "[2001:db8::1]:443"]')


def server(name: str, country: str = "", *, key: int = 0, **more: object) -> Server:
    number = sum(name.encode()) % 250 + 1
    at = (Endpoint(ip_address(f"192.0.2.{number}"), 51820),)
    return replace(Server(name, bytes([key or number] * 32), at, country), **more)  # type: ignore[arg-type]


LIST = ServerList(
    (
        server("a", "SE", city="Malm\N{LATIN SMALL LETTER O WITH DIAERESIS}", tags=("p2p",)),
        server("b", "DE", city="Berlin"),
        server("c", "SE"),
        server("d"),
    ),
    favourites=("b", "c"),
)


def refusal(text: str) -> ProfileError:
    with pytest.raises(ProfileError) as caught:
        parse_servers(text)
    told = f"{caught.value} {caught.value!r} {caught.value.__cause__!r} {caught.value.__context__!r}"
    assert KEY not in told
    assert SHARED not in told
    return caught.value


# --- the text ---------------------------------------------------------------------------------------------------------


def test_a_server_with_everything() -> None:
    (found,) = parse_servers(FULL).servers
    assert (found.name, found.country, found.tags) == ("se-1", "SE", ("fast", "p2p"))
    assert found.endpoints == (
        Endpoint(ip_address("192.0.2.1"), 51820),
        Endpoint(ip_address("2001:db8::1"), 443),
    )
    assert found.addresses == (ip_interface("10.1.0.2/32"), ip_interface("fd00::2/128"))
    assert found.preshared_key == base64.b64decode(SHARED)
    assert SHARED not in repr(found)


def test_json_says_the_same_as_toml() -> None:
    assert parse_servers(to_json(parse_servers(FULL)).replace('"favourites": [], ', "")) == parse_servers(FULL)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("", "version"),
        ("version = 2\n" + ENTRY, "version"),
        ("version = true\n" + ENTRY, "version"),
        ("version = 1", "servers"),
        ("version = 1\nservers = []", "servers"),
        (VALID + "up = 'sh'", "up"),
        ("script = 'sh'\n" + VALID, "script"),
        (VALID.replace("se-1", "se 1"), "name"),
        (VALID.replace("se-1", "fastest"), "name"),
        (VALID.replace("se-1", "se\\nPostUp"), "name"),
        (VALID.replace("se-1", "../x"), "name"),
        (VALID.replace('"se-1"', "7"), "name"),
        (VALID.replace(KEY, KEY[:-2] + "="), "public_key"),
        (VALID.replace(KEY, "A" * 43 + "="), "public_key"),
        (VALID + "preshared_key = 'short'", "preshared_key"),
        (VALID + "country = 'se'", "country"),
        (VALID + "country = 'SWE'", "country"),
        (VALID + "city = 'a\\u001b[31m'".replace("'", '"'), "city"),
        (VALID + "tags = ['a b']", "tags"),
        (VALID + "tags = 'ab'", "tags"),
        (VALID + f"tags = {['t'] * 9}", "tags"),
        (VALID + "addresses = ['10.0.0.0.1']", "addresses"),
        (VALID + "addresses = ['127.0.0.1']", "addresses"),
        (VALID + "resolvers = ['resolver.example']", "resolvers"),
        (VALID + "resolvers = ['fe80::1%eth0']", "resolvers"),
        (VALID.replace("192.0.2.1:51820", "vpn.example:51820"), "endpoints"),
        (VALID.replace("192.0.2.1:51820", "192.0.2.1"), "endpoints"),
        (VALID.replace("192.0.2.1:51820", "192.0.2.1:0"), "endpoints"),
        (VALID.replace("192.0.2.1:51820", "192.0.2.1:65536"), "endpoints"),
        (VALID.replace("192.0.2.1:51820", "0.0.0.0:51820"), "endpoints"),
        (VALID.replace("192.0.2.1:51820", "127.0.0.1:51820"), "endpoints"),
        (VALID.replace("192.0.2.1:51820", "224.0.0.1:51820"), "endpoints"),
        (VALID.replace("192.0.2.1:51820", "2001:db8::1:51820"), "endpoints"),
        (VALID.replace("192.0.2.1:51820", "[192.0.2.1]:51820"), "endpoints"),
        (VALID.replace('["192.0.2.1:51820"]', "[]"), "endpoints"),
        (VALID.replace("endpoints", "endpoint"), "endpoint"),
        (VALID + ENTRY, "name"),
        (VALID + ENTRY.replace("se-1", "se-2"), "endpoints"),
        (VALID + "a" + ".a" * 100 + " = 1", "the list"),
        ("version = 1\nservers = [1]", "number 1"),
        ("{", "the list"),
        ("[" * 100_000, "the list"),
        ('{"a":' * 100_000, "the list"),
    ],
)
def test_what_is_refused_and_where(text: str, where: str) -> None:
    """E1, E2: nothing but these keys, and no value that could become a directive."""
    refused = refusal(text)
    assert where in refused.directive
    assert refused.problem
    assert refused.remedy


def test_what_is_wrong_with_which_server() -> None:
    refused = refusal(VALID + ENTRY.replace("se-1", "se-2").replace(".1:", ".2:") + "country = 'x'")
    assert refused.directive == "servers, number 2: country"
    assert refusal("version = 1\n[[servers").line == 2
    assert refusal('{\n"version": 1,,}').line == 2


def test_as_many_as_allowed() -> None:
    def many(count: int) -> str:
        entries = [
            {"name": f"s{number}", "public_key": KEY, "endpoints": [f"192.0.2.1:{number + 1}"]}
            for number in range(count)
        ]
        return json.dumps({"version": 1, "servers": entries})

    assert len(parse_servers(many(MOST_SERVERS)).servers) == MOST_SERVERS
    assert refusal(many(MOST_SERVERS + 1)).directive == "servers"


@given(st.text(max_size=200))
def test_any_text_is_a_list_or_refused(text: str) -> None:
    for tried in (text, VALID + text, VALID.replace("se-1", text)):
        try:
            found = parse_servers(tried)
        except ProfileError:
            continue
        assert from_json(to_json(found)) == found
        assert "\n" not in to_json(found)


def test_the_store_takes_back_only_what_it_wrote() -> None:
    kept = replace(parse_servers(FULL), favourites=("se-1",))
    assert from_json(to_json(kept)) == kept
    for damaged in (to_json(kept)[:-1], to_json(kept).replace("SE", "se"), "{}", "null", to_json(kept) + " "):
        with pytest.raises(ProfileError) as caught:
            from_json(damaged)
        assert caught.value.__cause__ is caught.value.__context__ is None


# --- choosing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", "abcd"),
        ("a", "a"),
        ("e", ""),
        ("country:SE", "ac"),
        ("country:NO", ""),
        ("city:malm\N{LATIN SMALL LETTER O WITH DIAERESIS}", "a"),
        ("tag:p2p", "a"),
        ("fastest", "abcd"),
        ("fastest:SE", "ac"),
        ("random:DE", "b"),
        ("favourites", "bc"),
        ("favourites:SE", "c"),
    ],
)
def test_what_a_choice_means(text: str, names: str) -> None:
    assert "".join(each.name for each in meant(LIST, parse_choice(text))) == names


@pytest.mark.parametrize(
    "text",
    [
        "country:se",
        "country:",
        "city:",
        "city: x",
        "tag:a b",
        "fastest:",
        "fastest:swe",
        "a b",
        "a:b",
        "a\n",
        "name:a",
        "-a",
    ],
)
def test_what_is_no_choice(text: str) -> None:
    assert not is_choice(text)


def test_no_text_is_no_choice_that_one_would_write() -> None:
    assert not is_choice("")
    assert parse_choice("") == Choice(How.LISTED)


def test_the_fastest_first_and_what_is_lost_counts() -> None:
    measured = {
        "a": Measured(0.050, 4, 4, 0.0),
        "b": Measured(0.030, 4, 1, 0.0),  # 120 ms until an answer may be expected
        "c": Measured(None, 1, 0, 0.0),
    }
    assert [each.name for each in by_speed(LIST.servers, measured)] == ["a", "b", "c", "d"]
    assert measured["b"].loss == 0.75
    assert [each.name for each in by_speed(LIST.servers, {"d": Measured(0.9, 1, 1, 0.0)})] == ["d", "a", "b", "c"]


def test_another_server_before_another_address_of_the_same() -> None:
    far = Endpoint(ip_address("2001:db8::9"), 443)
    two = replace(LIST.servers[0], endpoints=(*LIST.servers[0].endpoints, far))
    assert [name for _, name in endpoints_of((two, LIST.servers[1]))] == ["a", "b", "a"]
    many = tuple(server(f"s{number}") for number in range(20))
    assert [name for _, name in endpoints_of(many)] == [each.name for each in many[:MOST_TRIED]]


def test_servers_with_one_key_are_not_asked_together() -> None:
    same = [server(f"s{number}", key=7) for number in range(3)]
    others = [server(f"t{number}", key=number + 10) for number in range(5)]
    made = batches([*same, *others], 4)
    assert sorted(each.name for batch in made for each in batch) == sorted(each.name for each in (*same, *others))
    for batch in made:
        assert len(batch) <= 4
        assert len({each.public_key for each in batch}) == len(batch)


def test_what_a_server_does_not_say_is_the_profiles() -> None:
    profile, _ = parse_wireguard("home", CONF)
    bare, full = server("a"), parse_servers(FULL).servers[0]
    made = with_server(profile, bare, bare.endpoints[0])
    assert (made.addresses, made.resolvers) == (profile.addresses, profile.resolvers)
    assert made.peers[0].public_key == bare.public_key
    assert made.peers[0].preshared_key is None, "the profile's own is its own server's"
    assert made.peers[0].allowed_ips == profile.peers[0].allowed_ips
    made = with_server(profile, full, full.endpoints[1])
    assert (made.addresses, made.resolvers) == (full.addresses, full.resolvers)
    assert made.peers[0].endpoints == (full.endpoints[1],)
    assert made.peers[0].preshared_key == full.preshared_key


def test_who_can_have_a_list() -> None:
    profile, _ = parse_wireguard("home", CONF)
    assert not why_no_list(profile)
    assert "several" in why_no_list(replace(profile, peers=profile.peers * 2))
    assert "WireGuard" in why_no_list(object())
