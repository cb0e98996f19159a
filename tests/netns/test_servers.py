"""Servers (T4): one of a list is chosen by name, country, speed or network; another one is taken without a leak."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import pytest

from ipc.client import Client
from ipc.errors import Error, ServiceError
from lab.first_byte import protected_again
from lab.frames import Expect
from lab.processes import LabError
from lab.subject import PROFILE, SETTINGS, Subject
from lab.topology import Laboratory
from lab.vpn_server import VpnServer, private_key
from tests.netns.conftest import Layers

pytestmark = pytest.mark.netns

NOBODY = 9  # a port of the first server's machine at which no server listens


def one(name: str, country: str, server: VpnServer, port: int | None = None, public: str | None = None) -> str:
    """A server of a list, with all that its tunnel differs in."""
    site = server.site
    resolvers = ", ".join(f'"{resolver}"' for resolver in site.inside_server)
    inside4, inside6 = site.inside_client
    return (
        f'[[servers]]\nname = "{name}"\ncountry = "{country}"\npublic_key = "{public or server.public}"\n'
        f'endpoints = ["{site.public4}:{port or site.port}"]\n'
        f'addresses = ["{inside4}/32", "{inside6}/128"]\nresolvers = [{resolvers}]\n'
    )


@pytest.fixture
def other(lab: Laboratory) -> VpnServer:
    """A second server of the same provider: it knows the same key of ours."""
    other = lab.add_server()
    other.kill()
    other.client_private, other.client_public = lab.vpn.client_private, lab.vpn.client_public
    other.start()
    return other


def servers_of(lab: Laboratory, other: VpnServer) -> str:
    """The living ones, and two that never answer: no server, and one that has another key."""
    stranger = lab.laptop.run("wg", "pubkey", input=private_key(lab.seed, "stranger")).stdout.strip()
    return "version = 1\n" + "".join(
        (
            one("dead", "SE", lab.vpn, NOBODY),
            one("first", "SE", lab.vpn),
            one("second", "DE", other),
            one("stranger", "DE", other, NOBODY, stranger),
        )
    )


@pytest.fixture
def listed(subject: Subject, other: VpnServer) -> Subject:
    """With a list; nothing is joined yet."""
    with subject.client() as client:
        client.import_servers(PROFILE, servers_of(subject.lab, other))
    return subject


def choose(subject: Subject, server: str) -> None:
    with subject.client() as client:
        client.connect_server(PROFILE, server)


def test_another_server_and_back(listed: Subject, other: VpnServer, sealed: Any) -> None:
    """L16: no packet leaves beside the tunnels, and only the one that is used may be reached."""
    lab = listed.lab
    lab.join("cafe")
    choose(listed, "first")
    assert listed.wait("connected", 25).server_name == "first"
    with sealed() as meter:
        for _ in range(2):
            for name, server in (("second", other), ("first", lab.vpn)):
                choose(listed, name)
                protected_again(listed, server.site)
                status = listed.status()
                assert (status.server_name, status.server) == (name, f"{server.site.public4}:{server.site.port}")
                assert str(server.site.inside_server[0]) in lab.laptop.read("/etc/resolv.conf")
                assert meter.leaks() == []
                meter.reset()
                meter.expect = lab.expect(server)  # the former one hears nothing more, the dead ones never did
                time.sleep(0.3)
                assert meter.leaks() == []
                meter.expect = lab.expect(*lab.servers)


def test_the_choice_outlives_the_daemon(listed: Subject, other: VpnServer) -> None:
    listed.lab.join("cafe")
    choose(listed, "country:DE")
    assert listed.wait("connected", 25).server_name == "second"
    listed.kill()
    listed.start(25)
    assert listed.wait("connected", 25).server_name == "second"


def test_the_next_one_is_tried_when_one_does_not_answer(listed: Subject, sealed: Any) -> None:
    """As listed, the dead one comes first. Nothing but handshakes with the two leaves meanwhile."""
    lab = listed.lab
    choose(listed, "country:SE")
    with sealed() as meter, listed.client(40) as client:
        meter.expect = Expect(frozenset({(lab.vpn.site.public4, lab.vpn.site.port), (lab.vpn.site.public4, NOBODY)}))
        told = client.watch()
        lab.join("cafe")
        tried = [next(told)]
        while tried[-1].state != "connected":
            tried.append(next(told))
        names = list(dict.fromkeys(status.server_name for status in tried if status.server_name))
        assert names == ["dead", "first"]
        assert "server-unreachable" in {status.cause for status in tried}
        assert all(status.blocking for status in tried if status.networks and status.networks[0].verdict)
        protected_again(listed, lab.vpn.site)


def test_the_fastest(listed: Subject, other: VpnServer, sealed: Any) -> None:
    """All are asked, two answer; nobody else is, and nothing else passes while they are."""
    lab = listed.lab
    choose(listed, "fastest")
    with sealed() as meter:
        meter.expect = everybody(lab, other)
        lab.join("cafe")
        connected = listed.wait("connected", 40)
        assert connected.server_name in ("first", "second")
        protected_again(listed, (lab.vpn if connected.server_name == "first" else other).site)
        with listed.client() as client:
            told = {each.name: each for each in client.all_servers()}
        assert told[connected.server_name].latency_ms > 0
        assert told["dead"].latency_ms == told["stranger"].latency_ms == 0
        assert told["dead"].loss_percent == 100
        assert [each.name for each in told.values() if each.used] == [connected.server_name]
        # Answered before: it is not asked again, and the link for asking has gone.
        other_one = "second" if connected.server_name == "first" else "first"
        lab_server = other if connected.server_name == "first" else lab.vpn
        choose(listed, other_one)
        protected_again(listed, lab_server.site)
    assert not has_probe(lab)


def test_each_layer_alone_holds(layers: Layers, other: VpnServer, sealed: Any) -> None:
    """K3: while servers are asked, while one is changed for another, and in between."""
    subject = layers()
    lab = subject.lab
    with subject.client() as client:
        client.import_servers(PROFILE, servers_of(lab, other))
    choose(subject, "fastest")
    with sealed(bound=layers.name != "routing") as meter:
        meter.expect = everybody(lab, other)
        lab.join("cafe")
        subject.wait("connected", 40)
        for name in ("first", "second", "first"):
            choose(subject, name)
            subject.wait(lambda status, name=name: (status.state, status.server_name) == ("connected", name), 25)  # type: ignore[misc]


def test_killed_while_servers_are_asked(listed: Subject, other: VpnServer, sealed: Any) -> None:
    """The next daemon ends what was left, and asks again."""
    lab = listed.lab
    lab.block_server()  # the answers stay away, so that it takes a second
    with sealed() as meter:
        meter.expect = everybody(lab, other)
        lab.join("cafe")
        for _ in range(20):
            for choice in ("first", "fastest:SE"):
                choose(listed, choice)
            with contextlib.suppress(LabError):  # it may be over before we have seen it
                listed.wait(lambda status: status.cause == "choosing-server" and has_probe(lab), 5)
            listed.kill()
            if has_probe(lab):
                break
            listed.start(25)
        assert has_probe(lab)
        lab.unblock_server()
        listed.start(25)
        assert listed.wait("connected", 40).server_name == "first"
    assert not has_probe(lab)
    assert lab.laptop.run("pgrep", "-fc", "wireguard-go.*tunwarden-probe", check=False).stdout.strip() == "0"


def everybody(lab: Laboratory, other: VpnServer) -> Expect:
    """The places of all servers of the list, those that never answer among them."""
    sites = (lab.vpn.site, other.site)
    return Expect(frozenset((site.public4, port) for site in sites for port in (site.port, NOBODY)))


def has_probe(lab: Laboratory) -> bool:
    return "tunwarden-probe" in lab.laptop.run("ip", "-o", "link").stdout


def test_nobody_answers(listed: Subject, other: VpnServer, sealed: Any) -> None:
    """Then they are tried in turn, and everything stays blocked until one does."""
    lab = listed.lab
    lab.kill_server()
    other.kill()
    choose(listed, "fastest")
    with sealed() as meter:
        meter.expect = everybody(lab, other)
        lab.join("cafe")
        status = listed.wait(lambda status: status.cause == "server-unreachable", 40)
        assert status.blocking
        assert not status.protected
        other.start()
        assert listed.wait("connected", 60).server_name == "second"


def test_a_network_with_a_server_of_its_own(lab: Laboratory, other: VpnServer, sealed: Any) -> None:
    rule = 'action = "auto_connect"\nserver = "second"'
    subject = Subject(lab, SETTINGS.replace('action = "disconnect"', rule))
    subject.start(25)
    subject.set_up()
    with subject.client() as client:
        client.import_servers(PROFILE, servers_of(lab, other))
        client.connect_server(PROFILE, "first")
    lab.join("cafe")
    assert subject.wait("connected", 25).server_name == "first"
    with sealed():
        for place, name, server in (("home", "second", other), ("cafe", "first", lab.vpn)):
            lab.leave()
            lab.join(place)
            protected_again(subject, server.site)
            assert subject.status().server_name == name
    lab.leave()
    lab.join("home")
    subject.wait(lambda status: status.state == "connected" and status.server_name == "second", 25)
    with subject.client() as client, pytest.raises(ServiceError) as refused:
        client.connect_server(PROFILE, "first")
    assert refused.value.error is Error.LOCKED


def test_a_server_that_has_left_the_list(listed: Subject, other: VpnServer, sealed: Any) -> None:
    """Nobody else is taken in its place."""
    lab = listed.lab
    lab.join("cafe")
    choose(listed, "first")
    listed.wait("connected", 25)
    with sealed() as meter:
        with listed.client() as client:
            client.import_servers(PROFILE, "version = 1\n" + one("second", "DE", other))
        status = listed.wait(lambda status: status.cause == "no-server", 25)
        assert status.blocking
        meter.reset()
        meter.expect = Expect(frozenset())
        time.sleep(0.3)
        assert meter.leaks() == []
        choose(listed, "random")
        meter.expect = lab.expect(other)
        protected_again(listed, other.site)
        assert listed.status().server_name == "second"


def test_other_keys_of_the_server_in_use(listed: Subject, other: VpnServer, sealed: Any) -> None:
    """Name and place stay; the server with that key does not answer, so nobody is protected."""
    lab = listed.lab
    lab.join("cafe")
    choose(listed, "first")
    listed.wait("connected", 25)
    text = servers_of(lab, other)
    with sealed(), listed.client() as client:
        client.import_servers(PROFILE, text.replace(lab.vpn.public, private_key(lab.seed, "another")))
        status = listed.wait(lambda status: status.cause == "server-unreachable", 25)
        assert status.blocking
        client.import_servers(PROFILE, text)
        protected_again(listed, lab.vpn.site)


def test_the_command_line(listed: Subject, other: VpnServer) -> None:
    lab = listed.lab
    lab.join("cafe")
    assert "4 servers" in listed.cli("servers", "import", PROFILE, "-", input=servers_of(lab, other))
    listed.cli("servers", "--profile", PROFILE, "favourite", "add", "second")
    listed.cli("connect", "--favourites", "--wait", PROFILE)
    shown = listed.cli("servers", "--country", "de")
    assert "first" not in shown
    assert "favourite" in shown
    told: Any = listed.cli_json("servers")
    assert [each["name"] for each in told if each["used"]] == ["second"]
    assert "second, " in listed.cli("status")


def test_no_key_is_told_and_none_is_readable(listed: Subject, other: VpnServer) -> None:
    lab = listed.lab
    folder = lab.laptop.path("/var/lib/tunwarden/profiles")
    kept = list(folder.glob("*.servers"))
    assert [file.stat().st_mode & 0o777 for file in kept] == [0o600]
    with listed.client() as client:
        assert other.public not in repr(client.all_servers(PROFILE))
        _refused(client, "version = 1\n" + one("x", "DE", other).replace('"DE"', '"Deutschland"'), "country")
        _refused(client, "version = 1\n" + one("x", "DE", other) * 2, "name")
        _refused(client, 'version = 1\n[[servers]]\nname = "x"\nPostUp = "sh"\n', "PostUp")
        assert len(client.all_servers(PROFILE)) == 4, "a refused list changes nothing"


def _refused(client: Client, text: str, where: str) -> None:
    with pytest.raises(ServiceError) as refused:
        client.import_servers(PROFILE, text)
    assert refused.value.error is Error.PROFILE_REFUSED
    assert where in refused.value.why
