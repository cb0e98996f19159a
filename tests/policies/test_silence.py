"""A4: "connected, but nothing comes back"."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from policies.counting import Counts
from policies.silence import AFTER_S, LOOK_S, RARELY_S, Silence


def play(*looks: tuple[float, int, int]) -> list[bool]:
    """Times, packets received and packets sent so far."""
    silence = Silence()
    return [silence.look(now, Counts(rx * 100, tx * 100, rx, tx)) for now, rx, tx in looks]


def test_traffic_without_answers_is_told_after_a_while_until_something_comes() -> None:
    looks = [
        (0.0, 5, 5),
        (3.0, 5, 6),
        (6.0, 5, 7),
        (9.0, 5, 8),
        (12.0, 5, 9),
        (15.0, 5, 9),
        (18.0, 6, 9),
        (21.0, 6, 10),
    ]
    assert play(*looks) == [False, False, False, False, True, True, False, False]


def test_one_packet_that_nobody_answers_means_nothing() -> None:
    assert not any(play((0.0, 5, 5), (10.0, 5, 6), *((10.0 * n, 5, 6) for n in range(2, 50))))


def test_it_looks_more_often_while_it_doubts() -> None:
    silence = Silence()
    waits = []
    for now, rx, tx in ((0.0, 1, 1), (10.0, 1, 2), (13.0, 2, 3)):
        silence.look(now, Counts(rx, tx, rx, tx))
        waits.append(silence.wait)
    assert waits == [RARELY_S, LOOK_S, RARELY_S]


def test_another_tunnel_begins_anew() -> None:
    silence = Silence()
    for now in range(20):
        silence.look(now, Counts(0, now, 0, now))
    assert silence.lasts
    silence.forget()
    assert not silence.look(30.0, Counts(0, 99, 0, 99))


@given(st.lists(st.tuples(st.floats(0.1, 60), st.integers(0, 3), st.integers(0, 3)), max_size=30))
def test_never_while_something_comes_within_the_time(steps: list[tuple[float, int, int]]) -> None:
    silence, now, rx, tx, heard = Silence(), 0.0, 0, 0, 0.0
    silence.look(now, Counts())
    for wait, received, sent in steps:
        now, rx, tx = now + wait, rx + received, tx + sent
        heard = now if received else heard
        lasts = silence.look(now, Counts(rx, tx, rx, tx))
        assert not lasts or now - heard >= AFTER_S
