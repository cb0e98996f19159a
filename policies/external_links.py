"""Which link is the tunnel that a profile names (T2): pure, from the links as the kernel tells them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from policies.facts import External, Facts, Link, LinkKind, ProfileFacts, Tunnel

LINK_NAME = re.compile(r"[A-Za-z0-9_.@+-]{1,15}")  # the kernel allows more, and a firewall could misread it


def meant(external: External, links: Iterable[Link]) -> Link | None:
    """The one link that fits. None where there is none, or several: a guess could guard the wrong one."""
    fitting = [
        link
        for link in links
        if link.tunnel and external.link in ("", link.ifname) and external.kind in ("", link.tunnel)
    ]
    return fitting[0] if len(fitting) == 1 and LINK_NAME.fullmatch(fitting[0].ifname) else None


def marked(links: tuple[Link, ...], profiles: Iterable[ProfileFacts]) -> tuple[Link, ...]:
    """The links, those that profiles name as tunnels: they are no uplinks, and nobody judges them."""
    found = (meant(each.external, links) for each in profiles if each.external)
    names = {link.ifname for link in found if link}
    if not names:
        return links
    return tuple(replace(link, kind=LinkKind.TUNNEL, external=True) if link.ifname in names else link for link in links)


def tunnel(facts: Facts, profile: ProfileFacts | None) -> Tunnel | None:
    """The profile's tunnel as its link is now; None while it carries nothing, or where the profile is of ours."""
    link = meant(profile.external, facts.links) if profile and profile.external else None
    if profile is None or link is None or not (link.external and link.up and link.carrier):
        return None
    addresses = tuple(each for each in link.addresses if not each.is_link_local)
    if not addresses:
        return None
    return Tunnel(link.ifname, addresses, profile.resolvers, open_names=not profile.resolvers)


def whose(link: Link, facts: Facts) -> tuple[str, ...]:
    """The profiles that mean this link, in the order of their names."""
    found = (each for each in facts.profiles.values() if each.external)
    fitting = (each for each in found if each.external and meant(each.external, facts.links) == link)
    return tuple(sorted(each.name for each in fitting))
