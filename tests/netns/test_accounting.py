"""A1: what is counted is what the kernel counted, through restarts, kills, new links, other networks and profiles.

The judges share no code with the daemon: nftables counters that the test puts before and behind everything else in the
laptop (the tunnel's packets), and the other end of the laptop's cable, in another namespace (an uplink's).
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import pytest

from ipc.structs import Usage
from lab.addresses import ECHO_PORT
from lab.subject import Subject
from lab.topology import Laboratory

pytestmark = pytest.mark.netns

LONG_S = 25.0
# The first and the last place that a packet of the tunnel link passes. Each link has a count of its own.
JUDGE = """
table inet judge {
    set rx {
        typeof meta iif
        flags dynamic
        counter
    }
    set tx {
        typeof meta oif
        flags dynamic
        counter
    }
    chain first {
        type filter hook prerouting priority -400
        iifname "tunwarden0" update @rx { meta iif }
    }
    chain last {
        type filter hook postrouting priority 400
        oifname "tunwarden0" update @tx { meta oif }
    }
}
"""
STRAY = 4000  # bytes that may be on their way while a network or a profile changes, and belong to either
Moved = tuple[int, int, int, int]  # bytes in, bytes out, packets in, packets out


def by_link(lab: Laboratory) -> dict[str, Moved]:
    """What came in and went out by each tunnel link, by its name where it lives, else by its index."""
    found: dict[str, dict[str, dict[str, int]]] = {}
    for name in ("rx", "tx"):
        said = json.loads(lab.laptop.run("nft", "-j", "list", "set", "inet", "judge", name).stdout)
        for element in next(each["set"] for each in said["nftables"] if "set" in each).get("elem", []):
            found.setdefault(str(element["elem"]["val"]), {})[name] = element["elem"]["counter"]
    nothing = {"bytes": 0, "packets": 0}
    return {
        link: (rx["bytes"], tx["bytes"], rx["packets"], tx["packets"])
        for link, ways in found.items()
        for rx, tx in [(ways.get("rx", nothing), ways.get("tx", nothing))]
    }


def total(moved: Iterable[Moved]) -> Moved:
    rx_bytes, tx_bytes, rx_packets, tx_packets = map(sum, zip((0, 0, 0, 0), *moved, strict=True))
    return rx_bytes, tx_bytes, rx_packets, tx_packets


def judged(lab: Laboratory) -> Moved:
    """The same of all links together."""
    return total(by_link(lab).values())


def other_end(lab: Laboratory, link: str = "air-wlan0") -> Moved:
    """What the laptop's cable has carried, from its other end: what we sent is what it received."""
    said = json.loads(lab.air.run("ip", "-j", "-s", "link", "show", link).stdout)[0]["stats64"]
    return said["tx"]["bytes"], said["rx"]["bytes"], said["tx"]["packets"], said["rx"]["packets"]


def counted(subject: Subject, by: str, wanted: Callable[[Usage], bool]) -> Moved:
    """The sum of the lines that are wanted, as the daemon tells them."""
    return total(
        (each.rx_bytes, each.tx_bytes, each.rx_packets, each.tx_packets) for each in usage(subject, by) if wanted(each)
    )


def usage(subject: Subject, by: str) -> tuple[Usage, ...]:
    with subject.client(LONG_S) as client:
        return client.get_usage(by)


def through_the_tunnel(subject: Subject) -> Moved:
    return counted(subject, "day", lambda each: each.way == "tunnel")


def agreed(look: Callable[[], tuple[Moved, Moved]]) -> tuple[Moved, Moved]:
    """Both counts, at a moment at which nothing is on its way between the two; the last two, where there is none."""
    deadline = time.monotonic() + LONG_S
    while (found := look())[0] != found[1] and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


