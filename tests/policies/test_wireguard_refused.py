from __future__ import annotations

import base64

import pytest

from policies.wireguard_conf import MAX_BYTES, SCRIPTS
from tests.policies.wireguard_texts import INTERFACE, OTHER, PEER, PRIVATE, PUBLIC, VALID, refusal

# --- lines added to or put in place of others: (line, directive, part of problem, part of remedy) ---------------------

IN_INTERFACE = {
    **{
        f"script {name}": (
            f"{name} = iptables -A x",
            5,
            name,
            "would run a command as root",
            f"remove all {name} lines",
        )
        for name in SCRIPTS
    },
    "script in any case": ("pOsTuP=id", 5, "PostUp", "would run a command", "remove"),
    "empty script": ("PostUp =", 5, "PostUp", "would run a command", "remove"),
    "routes off": ("Table = off", 5, "Table", "other routes", "remove the line"),
    "routing table": ("Table = 51820", 5, "Table", "other routes", "remove the line"),
    "misspelt": ("Adress = 10.0.0.3/32", 5, "directive", "is not known", "did you mean Address?"),
    "misspelt script": ("PostUpp = id", 5, "directive", "is not known", "did you mean PostUp?"),
    "OpenVPN": ("script-security = 2", 5, "directive", "is not known", "PrivateKey"),
    "AmneziaWG": ("Jc = 4", 5, "directive", "is not known", "remove the line"),
    "shell": ("$(id) = 1", 5, "directive", "is not known", "remove the line"),
    "key alone": (OTHER, 5, "directive", "is not known", "remove the line"),
    "half a key": (OTHER[20:], 5, "directive", "is not known", "remove the line"),
    "no equals sign": ("MTU 1400", 5, "directive", "is not known", "did you mean MTU?"),
    "no value": ("MTU", 5, "MTU", "has no value", "write MTU ="),
    "semicolon comment": ("; note", 5, "directive", "is not known", "remove the line"),
    "of the peer": ("AllowedIPs = ::/0", 5, "AllowedIPs", "does not belong in [Interface]", "move it to [Peer]"),
    "key twice": (f"PrivateKey = {OTHER}", 5, "PrivateKey", "already stands on line 2", "keep one"),
    "MTU twice": ("MTU = 1400\nMTU = 1400", 6, "MTU", "already stands on line 5", "keep one"),
    "MTU small": ("MTU = 575", 5, "MTU", "out of range", "576 to 65535"),
    "MTU large": ("MTU = 65536", 5, "MTU", "out of range", "576 to 65535"),
    "MTU signed": ("MTU = +1400", 5, "MTU", "out of range", "576 to 65535"),
    "MTU empty": ("MTU =", 5, "MTU", "out of range", "576 to 65535"),
    "MTU too small for IPv6": ("Address = fd00::2\nMTU = 1279", 6, "MTU", "too small for IPv6", "at least 1280"),
    "address": ("Address = 10.0.0.256/32", 5, "Address", "is not an address", "10.2.0.2/32"),
    "address prefix": ("Address = 10.0.0.3/33", 5, "Address", "is not an address", "10.2.0.2/32"),
    "address mask": ("Address = 10.0.0.3/255.255.255.0", 5, "Address", "is not an address", "10.2.0.2/32"),
    "address zone": ("Address = fe80::1%eth0", 5, "Address", "is not an address", "10.2.0.2/32"),
    "address octal": ("Address = 010.0.0.3", 5, "Address", "is not an address", "10.2.0.2/32"),
    "address loopback": ("Address = 127.0.0.2/8", 5, "Address", "is not an address", "10.2.0.2/32"),
    "address multicast": ("Address = ff02::1", 5, "Address", "is not an address", "10.2.0.2/32"),
    "address of nothing": ("Address = 0.0.0.0/0", 5, "Address", "is not an address", "10.2.0.2/32"),
    "address broadcast": ("Address = 255.255.255.255", 5, "Address", "is not an address", "10.2.0.2/32"),
    "resolver": ("DNS = 10.0.0", 5, "DNS", "is not a resolver", "10.2.0.1"),
    "resolver zone": ("DNS = fe80::1%eth0", 5, "DNS", "is not a resolver", "10.2.0.1"),
    "resolver here": ("DNS = 127.0.0.53", 5, "DNS", "is not a resolver", "10.2.0.1"),
    "resolver port": ("DNS = 10.0.0.1:53", 5, "DNS", "is not a resolver", "10.2.0.1"),
    "search": ("DNS = -corp.example", 5, "DNS", "neither an address nor a domain", "domains"),
    "search, shell": ("DNS = $(id)", 5, "DNS", "neither an address nor a domain", "domains"),
    "search, long label": (f"DNS = {'a' * 64}", 5, "DNS", "neither an address nor a domain", "domains"),
    "search, long": (f"DNS = {'a.' * 127}a", 5, "DNS", "neither an address nor a domain", "domains"),
    "second interface": (INTERFACE.rstrip(), 5, "[Interface]", "a second time", "keep one"),
    "unknown section": ("[Script]", 5, "section", "is not known", "[Interface] and [Peer]"),
    "broken section": ("[Peer", 5, "section", "is not known", "[Interface] and [Peer]"),
    "spaced section": ("[ Peer ]", 5, "section", "is not known", "[Interface] and [Peer]"),
    "doubled section": ("[[Peer]]", 5, "section", "is not known", "[Interface] and [Peer]"),
    "NUL": ("MTU = 1400\0PostUp = id", 5, "line", "control character", "remove it"),
    "NUL in a comment": ("# \0", 5, "line", "control character", "remove it"),
    "escape in a comment": ("# \x1b[1A", 5, "line", "control character", "remove it"),
    "carriage return": ("# x\rPostUp = id", 5, "line", "control character", "remove it"),
    "vertical tab": ("MTU\x0b= 1400", 5, "line", "control character", "remove it"),
    "form feed": ("MTU = 1400\x0c", 5, "line", "control character", "remove it"),
    "delete": ("MTU = 1400\x7f", 5, "line", "control character", "remove it"),
    "beyond ASCII": ("DNS = köln.example", 5, "line", "beyond ASCII", "remove it"),
    "C1 newline": ("MTU = 1400\x85PostUp = id", 5, "line", "beyond ASCII", "remove it"),
    "line separator": ("MTU = 1400\u2028PostUp = id", 5, "line", "beyond ASCII", "remove it"),
    "foreign digits": ("MTU = １４００", 5, "line", "beyond ASCII", "remove it"),
    "no-break space": ("MTU\u00a0= 1400", 5, "line", "beyond ASCII", "remove it"),
}


