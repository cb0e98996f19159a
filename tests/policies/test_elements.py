"""N3: elements of beacons, built by hand, by scapy and by hypothesis: whatever they hold, there is an answer."""

from __future__ import annotations

import logging
import struct
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

logging.getLogger("scapy").setLevel(logging.ERROR)
from scapy.layers.dot11 import (  # noqa: E402
    AKMSuite,
    Dot11Elt,
    Dot11EltMicrosoftWPA,
    Dot11EltRSN,
    PMKIDListPacket,
    RSNCipherSuite,
)

from policies.classify import Verdict, classify  # noqa: E402
from policies.elements import PRIVACY, Announced, parse  # noqa: E402
from policies.facts import Security, WifiNetwork  # noqa: E402
from policies.settings import Settings  # noqa: E402

IEEE, MICROSOFT, WFA = b"\x00\x0f\xac", b"\x00\x50\xf2", b"\x50\x6f\x9a"
CCMP, TKIP, WEP40, WEP104, GROUP, GCMP256, NOTHING = (IEEE + bytes([n]) for n in (4, 2, 1, 5, 0, 9, 7))
PSK, SAE, EAP, OWE = (IEEE + bytes([n]) for n in (2, 8, 1, 18))
NAME = b"\x00\x04Home"
WPS = b"\xdd\x0e\x00\x50\xf2\x04\x10\x4a\x00\x01\x10\x10\x44\x00\x01\x02"
TRANSITION = b"\xdd\x10" + WFA + b"\x1c" + bytes(6) + b"\x05other"[:6]


def lists(group: bytes, pairwise: Sequence[bytes], akms: Sequence[bytes], rest: bytes = b"\x00\x00") -> bytes:
    parts = [b"\x01\x00", group]
    for suites in (pairwise, akms):
        parts += [struct.pack("<H", len(suites)), *suites]
    return b"".join([*parts, rest])


def element(number: int, body: bytes) -> bytes:
    return bytes([number, len(body)]) + body


def rsn(*akms: bytes, pairwise: Sequence[bytes] = (CCMP,), group: bytes = CCMP, rest: bytes = b"\x00\x00") -> bytes:
    return element(48, lists(group, pairwise, akms, rest))


def vendor(kind: bytes, body: bytes) -> bytes:
    return element(221, kind + body)


def wpa(akm: int = 2, cipher: int = 2) -> bytes:
    suite = MICROSOFT + bytes([cipher])
    return vendor(MICROSOFT + b"\x01", lists(suite, [suite], [MICROSOFT + bytes([akm])], b""))


def verdict(found: Announced) -> Verdict:
    network = WifiNetwork(found.ssid, b"\x02\0\0\0\0\x01", found.security, found.tkip, found.wps, bool(found.malformed))
    return classify(network, Settings()).verdict


@pytest.mark.parametrize(
    ("elements", "security", "tkip"),
    [
        (b"", Security.WEP, False),
        (rsn(PSK), Security.WPA2, False),
        (rsn(PSK, SAE), Security.WPA2_WPA3, False),
        (rsn(SAE), Security.WPA3, False),
        (rsn(IEEE + b"\x18"), Security.WPA3, False),  # SAE-EXT
        (rsn(IEEE + b"\x09"), Security.WPA3, False),  # FT-SAE
        (rsn(IEEE + b"\x04", IEEE + b"\x06"), Security.WPA2, False),  # FT-PSK, PSK with SHA-256
        (rsn(EAP), Security.ENTERPRISE, False),
        (rsn(EAP, PSK), Security.WPA2, False),
        (rsn(IEEE + b"\x0e"), Security.ENTERPRISE, False),  # FILS
        (rsn(IEEE + b"\x0c", pairwise=[GCMP256], group=GCMP256), Security.ENTERPRISE_192, False),
        (rsn(IEEE + b"\x0c", EAP), Security.ENTERPRISE, False),
        (rsn(OWE), Security.OWE, False),
        (rsn(OWE, SAE), Security.OWE, False),
        (rsn(PSK, pairwise=[CCMP, TKIP]), Security.WPA2, True),
        (rsn(PSK, group=TKIP), Security.WPA2, True),
        (rsn(PSK, pairwise=[WEP104]), Security.WEP, False),
        (rsn(PSK, group=WEP40), Security.WEP, False),
        (rsn(PSK, pairwise=[GROUP], group=TKIP), Security.WPA2, True),
        (rsn(PSK, group=NOTHING), Security.WPA2, False),
        (rsn(PSK, IEEE + b"\x63"), Security.WPA2, False),  # beside one that nobody knows yet
        (rsn(PSK, MICROSOFT + b"\x09"), Security.WPA2, False),
        (rsn(WFA + b"\x01"), Security.OPEN, False),  # OSEN
        (rsn(WFA + b"\x02"), Security.WPA3, False),  # DPP
        (wpa(), Security.WPA, True),
        (wpa(cipher=4), Security.WPA, False),
        (wpa(cipher=5), Security.WEP, False),
        (wpa() + rsn(PSK), Security.WPA, True),
        (rsn(PSK) + wpa(), Security.WPA, True),
        (rsn(PSK) + vendor(WFA + b"\x29", lists(CCMP, [CCMP], [SAE])), Security.WPA2_WPA3, False),  # override
        (rsn(SAE, rest=b"\x00\x00\x01\x00" + bytes(16) + IEEE + b"\x06"), Security.WPA3, False),  # with a PMKID
        (rsn(SAE, rest=b""), Security.WPA3, False),
        (rsn(SAE, rest=b"\x00\x00\x00\x00"), Security.WPA3, False),
        (rsn(PSK) + rsn(PSK), Security.WPA2, False),  # the same twice says nothing new
    ],
)  # fmt: skip
def test_what_is_offered(elements: bytes, security: Security, tkip: bool) -> None:
    found = parse(NAME + elements, PRIVACY)
    assert found == Announced(b"Home", security, tkip)


