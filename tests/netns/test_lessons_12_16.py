"""L12 to L16: what comes back, goes away or changes under traffic, and may open nothing meanwhile (K1, K3, K5)."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Collection, Iterator
from functools import partial
from ipaddress import IPv4Address, IPv6Address

import pytest

from ipc.structs import Status
from lab.air import Air
from lab.laptop import QUICK
from lab.meter import Meter
from lab.probes import exit_address
from lab.subject import PROFILE, Subject
from lab.topology import Laboratory
from tests.netns.chatter import chatter
from tests.netns.conftest import Layers
from tests.netns.open_machine import open_machine

pytestmark = pytest.mark.netns


@contextlib.contextmanager
def nothing_leaves(lab: Laboratory, what: str = "") -> Iterator[Meter]:
    """Traffic that follows the routes all the while, and not one clear frame. With the meter's positive control."""
    with lab.meter() as meter:
        with chatter(lab) as tried:
            yield meter
        assert tried[0] > 0
        assert meter.leaks() == [], what
        if lab.card.has_carrier("wlan0"):
            meter.positive_control()


def protected(subject: Subject) -> None:
    """Connected, and both families work through the tunnel; without the routing layer no route leads into it."""
    lab = subject.lab
    subject.wait("connected", 25)
    if "firewall" in subject.program:
        return
    expected: dict[IPv4Address | IPv6Address, IPv4Address | IPv6Address] = {
        lab.plan.internet4: lab.plan.server4,
        lab.plan.internet6: lab.plan.server6,
    }
    for target, seen in expected.items():
        deadline = time.monotonic() + 20
        while True:  # the daemon may be on its way to another attempt
            with contextlib.suppress(OSError):
                assert exit_address(lab.laptop, target) == seen
                break
            assert time.monotonic() < deadline, f"{target} is not reached"


def leaves_in_the_clear(
    lab: Laboratory, deed: Callable[[], object], kinds: Collection[str] = ("clear4", "clear6")
) -> None:
    """The positive control: the same deed, and frames of these kinds leave."""
    with lab.meter() as meter, chatter(lab):
        deed()
        deadline = time.monotonic() + 15
        while set(kinds) - set(meter.counts()):
            assert time.monotonic() < deadline, meter.counts()
            time.sleep(0.02)


# --- L12 --------------------------------------------------------------------------------------------------------------


def replug(lab: Laboratory, new_index: bool = False) -> None:
    """The card goes and comes back without any of its settings and addresses, then joins the cafe again.

    Its other end and the meter on it stay. `new_index`: its number has been taken meanwhile, as on a real machine.
    """
    if lab.networkmanager is not None:
        lab.networkmanager.gone()
    lab.card.forget("wlan0")
    number = lab.laptop.run("cat", "/sys/class/net/wlan0/ifindex").stdout.strip()
    lab.air.ip("link set air-wlan0 down", "link set air-wlan0 nomaster")
    lab.laptop.ip(f"link set wlan0 netns {lab.air.pid}")
    lab.laptop.run("ip", "link", "del", "other", check=False)  # of the time before
    if new_index:
        lab.laptop.ip(f"link add other index {number} type bridge")
    lab.air.ip(f"link set wlan0 netns {lab.laptop.pid}")
    lab.laptop.sysctl(*((key.format(link="wlan0"), value) for key, value in QUICK))
    lab.laptop.ip("link set wlan0 up")
    lab.joined = None
    lab.join("cafe", timeout=20)


def ipv6_off_and_on(lab: Laboratory, where: str) -> None:
    """What people write against leaks of IPv6, and then undo."""
    for value in ("1", "0"):
        lab.laptop.sysctl((f"net/ipv6/conf/{where}/disable_ipv6", value))
    again = "net/ipv6/conf/wlan0/disable_ipv6"
    lab.laptop.sysctl((again, "1"), (again, "0"))  # and the card asks for a router once more
    wait_for_ipv6(lab)


def router_advertisements_off_and_on(lab: Laboratory) -> None:
    for value in ("0", "2"):
        lab.laptop.sysctl(("net/ipv6/conf/wlan0/accept_ra", value))
    again = "net/ipv6/conf/wlan0/disable_ipv6"
    lab.laptop.sysctl((again, "1"), (again, "0"))
    wait_for_ipv6(lab)


