"""The real openvpn under the daemon, against a real server (T2): what works, what breaks, and what may not leak."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.addresses import ECHO_PORT
from lab.control_groups import control_groups
from lab.first_byte import protected_again
from lab.frames import Expect, Kind
from lab.openvpn_server import PASSWORD, PROGRAM, USER, Authority, OpenVpnServer
from lab.probes import exit_address, resolve
from lab.subject import CLI, Subject
from lab.topology import Laboratory
from policies.firewall import TUNNEL_IFNAME

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(not Path(PROGRAM).exists(), reason="openvpn is missing: run lab/install-missing"),
]

PROFILE = "ovpn"
CAP_NET_ADMIN = 12  # <linux/capability.h>


@pytest.fixture
def server(lab: Laboratory, tmp_path: Path) -> OpenVpnServer:
    return OpenVpnServer(lab.vpn, lab.plan, tmp_path)


@pytest.fixture
def subject(lab: Laboratory) -> Iterator[Subject]:
    """The daemon, started, without a profile."""
    with control_groups(lab):
        subject = Subject(lab)
        subject.start(25)
        yield subject
        if subject.process is not None and subject.process.running:
            assert "Traceback" not in subject.process.output(), subject.process.output()
            subject.kill()  # or it would make groups elsewhere when these have gone


def bring(subject: Subject, server: OpenVpnServer, **ways: Any) -> None:
    with subject.client() as client:
        client.import_profile(PROFILE, server.client_config(**ways))
        if server.login:
            client.set_login(PROFILE, USER, PASSWORD)
        client.connect(PROFILE)


def connected(subject: Subject, server: OpenVpnServer) -> None:
    subject.lab.join("cafe")
    subject.wait("connected", 25)


WAYS = {
    "udp, certificates, tls-crypt": {},
    "tcp": {"protocol": "tcp"},
    "tls-auth": {"wrap": "tls-auth"},
    "tls-crypt-v2": {"wrap": "tls-crypt-v2"},
    "user and password, nothing around": {"login": True, "wrap": ""},
    "tcp, user and password": {"login": True, "protocol": "tcp"},
}


@pytest.mark.parametrize("ways", WAYS.values(), ids=WAYS.keys())
def test_connects(subject: Subject, server: OpenVpnServer, sealed: Any, ways: dict[str, Any]) -> None:
    """Both families leave by the server, names are asked inside, and nothing else leaves."""
    lab = subject.lab
    server.start(**ways)
    bring(subject, server)
    with lab.meter() as meter:
        meter.expect = server.expect()
        connected(subject, server)
        protected_again(subject)
        assert exit_address(lab.laptop, lab.plan.internet6) == lab.plan.server6
        v4, v6 = server.site.inside_server
        assert str(v4) in lab.laptop.read("/etc/resolv.conf")
        assert resolve(lab.laptop, v4, "whoami.test") == v4
        assert resolve(lab.laptop, v6, "whoami.test") == v4
        assert meter.leaks() == []
        meter.positive_control()


OF_OLD = ("cipher AES-256-CBC", "auth SHA512", "comp-lzo no")


@pytest.mark.parametrize("ciphers", [(), OF_OLD], ids=["of today", "of old"])
def test_large_packets_leave_in_one_piece(subject: Subject, server: OpenVpnServer, ciphers: tuple[str, ...]) -> None:
    """T7: a second piece has no port, so the meter takes it for a leak, and many networks drop it."""
    lab = subject.lab
    server.start(settings=("data-ciphers AES-256-CBC", *ciphers[1:]) if ciphers else ())
    bring(subject, server, extra=ciphers)
    connected(subject, server)
    protected_again(subject)
    with lab.meter() as meter:
        meter.expect = server.expect()
        for family, web in ((socket.AF_INET, lab.plan.internet4), (socket.AF_INET6, lab.plan.internet6)):
            with lab.laptop.socket(family, socket.SOCK_DGRAM) as asker:
                asker.settimeout(20)
                asker.connect((str(web), ECHO_PORT))
                asker.send(bytes(4000))
                assert len(asker.recv(5000)) == 4000
        assert meter.leaks() == []
        assert meter.counts()[Kind.TUNNEL] >= 6
    assert server.process is not None
    used = "AES-256-CBC" if ciphers else "AES-256-GCM"
    assert re.search(rf"Data Channel: cipher '{used}'|,cipher {used},", server.process.output())


def test_an_ipv6_only_network(subject: Subject, server: OpenVpnServer, sealed: Any) -> None:
    """The outer network has no IPv4 at all: of two servers the one with a way is tried; inside, both work."""
    lab = subject.lab
    server.start()
    site = server.site
    bring(subject, server, remotes=[f"{site.public4} {site.port}", f"{site.public6} {site.port}"])
    with sealed():
        lab.join("cafe6")
        status = subject.wait("connected", 25)
        assert status.server == f"[{site.public6}]:{site.port}"
        assert exit_address(lab.laptop, lab.plan.internet4) == lab.plan.server4


def test_where_no_group_can_be_marked(lab: Laboratory, server: OpenVpnServer, sealed: Any) -> None:
    """It marks its packets itself, and keeps the one capability that this takes."""
    lab.laptop.run("mount", "-t", "tmpfs", "none", "/sys/fs/cgroup")
    subject = Subject(lab)
    subject.start(25)
    server.start()
    bring(subject, server)
    with sealed() as meter:
        meter.expect = server.expect()
        connected(subject, server)
    (pid,) = openvpns(lab)
    assert f"CapEff:\t{1 << CAP_NET_ADMIN:016x}\n" in lab.laptop.read(f"/proc/{pid}/status")


def test_its_process_can_do_next_to_nothing(subject: Subject, server: OpenVpnServer) -> None:
    """No capability, no new privileges, no environment of ours; keys in no file and in no argument (E4, E12)."""
    lab = subject.lab
    server.start(login=True)
    bring(subject, server)
    connected(subject, server)
    (pid,) = openvpns(lab)
    status = dict(line.split(":\t") for line in lab.laptop.read(f"/proc/{pid}/status").splitlines() if ":\t" in line)
    assert {status[name] for name in ("CapPrm", "CapEff")} == {"0" * 16}
    assert lab.laptop.read("/sys/fs/cgroup/tunwarden/openvpn/cgroup.procs") == f"{pid}\n"
    assert status["CapInh"] == status["CapAmb"] == "0" * 16
    assert status["NoNewPrivs"] == "1"
    assert lab.laptop.read(f"/proc/{pid}/cmdline").split("\0")[1:] == ["--config", "stdin", ""]
    assert USER not in lab.laptop.read(f"/proc/{pid}/environ")
    assert lab.laptop.run("stat", "-c", "%a %U", "/run/tunwarden/openvpn").stdout == "700 root\n"
    assert subject.process is not None
    for secret in (PASSWORD, server.client.key.splitlines()[1], server.wrap_key.splitlines()[1]):
        assert (
            lab.laptop.run("grep", "-rlF", "--", secret, "/run/tunwarden", "/etc/tunwarden", check=False).stdout == ""
        )
        assert secret not in subject.process.output()
        assert secret not in subject.cli("profiles", "show", PROFILE)
    assert "user name and password" in subject.cli("profiles", "show", PROFILE)


# --- what does not work, and why --------------------------------------------------------------------------------------


def refused(subject: Subject, sealed: Any, cause: str, server: OpenVpnServer | None = None) -> None:
    with sealed() as meter:
        if server is not None:
            meter.expect = server.expect()
        subject.lab.join("cafe")
        status = subject.wait(lambda status: status.cause == cause and status.state == "blocked", 25)
        assert status.blocking
        assert not status.protected


def test_no_password_was_given(subject: Subject, server: OpenVpnServer, sealed: Any) -> None:
    server.start(login=True)
    with subject.client() as client:
        client.import_profile(PROFILE, server.client_config())
        client.connect(PROFILE)
    refused(subject, sealed, "credentials-missing")
    subject.lab.laptop.run(CLI, "profiles", "login", PROFILE, input=f"{USER}\n{PASSWORD}\n")
    subject.wait("connected", 25)


def test_a_wrong_password(subject: Subject, server: OpenVpnServer, sealed: Any) -> None:
    """Said as what it is; the right one connects at once."""
    server.start(login=True)
    bring(subject, server)
    with subject.client() as client:
        client.set_login(PROFILE, USER, "wrong")
    refused(subject, sealed, "credentials-refused")
    with subject.client() as client:
        client.set_login(PROFILE, USER, PASSWORD)
    subject.wait("connected", 25)


def test_the_server_has_an_expired_certificate(subject: Subject, server: OpenVpnServer, sealed: Any) -> None:
    server.start(pair=server.authority.pair("expired", "serverAuth", -1))
    bring(subject, server)
    refused(subject, sealed, "certificate-refused")


def test_our_certificate_has_expired(subject: Subject, server: OpenVpnServer, sealed: Any) -> None:
    server.start()
    bring(subject, server, pair=server.authority.pair("late", days=-1))
    refused(subject, sealed, "certificate-refused")


def test_the_server_shows_a_clients_certificate(subject: Subject, server: OpenVpnServer, sealed: Any) -> None:
    """Another customer of the same provider, in the server's place: remote-cert-tls."""
    server.start(pair=server.authority.pair("customer"))
    bring(subject, server)
    refused(subject, sealed, "certificate-refused")


