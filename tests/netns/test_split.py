"""T8: programs beside the tunnel, programs bound to it, and networks that are reached beside it (docs/split.md)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lab.control_groups import control_groups
from lab.subject import CLI, SETTINGS, Subject
from lab.topology import Laboratory
from policies.firewall import NEVER_MARK, ONLY_MARK
from tests.netns.conftest import LAYERS
from tests.netns.splitting import OUTSIDE, Member, members, seen, strangers

pytestmark = pytest.mark.netns

USER, NOBODY = 61001, 65534
REFUSED = {"Connection refused", "Operation not permitted", "Permission denied", "Network is unreachable", "timeout",
           "No route to host"}  # fmt: skip
Start = Callable[..., Member]


@dataclass
class Place:
    """The laptop with control groups, a daemon, and programs that do as they are told."""

    lab: Laboratory
    groups: Path
    member: Start
    subject: Subject

    def inside(self, group: str) -> list[int]:
        return [
            int(pid)
            for each in self.groups.glob(f"tunwarden/{group}/*/cgroup.procs")
            for pid in each.read_text().split()
        ]

    def split(self, *argv: str, check: bool = True) -> str:
        return self.subject.cli("split", *argv, check=check)

    def outside(self, one: Member) -> None:
        """It goes out over the café's network, over both families, with that network's addresses."""
        lab = self.lab
        own6 = lab.card.address6("wlan0", lab.plan.cafe)
        for to, seen_as in ((lab.plan.internet4, lab.plan.cafe_uplink.host4(2)), (lab.plan.internet6, own6)):
            one.until(str(seen_as), do="web", to=str(to))  # the daemon may not have come to the latest network yet
            one.until("", do="echo", to=str(to))

    def resolvers(self) -> set[object]:
        return {self.lab.plan.cafe.host4(1), self.lab.plan.cafe.host6(1)}


def begin(lab: Laboratory, groups: Path, member: Start, layer: str = "both", settings: str = "") -> Place:
    subject = Subject(lab, SETTINGS + settings, LAYERS[layer])
    subject.start(30)
    subject.set_up()
    return Place(lab, groups, member, subject)


@pytest.fixture
def place(lab: Laboratory) -> Iterator[Place]:
    with control_groups(lab) as groups, members(lab) as member:
        here = begin(lab, groups, member)
        yield here
        if here.subject.process is not None and here.subject.process.running:
            assert "Traceback" not in here.subject.process.output(), here.subject.process.output()


@pytest.mark.parametrize("layer", LAYERS)
def test_t8_a_program_beside_the_tunnel_and_nothing_else_gets_out(lab: Laboratory, layer: str) -> None:
    """K3: with traffic of nine kinds, and another program of the same kind in no group; each layer by itself."""
    with control_groups(lab) as groups, members(lab) as member:
        here = begin(lab, groups, member, layer)
        one, other = member(), member()
        here.split("add", str(one.pid))
        assert one.ask(do="mark") == NEVER_MARK and other.ask(do="mark") == 0
        lab.join("cafe")
        here.subject.wait("connected", 40)
        with lab.meter() as meter:
            with lab.traffic(rate=40, device="lo" if layer == "routing" else "wlan0") as traffic:
                here.outside(one)
                assert one.ask(do="child", task={"do": "mark"}) == NEVER_MARK, "what it starts is in it too"
                tunnelled = other.ask(do="web", to=str(lab.plan.internet4), **{"from": 0})
                inside = REFUSED if layer == "firewall" else {str(lab.plan.server4)}  # routes are the other layer's
                assert tunnelled in inside, "everybody else is in the tunnel"
            assert sum(each.tried for each in traffic.counts.values()) > 0
            assert any(each.source_port in OUTSIDE for each in seen(meter)), "the excluded program is seen"
            assert strangers(meter, here.resolvers()) == []
            meter.positive_control()
        assert here.subject.status().outside == 1


def test_t8_names(place: Place) -> None:
    """Whoever is asked, over either family, the network's resolvers answer; over TCP nobody, and never the tunnel's."""
    lab, one = place.lab, place.member()
    place.split("add", str(one.pid))
    lab.join("cafe")
    place.subject.wait("connected", 40)
    four, six = str(lab.plan.internet4), str(lab.plan.internet6)
    router4, router6 = (str(each) for each in (lab.plan.cafe.host4(1), lab.plan.cafe.host6(1)))
    tunnels = [str(each) for each in lab.plan.tunnel_server]
    with lab.meter() as meter:
        for resolver in (router4, "127.0.0.53", *(each for each in tunnels if "." in each)):
            one.until([0, four], do="dns", to=resolver, name="internet.test")
            assert one.ask(do="dns", to=resolver, name="internet.test", type=28) == [0, six]
        assert one.ask(do="dns", to=router6, name="internet.test") == [0, four]
        asked = [each for each in seen(meter) if each.port == 53]
        assert asked and {each.target for each in asked} <= place.resolvers(), "of nobody but the network's"
        for resolver in (router4, "127.0.0.53", *tunnels):
            assert one.ask(do="dns", to=resolver, name="internet.test", tcp=True) in REFUSED
        assert one.ask(do="dns", to=router4, name="internet.test", link="wlan0") in REFUSED, "past the redirection"
        for resolver in tunnels:
            assert one.ask(do="echo", to=resolver, port=853) in REFUSED
        assert strangers(meter, place.resolvers()) == []
    port = int(
        lab.laptop.run("nft", "list", "chain", "inet", "tunwarden", "login").stdout.split("redirect to :")[1].split()[0]
    )
    other = place.member()
    for address in ("127.0.0.1", "::1"):
        assert other.ask(do="dns", to=address, name="internet.test", port=port) in REFUSED, "nobody else's names"
        assert one.ask(do="dns", to=address, name="internet.test", port=port) == [0, four]


def test_t8_names_through_the_tunnel_where_the_settings_say_so(lab: Laboratory) -> None:
    with control_groups(lab) as groups, members(lab) as member:
        here = begin(lab, groups, member, settings='\n[split]\nnames = "tunnel"\n')
        one = member()
        here.split("add", str(one.pid))
        lab.join("cafe")
        here.subject.wait("connected", 40)
        with lab.meter() as meter:
            one.until([0, str(lab.plan.internet4)], do="dns", to="127.0.0.53", name="internet.test")
            here.outside(one)
            assert [each for each in seen(meter) if each.port == 53] == []
            meter.positive_control()


def test_t8_survives_flaps_restarts_and_reconnects(place: Place) -> None:
    """IVPN #252. A connection of before the tunnel goes on through everything that leaves the network as it was."""
    lab, subject, one = place.lab, place.subject, place.member()
    four, held = str(lab.plan.internet4), {"as": "held"}
    place.split("add", str(one.pid))
    lab.join("cafe")
    one.ask(do="open", to=four, **held)
    one.until("", do="echo", to=four, **held)
    subject.wait("connected", 40)
    with lab.meter() as meter:
        one.until("", do="echo", to=four, **held)
        subject.cli("reconnect")
        subject.wait("connected", 40)
        one.until("", do="echo", to=four, **held)
        subject.kill()
        one.until("", do="echo", to=four, **held)  # the kernel's rules and marks stand without anybody
        place.outside(one)
        subject.start(30)
        subject.wait("connected", 40)
        place.outside(one)
        one.until("", do="echo", to=four, **held)
        assert subject.status().outside == 1
        lab.leave()
        lab.join("cafe")
        subject.wait("connected", 40)
        place.outside(one)
        one.until([0, four], do="dns", to="127.0.0.53", name="internet.test")
        lab.plug()  # another network, beside it
        subject.wait("connected", 40)
        one.until("", do="echo", to=four)
        lab.leave()
        lab.unplug()
        lab.join("cafe")
        subject.wait("connected", 40)
        place.outside(one)
        assert strangers(meter, {each.target for each in seen(meter) if each.port == 53}) == []
        meter.positive_control()


