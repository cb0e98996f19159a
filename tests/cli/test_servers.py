"""tunwarden servers, and `connect` with a choice: what is asked for and what is shown."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.servers import speed
from tests.cli.running import daemon, tunwarden
from tests.ipc.fake_service import SERVERS
from tests.ipc.places import MEMBER, STRANGER

pytestmark = pytest.mark.netns  # needs root: other users ask


@pytest.fixture
def folder() -> Iterator[Path]:
    with daemon() as place:
        yield place


def test_the_list(folder: Path) -> None:
    ended = tunwarden(folder, "servers", who=STRANGER)
    assert (ended.code, ended.err) == (0, "")
    _, first, second, third = ended.out.splitlines()
    assert first.split() == ["se-1", "Malmö,", "SE", "fast", "in", "12", "ms,", *first.split()[7:]]
    assert first.endswith("in use, chosen, favourite")
    assert "not, " in second, "it was asked and did not answer"
    assert third.split() == ["plain"]
    told: Any = tunwarden(folder, "servers", "--json", who=STRANGER).json
    assert [each["name"] for each in told] == ["se-1", "de-1", "plain"]
    assert "de-1" in tunwarden(folder, "servers", "--country", "de").out
    assert tunwarden(folder, "servers", "--country", "NO").out == "No server there.\n"


def test_import_remove_favourite(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "list.toml"
    file.write_text("[[servers]]\n" * 2)
    assert tunwarden(folder, "servers", "import", "home", str(file)).out == "The profile home has 2 servers now.\n"
    assert tunwarden(folder, "servers", "import", "home", "-", "--json", stdin="[[servers]]").json == {"imported": 1}
    assert tunwarden(folder, "servers", "favourite", "add", "se-1", who=MEMBER).out == "se-1 is a favourite.\n"
    assert "no longer" in tunwarden(folder, "servers", "favourite", "remove", "se-1", who=MEMBER).out
    assert "own server again" in tunwarden(folder, "servers", "remove", "home").out


@pytest.mark.parametrize(
    ("words", "server"),
    [
        (("--server", "se-1"), "se-1"),
        (("--country", "se"), "country:SE"),
        (("--fastest",), "fastest"),
        (("--favourites",), "favourites"),
        (("--random",), "random"),
    ],
)
def test_connect(folder: Path, words: tuple[str, ...], server: str) -> None:
    """The fake service tells the choice back as the server's name."""
    ended = tunwarden(folder, "connect", *words, "--wait", who=MEMBER)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith(f"Protected: connected through home ({server}, 198.51.100.7:51820).\n")
    assert f"server {server}, 198.51.100.7:51820" in tunwarden(folder, "status").out


@pytest.mark.parametrize(
    ("words", "code", "error"),
    [
        (("connect", "--server", "gone"), 1, "no gone"),
        (("connect", "--server", "a", "--fastest"), 2, "usage"),
        (("servers", "import", "home"), 2, "usage"),
        (("servers", "import", "home", "/nonexistent/file"), 1, "No such file"),
        (("servers", "favourite", "drop", "a"), 2, "usage"),
    ],
)
def test_failures(folder: Path, words: tuple[str, ...], code: int, error: str) -> None:
    ended = tunwarden(folder, *words)
    assert ended.code == code, ended
    assert error in ended.err


def test_who_may(folder: Path) -> None:
    for words in (("servers", "import", "home", "-"), ("servers", "remove", "home")):
        assert tunwarden(folder, *words, who=MEMBER).code == 4
    for words in (("servers", "favourite", "add", "a"), ("connect", "--fastest")):
        assert tunwarden(folder, *words, who=STRANGER).code == 4


def test_how_it_answered() -> None:
    first, silent, unasked = SERVERS
    assert speed(first, first.measured + 125) == "in 12 ms, 2 min ago"
    assert speed(first, first.measured - 100) == "in 12 ms"
    assert speed(silent, silent.measured) == "not"
    assert speed(unasked) == ""
