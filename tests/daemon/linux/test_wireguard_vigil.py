"""T5: when a silent tunnel is called dead, and when it is not. Simulated clocks, no network."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from daemon.linux.wireguard_device import PeerState
from daemon.linux.wireguard_vigil import (
    BUSY_LOOK,
    CALM,
    CHATTER,
    DEAF,
    ECHO_WINDOW,
    FIRST_LOOK,
    IDLE_LOOK,
    KEY_LIFE,
    MORE_TRIES,
    PATIENCE,
    PROBE_TRIES,
    SILENCE,
    SLOW,
    Vigil,
    probe_tries,
)

LIMIT = 6.0  # seconds of traffic within which a dead server is noticed
ECHO = 80  # bytes of one in the counters


def watch(keepalive: int, *traffic: tuple[int, int], rtt: float | None = None) -> list[tuple[float, bool]]:
    """Feed (tx, rx) growth, one pair a look, at the pace the vigil asks for: (time, suspicious) after each."""
    now, state = 0.0, PeerState(rx=1000, tx=1000, handshake=1.0)
    vigil, seen = Vigil(now, state, keepalive, rtt=rtt), []
    for tx, rx in traffic:
        now += vigil.wait
        state = replace(state, tx=state.tx + tx, rx=state.rx + rx)
        vigil.look(now, state)
        seen.append((now, vigil.suspicious))
    return seen


@pytest.mark.parametrize("rtt", [None, 0.02])
def test_an_idle_tunnel_is_looked_at_now_and_then_and_never_suspected(rtt: float | None) -> None:
    seen = watch(25, *[(0, 0), (0, 0), (0, 0), (0, 0), (32, 0)] * 6, rtt=rtt)
    first = FIRST_LOOK if rtt is None else BUSY_LOOK
    assert [now for now, _ in seen] == [first + IDLE_LOOK * n for n in range(30)]
    assert not any(suspicious for _, suspicious in seen), "a keepalive is not answered"


def test_answered_traffic_is_looked_at_each_second_and_never_suspected() -> None:
    seen = watch(0, (500, 500), *[(1000, 90)] * 60)
    assert seen[1][0] - seen[0][0] == BUSY_LOOK
    assert not any(suspicious for _, suspicious in seen)


def test_without_echoes_unanswered_data_is_suspected_after_the_silence() -> None:
    busy = watch(0, (500, 500), (500, 500), *[(500, 0)] * 3)
    assert [suspicious for _, suspicious in busy] == [False] * 4 + [True]
    assert busy[-1][0] - busy[1][0] == SILENCE


@pytest.mark.parametrize("came", sorted(CHATTER))
def test_without_echoes_what_a_deaf_server_sends_by_itself_is_no_answer(came: int) -> None:
    assert watch(0, (500, 500), *[(500, came)] * 4)[-1][1]


def test_after_an_answered_probe_what_goes_one_way_is_left_in_peace_longer() -> None:
    vigil, looks = Vigil(0.0, PeerState(rx=1000, tx=1000), 0, PATIENCE), [(1.0, 2000), (2.0, 3000), (3.3, 4000)]
    for now, tx in looks:
        vigil.look(now, PeerState(rx=1000, tx=tx))
        assert not vigil.suspicious
    vigil.look(PATIENCE, PeerState(rx=1000, tx=5000))
    assert vigil.suspicious


@pytest.mark.parametrize("looked_before", [IDLE_LOOK, BUSY_LOOK + SILENCE, PATIENCE])
def test_t5_without_echoes_a_dead_server_is_noticed_within_6_s_of_traffic(looked_before: float) -> None:
    assert looked_before + sum((*PROBE_TRIES, *MORE_TRIES)) < LIMIT


def test_t5_with_echoes_a_dead_server_is_noticed_within_6_s_of_traffic() -> None:
    """Beside what looks take: a tenth of a second."""
    assert max(IDLE_LOOK, CALM) + ECHO_WINDOW + SLOW + sum(PROBE_TRIES) + 0.1 < LIMIT


def test_data_after_a_pause_is_suspected_at_the_first_look() -> None:
    assert watch(0, (0, 0), (96, 0)) == [(FIRST_LOOK, False), (FIRST_LOOK + IDLE_LOOK, True)]


def test_one_answer_ends_the_suspicion() -> None:
    assert not any(suspicious for _, suspicious in watch(0, (96, 96), *[(96, 0), (96, 0), (96, 64)] * 9))


def test_an_unanswered_handshake_counts_as_traffic() -> None:
    assert watch(25, (0, 0), (148, 0))[-1][1]
    assert watch(25, (0, 0), (180, 0))[-1][1]


def test_keepalives_without_a_new_handshake_for_a_key_life_are_suspect() -> None:
    with_keepalive = watch(25, *[(0, 0)] * 70)
    first = next(now for now, suspicious in with_keepalive if suspicious)
    assert KEY_LIFE < first <= KEY_LIFE + IDLE_LOOK
    assert not any(suspicious for _, suspicious in watch(0, *[(0, 0)] * 100)), "without keepalives, idle is idle"


def test_counters_that_start_anew_are_no_traffic() -> None:
    vigil = Vigil(0.0, PeerState(rx=5, tx=5000), 0)
    vigil.look(5.0, PeerState(rx=5, tx=0))
    assert not vigil.suspicious


def test_echoes_are_no_traffic_themselves() -> None:
    """Else each would ask for the next, for ever."""
    vigil = Vigil(0.0, PeerState(rx=1000, tx=1000), 0, rtt=0.02)
    vigil.look(1.0, PeerState(rx=1000, tx=1000 + ECHO), own=ECHO)
    assert (vigil.wait, vigil.echo) == (IDLE_LOOK, False)


# --- a line, and a server at its other end ----------------------------------------------------------------------------


@dataclass
class Line:
    """Packets are lost by chance, each way; the server may die, or one of the ways, at a moment."""

    dice: random.Random
    loss: float = 0.0
    rtt: float = 0.02
    up_ends: float = float("inf")
    down_ends: float = float("inf")
    echoes: bool = True  # the server answers them

    def up(self, now: float) -> bool:
        return now < self.up_ends and self.dice.random() >= self.loss

    def down(self, now: float) -> bool:
        return now < self.down_ends and self.dice.random() >= self.loss


Traffic = Callable[[float, float], Iterator[tuple[float, int, int]]]  # between two moments: when, bytes up, bytes back


class Run:
    """The driver's loop (`daemon.linux.wireguard._Open`) over a line, with the clock of the simulation."""

    def __init__(self, line: Line, traffic: Traffic, pushed: Traffic | None = None) -> None:
        """`pushed`: what the server sends by itself; its bytes back."""
        self.line, self.traffic, self.pushed = line, traffic, pushed
        self.now = self.rx = self.tx = self.handshake = 0.0
        self.coming: list[tuple[float, int]] = []  # when, bytes
        self.echoes: list[tuple[float, float]] = []  # when the answer comes, when it was sent
        self.probes = self.own = 0
        self.rtt: float | None = None

    def until(self, end: float) -> float | None:
        """Runs; when the tunnel was called dead, or None."""
        vigil, deaf = Vigil(self.now, self.state, 0), 0
        while self.now < end:
            self.pass_time(vigil.wait)
            rtt = self.heard()
            if rtt is not None:
                deaf, self.rtt = 0, rtt
            vigil.look(self.now, self.state, self.own, rtt)
            self.own = 0
            if vigil.echo:
                self.send_echo()
            if vigil.suspicious:
                deaf += 1
                if not self.probe():
                    return self.now
                self.rtt = None if deaf >= DEAF else self.rtt
                vigil = Vigil(self.now, self.state, 0, PATIENCE, self.rtt)
        return None

    @property
    def state(self) -> PeerState:
        return PeerState(rx=int(self.rx), tx=int(self.tx), handshake=self.handshake)

    def pass_time(self, seconds: float) -> None:
        end = self.now + seconds
        for when, up, back in self.traffic(self.now, end):
            self.tx += up
            if back and self.line.up(when) and self.line.down(when + self.line.rtt / 2):
                heapq.heappush(self.coming, (when + self.line.rtt, back))
        if self.pushed is not None:
            for when, _, back in self.pushed(self.now, end):
                if self.line.down(when):
                    heapq.heappush(self.coming, (when + self.line.rtt / 2, back))
        self.now = end
        while self.coming and self.coming[0][0] <= end:
            self.rx += heapq.heappop(self.coming)[1]

    def send_echo(self) -> None:
        self.tx += ECHO
        self.own += ECHO
        if self.line.echoes and self.line.up(self.now) and self.line.down(self.now + self.line.rtt / 2):
            heapq.heappush(self.echoes, (self.now + self.line.rtt, self.now))
            heapq.heappush(self.coming, (self.now + self.line.rtt, ECHO))

    def heard(self) -> float | None:
        rtt = None
        while self.echoes and self.echoes[0][0] <= self.now:
            due, sent = heapq.heappop(self.echoes)
            rtt = due - sent
        return rtt

    def probe(self) -> bool:
        self.probes += 1
        for wait in probe_tries(self.rtt, self.line.rtt):
            begun = self.now
            answered = self.line.up(begun) and self.line.down(begun + self.line.rtt / 2) and self.line.rtt <= wait
            self.pass_time(min(wait, self.line.rtt) if answered else wait)
            if answered:
                self.handshake = self.now
                return True
        return False