def test_another_authority(subject: Subject, server: OpenVpnServer, sealed: Any, tmp_path: Path) -> None:
    server.start()
    bring(subject, server, authority=Authority(tmp_path, "other").certificate)
    refused(subject, sealed, "certificate-refused")


@pytest.mark.parametrize("protocol", ["udp", "tcp"])
def test_nobody_answers(subject: Subject, server: OpenVpnServer, sealed: Any, protocol: str) -> None:
    server.start(protocol)
    server.kill()
    bring(subject, server)
    refused(subject, sealed, "server-unreachable", server)


def test_servers_are_tried_in_turn(subject: Subject, server: OpenVpnServer, sealed: Any) -> None:
    """T4: and the one that is tried is the only one that anything may be sent to."""
    lab, site = subject.lab, server.site
    server.start()
    nobody = lab.plan.internet4, 1194
    bring(subject, server, remotes=[f"{nobody[0]} {nobody[1]}", f"{site.public4} {site.port}"])
    with sealed() as meter:
        meter.expect = Expect(meter.expect.servers | {nobody})
        lab.join("cafe")
        subject.wait(lambda status: status.server == f"{nobody[0]}:{nobody[1]}", 25)
        subject.wait("connected", 25)
        rules = lab.laptop.run("nft", "list", "table", "inet", "tunwarden").stdout
        assert str(site.public4) in rules
        assert str(nobody[0]) not in rules
        meter.reset()
        meter.expect = server.expect()
        protected_again(subject)
        subject.cli("reconnect")  # the one that worked
        protected_again(subject)
        assert meter.leaks() == []


