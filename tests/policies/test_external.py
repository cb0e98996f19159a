"""T2: what may be said of a tunnel that somebody else brings up, which link it is, and what may pass."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import ip_address, ip_interface

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.machine import START, step
from policies.decide import decide
from policies.decision import Decision, Intent, Manual
from policies.external import KEYS, KINDS, ExternalProfile, looks_like_external
from policies.external import facts as facts_of
from policies.external_links import marked, meant, tunnel, whose
from policies.facts import Endpoint, External, Facts, Link, LinkKind, Tunnel
from policies.firewall import LOGIN_MARK, MARK, NEVER_MARK, ONLY_MARK, FirewallPolicy, firewall
from policies.profiles import from_json, parse, to_json, unresolved, with_addresses, with_login
from policies.profiles_errors import ProfileError
from policies.profiles_reference import reference
from policies.profiles_shown import shown
from policies.settings import Settings
from policies.states import (
    Cause,
    Changed,
    CloseTunnel,
    Enforce,
    Event,
    Failed,
    OpenTunnel,
    Phase,
    Reconnect,
    RetryDue,
    SetResolvers,
    State,
    Target,
    TunnelClosed,
    TunnelDown,
    TunnelUp,
)
from tests.daemon.profiles_for_tests import OFFICE
from tests.policies.evaluator import Hook, Packet, passes

TEXT = """\
# the company's tunnel, brought up by wg-quick
[external]
link = "wg-office"
kind = "wireguard"
endpoints = ["192.0.2.1:51820/udp", "[2001:db8::1]:443/tcp"]
fwmark = 0xca6c
resolvers = ["10.2.0.1", "fd02::1"]
"""
SERVERS = (Endpoint(ip_address("192.0.2.1"), 51820, "udp"), Endpoint(ip_address("2001:db8::1"), 443, "tcp"))
PROFILE = ExternalProfile(
    "office",
    External("wg-office", "wireguard", 0xCA6C, None),
    SERVERS,
    (ip_address("10.2.0.1"), ip_address("fd02::1")),
)
BY_USER = ExternalProfile("user", External("tun0", "", None, 977), SERVERS)


def parsed(text: str) -> ExternalProfile:
    profile, _ = parse("office", text)
    assert isinstance(profile, ExternalProfile)
    return profile


# --- the text ---------------------------------------------------------------------------------------------------------


def test_what_is_said_is_what_is_kept() -> None:
    assert parsed(TEXT) == PROFILE
    assert from_json(to_json(PROFILE)) == PROFILE and from_json(to_json(BY_USER)) == BY_USER
    assert parsed(TEXT.replace("\n", "\r\n")) == PROFILE
    assert parsed("\ufeff" + TEXT) == PROFILE
    assert unresolved(PROFILE) == {} and with_addresses(PROFILE, {}) == PROFILE
    assert parsed(TEXT.replace("fwmark = 0xca6c", "uid = 977")).external.uid == 977
    assert parsed(TEXT.replace('kind = "wireguard"\n', "")).external.kind == ""
    told = shown(PROFILE)
    assert ("kind", "external") in told and ("link", "wg-office") in told
    assert ("reached by", "packets with the mark 0xca6c") in told and ("server", "[2001:db8::1]:443 tcp") in told
    assert ("reached by", "the user 977") in shown(BY_USER)


def test_what_is_worth_knowing_is_said() -> None:
    _, notices = parse("office", TEXT)
    assert notices == ()
    _, notices = parse("office", '[external]\nkind = "tun"\nendpoints = ["192.0.2.1:1/udp"]\nuid = 0\n')
    assert {(each.line, each.directive) for each in notices} == {(4, "uid"), (0, "kind"), (0, "resolvers")}


def test_nobody_logs_in_to_it() -> None:
    with pytest.raises(ProfileError, match="somebody else's"):
        with_login(PROFILE, "alice", "sesame")


def test_other_files_are_not_taken_for_one() -> None:
    """Only the table's name decides; the control: with it, such a text is read as this kind, and refused."""
    for text in ("[Interface]\n[external]\n", "client\n[external]\n", "externally = 1", '["external"]', ""):
        assert not looks_like_external(text), text
    for text in ("[external]", "# a note\n\n  [ external ]\nlink = 1"):
        assert looks_like_external(text)
        with pytest.raises(ProfileError):
            parse("office", text)