def steady(every: float, up: int = 200, back: int = 600) -> Traffic:
    """A packet each so many seconds, answered with `back` bytes, or not at all."""

    def between(begin: float, end: float) -> Iterator[tuple[float, int, int]]:
        number = int(begin / every) + 1
        while number * every <= end:
            yield number * every, up, back
            number += 1

    return between


def browsing(begin: float, end: float) -> Iterator[tuple[float, int, int]]:
    """Twenty seconds of pages, ten of reading."""
    return (each for each in steady(0.1)(begin, end) if each[0] % 30 < 20)


TRAFFIC: dict[str, Traffic] = {
    "browsing": browsing,
    "a call": steady(0.02),
    "one question in four seconds": steady(4.0),
    "an upload that nobody answers": steady(0.1, back=0),
    "one datagram in a minute": steady(60.0, back=0),
}


@pytest.mark.parametrize("traffic", TRAFFIC.values(), ids=TRAFFIC)
@pytest.mark.parametrize("rtt", [0.02, 0.8])
def test_t5_no_false_alarm_in_a_thousand_minutes(traffic: Traffic, rtt: float) -> None:
    """30 % lost each way, 800 ms there and back, simulated; the server answers echoes."""
    run = Run(Line(random.Random(6), loss=0.3, rtt=rtt), traffic)
    assert run.until(1000 * 60.0) is None


