"""A2: the kernel itself ends what an allowance allows. Real traffic, as fast as it goes, between two readings.

The judge stands behind our rules: what it counts has passed them. Its positive control is the same traffic without an
allowance.
"""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from ipc.structs import Allowance, Status
from lab.addresses import ECHO_PORT, SINK_PORT, SOURCE_PORT
from lab.processes import LabError
from lab.subject import SETTINGS, Subject
from lab.topology import Laboratory
from tests.netns.test_dead_tunnels import pushing

pytestmark = pytest.mark.netns

LONG_S = 25.0
LIMIT = 3_000_000
PAST = 64 << 10  # bytes that may pass beyond it
JUDGE = """
table inet judge {
    counter in { }
    counter out { }
    chain behind_input {
        type filter hook input priority 300
        iifname "tunwarden0" counter name "in"
    }
    chain behind_forward {
        type filter hook forward priority 300
        iifname "tunwarden0" counter name "in"
    }
    chain behind_output {
        type filter hook postrouting priority 300
        oifname "tunwarden0" counter name "out"
    }
}
"""


def passed(lab: Laboratory) -> int:
    """Bytes that have passed our rules, in and out by the tunnel, since the judge was there."""
    said = json.loads(lab.laptop.run("nft", "-j", "list", "counters", "table", "inet", "judge").stdout)
    return sum(each["counter"]["bytes"] for each in said["nftables"] if "counter" in each)


def download(lab: Laboratory, size: int) -> int:
    """From the internet, as fast as it comes; bytes that came until `size`, or until nothing more did."""
    got = 0
    with lab.laptop.socket(socket.AF_INET, socket.SOCK_STREAM) as source:
        source.settimeout(3)
        try:
            source.connect((str(lab.plan.internet4), SOURCE_PORT))
            while got < size and (part := source.recv(1 << 16)):
                got += len(part)
        except OSError:
            pass
    return got


def upload(lab: Laboratory, size: int) -> int:
    """Bytes that the internet says it got; 0 where it could not be asked."""
    with lab.laptop.socket(socket.AF_INET, socket.SOCK_STREAM) as sink:
        sink.settimeout(3)
        try:
            sink.connect((str(lab.plan.internet4), SINK_PORT))
            sink.sendall(bytes(size))
            sink.shutdown(socket.SHUT_WR)
            return int(sink.recv(100))
        except OSError:
            return 0


def exchange(lab: Laboratory, times: int = 100) -> int:
    """Datagrams of 1,200 bytes to the internet and back, one after the other; how many came back."""
    back, question = 0, bytes(1200)
    with lab.laptop.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.settimeout(1)
        asker.connect((str(lab.plan.internet4), ECHO_PORT))
        for _ in range(times):
            with contextlib.suppress(OSError):
                asker.send(question)
                back += asker.recv(4096) == question
    return back


def use_up(lab: Laboratory, subject: Subject, wanted: Callable[[Status], bool] | str) -> Status:
    """Send until the status says so. A dropped packet may leave a rest, which somebody has to want after the next
    reading: a transfer has ended by then. What comes in is counted, though dropped, and so uses up the last of it.
    """
    ends = time.monotonic() + LONG_S
    while True:
        upload(lab, 2 * LIMIT)
        with contextlib.suppress(LabError), pushing(lab):
            return subject.wait(wanted, 1.5)
        assert time.monotonic() < ends, subject.status()


def allowance(subject: Subject) -> Allowance:
    with subject.client(LONG_S) as client:
        return client.get_traffic().allowance


def settings(at_limit: str = "", limit: str = "3MB") -> str:
    how = f'at_limit = "{at_limit}"\n' if at_limit else ""
    return SETTINGS.replace("[portal]", f'[allowance]\nlimit = "{limit}"\n{how}\n[portal]')


Begin = Callable[[str], Subject]


@pytest.fixture
def begin(lab: Laboratory) -> Iterator[Begin]:
    started: list[Subject] = []

    def connected(text: str) -> Subject:
        lab.laptop.run("nft", "-f", "-", input=JUDGE)
        subject = Subject(lab, text)
        subject.start(LONG_S)
        subject.set_up()
        lab.join("cafe")
        subject.wait("connected", LONG_S)
        started.append(subject)
        return subject

    yield connected
    for subject in started:
        if subject.process is not None and subject.process.running:
            assert "Traceback" not in subject.process.output(), subject.process.output()


def is_used_up(status: Status) -> bool:
    return status.detail == "allowance-used-up"


