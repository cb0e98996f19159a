"""`tunwarden traffic` and the rates of `watch`, against the fake service."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.traffic import allowance_words
from ipc.structs import Allowance
from tests.cli.running import daemon, popen, tunwarden
from tests.ipc.fake_service import EVIL, TRAFFIC, USAGE
from tests.ipc.places import STRANGER

pytestmark = pytest.mark.netns  # needs root: other users ask


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with daemon() as place:
        yield place


def test_today(folder: Path) -> None:
    ended = tunwarden(folder, "traffic", who=STRANGER)
    assert (ended.code, ended.err) == (0, "")
    head, tunnel, clear, carrier, now, allowance = ended.out.splitlines()
    assert head.split() == ["TODAY", "RECEIVED", "SENT"]
    assert tunnel.split("  ")[0] == "through the VPN" and tunnel.split()[-4:] == ["150.0", "MB", "12.3", "MB"]
    assert clear.split()[-4:] == ["999", "B", "0", "B"]
    assert carrier.split()[-4:] == ["160.0", "MB", "13.0", "MB"]
    assert now == "Now: 1.2 MB/s in, 80.0 kB/s out"
    assert allowance.startswith("Allowance: 162.3 MB of 200.0 MB are used, 37.7 MB are left; a new day begins in ")


def test_json(folder: Path) -> None:
    today = tunwarden(folder, "traffic", "--json").json
    assert isinstance(today, dict) and today["allowance"]["available"] == 37_654_322
    assert [each["way"] for each in today["today"]] == ["tunnel", "clear", "carrier"]
    lines = tunwarden(folder, "traffic", "--by", "network", "--json").json
    assert isinstance(lines, list) and lines[0]["ssid_hex"] == EVIL.encode().hex()


def test_by_network(folder: Path) -> None:
    """What an access point calls itself steers no terminal; the carrier's share is in the tunnel's already."""
    ended = tunwarden(folder, "traffic", "--by", "network")
    head, *lines = ended.out.splitlines()
    assert head.split() == ["NETWORK", "WAY", "RECEIVED", "SENT"]
    assert [line.split("  ")[-1] for line in lines] == ["600 B"]
    assert "\x1b" not in ended.out and "\\x1b[31m" in ended.out


def test_nothing_was_counted(folder: Path) -> None:
    assert tunwarden(folder, "traffic", "--since", "2027-01-01").out == "Nothing was counted.\n"


@pytest.mark.parametrize("by", USAGE)
def test_csv_is_read_back(folder: Path, by: str) -> None:
    ended = tunwarden(folder, "traffic", "--csv", "--by", by)
    lines = list(csv.DictReader(io.StringIO(ended.out)))
    assert len(lines) == len(USAGE[by])
    for line, usage in zip(lines, USAGE[by], strict=True):
        counts = [int(line[name]) for name in ("rx_bytes", "tx_bytes", "rx_packets", "tx_packets")]
        assert counts == [usage.rx_bytes, usage.tx_bytes, usage.rx_packets, usage.tx_packets]
        assert line["way"] == usage.way
        assert int(line["start"]) == usage.start
        assert line[by][:1] not in ("=", "+", "-", "@"), "no spreadsheet takes it for a formula"


def test_plot(folder: Path) -> None:
    """Downward in time, the longest bar as long as the terminal lets it be, what was sent at its end."""
    ended = tunwarden(folder, "traffic", "--plot", env={"COLUMNS": "80"})
    earlier, later = ended.out.splitlines()
    assert earlier.startswith("2023-11-14 23:00     1.0 MB  ")
    assert later.startswith("2023-11-15 00:00     5.0 MB  ")
    bars = [line[29:] for line in (earlier, later)]
    longest = 80 - 16 - 13
    assert len(bars[1]) == longest and set(bars[1]) == {"▓", "░"}
    assert len(bars[0]) == -(-longest // 5), "a fifth"
    assert bars[0].count("░") == round(len(bars[0]) / 2) and bars[1].count("░") == round(longest / 5)
    narrow = tunwarden(folder, "traffic", "--plot", env={"COLUMNS": "1", "LANG": "C", "PYTHONIOENCODING": "ascii"})
    assert [set(line[29:]) for line in narrow.out.splitlines()] == [{"#", "-"}] * 2


def test_grant(folder: Path) -> None:
    assert tunwarden(folder, "traffic", "--grant").code == 0
    refused = tunwarden(folder, "traffic", "--grant", who=STRANGER)
    assert refused.code == 4


@pytest.mark.parametrize("words", [("traffic", "--follow"), ("watch", "--rates")])
def test_rates_as_they_change(folder: Path, words: tuple[str, ...]) -> None:
    with popen(folder, *words) as process:
        assert process.stdout is not None
        seen = ""
        while "2.5 MB/s in, 80.0 kB/s out" not in seen:
            line = process.stdout.readline()
            assert line, seen
            seen += line
        process.kill()
    assert ("idle" in seen) is (words[0] == "watch")


def test_rates_as_json(folder: Path) -> None:
    with popen(folder, "watch", "--rates", "--json") as process:
        assert process.stdout is not None
        first, second = (json.loads(process.stdout.readline()) for _ in range(2))
        process.kill()
    assert first["state"] == "idle"
    assert second["rx_rate"] == 2_500_000 and second["day"] == TRAFFIC.day


@pytest.mark.parametrize(
    "used, at_limit, colour, words",
    [
        (10, "block", "green", "10 B of 200 B are used, 190 B are left; a new day begins in 1 h 0 min."),
        (160, "block", "yellow", "160 B of 200 B are used, 40 B are left; a new day begins in 1 h 0 min."),
        (210, "block", "red", "210 B of 200 B are used; nothing more passes; a new day begins in 1 h 0 min."),
        (210, "ask", "red", "`tunwarden traffic --grant` gives as much again;"),
        (210, "disconnect", "red", "the VPN is disconnected;"),
    ],
)
def test_the_allowance_in_words(used: int, at_limit: str, colour: str, words: str) -> None:
    allowance = Allowance(True, "day", 200, used, max(0, 200 - used), 3600, at_limit, used >= 200)
    told = allowance_words(allowance, 0.0)
    assert told[0] == colour
    assert words in told[1]
