"""A profile whose keys open nothing."""

from __future__ import annotations

from policies.wireguard_reader import parse_wireguard

CONFIG = """\
[Interface]
PrivateKey = IAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHl8=
Address = 10.9.0.2/32
DNS = 10.9.0.1

[Peer]
PublicKey = AQECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHl8=
Endpoint = 198.51.100.7:51820
AllowedIPs = 0.0.0.0/0, ::/0
"""
OFFICE, _ = parse_wireguard("office", CONFIG)
