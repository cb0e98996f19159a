"""T2: a tunnel that somebody else brings up, guarded and never touched: wg-quick with its mark, openvpn with its user.

Both layers, and each alone: nothing leaves but what that program sends to its server.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import pytest

from ipc.structs import Status
from lab.addresses import ECHO_PORT
from lab.external import FWMARK, OVPN_LINK, USER, WG_LINK, PlainOpenVpn, WgQuick, device
from lab.meter import Meter
from lab.openvpn_server import PROGRAM, OpenVpnServer
from lab.probes import exit_address, resolve
from lab.subject import SETTINGS, Subject
from lab.topology import Laboratory
from tests.netns.conftest import LAYERS
from tests.netns.test_accounting import JUDGE, Moved, agreed, counted, exchange, judged
from tests.netns.test_dead_tunnels import pushing
from tests.netns.test_nothing_comes_back import PATIENCE, SWALLOW

pytestmark = pytest.mark.netns
needs_openvpn = pytest.mark.skipif(not Path(PROGRAM).exists(), reason="openvpn is missing: run lab/install-missing")

LONG_S = 25.0
SO_MARK = 36  # <asm-generic/socket.h>
PROFILE = "theirs"

Start = Callable[..., Subject]


@pytest.fixture(params=LAYERS)
def start(request: pytest.FixtureRequest, lab: Laboratory) -> Iterator[Start]:
    """`start(profile)`: the daemon with the layers of this run, that profile imported; nothing is joined yet."""
    begun: list[Subject] = []

    def run(profile: str, settings: str = SETTINGS) -> Subject:
        subject = Subject(lab, settings, LAYERS[request.param])
        begun.append(subject)
        subject.start(LONG_S)
        subject.cli("profiles", "import", PROFILE, "-", input=profile)
        return subject

    yield run
    for subject in begun:
        if subject.process is not None and subject.process.running:
            assert "Traceback" not in subject.process.output(), subject.process.output()


@pytest.fixture
def bound(request: pytest.FixtureRequest) -> bool:
    """Whether sockets bound to the link are held, too: routing alone cannot do that for IPv4 (L11)."""
    return request.node.callspec.params["start"] != "routing"


@pytest.fixture
def wg(lab: Laboratory, bound: bool) -> WgQuick:
    """With its own rules and routes where the firewall stands.

    The kernel puts a rule without a priority before those there are, so wg-quick's come before ours, and lead to the
    neighbours by main: that is the firewall's to hold. With `Table = off` it has none, and routing alone holds, too.
    """
    return WgQuick(lab, routes=bound)


@pytest.fixture
def openvpn(lab: Laboratory, tmp_path: Path) -> Iterator[PlainOpenVpn]:
    server = OpenVpnServer(lab.vpn, lab.plan, tmp_path)
    server.start()
    plain = PlainOpenVpn(lab, server)
    yield plain
    plain.down()


def away(status: Status) -> bool:
    return status.state == "blocked" and status.cause == "external-away"


def through_it(subject: Subject) -> None:
    """Connected, and both families leave by the server."""
    lab = subject.lab
    subject.wait("connected", LONG_S)
    until_it_leaves_by(lab, lab.plan.internet4, lab.plan.server4)
    until_it_leaves_by(lab, lab.plan.internet6, lab.plan.server6)


def until_it_leaves_by(lab: Laboratory, site: IPv4Address | IPv6Address, server: object) -> None:
    """WireGuard gives up a session that nobody answers after 15 s, and a lost first handshake costs 5."""
    deadline = time.monotonic() + 2 * LONG_S
    while leaves_by(lab, site) != server:
        assert time.monotonic() < deadline, f"{site} is not reached through the tunnel"
        time.sleep(0.1)


def leaves_by(lab: Laboratory, site: IPv4Address | IPv6Address) -> object:
    try:
        return exit_address(lab.laptop, site)
    except OSError:
        return None


@pytest.fixture
def guarded(start: Start, lab: Laboratory, wg: WgQuick) -> Subject:
    """A tunnel by wg-quick, up and guarded, on a network whose rule asks for protection."""
    subject = start(wg.profile(resolvers=f'["{lab.vpn.site.inside_server[0]}"]'))
    lab.join("cafe")
    subject.wait(away, LONG_S)
    wg.up()
    through_it(subject)
    return subject


def test_a_tunnel_of_wg_quick(start: Start, lab: Laboratory, wg: WgQuick, sealed: Any, bound: bool) -> None:
    """Blocked by rule until it is up, then connected, blocked when it goes, connected when it is back: nobody acts."""
    subject = start(wg.profile())
    lab.join("cafe")
    status = subject.wait(away, LONG_S)
    assert "external tunnel" in (status.cause_text or "") and status.blocking
    with sealed(bound=bound):
        time.sleep(0.3)
    with lab.meter() as meter:
        wg.up()
        through_it(subject)
        assert subject.status().tunnel == WG_LINK
        # Nobody has said who is asked for names: anybody may be, but through the tunnel alone.
        assert resolve(lab.laptop, lab.vpn.site.inside_server[0], "whoami.test") == lab.vpn.site.inside_server[0]
        meter_is_clean(meter)
    with sealed(bound=bound):
        time.sleep(0.5)
    with sealed(bound=bound):
        wg.down()
        subject.wait(away, LONG_S)
        time.sleep(0.3)
        wg.up()
        through_it(subject)


def meter_is_clean(meter: Meter) -> None:
    assert meter.leaks() == []
    meter.positive_control()


@needs_openvpn
def test_a_plain_openvpn(start: Start, lab: Laboratory, openvpn: PlainOpenVpn, sealed: Any, bound: bool) -> None:
    """It reaches its server before there is a link; it makes a new link each time."""
    subject = start(openvpn.profile())
    lab.join("cafe")
    subject.wait(away, LONG_S)
    with sealed(bound=bound):
        openvpn.up()
        through_it(subject)
        assert subject.status().tunnel == OVPN_LINK
    with sealed(bound=bound):
        openvpn.down()
        subject.wait(away, LONG_S)
        openvpn.up()
        through_it(subject)


SAY = """
import socket, sys
text, address, port, mark = sys.argv[1].encode(), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as sock:
    if mark:
        sock.setsockopt(socket.SOL_SOCKET, 36, mark)
    for _ in range(3):
        try:
            sock.sendto(text, (address, port))
        except OSError:
            pass