def test_t8_while_nothing_else_passes(place: Place) -> None:
    """Without a tunnel excluded programs go on; in lockdown, and while a network is not judged, they do not."""
    lab, subject, one = place.lab, place.subject, place.member()
    place.split("add", str(one.pid))
    lab.block_server()
    lab.join("cafe")
    subject.wait(lambda status: status.blocking and status.target == "protected", 40)
    with lab.meter() as meter, lab.traffic(rate=40) as traffic:
        place.outside(one)
        subject.cli("lockdown", "on")
        meter.flush()
        meter.reset()
        for target in (lab.plan.internet4, lab.plan.internet6):
            assert one.ask(do="web", to=str(target), patience=1) in REFUSED
            assert one.ask(do="echo", to=str(target), patience=1) in REFUSED
        assert one.ask(do="dns", to="127.0.0.53", name="internet.test", patience=1) in REFUSED
        assert seen(meter) == []
        meter.positive_control()
    assert sum(each.tried for each in traffic.counts.values()) > 0
    subject.cli("lockdown", "off")
    place.outside(one)


def test_t8_whoever_is_removed_loses_what_it_had(place: Place) -> None:
    lab, one = place.lab, place.member()
    four, six = str(lab.plan.internet4), str(lab.plan.internet6)
    place.split("add", str(one.pid))
    lab.join("cafe")
    place.subject.wait("connected", 40)
    one.until("", do="hold", to=four, **{"as": "stream"})
    for name, to in (("four", four), ("six", six)):
        one.ask(do="open", to=to, **{"as": name})
        one.until("", do="echo", to=to, **{"as": name})
    assert one.ask(do="more", **{"as": "stream"}) > 0
    place.split("remove", str(one.pid))
    with lab.meter() as meter:
        for name, to in (("four", four), ("six", six)):
            assert one.ask(do="echo", to=to, patience=1, **{"as": name}) in REFUSED
        one.ask(do="more", patience=0.5, **{"as": "stream"})  # what was on its way
        first = one.ask(do="more", patience=1, **{"as": "stream"})
        assert one.ask(do="more", patience=1, **{"as": "stream"}) == 0 or first == 0, (
            "no answer leaves, so no more comes"
        )
        assert one.ask(do="web", to=four) == str(lab.plan.server4), "it is in the tunnel again"
        assert seen(meter) == []
        meter.positive_control()
    assert place.inside("never") == [] and place.subject.status().outside == 0
    table = lab.laptop.run("nft", "list", "table", "inet", "tunwarden").stdout
    assert f"{NEVER_MARK:#x}" not in table, "with the last one the rules go"