LINK, KIND, SERVER, MARKED = 'link = "wg0"\n', 'kind = "tun"\n', 'endpoints = ["192.0.2.1:1/udp"]\n', "fwmark = 1\n"
GOOD = f"[external]\n{LINK}{SERVER}{MARKED}"
# What is added or put in its place; the line and the key of the error, and a word of it.
REFUSED: list[tuple[str, int, str, str]] = [
    (f"[external]\n{SERVER}{MARKED}", 1, "link", "missing"),
    (f"[external]\n{LINK}{MARKED}", 1, "endpoints", "needs to name a server"),
    (f"[external]\n{LINK}endpoints = []\n{MARKED}", 3, "endpoints", "needs to name a server"),
    (f"[external]\n{LINK}{SERVER}", 1, "fwmark", "exactly one"),
    (f"{GOOD}uid = 977\n", 4, "fwmark", "exactly one"),
    (GOOD.replace("fwmark = 1", "fwmark = 0"), 4, "fwmark", "out of range"),
    (GOOD.replace("fwmark = 1", "fwmark = true"), 4, "fwmark", "out of range"),
    (GOOD.replace("fwmark = 1", 'fwmark = "1"'), 4, "fwmark", "out of range"),
    (GOOD.replace("fwmark = 1", "fwmark = [1]"), 4, "fwmark", "out of range"),
    (GOOD.replace("fwmark = 1", "fwmark = 0x100000000"), 4, "fwmark", "out of range"),
    *(
        (GOOD.replace("fwmark = 1", f"fwmark = {mark}"), 4, "fwmark", "own marks")
        for mark in (MARK, LOGIN_MARK, NEVER_MARK, ONLY_MARK)
    ),
    (GOOD.replace("fwmark = 1", "uid = -1"), 4, "uid", "out of range"),
    (GOOD.replace("fwmark = 1", "uid = 4294967295"), 4, "uid", "out of range"),
    (GOOD.replace("fwmark = 1", 'uid = "root"'), 4, "uid", "out of range"),
    (GOOD.replace('"wg0"', "7"), 2, "link", "not a name"),
    (GOOD.replace('"wg0"', '""'), 2, "link", "not a name"),
    (GOOD.replace('"wg0"', '"tunwarden0"'), 2, "link", "tunwarden's own"),
    (GOOD.replace('"wg0"', '"sixteen-letters-"'), 2, "link", "not a link's name"),
    (GOOD.replace('"wg0"', '"wg*"'), 2, "link", "not a link's name"),
    (GOOD.replace('"wg0"', '"$(id)"'), 2, "link", "not a link's name"),
    (GOOD + 'kind = "ethernet"\n', 5, "kind", "no kind of tunnel"),
    (GOOD + 'kind = "veth"\n', 5, "kind", "no kind of tunnel"),
    (GOOD + "up = '/bin/x'\n", 5, "[external]", "unknown key"),
    (GOOD + "[peer]\nkey = 1\n", 5, "file", "more than one table"),
    (f"{GOOD}resolvers = '10.2.0.1'\n", 5, "resolvers", "not a list"),
    (f"{GOOD}resolvers = ['10.2.0.1',\n 'fe80::1%eth0']\n", 6, "resolvers", "no address"),
    (f"{GOOD}resolvers = ['127.0.0.1']\n", 5, "resolvers", "could not reach"),
    (f"{GOOD}resolvers = ['10.2.0.1', '10.2.0.1']\n", 5, "resolvers", "one twice"),
    (f"{GOOD}{LINK}", 5, "file", "no TOML"),
    ("[external]\nlink = [[[", 0, "file", "no TOML"),
    ("[external]\nlink = " + "[" * 100_000, 0, "file", "no TOML"),
    ("[external]\nfwmark = " + "9" * 10_000, 0, "file", "no TOML"),
    ("[external]\n#" + "x" * (1 << 20), 0, "file", "too large"),
]


@pytest.mark.parametrize(
    "text, line, key, problem", REFUSED, ids=[f"{key}-{at}" for at, (_, _, key, _) in enumerate(REFUSED)]
)
def test_refused(text: str, line: int, key: str, problem: str) -> None:
    """With where it stands and what to do. The control: without what is wrong it is taken."""
    with pytest.raises(ProfileError) as error:
        parse("office", text)
    assert problem in error.value.problem and error.value.directive == key and error.value.remedy
    assert error.value.line == line or (line == 0 and key == "file")
    assert parsed(GOOD)


