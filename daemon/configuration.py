"""What is in force: settings, the networks that users saved, and profiles; and how they come to be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

from daemon.host import Host
from daemon.inbox import Inboxed, LinksHint
from daemon.reading import Reading
from daemon.store import Store, StoreError
from policies.classify import learned
from policies.decision import Decision
from policies.facts import Facts, WifiSource
from policies.known_network import KnownNetwork
from policies.profiles import Profile
from policies.profiles import facts as profile_facts
from policies.settings import Settings


class Loop(Protocol):
    """What of the loop is needed here."""

    host: Host
    store: Store
    settings: Settings
    known: tuple[KnownNetwork, ...]
    profiles: Mapping[str, Profile]
    facts: Facts
    decision: Decision
    warnings: dict[str, str]

    def warn(self, topic: str, text: str) -> None: ...
    def post(self, event: Inboxed) -> None: ...


class Configuration:
    """Of one loop, which owns what is read here and calls this in its turn."""

    def __init__(self, loop: Loop, reading: Reading) -> None:
        self._loop, self._reading = loop, reading
        # made of the first two, which are then the same objects
        self._in_force: tuple[Settings, tuple[KnownNetwork, ...], Settings] = (loop.settings, loop.known, loop.settings)

    def in_force(self) -> Settings:
        """The administrator's settings with the networks that users saved; the administrator's come first.

        Made anew only when one of them has changed: the index of ten thousand names is kept with the list.
        """
        loop = self._loop
        settings, known, in_force = self._in_force
        if settings is not loop.settings or known is not loop.known:
            fixed = {network.key for network in loop.settings.known}
            added = tuple(network for network in loop.known if network.key not in fixed)
            in_force = loop.settings
            if added:
                in_force = loop.settings.model_copy(update={"known": (*loop.settings.known, *added)})
            self._in_force = (loop.settings, loop.known, in_force)
        return in_force

    def take(self, settings: Settings) -> None:
        """Put other settings in force. Post Changed afterwards."""
        loop = self._loop
        loop.settings = settings
        loop.host.links.rules = settings.links
        loop.host.resolver.manager = settings.dns.manager
        loop.host.leak_check.excluded = settings.split.subnets
        self._reading.identify_timeout = settings.wifi.identify_timeout

    def load_known(self) -> None:
        """Read the networks that users saved anew. Post Changed afterwards."""
        loop = self._loop
        try:
            loop.known = loop.store.known()
            loop.warnings.pop("known", None)
        except StoreError as err:
            loop.warn("known", f"The saved networks cannot be read; those read before count: {err}")

    def load_profiles(self) -> None:
        """Read the profiles anew. Post Changed afterwards."""
        loop = self._loop
        before, loop.profiles = loop.profiles, loop.store.profiles()
        listed = loop.store.listed()
        loop.facts = replace(
            loop.facts,
            profiles={name: replace(profile_facts(p), listed=name in listed) for name, p in loop.profiles.items()},
            profiles_damaged=bool(loop.store.damaged_profiles),
        )
        loop.warnings.pop("profiles", None)
        if loop.store.warnings:
            loop.warn("profiles", " ".join(loop.store.warnings))
        if any(profile.kind == "external" for profile in (*before.values(), *loop.profiles.values())):
            loop.post(LinksHint())  # which links are tunnels is read anew

    def learn(self) -> None:
        """Access points of networks that learn; association alone proves nothing."""
        loop = self._loop
        for each in loop.decision.judgements:
            network, link = loop.facts.wifi.get(each.ifname), loop.facts.link(each.ifname)
            if network is None or link is None or each.classification is None:
                continue
            met = network.source is WifiSource.NL80211 or link.gateways
            if met and (more := learned(network, each.classification)):
                try:
                    loop.store.save_known(more)
                except StoreError as err:
                    loop.warn("known", f"An access point could not be learned: {err}")
                    continue
                loop.known = tuple(more if known.key == more.key else known for known in loop.known)