def test_t8_a_program_that_has_ended_is_forgotten(place: Place) -> None:
    one = place.member()
    place.split("add", str(one.pid))
    assert place.subject.status().outside == 1
    one.end()
    place.subject.wait(lambda status: status.outside == 0, 20)
    assert [*place.groups.glob("tunwarden/never/*/")] == []


@pytest.mark.parametrize("layer", LAYERS)
def test_t8_only_through_the_tunnel_in_every_state(lab: Laboratory, layer: str) -> None:
    """On an open machine without protection, with the kill switch off while there is no tunnel, and in the tunnel."""
    with control_groups(lab) as groups, members(lab) as member:
        here = begin(lab, groups, member, layer)
        one, other = member(), member()
        here.split("add", "--only", str(one.pid))
        assert one.ask(do="mark") == ONLY_MARK
        lab.join("home")  # a known network, on which the rule is to disconnect
        here.subject.wait("idle", 40)
        other.until("", do="echo", to=str(lab.plan.internet4), **{"from": 0})
        with lab.meter() as meter:
            ways = [{"to": str(to), "patience": 0.5} for to in (lab.plan.internet4, lab.plan.internet6)]
            ways += [{**way, "link": "wlan0"} for way in ways] if layer != "routing" else []  # L11, of IPv4
            for way in ways:
                assert one.ask(do="web", **way) in REFUSED, way
                assert one.ask(do="echo", **way) in REFUSED, way
            for resolver in (
                lab.plan.home.host4(1),
                lab.plan.home.host6(1),
                *(["127.0.0.53"] if layer != "routing" else []),
            ):
                for tcp in (True, False):
                    asked = one.ask(do="dns", to=str(resolver), name="internet.test", tcp=tcp, patience=0.5)
                    assert asked in REFUSED, resolver
            assert [each for each in seen(meter) if each.source_port in OUTSIDE] == []
            assert other.ask(do="echo", to=str(lab.plan.internet4)) == ""
            assert [each for each in seen(meter) if each.source_port in OUTSIDE], "the control: others are seen"
        lab.leave()
        here.subject.cli("killswitch", "off")
        lab.block_server()
        lab.join("cafe")
        here.subject.wait(lambda status: status.target == "protected" and not status.blocking, 40)
        with lab.meter() as meter:
            assert one.ask(do="web", to=str(lab.plan.internet4), patience=0.5) in REFUSED
            assert [each for each in seen(meter) if each.source_port in OUTSIDE] == []
        lab.unblock_server()
        here.subject.cli("killswitch", "on")
        here.subject.wait("connected", 60)
        if layer != "firewall":  # the way into the tunnel is the other layer's
            one.until(str(lab.plan.server4), do="web", to=str(lab.plan.internet4))


