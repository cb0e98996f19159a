"""What one key cannot tell alone: lists that are too long or contradict themselves, keys that do not go together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from policies.portals import MOST_PROBES
from policies.settings_known import check_known, name_of
from policies.settings_layout import Findings
from policies.settings_tables import MOST_RESOLVERS, RULE_ACTIONS, Tunnel, Wifi
from policies.toml_lines import Path

MAX_SUBNETS = 5000
MAX_EXCLUDED = 256


def check_together(values: Mapping[str, Any], found: Findings | None = None) -> Iterator[tuple[Path, str, str]]:
    """What is wrong between keys that may stand in several places; `found`: what is wrong with them alone."""
    found = found or Findings()
    tunnel = values.get("tunnel", {})
    first, longest = (tunnel.get(key, Tunnel.model_fields[key].default) for key in ("retry_first", "retry_longest"))
    if first > longest and not (found.has(("tunnel", "retry_first")) or found.has(("tunnel", "retry_longest"))):
        key = "retry_first" if "retry_first" in tunnel else "retry_longest"
        yield ("tunnel", key), "retry_first is longer than retry_longest", "retry_first <= retry_longest"
    wifi = values.get("wifi", {})
    unsecured = wifi.get("unsecured", Wifi.model_fields["unsecured"].default)
    stricter = RULE_ACTIONS[: RULE_ACTIONS.index(unsecured) + 1]
    if wifi.get("unidentified", unsecured) not in stricter and not found.has(("wifi", "unsecured")):
        problem = f'laxer than unsecured = "{unsecured}": an attacker can choose to be unreadable'
        yield ("wifi", "unidentified"), problem, ", ".join(stricter)
    hostile = wifi.get("hostile", Wifi.model_fields["hostile"].default)
    if hostile not in stricter and not found.has(("wifi", "unsecured")):
        problem = f'laxer than unsecured = "{unsecured}": evidence of an attacker makes a network unsecured'
        yield ("wifi", "hostile"), problem, ", ".join(stricter)


def check_lists(values: Mapping[str, Any], found: Findings) -> None:
    resolvers = values.get("dns", {}).get("resolvers", ())
    if len(resolvers) > MOST_RESOLVERS:
        found.add(("dns", "resolvers"), f"{len(resolvers)} resolvers", f"up to {MOST_RESOLVERS}: programs ask no more")
    subnets = values.get("protection", {}).get("lan_subnets", ())
    if len(subnets) > MAX_SUBNETS:
        found.add(("protection", "lan_subnets"), f"{len(subnets)} networks", f"up to {MAX_SUBNETS}")
    excluded = values.get("split", {}).get("subnets", ())
    if len(excluded) > MAX_EXCLUDED:
        found.add(("split", "subnets"), f"{len(excluded)} networks", f"up to {MAX_EXCLUDED}")
    probes = values.get("portal", {}).get("probes")
    if probes is not None and not 1 <= len(probes) <= MOST_PROBES and not found.has(("portal", "probes")):
        found.add(("portal", "probes"), f"{len(probes)} probes", f"1 to {MOST_PROBES}; detect = false sends none")
    names = set()
    for position, rule in enumerate(values.get("links", ())):
        path = ("links", position)
        if "name" not in rule and not found.has((*path, "name")):
            found.add(path, "a link rule without a name", 'name = "wlan0"')
        if rule.get("name") in names:
            found.add((*path, "name"), "an earlier rule has the same name", "one rule for each name")
        names.add(rule.get("name"))
        if rule.keys() == {"name"} and not (found.has((*path, "kind")) or found.has((*path, "action"))):
            found.add(path, "the rule says nothing", "kind, action or both")
    taken: dict[tuple[bool, bytes], set[bytes]] = {}  # the pinned BSSIDs by name; an empty set takes all
    for position, known in enumerate(values.get("known", ())):
        path = ("known", position)
        check_known(known, path, found)
        name, bssids = name_of(known), set(known.get("bssids", ()))
        own = ("pattern" in known, name or b"")
        if own in taken and (not bssids or not taken[own] or bssids & taken[own]):
            found.add(path, "an earlier entry stands for the same network", "one entry, or disjoint bssids")
        if name is not None:
            taken[own] = taken.get(own, bssids) | bssids