# --- what breaks while it works ---------------------------------------------------------------------------------------


@pytest.fixture
def working(subject: Subject, server: OpenVpnServer) -> Subject:
    server.start()
    bring(subject, server)
    connected(subject, server)
    return subject


def openvpns(lab: Laboratory) -> list[str]:
    return lab.laptop.run("pidof", "openvpn", check=False).stdout.split()


def test_the_server_dies_and_comes_back(working: Subject, server: OpenVpnServer, sealed: Any) -> None:
    with sealed():
        server.kill()
        status = working.wait(lambda status: status.state == "blocked", 40)
        assert status.blocking
        server.start()
        protected_again(working)


ANSWERED = """
table inet answered {
    chain output { type filter hook output priority filter; oifname "tun0" udp sport 53 counter; }
}
"""  # only a resolver that has answered is a witness


def test_a_silent_server_is_noticed(subject: Subject, server: OpenVpnServer, sealed: Any) -> None:
    """T5: under traffic. openvpn itself would wait for twenty minutes."""
    lab = subject.lab
    server.start(keepalive="600 1200")
    lab.server.run("nft", "-f", "-", input=ANSWERED)
    bring(subject, server)
    connected(subject, server)
    deadline = time.monotonic() + 25
    while "packets 0 " in lab.server.run("nft", "list", "table", "inet", "answered").stdout:
        assert time.monotonic() < deadline, "the resolver was not asked, or did not answer"
        time.sleep(0.02)
    with sealed():
        protected_again(subject)
        lab.block_server()
        subject.wait(lambda status: not status.protected, 40)
        lab.unblock_server()
        protected_again(subject)