"""


def says(lab: Laboratory, text: str, address: object, port: int, *, mark: int = 0, uid: int = 0) -> None:
    """Three datagrams with that text, from a socket with that mark, or of that user (0: root)."""
    user = (f"--reuid={uid}", f"--regid={uid}", "--clear-groups") if uid else ()
    lab.laptop.run("setpriv", *user, lab.python, "-I", "-S", "-c", SAY, text, str(address), str(port), str(mark))


def heard(meter: Meter, texts: list[str], wanted: set[str]) -> set[str]:
    """Which of the texts have left the laptop. The wanted ones are waited for: a router may have to be looked for."""
    deadline = time.monotonic() + LONG_S
    while True:
        found = {text for text in texts for frame, _ in meter.frames() if text.encode() in frame.payload}
        if wanted <= found or time.monotonic() > deadline:
            return found
        time.sleep(0.05)


def test_nothing_else_uses_the_hole_of_a_mark(guarded: Subject, lab: Laboratory, bound: bool) -> None:
    """L3: whoever has no mark does not reach the server, and with the mark nobody reaches anything else."""
    site = lab.vpn.site
    with lab.meter() as meter:
        says(lab, "root without a mark", site.public4, site.port)
        says(lab, "a user without a mark", site.public4, site.port, uid=USER)
        says(lab, "IPv6 without a mark", site.public6, site.port)
        says(lab, "our own mark", site.public4, site.port, mark=0x74756E77)
        says(lab, "marked elsewhere", lab.plan.internet4, site.port, mark=FWMARK)
        says(lab, "marked elsewhere, IPv6", lab.plan.internet6, site.port, mark=FWMARK)
        says(lab, "marked, another port", site.public4, site.port + 1, mark=FWMARK)
        says(lab, "the program itself", site.public4, site.port, mark=FWMARK)
        says(lab, "the program itself, IPv6", site.public6, site.port, mark=FWMARK)
        own = {"the program itself", "the program itself, IPv6"}
        # Routing alone lets the mark of ours out by main, and knows no ports.
        loose = set() if bound else {"our own mark", "marked, another port"}
        said = [
            "root without a mark", "a user without a mark", "IPv6 without a mark", "our own mark", "marked elsewhere",
            "marked elsewhere, IPv6", "marked, another port", *own,
        ]  # fmt: skip
        assert heard(meter, said, own | loose) == own | loose
        if bound:
            meter_is_clean(meter)


@needs_openvpn
def test_nothing_else_uses_the_hole_of_a_user(
    start: Start, lab: Laboratory, openvpn: PlainOpenVpn, bound: bool
) -> None:
    """Also before there is a link, while the hole is open already."""
    subject, site = start(openvpn.profile()), lab.vpn.site
    lab.join("cafe")
    subject.wait(away, LONG_S)
    own, loose = {"its user"}, set() if bound else {"its user, another port"}
    for up in (False, True):
        if up:
            openvpn.up()
            through_it(subject)
        with lab.meter() as meter:
            says(lab, "another user", site.public4, site.port, uid=USER + 1)
            says(lab, "root", site.public4, site.port)
            says(lab, "its user, elsewhere", lab.plan.internet4, site.port, uid=USER)
            says(lab, "its user, IPv6", site.public6, site.port, uid=USER)
            says(lab, "its user, another port", site.public4, site.port + 1, uid=USER)
            says(lab, "its user", site.public4, site.port, uid=USER)
            said = ["another user", "root", "its user, elsewhere", "its user, IPv6", "its user, another port", *own]
            assert heard(meter, said, own | loose) == own | loose
            if bound:
                meter_is_clean(meter)


def test_the_link_is_renamed_and_removed(guarded: Subject, lab: Laboratory, sealed: Any, bound: bool) -> None:
    """A link of another name is not the tunnel; the same one, back under its name, is."""
    with sealed(bound=bound):
        lab.laptop.ip(f"link set {WG_LINK} down", f"link set {WG_LINK} name elsewhere", "link set elsewhere up")
        guarded.wait(away, LONG_S)
        time.sleep(0.3)
    with sealed(bound=bound):
        lab.laptop.ip("link set elsewhere down", f"link set elsewhere name {WG_LINK}", f"link set {WG_LINK} up")
        guarded.wait("connected", LONG_S)
        lab.laptop.ip(f"link del {WG_LINK}")
        guarded.wait(away, LONG_S)
        time.sleep(0.3)


def test_a_link_of_that_name_which_is_no_tunnel(
    start: Start, lab: Laboratory, wg: WgQuick, sealed: Any, bound: bool
) -> None:
    """Neither a cable nor a tunnel of another kind is taken for it; the control: the right one is."""
    subject = start(wg.profile(kind='"tun"'))
    lab.join("cafe")
    subject.wait(away, LONG_S)
    lab.laptop.ip(
        f"link add {WG_LINK} type veth peer name far", f"address add 10.77.0.2/24 dev {WG_LINK}",
        f"link set {WG_LINK} up", "link set far up",
    )  # fmt: skip
    subject.wait(lambda status: any(each.ifname == WG_LINK for each in status.networks), LONG_S)  # a wired uplink
    with sealed(bound=bound):
        time.sleep(0.3)
        assert away(subject.status())
    lab.laptop.ip(f"link del {WG_LINK}")
    subject.wait(lambda status: all(each.ifname != WG_LINK for each in status.networks), LONG_S)
    with device(lab.laptop, WG_LINK, "10.77.0.2/24", tap=True):
        subject.wait(lambda status: any(each.ifname == WG_LINK for each in status.networks), LONG_S)
        with sealed(bound=bound):
            time.sleep(0.3)
            assert away(subject.status())
    subject.wait(away, LONG_S)
    wg.up()
    through_it(subject)


def test_the_daemon_is_killed(guarded: Subject, lab: Laboratory, sealed: Any, bound: bool) -> None:
    """The rules stand in the kernel, the tunnel goes on, and the next daemon takes both over."""
    with sealed(bound=bound):
        guarded.kill()
        time.sleep(0.3)
        guarded.start(LONG_S)
        through_it(guarded)
    guarded.kill()
    with sealed(bound=bound):
        lab.laptop.run("ip", "link", "del", WG_LINK)
        guarded.start(LONG_S)
        guarded.wait(away, LONG_S)
        time.sleep(0.3)


# --- what does not depend on the layers -------------------------------------------------------------------------------


@pytest.fixture
def whole(lab: Laboratory) -> Iterator[Subject]:
    """The daemon, started, without a profile."""
    subject = Subject(lab)
    subject.start(LONG_S)
    yield subject
    if subject.process is not None and subject.process.running:
        assert "Traceback" not in subject.process.output(), subject.process.output()


def bring(subject: Subject, profile: str) -> None:
    subject.cli("profiles", "import", PROFILE, "-", input=profile)


def index(lab: Laboratory, link: str) -> str:
    return lab.laptop.run("cat", f"/sys/class/net/{link}/ifindex").stdout


def test_it_is_never_touched(whole: Subject, lab: Laboratory, sealed: Any) -> None:
    """Through all we do the link is the same, with the same addresses, MTU and keys; without resolvers no name changes.

    One of our own tunnels takes turns with it, and nothing leaks meanwhile.
    """
    wg = WgQuick(lab, routes=False)  # its own rules would lead our own tunnel's packets into it (K8)
    bring(whole, wg.profile())
    whole.set_up()

    def looks() -> str:
        shown = lab.laptop.run("ip", "-d", "address", "show", "dev", WG_LINK).stdout
        kept = [line for line in shown.splitlines() if "valid_lft" not in line]
        return "\n".join([*kept, lab.laptop.run("wg", "showconf", WG_LINK).stdout])

    def names() -> str:
        return lab.laptop.read("/etc/resolv.conf")

    wg.up()
    lab.join("cafe")
    through_it(whole)  # the only profile there was stays the chosen one
    whole.cli("disconnect")
    whole.wait("idle", LONG_S)
    before, file = looks(), names()
    whole.cli("connect", PROFILE)
    through_it(whole)
    assert (looks(), names()) == (before, file)
    with sealed():
        whole.cli("connect", "office")
        whole.wait(lambda status: status.tunnel == "tunwarden0", LONG_S)
        assert looks() == before and names() != file
        whole.cli("connect", PROFILE)
        whole.wait(lambda status: status.tunnel == WG_LINK, LONG_S)
        assert (looks(), names()) == (before, file)
    assert "tunwarden0" not in lab.laptop.run("ip", "-o", "link").stdout
    whole.cli("reconnect")
    whole.cli("disconnect")
    whole.wait("idle", LONG_S)
    assert (looks(), names()) == (before, file)
    # It works on where one goes through it, and so does the network beside it: nobody guards any more.
    lab.laptop.ip(f"route add {lab.plan.internet4} dev {WG_LINK}")
    until_it_leaves_by(lab, lab.plan.internet4, lab.plan.server4)
    lab.laptop.ip(f"route del {lab.plan.internet4} dev {WG_LINK}")
    with lab.meter() as meter:
        says(lab, "marked, in the open", lab.plan.internet4, 7, mark=FWMARK)
        assert heard(meter, ["marked, in the open"], {"marked, in the open"})


def test_its_resolvers_are_set_and_given_back(whole: Subject, lab: Laboratory) -> None:
    wg, (v4, v6) = WgQuick(lab), lab.vpn.site.inside_server
    bring(whole, wg.profile(resolvers=f'["{v4}", "{v6}"]'))
    lab.join("cafe")
    whole.wait(away, LONG_S)
    before = lab.laptop.read("/etc/resolv.conf")
    wg.up()
    through_it(whole)
    assert str(v4) in lab.laptop.read("/etc/resolv.conf") != before
    assert resolve(lab.laptop, v6, "whoami.test") == v4
    with pytest.raises(OSError):  # others are not asked, not even through the tunnel
        resolve(lab.laptop, lab.plan.internet4, "whoami.test")
    whole.cli("disconnect")
    whole.wait("idle", LONG_S)
    assert lab.laptop.read("/etc/resolv.conf") == before


def test_people_see_which_tunnel_it_is(whole: Subject, lab: Laboratory) -> None:
    """Status, show, list and doctor; and both tests for leaks know it for the tunnel."""
    wg = WgQuick(lab)
    bring(whole, wg.profile())
    lab.join("cafe")
    whole.wait(away, LONG_S)
    assert "external tunnel" in whole.cli("status") and "external tunnel" in whole.cli("doctor", check=False)
    wg.up()
    through_it(whole)
    assert f"{WG_LINK}, which another program brings up" in whole.cli("status")
    assert f"{FWMARK:#x}" in whole.cli("profiles", "show", PROFILE)
    assert "external" in whole.cli("profiles", "list")
    told = whole.cli("leak-test")
    assert "Nothing leaked" in told and "in the tunnel" in told
    assert whole.process is not None
    time.sleep(7)  # the daemon's own check is due after five seconds
    status = whole.status()
    assert status.alarm is None and not [each for each in status.warnings if "leak" in each]
    assert status.rx_bytes > 0 and status.tx_bytes > 0


def test_a_server_that_falls_silent_is_told_and_no_more(whole: Subject, lab: Laboratory, sealed: Any) -> None:
    """Whoever brings the tunnel up has to mend it: we go on guarding."""
    wg = WgQuick(lab)
    bring(whole, wg.profile())
    lab.join("cafe")
    whole.wait(away, LONG_S)
    wg.up()
    through_it(whole)
    with sealed():
        lab.server.run(
            "nft", "-f", "-", input=SWALLOW
        )  # of a wire cut one way, what the far end sends again would come
        status = whole.wait(lambda status: status.detail == "nothing-comes-back", PATIENCE)
        assert status.state == "connected" and status.protected
        lab.server.run("nft", "delete", "table", "inet", "swallow")
        whole.wait(lambda status: status.detail is None, LONG_S)
    through_it(whole)


def test_an_allowance_holds(lab: Laboratory) -> None:
    wg = WgQuick(lab)
    subject = Subject(lab, SETTINGS + '\n[allowance]\nlimit = "1MB"\nper = "day"\n')
    subject.start(LONG_S)
    bring(subject, wg.profile())
    lab.join("cafe")
    subject.wait(away, LONG_S)
    wg.up()
    through_it(subject)
    answers = missed = 0
    with lab.laptop.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.settimeout(1)
        asker.connect((str(lab.plan.internet4), ECHO_PORT))
        while missed < 5 and answers < 2000:  # one alone may be late
            try:
                asker.send(bytes(1200))
                answers += len(asker.recv(2000)) == 1200
                missed = 0
            except OSError:
                missed += 1
    assert 100 < answers < 1000, "a million bytes there and back are 400 of them"
    with pushing(lab):  # what came last may have been too large for the rest: what arrives now is counted, and dropped
        subject.wait(lambda status: status.detail == "allowance-used-up", LONG_S)


def test_counted_to_the_byte(whole: Subject, lab: Laboratory) -> None:
    """A1: under its profile, against nftables counters of the test's own, through a kill and a new link."""
    wg = WgQuick(lab)
    lab.laptop.run("nft", "-f", "-", input=JUDGE.replace("tunwarden0", WG_LINK))
    bring(whole, wg.profile())
    lab.join("cafe")
    whole.wait(away, LONG_S)
    for _ in range(2):
        wg.up()
        through_it(whole)
        assert exchange(lab) > 0
        whole.kill()
        assert exchange(lab) > 0
        whole.start(LONG_S)
        whole.wait("connected", LONG_S)
        assert exchange(lab) > 0
        wg.down()
        whole.wait(away, LONG_S)

    def look() -> tuple[Moved, Moved]:
        return counted(whole, "profile", lambda each: each.way == "tunnel" and each.name == PROFILE), judged(lab)

    ours, theirs = agreed(look)
    assert ours == theirs and ours[0] > 100_000 and ours[2] > 100
    assert counted(whole, "day", lambda each: each.way == "tunnel") == ours, "nobody else has any of it"


@pytest.mark.parametrize("which", ["wg-quick", pytest.param("openvpn", marks=needs_openvpn)])
def test_strict_reverse_path_filtering(
    which: str, whole: Subject, lab: Laboratory, request: pytest.FixtureRequest
) -> None:
    """Answers of the server are looked for by the mark that they get from us."""
    lab.laptop.sysctl(("net/ipv4/conf/all/rp_filter", "1"), ("net/ipv4/conf/wlan0/rp_filter", "1"))
    theirs = WgQuick(lab) if which == "wg-quick" else request.getfixturevalue("openvpn")
    bring(whole, theirs.profile())
    lab.join("cafe")
    whole.wait(away, LONG_S)
    theirs.up()
    through_it(whole)
