"""The networks in the air of the radio laboratory: how hostapd makes each, how a client joins it, and what it is."""

from __future__ import annotations

from dataclasses import dataclass

from policies.facts import Security

PASSWORD = "correct horse"
CAMPUS = "/run/lab/campus.pem"  # the certificate of the server behind 802.1X; its key is beside it
_RSN = ("wpa=2", "rsn_pairwise=CCMP")
_PSK = f"wpa_passphrase={PASSWORD}"
_KEY = f'psk="{PASSWORD}"'


@dataclass(frozen=True, slots=True)
class AirNetwork:
    """`hostapd`: the lines of its configuration; `client`: those of a network block of wpa_supplicant.

    `sought`: the name a client is told, where that is another than the network's.
    """

    ssid: bytes
    security: Security
    hostapd: tuple[str, ...] = ()
    client: tuple[str, ...] = ("key_mgmt=NONE",)
    tkip: bool = False
    wps: bool = False
    hidden: bool = False
    sought: bytes = b""


# The number of a network is the last byte of its BSSID at each access point that has it.
NETWORKS: dict[str, AirNetwork] = {
    "open": AirNetwork(b"Cafe Guest", Security.OPEN),
    "wep": AirNetwork(
        b"Attic", Security.WEP, ("wep_default_key=0", 'wep_key0="12345"'),
        ("key_mgmt=NONE", 'wep_key0="12345"', "wep_tx_keyidx=0"),
    ),
    "wpa": AirNetwork(
        b"Old Router", Security.WPA, ("wpa=1", "wpa_key_mgmt=WPA-PSK", "wpa_pairwise=TKIP", _PSK),
        ("key_mgmt=WPA-PSK", "proto=WPA", "pairwise=TKIP", "group=TKIP", _KEY), tkip=True,
    ),
    "wpa-wpa2": AirNetwork(
        b"Old Phones Welcome", Security.WPA,
        ("wpa=3", "wpa_key_mgmt=WPA-PSK", "wpa_pairwise=TKIP", "rsn_pairwise=CCMP", _PSK),
        ("key_mgmt=WPA-PSK", _KEY), tkip=True,
    ),
    "wpa2": AirNetwork(
        b"Home", Security.WPA2, (*_RSN, "wpa_key_mgmt=WPA-PSK", _PSK), ("key_mgmt=WPA-PSK", _KEY)
    ),
    "wpa2-tkip": AirNetwork(
        b"Home with TKIP", Security.WPA2, ("wpa=2", "rsn_pairwise=CCMP TKIP", "wpa_key_mgmt=WPA-PSK", _PSK),
        ("key_mgmt=WPA-PSK", _KEY), tkip=True,
    ),
    "wpa2-wps": AirNetwork(
        b"Push The Button", Security.WPA2,
        (*_RSN, "wpa_key_mgmt=WPA-PSK", _PSK, "eap_server=1", "wps_state=2", "config_methods=push_button"),
        ("key_mgmt=WPA-PSK", _KEY), wps=True,
    ),
    "wpa2-sha256": AirNetwork(
        b"Careful", Security.WPA2, (*_RSN, "wpa_key_mgmt=WPA-PSK-SHA256", "ieee80211w=2", _PSK),
        ("key_mgmt=WPA-PSK-SHA256", "ieee80211w=2", _KEY),
    ),
    "wpa2-wpa3": AirNetwork(
        b"Both", Security.WPA2_WPA3, (*_RSN, "wpa_key_mgmt=WPA-PSK SAE", "ieee80211w=1", _PSK),
        ("key_mgmt=SAE", "ieee80211w=1", _KEY),
    ),
    "wpa3": AirNetwork(
        b"New Home", Security.WPA3, (*_RSN, "wpa_key_mgmt=SAE", "ieee80211w=2", _PSK),
        ("key_mgmt=SAE", "ieee80211w=2", _KEY),
    ),
    "owe": AirNetwork(
        b"Airport", Security.OWE, (*_RSN, "wpa_key_mgmt=OWE", "ieee80211w=2"), ("key_mgmt=OWE", "ieee80211w=2")
    ),
    # Enhanced open beside open for old clients, each pointing to the other one. The former is hidden.
    "owe-transition": AirNetwork(b"Library", Security.OWE_TRANSITION, ("owe_transition_ifname={interface}_12",)),
    "owe-transition-owe": AirNetwork(
        b"Library OWE", Security.OWE,
        (*_RSN, "wpa_key_mgmt=OWE", "ieee80211w=2", "owe_transition_ifname={interface}_11"),
        ("key_mgmt=OWE", "ieee80211w=2"), hidden=True, sought=b"Library",
    ),
    "802.1x": AirNetwork(
        b"Campus", Security.ENTERPRISE,
        (
            *_RSN, "wpa_key_mgmt=WPA-EAP", "ieee8021x=1", "eap_server=1", "eap_user_file=/run/lab/eap-users",
            f"ca_cert={CAMPUS}", f"server_cert={CAMPUS}", f"private_key={CAMPUS}.key",
        ),
        ("key_mgmt=WPA-EAP", "eap=PWD", 'identity="user"', f'password="{PASSWORD}"'),
    ),
    "not-utf8": AirNetwork(
        b"caf\xe9 \xf0\x9f\n", Security.WPA2, (*_RSN, "wpa_key_mgmt=WPA-PSK", _PSK), ("key_mgmt=WPA-PSK", _KEY)
    ),
    "hidden": AirNetwork(
        b"Nobody Here", Security.WPA2, (*_RSN, "wpa_key_mgmt=WPA-PSK", _PSK), ("key_mgmt=WPA-PSK", _KEY), hidden=True
    ),
}  # fmt: skip
ACCESS_POINTS = {1: (1, tuple(NETWORKS)), 2: (6, ("open", "wpa2", "wpa3"))}  # its channel and its networks


def bssid(point: int, name: str) -> bytes:
    """The address of a network at an access point."""
    return bytes([2, 0, 0, 0, 0xA0 + point, tuple(NETWORKS).index(name)])


def colons(mac: bytes) -> str:
    return mac.hex(":")


def hostapd_conf(point: int, interface: str) -> str:
    """The configuration of an access point: its first network is the interface itself."""
    channel, names = ACCESS_POINTS[point]
    lines = ["driver=nl80211", "hw_mode=g", f"channel={channel}"]
    for name in names:
        network, number = NETWORKS[name], tuple(NETWORKS).index(name)
        lines += [
            f"bss={interface}_{number}" if name != names[0] else f"interface={interface}",
            f"bssid={colons(bssid(point, name))}",
            f"ssid2={network.ssid.hex()}",
            "bridge=lan",
            "ctrl_interface=/run/lab/hostapd",
            f"ignore_broadcast_ssid={int(network.hidden)}",
            *(line.format(interface=interface) for line in network.hostapd),
        ]
    return "\n".join(lines) + "\n"


def supplicant_conf(name: str, password: str = PASSWORD) -> str:
    """Of wpa_supplicant, for one network; only the channels in use are scanned."""
    network = NETWORKS[name]
    client = [line.replace(PASSWORD, password) for line in network.client]
    name_told = (network.sought or network.ssid).hex()
    block = [f"ssid={name_told}", f"scan_ssid={int(network.hidden)}", "scan_freq=2412 2437", *client]
    return "\n".join(["ctrl_interface=/run/lab/wpa", "network={", *block, "}"]) + "\n"
