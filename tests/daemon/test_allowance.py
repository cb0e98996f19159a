"""A2 without a kernel: who is told what, when, and what happens at the limit. The kernel's part: tests/netns."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from daemon.accounting import READ_S, SOONEST_S, Accounting
from daemon.allowance import Allowances, size
from daemon.usage_store import UsageStore
from ipc.errors import Error, ServiceError
from policies.counting import Counts
from policies.decide import decide
from policies.decision import Decision, Intent
from policies.facts import Facts
from policies.known_network import KnownNetwork
from policies.quota import REST
from policies.settings import Settings, parse_settings
from policies.settings_tables import Allowance, AtLimit, Period
from policies.states import Event, Phase, State, Target
from tests.daemon.fake_host import CAFE, HOME, WLAN, FakeCounters
from tests.daemon.test_accounting import AT_CAFE, CLOSED, CONNECTED, NOON, PROTECTED, TUNNEL

BERLIN = ZoneInfo("Europe/Berlin")
LIMIT = 1_000_000
WANTED = Intent(Target.PROTECTED)


@dataclass
class Bench:
    """Implements `daemon.allowance.Loop`, and has what the loop would."""

    file: Path
    allowance: Allowance
    facts: Facts = AT_CAFE
    now: float = NOON
    steady: float = 0.0
    state: State = CONNECTED
    intent: Intent = WANTED
    warnings: dict[str, str] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    commands: list[Callable[[], Awaitable[Event]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.settings = Settings(allowance=self.allowance, known=(KnownNetwork(ssid=HOME.ssid),))
        self.kernel = FakeCounters({WLAN.ifindex: Counts(), TUNNEL.ifindex: Counts()})
        self.begin()

    def begin(self) -> None:
        self.accounting = Accounting(
            self.kernel, UsageStore(self.file), lambda _: None, lambda: self.now, lambda: BERLIN
        )
        self.accounting.begin()
        self.accounting.follow(PROTECTED, CONNECTED, CLOSED)
        self.allowances = Allowances(self, self.accounting, lambda: self.steady)

    @property
    def decision(self) -> Decision:
        return decide(self.facts, self.settings, self.intent)

    @decision.setter
    def decision(self, _: Decision) -> None:
        raise AssertionError("it follows from the facts")

    def warn(self, topic: str, text: str) -> None:
        self.warnings[topic] = text

    def post(self, event: Event) -> None:
        self.events.append(event)

    def post_command(self, run: Callable[[], Awaitable[Event]]) -> None:
        self.commands.append(run)

    @property
    def choices(self) -> Bench:
        return self

    def keep(self, intent: Intent) -> None:
        self.intent = intent

    def use(self, count: int) -> float:
        """So many bytes go through the tunnel, then the counters are read; seconds until the next reading."""
        more = Counts(count // 2, count - count // 2, 1, 1)
        self.kernel.counts[TUNNEL.ifindex] = self.kernel.counts[TUNNEL.ifindex].plus(more)
        self.accounting.read()
        return self.allowances.look()

    @property
    def said(self) -> str:
        return self.warnings.get("allowance", "")


def played(
    tmp_path: Path, allowance: Allowance, play: Callable[[Bench], Coroutine[None, None, None] | None], **facts: Facts
) -> None:
    async def run() -> None:
        bench = Bench(tmp_path / "traffic.db", allowance, **facts)
        if (found := play(bench)) is not None:
            await found
        await bench.accounting.end()

    asyncio.run(run())


def test_people_are_told_at_80_and_100_percent_and_at_the_reset(tmp_path: Path) -> None:
    def play(bench: Bench) -> None:
        bench.now = datetime(2026, 11, 22, 23, 50, tzinfo=BERLIN).timestamp()
        said = []
        for used in (700_000, 99_999, 1, 150_000, 50_000 - REST + 1, 10):
            bench.use(used)
            said.append(bench.said)
        assert said[0] == said[1] == ""
        assert said[2] == said[3] == "80 % of the allowance of 1 MB for this day are used."
        assert (
            said[4] == said[5] == "The allowance of 1 MB for this day is used up: nothing passes until it begins anew."
        )
        assert bench.allowances.used_up and bench.allowances.left() == 0
        bench.now = datetime(2026, 11, 23, 0, 0, 1, tzinfo=BERLIN).timestamp()
        bench.use(0)
        assert bench.said == "A new day has begun: 1 MB are there again."
        assert bench.allowances.left() == LIMIT
        bench.steady += 700
        bench.use(0)
        assert bench.said == ""
        assert bench.events, "the status is published anew"

    played(tmp_path, Allowance(limit=LIMIT), play)


def test_what_is_left_is_what_the_kernel_counted_until_now(tmp_path: Path) -> None:
    """Asked whenever rules are set: nothing that passed since the last reading is allowed twice."""

    def play(bench: Bench) -> None:
        bench.use(100)
        bench.kernel.counts[TUNNEL.ifindex] = Counts(200, 200, 2, 2)
        assert bench.allowances.left() == LIMIT + 500 - 400

    played(tmp_path, Allowance(limit=LIMIT, bonus=500), play)


@pytest.mark.parametrize("per, left", [(Period.DAY, LIMIT), (Period.WEEK, LIMIT - 100), (Period.MONTH, LIMIT - 200)])
def test_periods(tmp_path: Path, per: Period, left: int) -> None:
    def play(bench: Bench) -> None:
        for day in (20, 23):  # of November 2026: a Friday, and the Monday after
            bench.now = datetime(2026, 11, day, 12, tzinfo=BERLIN).timestamp()
            bench.use(100)
        bench.now = datetime(2026, 11, 24, 12, tzinfo=BERLIN).timestamp()
        assert bench.allowances.left() == left
        told = bench.allowances.told()
        assert (told.limited, told.total, told.available, told.per) == (True, LIMIT, left, per.value)

    played(tmp_path, Allowance(limit=LIMIT, per=per), play)


def test_a_restart_changes_nothing(tmp_path: Path) -> None:
    async def play(bench: Bench) -> None:
        bench.use(LIMIT)
        bench.allowances.grant()
        bench.use(1)
        before = bench.allowances.left()
        await bench.accounting.end()
        bench.kernel = FakeCounters({WLAN.ifindex: Counts(), TUNNEL.ifindex: bench.kernel.counts[TUNNEL.ifindex]})
        bench.begin()
        assert bench.allowances.left() == before == LIMIT - 1
        bench.now += 86400
        assert bench.allowances.left() == LIMIT, "what was granted was for that day"

    played(tmp_path, Allowance(limit=LIMIT, at_limit=AtLimit.ASK), play)


@pytest.mark.parametrize(
    "wifi, said, wanted",
    [
        (CAFE, None, "block"),
        (HOME, None, "ask"),
        (CAFE, AtLimit.ASK, "ask"),
        (HOME, AtLimit.BLOCK, "block"),
        (None, None, "block"),
    ],
)
def test_at_the_limit_a_network_that_is_not_secure_blocks(
    tmp_path: Path, wifi: object, said: AtLimit | None, wanted: str
) -> None:
    """Open: block. Known: ask. Not identified: block. What the settings say counts everywhere."""

    def play(bench: Bench) -> None:
        assert bench.allowances.told().at_limit == wanted
        bench.use(LIMIT)
        if wanted == "ask":
            bench.allowances.grant()
            bench.use(0)
            assert not bench.allowances.used_up
            assert bench.allowances.left() == LIMIT
        else:
            with pytest.raises(ServiceError) as caught:
                bench.allowances.grant()
            assert caught.value.error is Error.LOCKED

    facts = replace(AT_CAFE, wifi={"wlan0": wifi} if wifi else {})  # type: ignore[dict-item]
    played(tmp_path, Allowance(limit=LIMIT, at_limit=said), play, facts=facts)


def test_nothing_is_granted_before_it_is_needed(tmp_path: Path) -> None:
    def play(bench: Bench) -> None:
        with pytest.raises(ServiceError) as caught:
            bench.allowances.grant()
        assert caught.value.error is Error.NOT_NOW

    played(tmp_path, Allowance(limit=LIMIT, at_limit=AtLimit.ASK), play)
    played(tmp_path, Allowance(at_limit=AtLimit.ASK), play)


def test_disconnect_is_done_by_the_owner_of_the_state(tmp_path: Path) -> None:
    async def play(bench: Bench) -> None:
        bench.use(LIMIT)
        assert bench.intent.target is Target.PROTECTED
        (command,) = bench.commands
        await command()
        assert bench.intent.target is Target.UNPROTECTED
        assert decide(bench.facts, bench.settings, bench.intent).target is Target.UNPROTECTED
        bench.state = State(Phase.IDLE)
        bench.use(10)
        assert len(bench.commands) == 1

    played(tmp_path, Allowance(limit=LIMIT, at_limit=AtLimit.DISCONNECT), play)


def test_what_cannot_be_read_blocks_and_never_disconnects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure is no wish of anybody's: protection stays. Nothing passes the tunnel, for nobody knows what is left."""

    def refuse(*_: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    def play(bench: Bench) -> None:
        bench.use(10)
        with monkeypatch.context() as broken:
            broken.setattr(UsageStore, "between", refuse)
            bench.use(10)
            assert bench.allowances.left() == 0
            assert bench.allowances.used_up and bench.allowances.told().at_limit == "block"
            assert bench.said == "It cannot be read how much of the allowance is used, so nothing passes."
        assert bench.commands == []
        bench.use(10)
        assert bench.said == "" and bench.allowances.left() == LIMIT - 30
        assert bench.intent.target is Target.PROTECTED
        bench.use(LIMIT)
        assert len(bench.commands) == 1, "the control: what is known to be used up does"

    played(tmp_path, Allowance(limit=LIMIT, at_limit=AtLimit.DISCONNECT), play)


def test_what_was_granted_does_not_count_where_nothing_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    def play(bench: Bench) -> None:
        bench.use(LIMIT)
        bench.allowances.grant()
        assert bench.allowances.left() == LIMIT
        monkeypatch.setattr(UsageStore, "between", refuse)
        assert bench.allowances.left() == 0

    played(tmp_path, Allowance(limit=LIMIT, at_limit=AtLimit.ASK), play)


def test_it_looks_sooner_where_little_is_left(tmp_path: Path) -> None:
    """The kernel's count and ours differ by headers; near the limit they are compared more often."""

    def play(bench: Bench) -> None:
        assert bench.use(0) == READ_S
        bench.steady += 10
        assert bench.use(500_000) == 5.0  # 50 kB a second, 500 left
        bench.steady += 10
        assert bench.use(498_000) == SOONEST_S
        bench.now = datetime(2026, 11, 22, 23, 59, 57, tzinfo=BERLIN).timestamp()
        bench.steady += 10
        assert 1.0 <= bench.use(0) <= 3.0, "the reset is not late"

    played(tmp_path, Allowance(limit=LIMIT), play)


def test_without_a_limit_nobody_is_told_anything(tmp_path: Path) -> None:
    def play(bench: Bench) -> None:
        assert bench.use(1 << 50) == READ_S
        assert bench.said == "" and not bench.events and not bench.allowances.used_up
        assert not bench.allowances.told().limited
        assert not bench.decision.metered
        bench.settings = parse_settings('[allowance]\nlimit = "1MB"\n')
        bench.use(0)
        assert bench.allowances.used_up and bench.decision.metered
        bench.settings = Settings()
        bench.use(0)
        assert bench.said == "" and not bench.allowances.used_up

    played(tmp_path, Allowance(), play)


@pytest.mark.parametrize(
    "count, text",
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (1_500_000, "1.5 MB"), (200_000_000, "200 MB"), (10**15, "1000 TB")],
)
def test_sizes(count: int, text: str) -> None:
    assert size(count) == text