@pytest.mark.parametrize(
    "server",
    ["192.0.2.1", "192.0.2.1:51820", "192.0.2.1:0/udp", "192.0.2.1:65536/udp", "192.0.2.1:1/sctp", "vpn.example:1/udp",
     "2001:db8::1:1/udp", "[192.0.2.1]:1/udp", "[2001:db8::1%eth0]:1/udp", "127.0.0.1:1/udp", "0.0.0.0:1/udp",
     "224.0.0.1:1/udp", "255.255.255.255:1/udp", "[::]:1/udp", "[fe80::1]:1/udp", "[ff02::1]:1/udp", "010.0.0.1:1/udp",
     " 192.0.2.1:1/udp", "192.0.2.1:1/udp ", "192.0.2.1:1/UDP", "", "wireguard", "learn"],
)  # fmt: skip
def test_refused_server(server: str) -> None:
    """Names too: who brings the tunnel up asks for itself, and may be told another address."""
    with pytest.raises(ProfileError, match="endpoints"):
        parse("office", GOOD.replace("192.0.2.1:1/udp", server))


@pytest.mark.parametrize("script", ["up", "PostUp", "plugin", "command", "exec", "include"])
def test_e1_nothing_in_it_runs_anything(script: str) -> None:
    """Every key is one of a list, and none of them names a program."""
    for place in (f'{GOOD}{script} = "/bin/x"\n', f'[external]\n{script} = "/bin/x"\n', f'{script} = "/bin/x"\n{GOOD}'):
        with pytest.raises(ProfileError) as error:
            parse("office", place)
        assert "/bin/x" not in str(error.value)
    assert not KEYS.keys() & {script}


@pytest.mark.parametrize("newline", ["\\n", "\\r", "\\u0000", "\\u2028", "\\u0085"])
@pytest.mark.parametrize("old", ['"wg0"', '"192.0.2.1:1/udp"', '"tun"', '"10.2.0.1"'])
def test_e2_a_newline_in_a_field(old: str, newline: str) -> None:
    """TOML's escapes make one of any text; the control: without it, the text is taken."""
    text = f'{GOOD}{KIND}resolvers = ["10.2.0.1"]\n'
    assert parsed(text)
    for spoilt in (f"{old[:-1]}{newline}{old[-1]}", f"{old[0]}{newline}{old[1:]}"):
        with pytest.raises(ProfileError):
            parse("office", text.replace(old, spoilt))


def test_e2_a_newline_in_a_field_of_the_store() -> None:
    stored, count = json.loads(to_json(PROFILE)), 0
    for key, value in stored.items():
        for spoilt in _spoilt(value):
            count += 1
            with pytest.raises(ProfileError, match="damaged"):
                from_json(json.dumps({**stored, key: spoilt}))
    assert count >= 10, "the control: strings were found"


def _spoilt(value: object) -> list[object]:
    if isinstance(value, str):
        return [value + "\n", "\n" + value]
    if isinstance(value, list):
        return [[*value[:at], each, *value[at + 1 :]] for at, old in enumerate(value) for each in _spoilt(old)]
    return []


def test_e6_what_is_kept_is_what_is_used() -> None:
    """All is in the text: no file is named, nothing is resolved or read again later."""
    assert from_json(to_json(parsed(TEXT))) == parsed(TEXT)


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/b", "", ".", "..", "-x", "a\nb", "x" * 65, "$(id)"])
def test_e7_a_name_is_no_path(name: str) -> None:
    with pytest.raises(ProfileError):
        parse(name, GOOD)


WORDS = st.sampled_from(
    [*KEYS, "[external]", "[[external]]", "=", '"', "'''", "[", "]", "{", "}", ",", "\n", "#", "0x1", "1_0", "true",
     "1979-05-27", "nan", "1e9", '"wg0"', '"tun"', '"192.0.2.1:1/udp"', "\\u0000", "\r", "\x00", "é"]
)  # fmt: skip


@given(st.lists(WORDS | st.text(max_size=6), max_size=30))
def test_any_text_is_a_profile_or_a_profile_error(words: list[str]) -> None:
    taken("[external]\n" + " ".join(words))
    taken(GOOD + " ".join(words))


