"""T2: which link is the tunnel that somebody else brings up."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_interface

import pytest

from policies.external import facts as facts_of
from policies.external_links import marked, meant, tunnel, whose
from policies.facts import External, Facts, Link, LinkKind, Tunnel
from tests.policies.external_texts import BY_USER, PROFILE, TAP, TUN, WG, link

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
