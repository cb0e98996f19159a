"""T7: which packets get through, told from which were answered."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from ipaddress import ip_address

import pytest

from policies.facts import Facts, Link, LinkKind
from policies.mtu import (
    LEAST4,
    LEAST6,
    MOST_TRIES,
    SILENT_TRIES,
    SMALL,
    STEPS,
    Answer,
    Result,
    fitting,
    look,
    path,
    sizes,
    top,
)

OWN = 1420
TRIED = sizes(OWN)


def play(line: int, loss: float = 0.0, seed: int = 1, answers: int = 10**6) -> tuple[Result, Counter[int]]:
    """A line that carries packets of `line` bytes and loses a share; what is larger than `answers` is not answered."""
    dice = random.Random(seed)
    asked: Counter[int] = Counter()
    answered: Counter[int] = Counter()
    while not isinstance(step := look(TRIED, asked, answered), Result):
        assert step == tuple(sorted(step, reverse=True))
        for size in step:
            asked[size] += 1
            answered[size] += size <= min(line, answers) and dice.random() >= loss
    return step, asked


@pytest.mark.parametrize("line", [9000, OWN, 1419, 1408, 1407, 1312, 1281, 1280, 1279, 1000, 576])
def test_the_largest_that_passes_is_found(line: int) -> None:
    best = max(size for size in TRIED if size <= line)
    result, asked = play(line)
    assert result == Result(Answer.FOUND, best)
    assert asked.total() <= 60


def test_a_good_line_costs_two_packets() -> None:
    _, asked = play(OWN)
    assert asked == {OWN: 1, SMALL: 1}


@pytest.mark.parametrize("line, answer", [(50, Answer.SILENT), (400, Answer.SMALL)])
def test_nothing_is_concluded_where_no_size_is_answered(line: int, answer: Answer) -> None:
    assert play(line)[0] == Result(answer)


def test_nobody_answers() -> None:
    result, asked = play(OWN, loss=1.0)
    assert (result.answer, asked) == (Answer.SILENT, {OWN: SILENT_TRIES, SMALL: SILENT_TRIES})


@pytest.mark.parametrize("line", [OWN, 1312])
@pytest.mark.parametrize("loss", [0.1, 0.3, 0.5])
def test_loss_is_rarely_taken_for_a_narrow_line(line: int, loss: float) -> None:
    """Too small a size costs a little speed, too large a one costs transfers."""
    results = [play(line, loss, seed)[0] for seed in range(400)]
    known = [result for result in results if result.answer is Answer.FOUND]
    assert len(known) >= 300
    assert all(result.mtu <= line for result in known), "what was answered did get through"
    best = max(size for size in TRIED if size <= line)
    assert sum(result.mtu < best for result in known) <= 0.03 * len(known)


def test_too_many_lost_to_say() -> None:
    answered = {SMALL: 1}
    asked = dict.fromkeys((*TRIED, SMALL), MOST_TRIES)
    assert look(TRIED, asked, answered) == Result(Answer.LOSSY)


@pytest.mark.parametrize(
    "asked, answered, expected",
    [
        ({}, {}, (OWN, SMALL)),
        ({OWN: 1, SMALL: 1}, {}, (OWN, SMALL)),
        ({OWN: 1, SMALL: 1}, {OWN: 1}, Result(Answer.FOUND, OWN)),
        ({OWN: 1, SMALL: 1}, {SMALL: 1}, (*TRIED, SMALL)),
        (
            {**dict.fromkeys(TRIED, 1), OWN: 2, SMALL: 2},
            {**dict.fromkeys(TRIED[3:], 1), SMALL: 2},
            TRIED[:4],
        ),
        (
            {**dict.fromkeys(TRIED, 1), **dict.fromkeys(TRIED[:4], 2), OWN: 3, SMALL: 2},
            {**dict.fromkeys(TRIED[3:], 1), TRIED[3]: 2, SMALL: 2},
            Result(Answer.FOUND, TRIED[3]),
        ),
    ],
    ids=["nothing yet", "no answer yet", "the largest", "a small one alone", "doubt", "certain enough"],
)  # fmt: skip
def test_steps(asked: Mapping[int, int], answered: Mapping[int, int], expected: object) -> None:
    assert look(TRIED, asked, answered) == expected


def test_what_is_tried() -> None:
    assert all(size % 16 == 0 for size in STEPS), "WireGuard fills packets up"
    assert list(STEPS) == sorted(STEPS, reverse=True)
    assert {LEAST4, LEAST6} <= set(STEPS)
    assert sizes(1300)[:3] == (1300, 1296, 1280)


@pytest.mark.parametrize(
    "own, uplink, ipv6, expected",
    [
        (1420, 1500, True, 1420),
        (1420, None, True, 1420),
        (1420, 9000, True, 1420),
        (1420, 1492, True, 1412),
        (1420, 1400, True, 1320),
        (1420, 1280, True, 1280),
        (1420, 1280, False, 1200),
        (1420, 576, False, 576),
        (1000, 1200, True, 1000),
    ],
)
def test_the_link_under_the_tunnel(own: int, uplink: int | None, ipv6: bool, expected: int) -> None:
    assert top(own, uplink, ipv6) == expected


def test_never_below_what_ip_needs() -> None:
    assert [fitting(mtu, True) for mtu in (1420, 1280, 1200)] == [1420, 1280, 1280]
    assert [fitting(mtu, False) for mtu in (1280, 1200, 500)] == [1280, 1200, 576]


def test_another_gateway_is_another_way() -> None:
    gateways = [(ip_address(text),) for text in ("192.0.2.1", "192.0.2.2")]
    links = [
        Link(2, "wlan0", LinkKind.WIFI, up=True, carrier=True, carrier_changes=number, gateways=each)
        for number, each in enumerate((gateways[0], gateways[0], gateways[1]))
    ]
    first, again, other = (path(Facts(links=(link,)), "wlan0/cafe") for link in links)
    assert first == again
    assert first != other
    assert first != path(Facts(links=(links[0],)), "wlan0/home")