def test_without_encryption() -> None:
    assert parse(NAME, 0) == Announced(b"Home", Security.OPEN)
    assert parse(NAME + TRANSITION, 0) == Announced(b"Home", Security.OWE_TRANSITION)
    assert parse(b"", 0) == Announced(b"", Security.OPEN)
    assert parse(NAME + WPS, 0) == Announced(b"Home", Security.OPEN, wps=True)
    assert parse(NAME + WPS + rsn(PSK), PRIVACY) == Announced(b"Home", Security.WPA2, wps=True)


@pytest.mark.parametrize("name", [b"", b"\0" * 8, b"\xff\xfe", b"a" * 32, "café ☕".encode(), b"$(id)\n"])
def test_names_are_bytes(name: bytes) -> None:
    assert parse(element(0, name) + rsn(PSK), PRIVACY).ssid == name


@pytest.mark.parametrize(
    ("elements", "capability", "words"),
    [
        (b"\x00", PRIVACY, "longer than what there is at byte 0"),
        (NAME + b"\x30\x14\x01", PRIVACY, "longer than what there is at byte 6"),
        (element(0, b"a" * 33), 0, "name that is too long"),
        (NAME + b"\x00\x04Away", 0, "second one at byte 6"),
        (NAME + rsn(PSK), 0, "privacy bit is not set"),
        (NAME + rsn(PSK) + rsn(SAE), PRIVACY, "different element of its kind"),
        (NAME + rsn(), PRIVACY, "RSN: 0 ways to authenticate"),
        (NAME + rsn(PSK, pairwise=[]), PRIVACY, "RSN: 0 ciphers"),
        (NAME + rsn(IEEE + b"\x07"), PRIVACY, "no known way to authenticate"),  # TDLS alone
        (NAME + rsn(PSK, pairwise=[IEEE + b"\x63"]), PRIVACY, "no known cipher"),
        (NAME + rsn(PSK, pairwise=[GROUP], group=GROUP), PRIVACY, "no known cipher"),
        (NAME + rsn(PSK, group=IEEE + b"\x63"), PRIVACY, "unknown cipher for groups"),
        (NAME + element(48, b"\x02\x00" + lists(CCMP, [CCMP], [PSK])[2:]), PRIVACY, "version 2"),
        (NAME + element(48, b""), PRIVACY, "cut short before its ciphers at byte 0"),
        (NAME + element(48, b"\x01\x00"), PRIVACY, "cut short before its ciphers"),
        (NAME + rsn(PSK, rest=b"\x00"), PRIVACY, "capabilities"),
        (NAME + rsn(PSK, rest=b"\x00\x00\x02\x00" + bytes(16)), PRIVACY, "key identifiers"),
        (NAME + rsn(PSK, rest=b"\x00\x00\x00\x00\x00\x0f"), PRIVACY, "key identifiers"),
        (NAME + wpa(akm=9), PRIVACY, "WPA: no known way"),
        (NAME + rsn(PSK) + vendor(WFA + b"\x29", b"\x01"), PRIVACY, "RSN override: cut short"),
    ],
)  # fmt: skip
def test_damage_says_what_and_where(elements: bytes, capability: int, words: str) -> None:
    found = parse(elements, capability)
    assert words in found.malformed
    assert found.security is Security.UNKNOWN
    assert verdict(found) in (Verdict.UNIDENTIFIED, Verdict.UNSECURED)


# --- any bytes --------------------------------------------------------------------------------------------------------

SUITES = st.builds(
    lambda oui, number: oui + bytes([number]), st.sampled_from([IEEE, MICROSOFT, WFA]), st.integers(0, 26)
)
BODIES = st.builds(lists, SUITES, st.lists(SUITES, max_size=4), st.lists(SUITES, max_size=4), st.binary(max_size=30))
ELEMENTS = st.lists(
    st.one_of(
        st.builds(lambda body: element(48, body[:255]), BODIES | st.binary(max_size=60)),
        st.builds(lambda kind, body: vendor(kind, body[:250]), st.sampled_from(
            [MICROSOFT + b"\x01", MICROSOFT + b"\x04", WFA + b"\x1c", WFA + b"\x29", WFA + b"\x2a"]
        ), BODIES | st.binary(max_size=60)),
        st.builds(element, st.integers(0, 255), st.binary(max_size=40)),
    ),
    max_size=8,
).map(b"".join)  # fmt: skip


