"""Nothing is left of a tunnel, however it ended: links, processes, sockets (wireguard_pair.py)."""

from __future__ import annotations

from typing import Any

import pytest

from tests.daemon.linux.wireguard_pair import CLIENT, LINK, Pair, backend, only_go, pair

__all__ = ["backend", "pair"]
pytestmark = pytest.mark.netns


def test_close_leaves_nothing_and_can_be_repeated(pair: Pair) -> None:
    console = pair.console()
    console.good("close")
    console.connect()
    first, second = console.good("close"), console.good("close")
    print("close", first["ms"], "again", second["ms"])
    assert pair.nothing_left()
    assert console.good("counters")["result"] == "None"
    console.connect()  # and it can be opened again
    console.good("close")
    console.tell("")
    assert console.process.wait() == 0
    assert "Warning" not in console.process.output(), "every socket and process was put away"


@only_go
@pytest.mark.parametrize("found_by", ["pid file", "socket", "link"])
def test_what_a_killed_daemon_left_is_found_and_removed(pair: Pair, found_by: str) -> None:
    console = pair.console()
    console.connect()
    (orphan,) = pair.processes()
    console.process.kill()
    assert pair.processes() == [orphan], "it outlives the daemon: nothing leaks meanwhile"
    match found_by:
        case "pid file":
            # Bound to another inode, the socket answers nobody; only the file tells.
            pair.client.run("mount", "--bind", "/dev/null", f"/run/wireguard/{LINK}.sock")
        case "socket":
            pair.client.run("rm", "/run/tunwarden/wireguard-go.pid")
        case "link":
            pair.client.write("/run/tunwarden/wireguard-go.pid", "garbage", 0o600)
    successor = pair.console()
    if found_by == "pid file":
        successor.ask("close")
        pair.client.run("umount", f"/run/wireguard/{LINK}.sock")
    else:
        successor.good("close")
    assert orphan not in pair.processes()
    successor.good("close")
    assert pair.nothing_left()
    successor.connect()


def test_open_takes_over_from_a_killed_daemon(pair: Pair) -> None:
    console = pair.console()
    console.connect()
    console.process.kill()
    successor = pair.console()
    successor.connect()
    assert len(pair.processes()) == (pair.backend == "go")


@only_go
def test_a_stopped_process_is_killed_in_bounded_time(pair: Pair) -> None:
    console = pair.console()
    console.connect()
    (pid,) = pair.processes()
    pair.client.run("kill", "-STOP", str(pid))
    print("close of a stopped process", console.good("close")["ms"], "ms")
    assert pair.nothing_left()


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"addresses": [f"{CLIENT}/26", f"{CLIENT}/26"]}, "tunnel-failed: configure the tunnel link: "),
        ({"resolved": []}, "tunnel-failed: open the tunnel to vpn.example: its name was not resolved"),
    ],
)
def test_a_failure_half_way_leaves_nothing(pair: Pair, changes: dict[str, Any], error: str) -> None:
    pair.client.run("mkdir", "-p", "/run/tunwarden")
    console = pair.console(**changes)
    answer = console.ask("open")
    print(answer)
    assert answer["error"].startswith(error)
    assert pair.nothing_left()


def test_a_taken_name_is_taken_back(pair: Pair) -> None:
    """The name is ours: a link of that name, whoever made it, goes."""
    pair.client.ip(f"link add {LINK} type veth peer name other0")
    pair.console().connect()


@pytest.mark.parametrize("part", [0.03, 0.2, 0.4, 0.6, 0.8, 0.95])
def test_open_can_be_cancelled_anywhere(pair: Pair, part: float) -> None:
    console = pair.console()
    console.good("open")  # everything is imported and warm, so that the next one's time means something
    console.good("close")
    whole = console.good("open")["ms"] / 1000
    console.good("close")
    console.ask(f"open-cancelled {whole * part}")
    console.good("close")
    assert pair.nothing_left()
    console.connect()