@given(st.integers(0, len(TEXT)), st.integers(0, 40), st.text(max_size=20))
def test_any_damage_is_a_profile_or_a_profile_error(place: int, length: int, more: str) -> None:
    taken(TEXT[:place] + more + TEXT[place + length :])
    stored = to_json(PROFILE)
    try:
        profile = from_json(stored[:place] + more + stored[place + length :])
    except ProfileError:
        return
    assert from_json(to_json(profile)) == profile


def taken(text: str) -> None:
    """No exception but the typed one; what is taken is sound, and is kept as it is."""
    try:
        profile, _ = parse("office", text)
    except ProfileError:
        return
    assert from_json(to_json(profile)) == profile
    if isinstance(profile, ExternalProfile):
        assert (profile.external.fwmark is None) != (profile.external.uid is None) and profile.endpoints


def test_the_reference_names_every_key_and_kind() -> None:
    text = "\n".join(reference())
    assert all(f"`{key}`" in text for key in KEYS) and all(f"`{kind}`" in text for kind in KINDS)


# --- which link -------------------------------------------------------------------------------------------------------


def link(ifname: str, tunnel: str, **other: object) -> Link:
    found = Link(9, ifname, LinkKind.WIRED, True, True, 0, b"", (ip_interface("10.2.0.2/24"),), (), tunnel)
    return replace(found, **other)  # type: ignore[arg-type]


WG, TUN, TAP = link("wg-office", "wireguard"), link("tun0", "tun"), link("tap0", "tap")
CABLE = link("eth0", "")
MEANT: dict[str, tuple[External, tuple[Link, ...], Link | None]] = {
    "by name": (External("tun0", "", 1, None), (CABLE, WG, TUN), TUN),
    "by name and kind": (External("tun0", "tun", 1, None), (WG, TUN), TUN),
    "by kind": (External("", "tap", 1, None), (WG, TUN, TAP), TAP),
    "no such name": (External("tun1", "", 1, None), (WG, TUN), None),
    "the name, another kind": (External("tun0", "wireguard", 1, None), (WG, TUN), None),
    "the name, no tunnel at all": (External("eth0", "", 1, None), (CABLE, TUN), None),
    "several of the kind": (External("", "tun", 1, None), (TUN, link("tun1", "tun")), None),
    "several of the kind, one of that name": (External("tun0", "tun", 1, None), (TUN, link("tun1", "tun")), TUN),
    "a name that a firewall could misread": (External("", "tun", 1, None), (link("eth*", "tun"),), None),
    "nothing is there": (External("", "tun", 1, None), (), None),
}


@pytest.mark.parametrize("external, links, wanted", MEANT.values(), ids=MEANT.keys())
def test_which_link_is_meant(external: External, links: tuple[Link, ...], wanted: Link | None) -> None:
    assert meant(external, links) == wanted
    profile = replace(facts_of(PROFILE), external=external)
    found = marked(links, [profile])
    assert [each.ifname for each in found if each.kind is LinkKind.TUNNEL] == ([wanted.ifname] if wanted else [])
    assert (
        whose(found[links.index(wanted)], Facts(found, profiles={"office": profile})) == ("office",) if wanted else True
    )


@pytest.mark.parametrize(
    "change, up",
    [({}, True), ({"up": False}, False), ({"carrier": False}, False), ({"addresses": ()}, False),
     ({"addresses": (ip_interface("fe80::1/64"),)}, False), ({"tunnel": "tun"}, False)],
)  # fmt: skip
def test_a_tunnel_carries_something_only_while_its_link_does(change: dict[str, object], up: bool) -> None:
    profile = facts_of(PROFILE)
    links = marked((replace(WG, **change),), [profile])  # type: ignore[arg-type]
    found = tunnel(Facts(links, profiles={"office": profile}), profile)
    assert found == (Tunnel("wg-office", WG.addresses, PROFILE.resolvers) if up else None)


def test_without_resolvers_somebody_else_says_who_is_asked() -> None:
    profile = facts_of(BY_USER)
    found = tunnel(Facts(marked((TUN,), [profile]), profiles={"user": profile}), profile)
    assert found is not None and found.open_names and found.resolvers == ()


# --- what is done -----------------------------------------------------------------------------------------------------

UPLINK = Link(
    3, "eth0", LinkKind.WIRED, True, True, 1, b"", (ip_interface("192.0.2.9/24"),), (ip_address("192.0.2.254"),)
)
PROTECTED = Intent(Target.PROTECTED, manual=Manual(Target.PROTECTED, "/"), profile="office")