def test_without_an_allowance_all_of_it_passes(lab: Laboratory, begin: Begin) -> None:
    """The positive control."""
    begin(SETTINGS)
    assert download(lab, 2 * LIMIT) >= 2 * LIMIT
    assert passed(lab) > 2 * LIMIT


@pytest.mark.parametrize("move", [download, upload])
def test_not_more_than_the_allowance_passes(lab: Laboratory, begin: Begin, move: Callable[..., int]) -> None:
    """In either direction; said, and nothing gets past the tunnel instead."""
    subject = begin(settings())
    with lab.meter() as meter:
        assert move(lab, 4 * LIMIT) < LIMIT
        use_up(lab, subject, is_used_up)
        assert LIMIT / 2 < passed(lab) <= LIMIT + PAST
        assert move(lab, LIMIT) == 0
        assert passed(lab) <= LIMIT + PAST
        assert meter.leaks() == []
        meter.positive_control()
    status = subject.status()
    assert (status.state, status.protected, status.blocking) == ("connected", True, True)
    assert any("used up" in text for text in status.warnings), status.warnings
    told = allowance(subject)
    assert (told.limited, told.total, told.available, told.used_up) == (True, LIMIT, 0, True)
    assert (told.per, told.at_limit) == ("day", "block"), "on an open network"
    assert not any("changed our rules" in text for text in status.warnings), "the quota's own news is no tampering"


def test_it_survives_whatever_happens_to_the_rules(lab: Laboratory, begin: Begin) -> None:
    """Others remove our table, rules are rendered anew, the tunnel is, the daemon is killed, stops, starts."""
    subject = begin(settings())

    def removed() -> None:
        lab.laptop.run("nft", "delete", "table", "inet", "tunwarden")

    def other_rules() -> None:
        with subject.client(LONG_S) as client:
            now = next(each.value for each in client.list_settings() if each.key == "protection.allow_lan")
            client.change_setting("protection.allow_lan", {"true": "false", "false": "true"}[now])

    def killed() -> None:
        subject.kill()
        subject.start(LONG_S)

    def restarted() -> None:
        subject.stop()
        subject.start(LONG_S)

    def reconnected() -> None:
        subject.cli("reconnect")

    before = 0
    for event in (removed, other_rules, killed, restarted, reconnected, other_rules, removed):
        assert exchange(lab) >= 95, f"before {event.__name__}"
        event()
        subject.wait("connected", LONG_S)
        told = allowance(subject)
        assert before + 200_000 < told.used < LIMIT
        before = told.used
        assert abs(told.used - passed(lab)) <= PAST
    download(lab, 2 * LIMIT)
    use_up(lab, subject, is_used_up)
    assert LIMIT / 2 < passed(lab) <= LIMIT + PAST
    for event in (removed, killed, reconnected):
        event()
        subject.wait("connected", LONG_S)
        assert exchange(lab, 3) == 0
    assert passed(lab) <= LIMIT + PAST


def test_ask_lets_people_grant_as_much_again(lab: Laboratory, begin: Begin) -> None:
    subject = begin(settings("ask"))
    use_up(lab, subject, is_used_up)
    assert passed(lab) <= LIMIT + PAST
    assert any("traffic --grant" in text for text in subject.status().warnings)
    subject.cli("traffic", "--grant")
    subject.wait(lambda status: not is_used_up(status), LONG_S)
    assert allowance(subject).total == 2 * LIMIT
    assert exchange(lab) >= 95
    use_up(lab, subject, is_used_up)
    assert LIMIT < passed(lab) <= 2 * LIMIT + PAST
    subject.kill()
    subject.start(LONG_S)
    subject.wait(is_used_up, LONG_S)
    assert allowance(subject).total == 2 * LIMIT, "what was granted outlives a restart"


def test_block_cannot_be_lifted_by_people(lab: Laboratory, begin: Begin) -> None:
    subject = begin(settings("block"))
    use_up(lab, subject, is_used_up)
    refused = json.loads(subject.cli("traffic", "--grant", "--json", check=False))
    assert refused["error"] == "org.tunwarden.Daemon1.Error.Locked"
    lab.laptop.write("/etc/tunwarden/tunwarden.toml", settings("block", "9MB"))  # a greater one counts at once
    subject.wait(lambda status: not is_used_up(status), LONG_S)
    assert exchange(lab) >= 95


def test_disconnect_ends_protection(lab: Laboratory, begin: Begin) -> None:
    """The administrator wants it so."""
    subject = begin(settings("disconnect"))
    status = use_up(lab, subject, "idle")
    assert status.target == "unprotected"
    assert passed(lab) <= LIMIT + PAST
    assert any("disconnected" in text for text in status.warnings)
