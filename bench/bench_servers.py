"""What lists of servers cost: 500 profiles of 200 servers each. Memory of the daemon, and the time of a change.

Memory is what the kernel counts as resident (VmRSS) of the daemon: with one profile, with 500 that have lists, after it
has used them. Peer in the same run: the same text held in memory by Python, parsed.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import time
from dataclasses import replace

from bench.common import report, resident_mib, title
from lab.first_byte import first_byte
from lab.subject import PROFILE, Subject
from lab.topology import Laboratory
from policies.profiles import to_json as profile_to_json
from policies.server_lists import parse_servers, to_json
from policies.wireguard_reader import parse_wireguard

PROFILES, SERVERS = 500, 200
GOAL_MIB = 60
CHANGES = 15


def key(name: str) -> str:
    return base64.b64encode(hashlib.sha256(name.encode()).digest()).decode()


def servers(number: int) -> list[dict[str, object]]:
    """A provider's list: names, places, tags, both families, addresses of its own."""
    return [
        {
            "name": f"xx-city-{each:03}",
            "country": ("SE", "DE", "FR", "NL")[each % 4],
            "city": f"City {each % 30}",
            "tags": ["p2p", "10g"],
            "public_key": key(f"{number} {each}"),
            "endpoints": [f"198.51.100.{each + 1}:51821", f"[2001:db8:{number:x}::{each + 1:x}]:51821"],
            "addresses": [f"10.{number % 250}.{each}.2/32"],
            "resolvers": ["10.64.0.1"],
        }
        for each in range(SERVERS)
    ]


def fill(lab: Laboratory) -> int:
    """Put profiles and lists where the daemon keeps them; the bytes of the lists."""
    profile, _ = parse_wireguard(PROFILE, lab.client_config())
    folder, size = "/var/lib/tunwarden/profiles", 0
    for number in range(PROFILES):
        named = replace(profile, name=f"provider-{number:03}")
        text = to_json(parse_servers(json.dumps({"version": 1, "servers": servers(number)})))
        size += len(text)
        lab.laptop.write(f"{folder}/{named.name}.json", profile_to_json(named), mode=0o600)
        lab.laptop.write(f"{folder}/{named.name}.servers", text, mode=0o600)
    return size


def main() -> None:
    title("servers")
    with Laboratory(47) as lab:
        subject = Subject(lab)
        subject.start(30)
        subject.set_up()
        assert subject.process is not None
        print(f"one profile: {resident_mib(subject.process.pid):.1f} MiB", flush=True)
        subject.stop()
        size = fill(lab)
        subject.start(60)
        assert subject.process is not None
        report(f"{PROFILES} profiles of {SERVERS} servers each, {size >> 20} MiB of text",
               [resident_mib(subject.process.pid)], "MiB", f"<= {GOAL_MIB}")  # fmt: skip
        with subject.client(60) as client:
            assert len(client.list_profiles()) == PROFILES + 1
            here = lab.vpn.site
            living = [
                {
                    "name": name, "public_key": lab.vpn.public, "endpoints": [f"{address}:{here.port}"],
                }
                for name, address in (("four", here.public4), ("six", f"[{here.public6}]"))
            ]  # fmt: skip
            client.import_servers(PROFILE, json.dumps({"version": 1, "servers": living + servers(1000)}))
            lab.join("cafe")
            client.connect_server(PROFILE, "four")
        subject.wait("connected", 30)
        times = []
        for turn in range(CHANGES):
            begun = time.monotonic()
            with subject.client(60) as client:
                client.connect_server(PROFILE, ("six", "four")[turn % 2])
            times.append(1000 * first_byte(lab.laptop, lab.plan.internet4, here.public4, begun))
        report("another server of the list, to the first byte through it", times, "ms")
        with subject.client(60) as client:
            for number in range(0, PROFILES, 25):
                assert len(client.all_servers(f"provider-{number:03}")) == SERVERS
        report(
            "the same after changes, and 20 lists read", [resident_mib(subject.process.pid)], "MiB", f"<= {GOAL_MIB}"
        )
    texts = [json.dumps({"version": 1, "servers": servers(number)}) for number in range(PROFILES // 10)]
    before = resident_mib(os.getpid())
    held = [parse_servers(text) for text in texts]
    grown = 10 * (resident_mib(os.getpid()) - before)
    print(f"peer: parsed and held by Python, {grown:.0f} MiB for all ({len(held)} lists measured)")


if __name__ == "__main__":
    main()
