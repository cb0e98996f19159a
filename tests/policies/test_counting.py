"""Deltas of kernel counters (A1): never negative, and nothing is lost but what a reset takes along."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.counting import Counts, Owner, Way, between

WRAP = 1 << 32
STEPS = st.builds(Counts, *[st.integers(0, 1 << 40)] * 4)
# Within ten seconds no link moves half of what 32 bits count: that would be 1.7 Gbit/s, on a machine of 32 bits.
SMALL_STEPS = st.builds(Counts, *[st.integers(0, (1 << 31) - 1)] * 4)


def wrapped(counts: Counts) -> Counts:
    return Counts(*(count % WRAP for count in counts))


def total(steps: list[Counts]) -> Counts:
    found = Counts()
    for step in steps:
        found = found.plus(step)
    return found


@given(st.lists(STEPS, max_size=20))
def test_64_bits_count_everything(steps: list[Counts]) -> None:
    booked, stands = Counts(), Counts()
    for step in steps:
        booked = booked.plus(between(stands, stands.plus(step)))
        stands = stands.plus(step)
    assert booked == stands == total(steps)


@given(SMALL_STEPS, st.lists(SMALL_STEPS.map(lambda step: step._replace(rx_packets=1, tx_packets=1)), max_size=20))
def test_32_bits_wrap_and_nothing_is_lost(start: Counts, steps: list[Counts]) -> None:
    """Bytes wrap every few seconds of a quick link; its packets much later."""
    booked, stands = Counts(), wrapped(start)
    for step in steps:
        now = wrapped(stands.plus(step))
        booked = booked.plus(between(stands, now, 32))
        stands = now
    assert booked == total(steps)


def test_packets_wrap_as_well() -> None:
    before = Counts(100, 100, WRAP - 1, 50)
    assert between(before, Counts(1600, 100, 1, 50), 32) == Counts(1500, 0, 2, 0)


@pytest.mark.parametrize("bits", [64, 32])
def test_a_reset_counts_from_nothing(bits: int) -> None:
    before, after = Counts(WRAP - 10, WRAP - 10, 3_000_000, 3_000_000), Counts(500, 40, 1, 1)
    assert between(before, after, bits) == after
    assert between(before, Counts(), bits) == Counts()


def test_a_reset_of_64_bits_is_seen_by_any_counter() -> None:
    """More came in after the reset than before it: only what was sent tells."""
    assert between(Counts(100, 9000, 1, 9), Counts(5000, 60, 4, 1)) == Counts(5000, 60, 4, 1)


@given(STEPS, STEPS, st.sampled_from([32, 64]))
def test_never_negative(before: Counts, now: Counts, bits: int) -> None:
    if bits == 32:
        before, now = wrapped(before), wrapped(now)
    assert all(0 <= count <= max(WRAP, *now) for count in between(before, now, bits))


@given(st.lists(STEPS, min_size=2, max_size=10), st.lists(st.integers(0, 9), max_size=3))
def test_a_reset_loses_no_more_than_was_not_read(steps: list[Counts], resets: list[int]) -> None:
    """Each reset loses what was counted since the last reading; never anything of before or after."""
    booked = stands = Counts()
    for number, step in enumerate(steps):
        if number in resets:
            stands_now = step  # the counters fell to 0, and `step` came after
            hidden = all(new >= old for old, new in zip(stands, stands_now, strict=True))
            if hidden:  # it looks like a smaller step, which is all that can be known
                continue
        else:
            stands_now = stands.plus(step)
        booked = booked.plus(between(stands, stands_now))
        stands = stands_now
    kept = [step for number, step in enumerate(steps) if number not in resets]
    assert all(have >= want for have, want in zip(booked, total(kept), strict=True))


def test_owners_are_told_apart() -> None:
    ours = Owner(Way.TUNNEL, "wifi", b"Cafe".hex(), "office")
    assert len({ours, ours._replace(way=Way.CARRIER), ours._replace(profile="spare"), ours._replace(network="")}) == 4