def wait_for_ipv6(lab: Laboratory, timeout: float = 20.0) -> None:
    deadline = time.monotonic() + timeout
    while lab.card.address6("wlan0", lab.plan.cafe) is None:
        assert time.monotonic() < deadline, "no IPv6 address"
        time.sleep(0.01)


UFW_DEFAULT = """
table {family} filter {{
    chain INPUT {{ type filter hook input priority filter; policy drop; ct state established,related accept; }}
    chain FORWARD {{ type filter hook forward priority filter; policy drop; }}
    chain OUTPUT {{ type filter hook output priority filter; policy accept; accept; }}
}}
"""  # ufw(8): deny incoming, allow outgoing; the same for IPv6


def ufw_comes_and_goes(lab: Laboratory) -> None:
    """`ufw enable`, and `ufw disable`, which flushes; test_tamper.py has the real program. Then the card again."""
    for family in ("ip", "ip6"):
        lab.laptop.run("nft", "-f", "-", input=UFW_DEFAULT.format(family=family))
    for program in ("iptables-nft", "ip6tables-nft"):
        for words in (("-P", "OUTPUT", "ACCEPT"), ("-P", "INPUT", "ACCEPT"), ("-F",), ("-X",)):
            lab.laptop.run(program, *words)
    replug(lab)


RETURNS: dict[str, Callable[[Laboratory], None]] = {
    "the card": replug,
    "the card with another number": lambda lab: replug(lab, new_index=True),
    "disable_ipv6 of the link": lambda lab: ipv6_off_and_on(lab, "wlan0"),
    "accept_ra": router_advertisements_off_and_on,
    "ufw": ufw_comes_and_goes,
}


def test_l12_ipv6_returns(layers: Layers) -> None:
    """Each layer alone holds it, with the daemon alive, which protects again, and dead."""
    lab = layers.lab
    subject = layers()
    lab.join("cafe")
    protected(subject)
    for what, returns in RETURNS.items():
        with nothing_leaves(lab, what):
            returns(lab)
            subject.wait("connected", 25)
    subject.kill()
    for what, returns in RETURNS.items():
        with nothing_leaves(lab, f"{what}, without the daemon"):
            returns(lab)
    open_machine(subject)
    for returns in RETURNS.values():
        leaves_in_the_clear(lab, partial(returns, lab))


def test_l12_ipv6_switched_off_everywhere_and_on_again(layers: Layers) -> None:
    """With `all` the kernel also takes the last resort of our table away, and brings nothing back.

    The daemon puts it back at once. Without a daemon both layers hold still: our second rule needs no route. The
    tunnel's own address is gone too, so IPv6 stays closed until the next connection.
    """
    lab = layers.lab
    subject = layers()
    lab.join("cafe")
    protected(subject)
    with nothing_leaves(lab):
        ipv6_off_and_on(lab, "all")
        subject.wait("connected", 25)
        subject.cli("reconnect")  # its answer comes when the former tunnel is given up
        protected(subject)
    subject.kill()
    with nothing_leaves(lab):
        ipv6_off_and_on(lab, "all")
    open_machine(subject)
    leaves_in_the_clear(lab, lambda: ipv6_off_and_on(lab, "all"))


# --- L13: more of it, with each layer taken away, in test_tamper.py ---------------------------------------------------

