"""I6: a trace is off by default, bounded in time, size and age, root's alone, and without secrets."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon import trace as module
from daemon.trace import FILE_BYTES, FILES, KEPT_S, LONGEST_MIN, RECORD_BYTES, Trace


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def trace(tmp_path: Path, clock: Clock) -> Iterator[Trace]:
    trace = Trace(tmp_path / "trace", clock)
    yield trace
    trace.stop()


def records(trace: Trace) -> list[dict[str, object]]:
    return [json.loads(line) for line in trace.tail(FILES * FILE_BYTES).splitlines()]


def test_off_until_asked_for(trace: Trace, tmp_path: Path) -> None:
    trace.write("info", {"event": "state"})
    assert not (tmp_path / "trace").exists()
    assert (trace.on, trace.size, trace.tail(100)) == (False, 0, "")
    trace.resume()
    assert not trace.on


def test_what_is_written(trace: Trace, tmp_path: Path) -> None:
    trace.start(30)
    trace.write("debug", {"event": "handled", "what": "Café", "key": "A" * 43 + "="})
    trace.stop()
    trace.write("info", {"event": "later"})
    (record,) = records(trace)
    assert record == {
        "at": "2023-11-14T22:13:20.000000+00:00", "level": "debug", "event": "handled", "what": "Café", "key": "<key>",
    }  # fmt: skip
    assert oct((tmp_path / "trace").stat().st_mode)[-3:] == "700"
    assert oct((tmp_path / "trace/trace.jsonl").stat().st_mode)[-3:] == "600"


def test_it_ends_by_itself(trace: Trace, clock: Clock) -> None:
    trace.start(30)
    clock.now += 30 * 60 - 1
    trace.write("info", {"event": "one"})
    clock.now += 2
    trace.write("info", {"event": "two"})
    assert (trace.on, [each["event"] for each in records(trace)]) == (False, ["one"])


def test_a_clock_that_is_set_back_does_not_make_it_endless(trace: Trace, clock: Clock) -> None:
    trace.start(LONGEST_MIN)
    clock.now -= 3600
    assert not trace.on


def test_a_restart_goes_on_where_it_was_but_not_beyond_its_time(trace: Trace, tmp_path: Path, clock: Clock) -> None:
    trace.start(30, hide_names=True, names=["Home"])
    trace.write("info", {"event": "at Home"})
    after = Trace(tmp_path / "trace", clock)
    after.resume(["Home"])
    assert (after.on, after.hide_names, after.until) == (True, True, trace.until)
    after.write("info", {"event": "again at Home"})
    assert [each["event"] for each in records(after)] == ["at <network 1>", "again at <network 1>"]
    clock.now += 31 * 60
    late = Trace(tmp_path / "trace", clock)
    late.resume()
    assert not late.on
    assert not (tmp_path / "trace/until.json").exists()


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"until": "x", "hide_names": 1}', '{"until": 1e300, "hide_names": false}']
)
def test_a_damaged_note_is_no_trace(trace: Trace, tmp_path: Path, text: str) -> None:
    trace.start(5)
    (tmp_path / "trace/until.json").write_text(text)
    after = Trace(tmp_path / "trace", lambda: 1_700_000_000.0)
    after.resume()
    assert not after.on


def test_size_is_bounded(trace: Trace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FILE_BYTES", 20_000)
    trace.start(5)
    for number in range(2000):
        trace.write("info", {"event": "x" * 100, "number": number})
    trace.write("info", {"event": "y" * 10 * RECORD_BYTES})
    assert 60_000 < trace.size <= FILES * 20_000
    assert len(list(trace.folder.iterdir())) == FILES + 1, "and the note"
    assert trace.tail(1 << 20).splitlines()[-1].endswith("... (cut)")
    numbers = [json.loads(line)["number"] for line in trace.tail(1 << 20).splitlines()[:-1]]
    assert numbers == list(range(numbers[0], 2000)), "the newest, and none is missing"
    tail = trace.tail(RECORD_BYTES + 1000)
    assert len(tail) <= RECORD_BYTES + 1000 and tail.startswith('{"at"')


def test_files_go_after_a_week(trace: Trace, clock: Clock) -> None:
    trace.start(5)
    trace.write("info", {"event": "x"})
    trace.stop()
    file = trace.folder / "trace.jsonl"
    os.utime(file, (clock.now, clock.now))
    clock.now += KEPT_S - 1
    trace.tidy()
    assert file.exists()
    clock.now += 2
    trace.tidy()
    assert not file.exists()


def test_a_disk_that_refuses_ends_it_and_nothing_else(trace: Trace, monkeypatch: pytest.MonkeyPatch) -> None:
    trace.start(5)

    def full(file: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "write", full)
    trace.write("info", {"event": "x"})
    assert (trace.on, trace.trouble) == (False, f"{trace.folder}: No space left on device")


@pytest.mark.parametrize("way", ["link", "folder link"])
def test_it_follows_no_link(trace: Trace, tmp_path: Path, way: str) -> None:
    victim = tmp_path / "victim"
    if way == "link":
        victim.write_text("precious")
        trace.start(5)
        (tmp_path / "trace/trace.jsonl").symlink_to(victim)
        trace.write("info", {"event": "x"})
        assert (victim.read_text(), trace.on) == ("precious", False)
        return
    victim.mkdir()
    (tmp_path / "trace").symlink_to(victim)
    with pytest.raises(NotADirectoryError):
        trace.start(5)
    assert list(victim.iterdir()) == []
