"""Fuzz the element parser: `python -m bench.fuzz_elements [RUNS] [SEED]`, a million runs if not told.

With atheris installed (development only: `pip install atheris`) libFuzzer looks for inputs that reach new lines;
without it, or beside it, realistic beacons are mutated. Both judge every input by `judge`. Exit code 1: one broke a
promise, and was printed as hexadecimal.
"""

from __future__ import annotations

import random
import struct
import sys
import time
from itertools import pairwise

from bench.common import guided, title
from policies.classify import Verdict, classify
from policies.elements import PRIVACY, RSN, Announced, parse
from policies.facts import Security, WifiNetwork
from policies.settings import Settings

SETTINGS = Settings()
AP = b"\x02\0\0\0\0\x01"
LONGEST = 2304  # bytes of elements: no frame has more (9.2.4.7 of IEEE 802.11-2020)
IEEE, MICROSOFT, WFA = b"\x00\x0f\xac", b"\x00\x50\xf2", b"\x50\x6f\x9a"
HOPELESS = (Verdict.UNIDENTIFIED, Verdict.UNSECURED)


def judge(data: bytes) -> Announced:
    """One input: capability (2 bytes), where to cut (2 bytes), elements. AssertionError: a promise is broken."""
    capability, cut = struct.unpack("<HH", data[:4].ljust(4, b"\0"))
    elements = data[4 : 4 + LONGEST]
    whole = parse(elements, capability)
    assert len(whole.ssid) <= 32 and len(whole.malformed) <= 120, "bounded"
    assert (whole.security is Security.UNKNOWN) == bool(whole.malformed), "damage, and only damage, is unknown"
    verdict = _verdict(whole)
    if whole.malformed or not capability & PRIVACY:
        assert verdict in HOPELESS, "no unsecured network is called secured"
    ends = _ends(elements)
    at = cut % (len(elements) + 1)
    if at not in ends:
        short = parse(elements[:at], capability)
        assert short.malformed and _verdict(short) in HOPELESS, "cut inside an element"
    for start, end in pairwise(ends):
        if elements[start] == RSN and not whole.malformed and end > start + 2:
            kept = cut % (end - start - 2)
            body = bytes([RSN, kept]) + elements[start + 2 :][:kept]
            shorter = parse(elements[:start] + body + elements[end:], capability)
            assert shorter.malformed or shorter.security.strength <= whole.security.strength, "a shorter element"
            break
    return whole


def _verdict(found: Announced) -> Verdict:
    network = WifiNetwork(found.ssid, AP, found.security, found.tkip, found.wps, bool(found.malformed))
    return classify(network, SETTINGS).verdict


def _ends(elements: bytes) -> list[int]:
    """0 and the ends of the elements that are whole."""
    ends = [0]
    while ends[-1] + 2 <= len(elements) and ends[-1] + 2 + elements[ends[-1] + 1] <= len(elements):
        ends.append(ends[-1] + 2 + elements[ends[-1] + 1])
    return ends


# --- beacons, and what is done to them --------------------------------------------------------------------------------


def _suites(group: bytes, pairwise: list[bytes], akms: list[bytes], rest: bytes = b"\0\0") -> bytes:
    lists = b"".join(struct.pack("<H", len(each)) + b"".join(each) for each in (pairwise, akms))
    return b"\x01\x00" + group + lists + rest


def _element(number: int, body: bytes) -> bytes:
    return bytes([number, len(body)]) + body