@pytest.mark.parametrize("lines, line, directive, problem, remedy", IN_INTERFACE.values(), ids=IN_INTERFACE.keys())
def test_refused_in_the_interface(lines: str, line: int, directive: str, problem: str, remedy: str) -> None:
    assert_refused(f"{INTERFACE}{lines}\n{PEER}", line, directive, problem, remedy)


IN_PEER = {
    "script": ("PostUp = id", 9, "PostUp", "would run a command", "remove"),
    "of the interface": ("MTU = 1400", 9, "MTU", "does not belong in [Peer]", "move it to [Interface]"),
    "public key twice": (f"PublicKey = {OTHER}", 9, "PublicKey", "already stands on line 6", "keep one"),
    "endpoint twice": ("Endpoint = 192.0.2.2:1", 9, "Endpoint", "already stands on line 7", "keep one"),
    "peer twice": (PEER, 10, "PublicKey", "earlier [Peer]", "merge"),
    "network of another": (
        PEER.replace(PUBLIC, OTHER),
        12,
        "AllowedIPs",
        "another peer has 0.0.0.0/0",
        "leave it to one",
    ),
    "peer without key": ("[Peer]\nAllowedIPs = 10.0.0.0/8", 9, "PublicKey", "is missing", "add it"),
    "peer without networks": (f"[Peer]\nPublicKey = {OTHER}", 9, "AllowedIPs", "is missing", "0.0.0.0/0"),
    "empty networks": (f"[Peer]\nPublicKey = {OTHER}\nAllowedIPs =", 9, "AllowedIPs", "is missing", "0.0.0.0/0"),
    "network": ("AllowedIPs = 10.0.0.0/33", 9, "AllowedIPs", "no network", "0.0.0.0/0"),
    "network added": ("AllowedIPs = +10.0.0.0/8", 9, "AllowedIPs", "no network", "0.0.0.0/0"),
    "network mask": ("AllowedIPs = 10.0.0.0/255.0.0.0", 9, "AllowedIPs", "no network", "0.0.0.0/0"),
    "network, any": ("AllowedIPs = any", 9, "AllowedIPs", "no network", "0.0.0.0/0"),
    "networks, spaces": ("AllowedIPs = fd00:: 1.2.3.4", 9, "AllowedIPs", "no network", "0.0.0.0/0"),
    "network, key": (f"AllowedIPs = {OTHER}", 9, "AllowedIPs", "no network", "0.0.0.0/0"),
    "keepalive": ("PersistentKeepalive = 65536", 9, "PersistentKeepalive", "out of range", "off or 1 to 65535"),
    "keepalive unit": ("PersistentKeepalive = 25s", 9, "PersistentKeepalive", "out of range", "off or 1 to 65535"),
    "keepalive endless": (f"PersistentKeepalive = {'9' * 5000}", 9, "PersistentKeepalive", "out of range", "off"),
    "keepalive empty": ("PersistentKeepalive =", 9, "PersistentKeepalive", "out of range", "off"),
    "preshared key": ("PresharedKey = x", 9, "PresharedKey", "is not a key", "44 characters"),
}


@pytest.mark.parametrize("lines, line, directive, problem, remedy", IN_PEER.values(), ids=IN_PEER.keys())
def test_refused_in_the_peer(lines: str, line: int, directive: str, problem: str, remedy: str) -> None:
    assert_refused(f"{VALID}{lines}\n", line, directive, problem, remedy)


