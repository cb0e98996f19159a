"""What we do to links of our own; `ip` is the judge."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from ipaddress import ip_interface
from typing import Any

import pytest

from daemon.linux import link_changes
from lab.hosts import Host

pytestmark = pytest.mark.netns

NAME = "tunwarden0"


@pytest.fixture
def host() -> Iterator[Host]:
    with Host("links") as made:
        made.ip("link set lo up")
        yield made


def shown(host: Host, *more: str) -> Any:
    return json.loads(host.run("ip", "-d", "-j", *more, "show", "dev", NAME).stdout)[0]


def made(host: Host) -> int:
    host.inside(lambda: link_changes.create(NAME, "bridge"))
    found = host.inside(lambda: link_changes.find(NAME))
    assert found is not None
    return found


def test_a_link_of_its_driver_under_its_name(host: Host) -> None:
    assert host.inside(lambda: link_changes.find(NAME)) is None
    ifindex = made(host)
    link = shown(host, "link")
    assert (link["ifindex"], link["linkinfo"]["info_kind"]) == (ifindex, "bridge")
    with pytest.raises(FileExistsError):
        host.inside(lambda: link_changes.create(NAME, "bridge"))
    with pytest.raises(OSError, match="Unknown device type") as refused:
        host.inside(lambda: link_changes.create("other0", "novelty"))
    assert refused.value.errno == errno.EOPNOTSUPP


def test_switched_on_and_removed_by_its_name_alone(host: Host) -> None:
    ifindex = made(host)
    assert host.inside(lambda: link_changes.is_up(ifindex)) is False
    host.inside(lambda: link_changes.switch_on(ifindex))
    assert "UP" in shown(host, "link")["flags"]
    assert host.inside(lambda: link_changes.is_up(ifindex)) is True
    host.ip(f"link set {NAME} down")
    assert host.inside(lambda: link_changes.is_up(ifindex)) is False
    host.ip("link add neighbour0 type bridge")
    for _ in range(2):  # the second finds none
        host.inside(lambda: link_changes.remove(NAME))
    assert host.inside(lambda: link_changes.is_up(ifindex)) is None
    assert host.inside(lambda: link_changes.find("neighbour0")) is not None


def test_mtu(host: Host) -> None:
    ifindex = made(host)
    host.inside(lambda: link_changes.set_mtu(ifindex, 1312))
    assert shown(host, "link")["mtu"] == 1312
    with pytest.raises(OSError, match="mtu") as refused:
        host.inside(lambda: link_changes.set_mtu(ifindex, 67))
    assert refused.value.errno == errno.EINVAL


def test_addresses_come_without_routes_and_without_asking_who_has_them(host: Host) -> None:
    ifindex = made(host)
    host.inside(lambda: link_changes.switch_on(ifindex))
    for address in (ip_interface("10.66.0.2/24"), ip_interface("fd66::2/64")):
        host.inside(lambda one=address: link_changes.add_address(ifindex, one))  # type: ignore[misc]
        with pytest.raises(FileExistsError):
            host.inside(lambda one=address: link_changes.add_address(ifindex, one))  # type: ignore[misc]
    found = {f"{one['local']}/{one['prefixlen']}": one for one in shown(host, "addr")["addr_info"]}
    assert {"10.66.0.2/24", "fd66::2/64"} <= set(found)
    assert all(found[one].get("noprefixroute") for one in ("10.66.0.2/24", "fd66::2/64"))
    assert found["fd66::2/64"].get("nodad") and not found["fd66::2/64"].get("tentative")
    assert host.run("ip", "route", "show", "dev", NAME).stdout == ""
    assert "fd66::/64" not in host.run("ip", "-6", "route", "show", "dev", NAME).stdout


def test_what_the_kernel_refuses_is_said_in_its_words(host: Host) -> None:
    gone = 4711
    for deed in (
        lambda: link_changes.switch_on(gone),
        lambda: link_changes.set_mtu(gone, 1400),
        lambda: link_changes.add_address(gone, ip_interface("10.66.0.2/32")),
    ):
        with pytest.raises(OSError) as refused:
            host.inside(deed)
        assert refused.value.errno == errno.ENODEV and refused.value.strerror