def world(*links: Link, **other: object) -> Facts:
    profiles = {each.name: facts_of(each) for each in (PROFILE, BY_USER)}
    return replace(Facts(marked(links, profiles.values()), profiles=profiles), **other)  # type: ignore[arg-type]


def wanted(facts: Facts, intent: Intent = PROTECTED) -> Decision:
    return decide(facts, Settings(), intent)


AWAY, UP = wanted(world(UPLINK)), wanted(world(UPLINK, WG))
BLOCKED = State(Phase.BLOCKED, Cause.EXTERNAL_AWAY)
GUARDED = State(Phase.CONNECTED, profile=UP.profile, attempt=1, tunnel=UP.external, network=UP.network)
OWN = State(
    Phase.CONNECTED, profile=replace(facts_of(PROFILE), external=None), attempt=1, tunnel=Tunnel("tunwarden0", ())
)
MOVED = wanted(world(UPLINK, replace(WG, addresses=(ip_interface("10.2.0.3/24"),))))
IDLE = wanted(world(UPLINK, WG), replace(PROTECTED, target=Target.UNPROTECTED, manual=Manual(Target.UNPROTECTED, "/")))
NO_WAY = wanted(world(replace(UPLINK, gateways=()), WG))
STEPS: dict[str, tuple[State, Event, Decision, Phase, Cause | None, list[type]]] = {
    "a start without it": (START, Changed(), AWAY, Phase.BLOCKED, Cause.EXTERNAL_AWAY, [Enforce, CloseTunnel]),
    "a start with it": (START, Changed(), UP, Phase.CONNECTED, None, [SetResolvers, Enforce, CloseTunnel]),
    "it comes": (BLOCKED, Changed(), UP, Phase.CONNECTED, None, [SetResolvers, Enforce]),
    "it stays": (GUARDED, Changed(), UP, Phase.CONNECTED, None, [Enforce]),
    "it has other addresses": (GUARDED, Changed(), MOVED, Phase.CONNECTED, None, [SetResolvers, Enforce]),
    "it goes": (GUARDED, Changed(), AWAY, Phase.BLOCKED, Cause.EXTERNAL_AWAY, [Enforce, CloseTunnel]),
    "its link has vanished": (
        GUARDED, TunnelDown(1, Cause.TUNNEL_LOST), AWAY, Phase.BLOCKED, Cause.EXTERNAL_AWAY, [Enforce, CloseTunnel],
    ),
    "an address has": (
        GUARDED, TunnelDown(1, Cause.TUNNEL_LOST), MOVED, Phase.CONNECTED, None, [SetResolvers, Enforce],
    ),
    "no way to the server is seen": (GUARDED, Changed(), NO_WAY, Phase.CONNECTED, None, [Enforce]),
    "a fresh one is asked for": (GUARDED, Reconnect(), UP, Phase.CONNECTED, None, [Enforce]),
    "people disconnect": (GUARDED, Changed(), IDLE, Phase.DISCONNECTING, None, [Enforce, CloseTunnel]),
    "after one of ours": (OWN, Changed(), UP, Phase.CONNECTED, None, [SetResolvers, Enforce, CloseTunnel]),
    "after one of ours, not there": (OWN, Changed(), AWAY, Phase.DISCONNECTING, None, [Enforce, CloseTunnel]),
    "a refused firewall, too early": (
        State(Phase.BLOCKED, Cause.FIREWALL_FAILED, attempt=1, profile=UP.profile, network=UP.network),
        Changed(), UP, Phase.BLOCKED, Cause.FIREWALL_FAILED, [Enforce],
    ),
    "a refused firewall, again": (
        State(Phase.BLOCKED, Cause.FIREWALL_FAILED, attempt=1, profile=UP.profile, network=UP.network),
        RetryDue(1), UP, Phase.CONNECTED, None, [SetResolvers, Enforce],
    ),
}  # fmt: skip


@pytest.mark.parametrize("state, event, decision, phase, cause, actions", STEPS.values(), ids=STEPS.keys())
def test_steps(
    state: State, event: Event, decision: Decision, phase: Phase, cause: Cause | None, actions: list[type]
) -> None:
    """Nothing is ever opened; the rest follows the link."""
    after, done = step(state, event, decision)
    assert (after.phase, after.cause, [type(each) for each in done]) == (phase, cause, actions)