def exchange(lab: Laboratory, times: int = 20, size: int = 1200) -> int:
    """Datagrams to the internet's echo service, and their answers; how many came back."""
    back = 0
    with lab.laptop.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.settimeout(2)
        asker.connect((str(lab.plan.internet4), ECHO_PORT))
        for number in range(times):
            question = number.to_bytes(4, "big") * (size // 4)
            try:
                asker.send(question)
                back += asker.recv(4096) == question
            except OSError:
                continue
    return back


@dataclass
class Story:
    """One subject, and what the judge saw while this profile and network were in use."""

    subject: Subject
    profiles: dict[str, str] = field(default_factory=dict)  # by ifindex of the tunnel link
    networks: dict[str, Moved] = field(default_factory=dict)  # what the judge saw on each
    before: Moved = (0, 0, 0, 0)

    @property
    def lab(self) -> Laboratory:
        return self.subject.lab

    def agree(self) -> Moved:
        """The daemon and the judge say the same of the tunnel: not one byte, not one packet between them."""
        told, seen = agreed(lambda: (through_the_tunnel(self.subject), judged(self.lab)))
        assert told == seen
        return seen

    def connected(self, profile: str) -> None:
        """Whose the tunnel link is that there is now."""
        self.subject.wait(lambda status: status.state == "connected" and status.profile == profile, LONG_S)
        self.profiles[str(self.lab.card.index("tunwarden0"))] = profile

    def share(self, network: str) -> None:
        """What the judge saw since the last share belongs to this network."""
        now = self.agree()
        gone = tuple(-each for each in self.before)
        self.networks[network] = total([self.networks.get(network, (0, 0, 0, 0)), now, gone])  # type: ignore[list-item]
        self.before = now

    def of_profiles(self) -> tuple[dict[str, Moved], Moved]:
        """What the judge saw on the links of each; and on links that came and went before the test could look."""
        found = by_link(self.lab)
        if "tunwarden0" in found:
            found[str(self.lab.card.index("tunwarden0"))] = found.pop("tunwarden0")
        met = {
            profile: total(moved for link, moved in found.items() if self.profiles.get(link) == profile)
            for profile in set(self.profiles.values())
        }
        return met, total(moved for link, moved in found.items() if link not in self.profiles)


@pytest.fixture
def story(lab: Laboratory) -> Story:
    lab.laptop.run("nft", "-f", "-", input=JUDGE)
    subject = Subject(lab)
    subject.start(LONG_S)
    subject.set_up()
    story = Story(subject)
    lab.join("cafe")
    story.connected("office")
    return story


def test_restarts_kills_new_links_networks_and_profiles(story: Story) -> None:
    """Difference 0 on links that live; and each byte is booked on its network and its profile."""
    subject, lab = story.subject, story.lab
    assert exchange(lab) >= 18
    assert story.agree()[0] > 18 * 1200, "the positive control: the judge sees the traffic, and so does the daemon"

    assert subject.stop() == 0  # an orderly end: the link stays, and traffic goes on without us
    assert exchange(lab) >= 18
    subject.start(LONG_S)
    story.connected("office")
    exchange(lab)
    story.agree()

    subject.kill()  # wireguard-go lives on
    assert exchange(lab) >= 18
    subject.start(LONG_S)
    story.connected("office")
    exchange(lab)
    story.agree()

    # A link goes right after traffic that nobody has read yet: only the message of its removal tells of it. What waits
    # in its queue then was seen by the judge and left by no link, so nothing is under way.
    index = link_index(lab)
    assert exchange(lab) >= 18
    subject.cli("reconnect")
    another_link(lab, index)
    story.connected("office")
    exchange(lab)
    story.agree()

    index = link_index(lab)
    assert exchange(lab) >= 18
    lab.laptop.ip("link del tunwarden0")  # somebody else
    another_link(lab, index)
    story.connected("office")
    exchange(lab)
    story.share("Cafe Guest")

    other = lab.add_server()
    with subject.client(LONG_S) as client:
        client.import_profile("spare", other.client_config())
    for profile, network in (("spare", "home"), ("office", "home"), ("spare", "cafe"), ("office", "cafe")):
        if lab.joined is None or lab.joined.name != network:
            lab.join(network)
        ssid = {"home": "Home", "cafe": "Cafe Guest"}[network]
        # Until it is identified, what is counted belongs to no network by name.
        subject.wait(lambda status: [each.ssid for each in status.networks] == [ssid], LONG_S)  # noqa: B023
        subject.cli("connect", profile, check=False)
        story.connected(profile)
        exchange(lab)
        story.share(ssid)

    def by_profile() -> tuple[Moved, Moved]:
        """Both counts of one profile; what came and went on links that the test did not meet may be its own."""
        profiles, passing = story.of_profiles()
        told = counted(subject, "profile", lambda each: each.way == "tunnel" and each.name == profile)
        assert passing[0] <= STRAY and passing[1] <= STRAY and profiles[profile][0] > 20_000
        may = all(0 <= mine - seen <= more for mine, seen, more in zip(told, profiles[profile], passing, strict=True))
        return told, told if may else profiles[profile]

    for profile in ("office", "spare"):
        told, seen = agreed(by_profile)
        assert told == seen, profile
    for network, moved in story.networks.items():
        told = counted(subject, "network", lambda each: each.way == "tunnel" and each.name == network)  # noqa: B023
        assert abs(told[0] - moved[0]) <= STRAY and abs(told[1] - moved[1]) <= STRAY, (
            network,
            told,
            moved,
            usage(subject, "network"),
        )
        assert told[0] > 20_000
    assert {each.name for each in usage(subject, "network") if each.way == "tunnel"} == {"Home", "Cafe Guest"}
    for by in ("minute", "hour", "day", "network", "profile"):
        told, seen = agreed(lambda: (counted(subject, by, lambda each: each.way == "tunnel"), judged(lab)))  # noqa: B023
        assert told == seen, by


def another_link(lab: Laboratory, index: int | None) -> None:
    """Wait for the next one. While there is none, a status may still be that of the link which is gone."""
    deadline = time.monotonic() + LONG_S
    while link_index(lab) in (None, index):
        assert time.monotonic() < deadline, "there is no other link"
        time.sleep(0.01)


def link_index(lab: Laboratory) -> int | None:
    try:
        return lab.card.index("tunwarden0")
    except OSError:
        return None


def test_uplinks(lab: Laboratory) -> None:
    """Judged from the other end: outside the tunnel and beneath it, over a kill, another network, a cable."""
    subject = Subject(lab)
    subject.start(LONG_S)
    subject.set_up()
    begun = {link: other_end(lab, f"air-{link}") for link in ("wlan0", "eth0")}
    left = {link: counted(subject, "day", lambda each: each.way != "tunnel") for link in ("wlan0",)}

    def agree() -> None:
        def look() -> tuple[Moved, Moved]:
            told = counted(subject, "day", lambda each: each.way != "tunnel")
            ends = [other_end(lab, f"air-{link}") for link in begun]
            sums = [sum(values) for values in zip(*ends, strict=True)]
            old = [sum(values) for values in zip(*begun.values(), strict=True)]
            seen = tuple(now - then + was for now, then, was in zip(sums, old, left["wlan0"], strict=True))
            return told, seen  # type: ignore[return-value]

        told, seen = agreed(look)
        assert told == seen

    lab.join("home")  # its rule is "disconnect": everything leaves in the clear
    subject.wait("idle", LONG_S)
    assert exchange(lab) >= 18
    agree()
    clear = counted(subject, "network", lambda each: each.way == "clear" and each.name == "Home")
    assert clear[0] > 18 * 1200

    subject.kill()
    assert exchange(lab) >= 18
    subject.start(LONG_S)
    agree()

    lab.join("cafe")
    subject.wait("connected", LONG_S)
    assert exchange(lab) >= 18
    agree()
    carried = counted(subject, "network", lambda each: each.way == "carrier" and each.name == "Cafe Guest")
    inside = through_the_tunnel(subject)
    assert carried[0] > inside[0] > 18 * 1200, "the tunnel's packets, and what wraps them"
    cafe = counted(subject, "network", lambda each: each.way == "clear" and each.name == "Cafe Guest")
    assert cafe == (0, 0, 0, 0)

    lab.plug()
    subject.wait(lambda status: len(status.networks) == 2, LONG_S)
    exchange(lab)
    agree()
    assert {each.kind for each in usage(subject, "network")} == {"wifi", "wired"}