def test_t8_only_outlives_a_daemon_that_is_killed_and_one_that_leaves(place: Place) -> None:
    lab, one = place.lab, place.member()
    four = str(lab.plan.internet4)
    place.split("add", "--only", str(one.pid))
    lab.join("home")
    place.subject.wait("idle", 40)
    for end in (place.subject.kill, place.subject.stop):
        end()
        assert one.ask(do="web", to=four, patience=0.5) in REFUSED
        place.subject.start(30)
        place.subject.wait("idle", 40)
        assert one.ask(do="web", to=four, patience=0.5) in REFUSED
    place.split("remove", str(one.pid))
    one.until("", do="echo", to=four)
    rules = lab.laptop.run("ip", "rule").stdout + lab.laptop.run("ip", "-6", "rule").stdout
    assert f"{ONLY_MARK:#x}" not in rules


def test_t8_run(place: Place) -> None:
    """The command is in the group before it runs anything; with sudo it is the user's own."""
    lab, laptop = place.lab, place.lab.laptop
    lab.join("cafe")
    place.subject.wait("connected", 40)
    web = f"exec 3<>/dev/tcp/{lab.plan.internet4}/80; printf 'GET / HTTP/1.1\\r\\n\\r\\n' >&3; tail -n1 <&3; id -u"
    said = laptop.run(CLI, "split", "run", "--", "bash", "-c", web).stdout.split()
    assert said == [str(lab.plan.cafe_uplink.host4(2)), "0"]
    said = laptop.run("env", f"SUDO_UID={NOBODY}", CLI, "split", "run", "--", "bash", "-c", web).stdout.split()
    assert said == [str(lab.plan.cafe_uplink.host4(2)), str(NOBODY)]
    said = laptop.run(CLI, "split", "run", "--only", "--", "bash", "-c", web).stdout.split()
    assert said == [str(lab.plan.server4), "0"]
    assert laptop.run(CLI, "split", "run", "--", "sh", "-c", "exit 7", check=False).returncode == 7


def test_t8_who_may(place: Place) -> None:
    """E8: nobody but root excludes; of the rest, everybody his own processes alone."""
    laptop = place.lab.laptop
    laptop.run("groupadd", "--system", "tunwarden", check=False)
    place.subject.stop()
    place.subject.start(30)
    gid = laptop.run("getent", "group", "tunwarden").stdout.split(":")[2]
    user = ["setpriv", f"--reuid={USER}", f"--regid={USER}", f"--groups={gid}", "--"]
    nobody = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--"]
    mine, roots = place.member(*user), place.member()

    def asks(who: list[str], *argv: str) -> str:
        return laptop.run(*who, CLI, "--json", "split", *argv, check=False).stdout

    for who, argv in (
        (nobody, ["add", "--only", str(mine.pid)]), (nobody, ["add", str(roots.pid)]),
        (user, ["add", str(mine.pid)]), (user, ["add", "--program", "/usr/bin/env"]),
        (user, ["add", "--only", str(roots.pid)]), (user, ["add", "--only", "1"]), (user, ["run", "--", "true"]),
    ):  # fmt: skip
        assert "NotPermitted" in asks(who, *argv), (argv, asks(who, *argv))
    assert place.inside("never") == place.inside("only") == []
    assert "error" not in asks(user, "add", "--only", str(mine.pid))
    place.split("add", str(roots.pid))
    assert mine.ask(do="mark") == ONLY_MARK
    assert "NotPermitted" in asks(user, "remove", str(roots.pid))
    (own,) = json.loads(asks(user, "list"))
    assert own["pid"] == mine.pid and len(json.loads(asks([], "list"))) == 2
    assert "NotNow" in asks([], "add", str(mine.pid)), "it is in a group already"
    assert "NotNow" in asks([], "add", "1") and "NotNow" in asks([], "add", "4000000")
    assert "error" not in asks(user, "remove", str(mine.pid))
    assert mine.ask(do="mark") == 0