@settings(max_examples=800, deadline=None)
@given(st.binary(max_size=400) | ELEMENTS, st.integers(0, 0xFFFF))
def test_any_bytes_have_an_answer(data: bytes, capability: int) -> None:
    found = parse(data, capability)
    assert len(found.ssid) <= 32
    if found.malformed:
        assert verdict(found) in (Verdict.UNIDENTIFIED, Verdict.UNSECURED)
    if not capability & PRIVACY:
        assert verdict(found) in (Verdict.UNIDENTIFIED, Verdict.UNSECURED), "no unsecured network is called secured"


@settings(max_examples=500, deadline=None)
@given(ELEMENTS, st.data())
def test_cutting_an_element_never_strengthens(data: bytes, choose: st.DataObject) -> None:
    """Cut anywhere inside an element. (Between two of them a shorter frame is as whole as the longer one.)"""
    whole = parse(data, PRIVACY)
    ends, at = {0}, 0
    while at + 2 <= len(data):
        at += 2 + data[at + 1]
        ends.add(at)
    inside = [position for position in range(len(data)) if position not in ends]
    if inside:
        cut = parse(data[: choose.draw(st.sampled_from(inside))], PRIVACY)
        assert cut.malformed
        assert cut.security.strength <= whole.security.strength


@settings(max_examples=400, deadline=None)
@given(BODIES, st.integers(0, 255))
def test_a_shorter_element_never_strengthens(body: bytes, length: int) -> None:
    """The element says itself that it is shorter: the fields it leaves out have no strong default."""
    body = body[:255]
    whole = parse(element(48, body), PRIVACY)
    if not whole.malformed:
        shorter = parse(element(48, body[:length]), PRIVACY)
        assert shorter.malformed or shorter.security.strength <= whole.security.strength


@settings(max_examples=400, deadline=None)
@given(ELEMENTS, ELEMENTS)
def test_more_elements_never_strengthen(some: bytes, more: bytes) -> None:
    """Each thing more on offer is one more that an attacker may choose."""
    alone, both = parse(some, PRIVACY), parse(some + more, PRIVACY)
    if not alone.malformed and alone.security is not Security.WEP:  # which stands for "nothing else is said"
        assert both.security.strength <= alone.security.strength or alone.security is Security.WPA2
        assert both.tkip >= alone.tkip


# --- another reading: scapy -------------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([1, 2, 4, 5, 8, 9, 10]),
    st.lists(st.sampled_from([1, 2, 4, 5, 8, 9, 10]), min_size=1, max_size=3, unique=True),
    st.lists(st.sampled_from([1, 2, 3, 4, 5, 6, 8, 9, 12, 18]), min_size=1, max_size=3, unique=True),
    st.integers(0, 2),
)
def test_frames_that_scapy_built(group: int, pairwise: list[int], akms: list[int], pmkids: int) -> None:
    built = Dot11EltRSN(
        group_cipher_suite=RSNCipherSuite(cipher=group),
        pairwise_cipher_suites=[RSNCipherSuite(cipher=number) for number in pairwise],
        akm_suites=[AKMSuite(suite=number) for number in akms],
        pmkids=PMKIDListPacket(nb_pmkids=pmkids, pmkid_list=[b"\x11" * 16] * pmkids),
    )
    found = parse(bytes(Dot11Elt(ID="SSID", info=b"Home") / built), PRIVACY)
    assert not found.malformed, found.malformed
    assert found.tkip == (2 in (group, *pairwise))
    assert (found.security is Security.WEP) == bool({1, 5} & {group, *pairwise})
    if found.security is not Security.WEP:
        kinds = {"psk": {2, 4, 6}, "sae": {8, 9}, "eap": {1, 3, 5}, "192": {12}, "owe": {18}}
        offered = {kind for kind, numbers in kinds.items() if numbers & set(akms)}
        weakest = next(kind for kind in ("owe", "psk", "sae", "eap", "192") if kind in offered)
        wanted = {
            "owe": Security.OWE, "psk": Security.WPA2, "sae": Security.WPA3, "eap": Security.ENTERPRISE,
            "192": Security.ENTERPRISE_192,
        }[weakest]  # fmt: skip
        assert found.security is (Security.WPA2_WPA3 if weakest == "psk" and "sae" in offered else wanted)


def test_the_first_wpa_that_scapy_built() -> None:
    # Left alone, scapy writes IEEE's suites into it; the element has Microsoft's (WPA 3.1, 2004).
    oui = 0x0050F2
    built = Dot11EltMicrosoftWPA(
        group_cipher_suite=RSNCipherSuite(oui=oui, cipher=2),
        pairwise_cipher_suites=[RSNCipherSuite(oui=oui, cipher=4)],
        akm_suites=[AKMSuite(oui=oui, suite=2)],
    )
    found = parse(bytes(Dot11Elt(ID="SSID", info=b"Home") / built), PRIVACY)
    assert (found.security, found.tkip, found.malformed) == (Security.WPA, True, "")