# What firewalld 1.3 sends with its nftables backend at a reload, and what the old iptables backend does.
RELOADS: dict[str, Callable[[Laboratory], object]] = {
    "nft flush ruleset": lambda lab: lab.laptop.run("nft", "flush", "ruleset"),
    "firewalld reload": lambda lab: lab.laptop.run(
        "nft", "-f", "-",
        input="flush ruleset\ntable inet firewalld {\nchain filter_OUTPUT {\n"
        "type filter hook output priority filter + 10; policy accept;\n}\n}\n",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", RELOADS)
def test_l13_foreign_tables_vanish(layers: Layers, what: str) -> None:
    """Routing holds while the table is away, however long; the daemon puts it back as soon as it runs."""
    lab = layers.lab
    subject = layers()
    lab.join("cafe")
    protected(subject)
    assert subject.process is not None
    subject.process.send(signal.SIGSTOP)  # the longest time until somebody puts the table back
    try:
        if layers.name == "firewall":
            leaves_in_the_clear(lab, lambda: RELOADS[what](lab))
        else:
            with nothing_leaves(lab):
                RELOADS[what](lab)
    finally:
        subject.process.send(signal.SIGCONT)
    if layers.name != "routing":
        subject.wait(lambda status: any("Somebody else" in text for text in status.warnings), 25)
        assert "hook output" in lab.laptop.run("nft", "list", "table", "inet", "tunwarden").stdout
    with nothing_leaves(lab):
        protected(subject)
    open_machine(subject)
    leaves_in_the_clear(lab, lambda: RELOADS[what](lab))


# --- L15 --------------------------------------------------------------------------------------------------------------


def test_l15_no_debounce(layers: Layers) -> None:
    """From idle into a strange network while the daemon sleeps: the longest debounce of all. Only the firewall's guard
    stands before a decision, so it alone holds here; routing follows with the decision, and holds from then on."""
    lab = layers.lab
    subject = layers()
    subject.wait("idle")
    assert subject.process is not None
    subject.process.send(signal.SIGSTOP)
    try:
        if layers.name == "routing":
            leaves_in_the_clear(lab, lambda: lab.join("cafe", timeout=20))
        else:
            with nothing_leaves(lab):
                lab.join("cafe", timeout=20)
    finally:
        subject.process.send(signal.SIGCONT)
    protected(subject)
    with nothing_leaves(lab):
        for name in ("home", "cafe", "cafe"):
            lab.leave()
            lab.join(name, ssid=b"Cafe Guest", air=Air.OPEN, dhcp=name == "cafe")
        protected(subject)


@pytest.mark.parametrize("ap_delay", [0.0, 0.3, 2.0])
def test_l15_nothing_leaves_before_the_network_is_known(subject: Subject, ap_delay: float) -> None:
    """Address first, name later: the first packets of a network that nobody has named yet are held."""
    lab = subject.lab
    subject.wait("idle")
    network = lab.networks["cafe"]
    assert lab.networkmanager is not None
    with nothing_leaves(lab):
        lab.networkmanager.associating()
        lab.associate(network)
        lab.card.configure("wlan0", network.subnet, metric=600, wait_ipv6=True, timeout=20)
        time.sleep(ap_delay)  # the access point's own delay, no wait for us
        lab.networkmanager.associated(network.point)
        lab.networkmanager.activated()
        subject.wait("connected", 25)
        lab.leave()
        lab.join("cafe", ap_delay=ap_delay, timeout=20)
        subject.wait("connected", 25)
    lab.leave()
    open_machine(subject)
    leaves_in_the_clear(lab, lambda: lab.join("cafe", timeout=20))


# --- L16 --------------------------------------------------------------------------------------------------------------


def uses(name: str, status: Status) -> bool:
    return status.profile == name and status.protected


def test_l16_another_server_under_traffic(layers: Layers) -> None:
    """Back and forth between two profiles whose servers are reached by different families."""
    lab = layers.lab
    subject = layers()
    with subject.client() as client:
        client.import_profile("six", lab.client_config(ipv6_endpoint=True))
        client.connect(PROFILE)
    lab.join("cafe")
    protected(subject)
    with nothing_leaves(lab):
        for name in ("six", PROFILE, "six", PROFILE):
            with subject.client() as client:
                client.connect(name)
            subject.wait(partial(uses, name), 25)
            protected(subject)


def test_l16_wg_quick_is_open_between_two_servers(lab: Laboratory) -> None:
    """One down, the other up: what every front-end of wg-quick does."""
    for name, six in (("one", False), ("two", True)):
        lines = [line for line in lab.client_config(ipv6_endpoint=six).splitlines() if not line.startswith("DNS")]
        lab.laptop.write(f"/etc/wireguard/{name}.conf", "\n".join(lines) + "\n", mode=0o600)
    lab.join("cafe")
    lab.laptop.run("wg-quick", "up", "one")

    def change() -> None:
        lab.laptop.run("wg-quick", "down", "one")
        lab.laptop.run("wg-quick", "up", "two")

    leaves_in_the_clear(lab, change)