CCMP, TKIP = IEEE + b"\x04", IEEE + b"\x02"
START = _element(0, b"Home") + _element(1, b"\x82\x84\x8b\x96\x0c\x12\x18\x24") + _element(3, b"\x06")
END = _element(45, bytes(26)) + _element(61, bytes(22)) + _element(127, bytes(10)) + _element(255, b"\x23" + bytes(21))
WMM = _element(221, MICROSOFT + b"\x02\x01\x01" + bytes(18))
WPS = _element(221, MICROSOFT + b"\x04\x10\x4a\x00\x01\x10\x10\x44\x00\x01\x02")
WPA = _element(221, MICROSOFT + b"\x01" + _suites(MICROSOFT + b"\x02", [MICROSOFT + b"\x02"], [MICROSOFT + b"\x02"]))
PROTECTIONS = (
    b"",
    WPS,
    WPA,
    _element(221, WFA + b"\x1c" + AP + b"\x04Home"),
    *(_element(RSN, _suites(CCMP, [CCMP], [IEEE + bytes([akm])])) for akm in (1, 2, 5, 8, 18, 24)),
    _element(RSN, _suites(TKIP, [CCMP, TKIP], [IEEE + b"\x02"])) + WPA + WPS,
    _element(RSN, _suites(CCMP, [CCMP], [IEEE + b"\x02", IEEE + b"\x08"], b"\xc0\x00\x00\x00" + IEEE + b"\x06")),
    _element(RSN, _suites(IEEE + b"\x09", [IEEE + b"\x09"], [IEEE + b"\x0c"], b"\0\0\x01\0" + bytes(16))),
    _element(RSN, _suites(CCMP, [CCMP], [IEEE + b"\x02"]))
    + _element(221, WFA + b"\x29" + _suites(CCMP, [CCMP], [IEEE + b"\x08"])),
)
SEEDS = tuple(
    struct.pack("<HH", capability, 0) + START + protection + WMM + END
    for protection in PROTECTIONS
    for capability in (0x0431, 0x0421)
)
TELLING = (b"\x00", b"\x01", b"\x02", b"\xff", bytes([RSN]), b"\xdd", IEEE, MICROSOFT, WFA, CCMP, TKIP, b"\x00\x00")


def mutated(rng: random.Random) -> bytes:
    """A seed with one to four things done to it; half of them leave the elements whole."""
    data = bytearray(rng.choice(SEEDS))
    struct.pack_into("<H", data, 2, rng.randrange(1 << 16))
    for _ in range(rng.randint(1, 4)):
        (_gently if rng.random() < 0.7 else _roughly)(data, rng)
    return bytes(data)


def _gently(data: bytearray, rng: random.Random) -> None:
    ends = _ends(bytes(data[4:]))
    if rng.random() < 0.3:
        at = 4 + rng.choice(ends)
        data[at:at] = rng.choice(PROTECTIONS)
    elif len(ends) > 1:
        number = rng.randrange(len(ends) - 1)
        start, end = 6 + ends[number], 4 + ends[number + 1]
        found = [at for oui in (IEEE, MICROSOFT, WFA) if (at := data.find(oui, start, end - 1)) > 0]
        if found:
            data[rng.choice(found) + 3] = rng.randrange(27)
        elif start < end:
            data[rng.randrange(start, end)] = rng.randrange(256)


def _roughly(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data)) if data else 0
    match rng.randrange(6):
        case 0 if data:
            data[at] ^= 1 << rng.randrange(8)
        case 1 if data:
            data[at] = rng.randrange(256)
        case 2:
            data[at:at] = rng.choice(TELLING)
        case 3:
            del data[at : at + rng.randint(1, 8)]
        case 4:
            del data[at:]
        case _:
            data[at : at + 1] = rng.randbytes(rng.randint(1, 40))


def main(runs: int, seed: int) -> int:
    """Mutated beacons; then, where there is atheris, as many that it finds."""
    title(f"fuzz: elements, {runs} runs, seed {seed}")
    rng, began, damaged, kinds = random.Random(seed), time.perf_counter(), 0, set()
    for _ in range(runs):
        data = mutated(rng)
        try:
            found = judge(data)
        except Exception as err:
            print(f"{type(err).__name__}: {err}\n{data.hex()}", flush=True)
            return 1
        damaged += bool(found.malformed)
        kinds.add((found.security, found.tkip, found.wps))
    took = time.perf_counter() - began
    print(
        f"mutated: {runs} inputs in {took:.0f} s, {damaged / max(runs, 1):.0%} of them damaged, {len(kinds)} outcomes"
    )
    return guided("bench.fuzz_elements", "policies", SEEDS, f"-runs={runs}", f"-seed={seed}", f"-max_len={LONGEST + 4}")


if __name__ == "__main__":
    sys.exit(main(*(int(each) for each in (*sys.argv[1:], *("1000000", "1")[len(sys.argv) - 1 :]))))
