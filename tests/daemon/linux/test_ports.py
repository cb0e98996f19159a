"""Whose netlink request it was (K4): ours by any socket, somebody else's, or nobody's who can be told."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from daemon.linux import ports, rtnetlink

NETLINK_NETFILTER = 12


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "_recent", type(ports._recent)(maxlen=ports._recent.maxlen))


def bound(protocol: int) -> socket.socket:
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol)
    sock.bind((0, 0))
    return sock


def test_an_open_socket_of_ours() -> None:
    """The second of a protocol gets a number that says nothing of the process."""
    with bound(NETLINK_NETFILTER) as first, bound(NETLINK_NETFILTER) as second:
        numbers = [sock.getsockname()[0] for sock in (first, second)]
        assert [ports.foreign(NETLINK_NETFILTER, number) for number in numbers] == [False, False]
    assert [ports.foreign(NETLINK_NETFILTER, number) for number in numbers] == [True, True]


def test_an_open_socket_of_another_protocol() -> None:
    """Each protocol numbers its ports by itself."""
    with bound(NETLINK_NETFILTER) as one, bound(NETLINK_NETFILTER) as two:
        number = max(sock.getsockname()[0] for sock in (one, two))
        assert ports.foreign(socket.NETLINK_ROUTE, number)


OTHER = "import socket; s = socket.socket(16, 3, 12); s.bind((0, 0)); print(s.getsockname()[0], flush=True); input()"


def test_another_process() -> None:
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-I", "-c", OTHER], stdin=pipe, stdout=pipe) as other:
        assert other.stdout is not None
        assert ports.foreign(NETLINK_NETFILTER, int(other.stdout.readline()))
        other.communicate(b"\n", 30)


def test_requests_whose_socket_is_closed_again() -> None:
    with rtnetlink.open_socket() as first, rtnetlink.open_socket() as second:
        numbers = [sock.getsockname()[0] for sock in (first, second)]
    assert len(set(numbers)) == 2
    assert [ports.foreign(socket.NETLINK_ROUTE, number) for number in numbers] == [False, False]


def test_the_kernel_is_nobody() -> None:
    assert not ports.foreign(socket.NETLINK_ROUTE, 0)


def test_what_cannot_be_told_is_no_accusation(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(protocol: int) -> set[int]:
        raise PermissionError(13, "no /proc")

    monkeypatch.setattr(ports, "_open", refused)
    assert not ports.foreign(NETLINK_NETFILTER, 4711)


def test_memory_is_bounded() -> None:
    for number in range(1, 10_000):
        ports.remember(NETLINK_NETFILTER, number)
    assert len(ports._recent) == 256
    assert not ports.foreign(NETLINK_NETFILTER, 9_999)