def test_loss_is_no_silence(subject: Subject, server: OpenVpnServer, sealed: Any) -> None:
    """T5: every third packet is lost, both ways, and the tunnel is kept; also while nobody says anything."""
    lab = subject.lab
    server.start(keepalive="600 1200")
    bring(subject, server)
    connected(subject, server)
    (pid,) = openvpns(lab)
    lossy = (
        "table inet lossy { chain %s { type filter hook %s priority 0; "
        "udp %s PORT numgen inc mod 3 == 0 counter drop; }; };"  # at random, all of eight questions may be lost
    )
    for hook, port in (("input", "dport"), ("output", "sport")):
        rules = (lossy % (hook, hook, port)).replace("PORT", str(server.site.port))
        lab.server.run("nft", "-f", "-", input=rules + "\n")
    with sealed():
        time.sleep(12)
    time.sleep(8)
    assert openvpns(lab) == [pid]
    assert subject.status().protected
    lost = re.findall(r"counter packets (\d+)", lab.server.run("nft", "list", "table", "inet", "lossy").stdout)
    assert len(lost) == 2
    assert all(int(each) > 50 for each in lost), "the control"


def test_openvpn_is_killed(working: Subject, sealed: Any) -> None:
    lab = working.lab
    (before,) = openvpns(lab)
    with sealed():
        lab.laptop.run("kill", "-KILL", before)
        working.wait(lambda status: not status.protected, 25)
        protected_again(working)
    (after,) = openvpns(lab)
    assert after != before


def test_the_link_is_deleted(working: Subject, sealed: Any) -> None:
    with sealed():
        working.lab.laptop.run("ip", "link", "del", TUNNEL_IFNAME)
        working.wait(lambda status: not status.protected, 25)
        protected_again(working)


def test_the_daemon_is_killed(working: Subject, sealed: Any) -> None:
    """K5: nothing leaves, and the next daemon has a tunnel of its own; no openvpn is left over."""
    lab = working.lab
    with sealed():
        working.kill()
        time.sleep(0.5)
        working.start(25)
        protected_again(working)
    assert len(openvpns(lab)) == 1


def test_what_an_earlier_daemon_left_is_ended(working: Subject, sealed: Any) -> None:
    """It ends with our socket, unless it cannot: then the next daemon ends it."""
    lab = working.lab
    (left,) = openvpns(lab)
    with sealed():
        lab.laptop.run("kill", "-STOP", left)
        working.kill()
        assert openvpns(lab) == [left]
        working.start(25)
        protected_again(working)
    assert left not in openvpns(lab)
    with working.client() as client:
        client.disconnect()
    working.wait("idle", 25)
    assert openvpns(lab) == []


def test_another_network(working: Subject, sealed: Any) -> None:
    with sealed():
        working.lab.leave()
        working.lab.join("cafe6", dhcp=False, ssid=b"Open again")
        working.lab.leave()
        working.lab.join("cafe")
        protected_again(working)


