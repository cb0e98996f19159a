"""A DHCP server that pushes 0.0.0.0/1 and 128.0.0.0/1 and no default route: the network works, and so must a tunnel."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lab.addresses import Plan
from lab.subject import Subject
from lab.topology import Laboratory
from tests.conftest import next_seed

pytestmark = pytest.mark.netns


@pytest.fixture
def lab() -> Iterator[Laboratory]:
    seed = next_seed()
    gateway = Plan(seed).cafe.host4(1)
    with Laboratory(seed, dhcp_options={"cafe": [f"121,0.0.0.0/1,{gateway},128.0.0.0/1,{gateway}"]}) as lab:
        yield lab


def test_it_connects(subject: Subject) -> None:
    lab = subject.lab
    lab.join("cafe", wait_ipv6=False)
    routes = lab.laptop.run("ip", "-4", "route", "show", "table", "main").stdout
    assert "default" not in routes
    assert "128.0.0.0/1" in routes
    subject.wait("connected", 25)