def assert_refused(text: str, line: int, directive: str, problem: str, remedy: str) -> None:
    error = refusal(text)
    assert (error.line, error.directive) == (line, directive)
    assert problem in error.problem and remedy in error.remedy
    assert str(error) == f"line {line}: {directive}: {error.problem}; {error.remedy}"
    assert str(error).isprintable() and len(str(error)) < 300


@pytest.mark.parametrize(
    "endpoint",
    [
        "", "192.0.2.1", "192.0.2.1:", ":51820", "192.0.2.1:0", "192.0.2.1:65536", "192.0.2.1:http", "192.0.2.1:-1",
        "192.0.2.1:51820 x", "192.0.2.256:5", "192.0.2:5", "10.1:5", "3221225985:5", "0x7f.1:5", "0xC0000201:5",
        "vpn.0x1:5", "a.9.:5", "2001:db8::1:51820", "[2001:db8::1]", "[2001:db8::1]51820", "[192.0.2.1]:5",
        "[vpn.example.com]:5", "[fe80::1%eth0]:5", "[]:5", "0.0.0.0:5", "[::]:5", "224.0.0.1:5", "255.255.255.255:5",
        "[ff02::1]:5", "vpn..example:5", ".example:5", "-a.example:5", "a-.example:5", "a b.example:5",
        f"{'a' * 64}.example:5", f"{'a.' * 127}:5", "$(id).example:5", "vpn.example.com:5,192.0.2.1:5",
        "../../etc:5", "http://vpn.example.com:5", "user@vpn.example.com:5", f"{OTHER}:5",
    ],
)  # fmt: skip
def test_refused_endpoint(endpoint: str) -> None:
    error = refusal(VALID.replace("192.0.2.1:51820", endpoint))
    assert (error.line, error.directive) == (7, "Endpoint")
    assert "[2001:db8::1]:51820" in error.remedy


@pytest.mark.parametrize(
    "key",
    [
        "", "x", OTHER[:-1], OTHER + "=", OTHER[:-2] + "==", OTHER[:-5], "A" + OTHER, OTHER.replace(OTHER[5], " "),
        OTHER[:-2] + "B=",  # the two bits that no byte uses are not zero
        OTHER.replace(OTHER[3], "-"), OTHER.replace(OTHER[3], "_"), base64.b64decode(OTHER).hex(), f'"{OTHER}"',
        base64.b64encode(bytes(31)).decode(), base64.b64encode(bytes(33)).decode(), "/dev/stdin",
    ],
)  # fmt: skip
@pytest.mark.parametrize("line, directive, old", [(2, "PrivateKey", PRIVATE), (6, "PublicKey", PUBLIC)])
def test_refused_key(key: str, line: int, directive: str, old: str) -> None:
    error = refusal(VALID.replace(old, key))
    assert (error.line, error.directive, error.problem) == (line, directive, "is not a key")


@pytest.mark.parametrize("line, directive, old", [(2, "PrivateKey", PRIVATE), (6, "PublicKey", PUBLIC)])
def test_a_key_of_zeros_is_none(line: int, directive: str, old: str) -> None:
    error = refusal(VALID.replace(old, base64.b64encode(bytes(32)).decode()))
    assert (error.line, error.directive, error.problem) == (line, directive, "is a key of zeros")


WHOLE = {
    "nothing": ("", 0, "[Interface]", "is missing"),
    "a page": ("<html>", 1, "directive", "is not known"),
    "no interface": (PEER, 0, "[Interface]", "is missing"),
    "no peer": (INTERFACE, 0, "[Peer]", "is missing"),
    "no private key": (VALID.replace("PrivateKey", "#"), 1, "PrivateKey", "is missing"),
    "no address": (VALID.replace("Address", "#"), 1, "Address", "is missing"),
    "empty address": (VALID.replace("10.0.0.2/32", ","), 1, "Address", "is missing"),
    "no endpoint": (VALID.replace("Endpoint", "#"), 0, "Endpoint", "is missing in every [Peer]"),
    "before any section": (f"MTU = 1400\n{VALID}", 1, "MTU", "before any section"),
    "script before any section": (f"PostUp = id\n{VALID}", 1, "PostUp", "before any section"),
    "mebibyte": (f"{VALID}#{'x' * MAX_BYTES}", 0, "text", "more than 1048576 bytes"),
    "a byte too many": (f"{VALID}#{'x' * (MAX_BYTES - len(VALID))}", 0, "text", "more than 1048576 bytes"),
    "lone surrogate": (f"{VALID}#\ud800", 0, "text", "not valid UTF-8"),
}


@pytest.mark.parametrize("text, line, directive, problem", WHOLE.values(), ids=WHOLE.keys())
def test_refused_as_a_whole(text: str, line: int, directive: str, problem: str) -> None:
    assert_refused(text, line, directive, problem, "")


def test_a_misspelt_directive_is_not_repeated() -> None:
    """It can be the end of a broken line, and so of a key."""
    error = refusal(f"{INTERFACE}PrivateKeyQ7x= {OTHER}\n{PEER}")
    assert "did you mean PrivateKey?" in error.remedy and "q7x" not in str(error).lower()