def test_from_wireguard_and_back(subject: Subject, sealed: Any, tmp_path: Path) -> None:
    """L16: two kinds of tunnel under one name of a link, one after the other."""
    lab = subject.lab
    subject.set_up("wireguard")
    server = OpenVpnServer(lab.add_server(), lab.plan, tmp_path)
    server.start()
    bring(subject, server)
    lab.join("cafe")
    with sealed() as meter:
        for _ in range(2):
            protected_again(subject, server.site)
            with subject.client() as client:
                client.connect("wireguard")
            protected_again(subject, lab.plan.site)
            assert openvpns(lab) == []
            with subject.client() as client:
                client.connect(PROFILE)
        protected_again(subject, server.site)
        assert meter.leaks() == []


# --- a hostile server -------------------------------------------------------------------------------------------------

HOSTILE = (
    "redirect-gateway def1 bypass-dhcp", "route 203.0.113.0 255.255.255.0 net_gateway", "route-ipv6 2001:db8::/32",
    "route-metric 1", "dhcp-option DOMAIN attacker.example", "dhcp-option PROXY_HTTP 203.0.113.9 80",
    "dhcp-option DNS not-an-address", "dns server 1 address 203.0.113.9", "setenv PATH /tmp", "setenv-safe X 1",
    "setenv opt up /run/hostile.sh", "echo forget-passwords", "inactive 1", "ping-exit 1", "session-timeout 1",
    "block-outside-dns", "block-ipv6", "register-dns", "up /run/hostile.sh", "down /run/hostile.sh",
    "route-up /run/hostile.sh", "script-security 3", "plugin /run/hostile.so", "log /run/hostile", "cd /run",
    "management /run/hostile.sock unix", "remote 203.0.113.9 1194", "client-nat snat 10.0.0.0 255.0.0.0 10.1.0.0",
    "socket-flags TCP_NODELAY", "sndbuf 1", "rcvbuf 1", "persist-tun", "explicit-exit-notify 3", "route-delay 100",
    "server-poll-timeout 1", "reneg-sec 1", "max-routes 1", "user nobody", "chroot /tmp", "ip-win32 dynamic",
)  # fmt: skip


def looks(subject: Subject) -> dict[str, str]:
    """Everything that a server might change."""
    host = subject.lab.laptop
    tables = [("ip", "-o", *family, "route", "show", "table", "all") for family in (("-4",), ("-6",))]
    asked = [*tables, ("ip", "-o", "rule"), ("ip", "-6", "-o", "rule"), ("cat", "/etc/resolv.conf")]
    told = {" ".join(argv): host.run(*argv).stdout for argv in asked}
    # Times and counters run on.
    told = {argv: re.sub(r" expires \S+| pref \S+| metric 1024", "", text) for argv, text in told.items()}
    return {
        argv: "\n".join(sorted(line for line in text.splitlines() if "cache" not in line))
        for argv, text in told.items()
    }


def test_what_a_hostile_server_pushes(working: Subject, server: OpenVpnServer, sealed: Any) -> None:
    """E1: nothing but addresses, resolvers and timers is taken; scripts are neither run nor there."""
    before = looks(working)
    with sealed():
        server.start(pushes=HOSTILE)
        with working.client() as client:
            client.reconnect()
        protected_again(working)
        (pid,) = openvpns(working.lab)
        time.sleep(3)  # timers that end a connection would have
        assert openvpns(working.lab) == [pid]
        protected_again(working)
    assert looks(working) == before
    files = working.lab.laptop.run("find", "/run", "-name", "hostile*").stdout
    assert files == ""
    assert working.process is not None
    assert "attacker.example" not in working.process.output()


def test_a_server_that_never_stops_pushing(working: Subject, server: OpenVpnServer, sealed: Any) -> None:
    """In many messages, for one is too short: some 40 KB that mean nothing."""
    with sealed():
        server.start(pushes=[f"echo {number:04d}-{'x' * 200}" for number in range(200)])
        with working.client() as client:
            client.reconnect()
        protected_again(working)