def test_the_line_is_as_bad_as_it_should_be() -> None:
    """The positive control: the same line without echoes, where single handshakes decide, does raise false alarms."""
    run = Run(Line(random.Random(6), loss=0.3, rtt=0.8, echoes=False), steady(4.0))
    assert run.until(1000 * 60.0) is not None


@pytest.mark.parametrize("traffic", TRAFFIC.values(), ids=TRAFFIC)
def test_t5_without_echoes_none_on_a_line_that_loses_a_tenth(traffic: Traffic) -> None:
    run = Run(Line(random.Random(6), loss=0.1, echoes=False), traffic)
    assert run.until(1000 * 60.0) is None


def test_echoes_cost_one_packet_in_two_seconds_of_traffic_and_none_without() -> None:
    run = Run(Line(random.Random(1)), steady(0.1, back=0))
    sent = 0
    counted = run.send_echo

    def count() -> None:
        nonlocal sent
        sent += 1
        counted()

    run.send_echo = count  # type: ignore[method-assign]
    assert run.until(600.0) is None
    assert 0 < sent <= 600 / CALM + 10
    assert run.probes == 0
    sent, run.traffic = 0, steady(10_000.0)
    assert run.until(1200.0) is None
    assert sent <= 2


WAYS = st.sampled_from(["up", "down", "both"])


@given(
    ends=WAYS, died=st.floats(20.0, 60.0), every=st.floats(0.02, 0.5), back=st.sampled_from([0, 96, 600]),
    rtt=st.floats(0.001, 0.14), echoes=st.booleans(), chatter=st.sampled_from([32, 148]), seed=st.integers(0, 99),
)  # fmt: skip
@example(ends="up", died=21.9375, every=0.5, back=0, rtt=0.125, echoes=False, chatter=32, seed=0)
def test_t5_dead_within_6_s_of_traffic(
    ends: str, died: float, every: float, back: int, rtt: float, echoes: bool, chatter: int, seed: int
) -> None:
    """Whenever it dies: the server, or one of the two ways. A deaf server repeats handshakes and sends keepalives."""
    line = Line(random.Random(seed), rtt=rtt, echoes=echoes)
    line.up_ends = died if ends in ("up", "both") else float("inf")
    line.down_ends = died if ends in ("down", "both") else float("inf")
    run = Run(line, steady(every, back=back), steady(5.0, back=chatter))
    called = run.until(died + 30.0)
    assert called is not None
    assert died < called <= died + LIMIT


@given(died=st.floats(20.0, 60.0), gap=st.floats(0.05, 3.0), rtt=st.floats(0.001, 0.14))
def test_t5_a_server_that_only_sends_does_not_hear(died: float, gap: float, rtt: float) -> None:
    """The way to it has ended, and it pushes data all the time: only an answer to what we sent tells."""
    run = Run(Line(random.Random(2), rtt=rtt, up_ends=died), steady(0.3, back=96), steady(gap, back=1400))
    called = run.until(died + 30.0)
    assert called is not None
    assert died < called <= died + LIMIT


@given(pause=st.floats(10.0, 60.0), rtt=st.floats(0.001, 0.14), echoes=st.booleans())
def test_t5_the_first_packets_after_a_pause_find_a_dead_server(pause: float, rtt: float, echoes: bool) -> None:
    line = Line(random.Random(3), rtt=rtt, echoes=echoes, up_ends=15.0, down_ends=15.0)

    def traffic(begin: float, end: float) -> Iterator[tuple[float, int, int]]:
        return (each for each in steady(0.2)(begin, end) if not 12.0 < each[0] < 15.0 + pause)

    called = Run(line, traffic).until(15.0 + pause + 30.0)
    assert called is not None
    assert called <= 15.0 + pause + LIMIT + 0.2