def test_t8_a_program_now_and_later(place: Place) -> None:
    """Told by its file, whatever it calls itself; of that user alone; also after the daemon was killed."""
    laptop = place.lab.laptop
    laptop.run("sh", "-ec", "cp $(readlink -f /usr/bin/python3) /run/browser; chmod 755 /run/browser; chmod 755 /run")
    program = ("/run/browser",)
    user = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--"]
    before, others = place.member(*user, python=program[0]), place.member(python=program[0])
    laptop.run("env", f"SUDO_UID={USER}", CLI, "split", "add", "--program", program[0])
    assert before.ask(do="mark") == NEVER_MARK and others.ask(do="mark") == 0
    after = place.member(*user, python=program[0])
    after.until(NEVER_MARK, do="mark")
    assert "NotNow" in laptop.run(CLI, "--json", "split", "remove", str(after.pid), check=False).stdout
    place.subject.kill()
    place.subject.start(30)
    later, elsewhere = place.member(*user, python=program[0]), place.member(*user)
    later.until(NEVER_MARK, do="mark")
    assert elsewhere.ask(do="mark") == 0, "another program of the same user"
    place.subject.wait(lambda status: status.outside == 3, 20)
    laptop.run("env", f"SUDO_UID={USER}", CLI, "split", "remove", "--program", program[0])
    assert before.ask(do="mark") == after.ask(do="mark") == later.ask(do="mark") == 0
    assert place.subject.status().outside == 0
    laptop.run("chmod", "777", program[0])
    refused = laptop.run(CLI, "--json", "split", "add", "--program", program[0], check=False).stdout
    assert "others than root" in refused, "whoever could change the file would be outside"
    laptop.run("rm", program[0])


@pytest.mark.parametrize("layer", LAYERS)
def test_t8_excluded_networks(lab: Laboratory, layer: str) -> None:
    """They are reached beside the tunnel by everybody; not for DNS, and nothing else is."""
    excluded = f"{lab.plan.internet4}/32", f"{lab.plan.internet6}/128"
    with control_groups(lab) as groups, members(lab) as member:
        here = begin(lab, groups, member, layer, f"\n[split]\nsubnets = {json.dumps(excluded)}\n")
        one = member()
        lab.join("cafe")
        here.subject.wait("connected", 40)
        one.until(str(lab.plan.cafe_uplink.host4(2)), do="web", to=str(lab.plan.internet4))
        for to in (lab.plan.internet4, lab.plan.internet6):
            one.until("", do="echo", to=str(to))
        with lab.meter() as meter:
            assert one.ask(do="web", to=str(lab.plan.internet4))
            if layer != "routing":  # which knows no ports
                for to in (lab.plan.internet4, lab.plan.internet6):
                    assert one.ask(do="dns", to=str(to), name="internet.test", patience=0.5) in REFUSED
            for to in (lab.plan.cafe.host4(1), lab.plan.cafe.host6(1), lab.plan.server4):
                assert one.ask(do="echo", to=str(to), port=4000, patience=0.3) in REFUSED
            left = {each.target for each in seen(meter)}
            assert left == {lab.plan.internet4}, left
            meter.positive_control()
        here.subject.cli("lockdown", "on")
        lab.block_server()
        here.subject.cli("reconnect")
        here.subject.wait(lambda status: status.state != "connected", 40)
        assert one.ask(do="web", to=str(lab.plan.internet4), patience=0.5) in REFUSED


def test_t8_without_control_groups_it_is_refused_with_a_reason(subject: Subject) -> None:
    """Where only the old hierarchy is mounted, or none."""
    lab = subject.lab
    lab.laptop.run("sh", "-c", "umount -R /sys/fs/cgroup; true", check=False)
    with members(lab) as member:
        one = member()
        said = lab.laptop.run(CLI, "--json", "split", "add", str(one.pid), check=False).stdout
        assert "NotNow" in said and "unified" in said, said
        assert one.ask(do="mark") == 0
        assert subject.status().outside == 0