def test_it_may_be_used_while_nothing_is_guarded_and_is_no_uplink() -> None:
    assert IDLE.usable == {"eth0", "wg-office"} and [each.ifname for each in IDLE.judgements] == ["eth0"]
    strange = wanted(world(UPLINK, replace(WG, tunnel="")), replace(PROTECTED, profile=None))
    assert {each.ifname for each in strange.judgements} == {"eth0", "wg-office"}, "the control: one that nobody names"


def out(policy: FirewallPolicy, **packet: object) -> bool:
    sent = Packet(Hook.OUT, ip_address("192.0.2.9"), SERVERS[0].address, "udp", 40000, SERVERS[0].port, oifname="eth0")
    return passes(policy, replace(sent, **packet))  # type: ignore[arg-type]


@pytest.mark.parametrize(("state", "decision"), [(BLOCKED, AWAY), (GUARDED, UP)], ids=["away", "up"])
def test_who_may_reach_its_server(state: State, decision: Decision) -> None:
    policy = firewall(state, decision)
    assert out(policy, mark=0xCA6C), "the control"
    assert not out(policy) and not out(policy, mark=MARK) and not out(policy, mark=0xCA6C, destination_port=51821)
    assert not out(policy, mark=0xCA6C, oifname="wlan9"), "no uplink"
    assert not out(policy, mark=0xCA6C, destination=ip_address("192.0.2.2"))
    assert not out(policy, mark=0xCA6C, protocol="tcp")
    assert out(policy, oifname="wg-office", destination=ip_address("198.51.100.1")) is (state is GUARDED)


def test_the_hole_is_closed_where_everything_is() -> None:
    for closed in (
        replace(AWAY, closed=Cause.STORE_BROKEN),
        wanted(world(UPLINK, asleep=True)),
        wanted(world(UPLINK, settings_broken=True)),
    ):
        after, _ = step(BLOCKED, Changed(), closed)
        assert not firewall(after, closed).servers, after


LINKS = st.lists(
    st.sampled_from([
        UPLINK, replace(UPLINK, gateways=()), WG, replace(WG, carrier=False), replace(WG, addresses=()), TUN, TAP,
        replace(WG, tunnel="tun"), link("wg-office", "", kind=LinkKind.WIRED),
    ]),
    unique_by=lambda each: each.ifname, max_size=4,
)  # fmt: skip
WORLDS = st.builds(
    lambda links, closed, asleep: world(*links, settings_broken=closed, asleep=asleep),
    LINKS, st.sampled_from([False] * 4 + [True]), st.sampled_from([False] * 4 + [True]),
)  # fmt: skip
INTENTS = st.builds(
    lambda target, profile, lock: Intent(target, Manual(target, "/"), lockdown=lock, profile=profile),
    st.sampled_from(list(Target)), st.sampled_from(["office", "user", "gone"]), st.booleans(),
)  # fmt: skip
EVENTS = st.sampled_from(
    [Changed(), Reconnect(), TunnelDown(1, Cause.TUNNEL_LOST), TunnelUp(1, Tunnel("tunwarden0", ())), TunnelClosed(1),
     RetryDue(1), Failed(Cause.FIREWALL_FAILED)]
)  # fmt: skip


@given(st.lists(st.tuples(WORLDS, INTENTS, EVENTS), max_size=12))
def test_whatever_happens(story: list[tuple[Facts, Intent, Event]]) -> None:
    """Never opened, never connected without its link; protected, nothing but its own packets leaves by an uplink."""
    state = START
    for facts, intent, event in story:
        decision = wanted(facts, intent)
        state, actions = step(state, event, decision)
        assert not any(isinstance(each, OpenTunnel) for each in actions)
        assert (state.phase is Phase.CONNECTED) == (state.tunnel is not None)
        policy = firewall(state, decision)
        if state.phase is Phase.IDLE:
            assert decision.target is Target.UNPROTECTED
            continue
        engine = policy.engine
        for uplink in ("eth0", "tap0"):
            assert not out(policy, oifname=uplink), state
            assert not out(policy, oifname=uplink, mark=MARK), state
            assert not out(policy, oifname=uplink, mark=0xCA6C, destination=ip_address("203.0.113.1")), state
            if out(policy, oifname=uplink, mark=0xCA6C):
                assert engine and engine.fwmark == 0xCA6C and decision.closed is None
            if out(policy, oifname=uplink, uid=977):
                assert engine and engine.uid == 977 and decision.closed is None


def test_our_own_profiles_are_as_before() -> None:
    assert not looks_like_external(to_json(OFFICE))
