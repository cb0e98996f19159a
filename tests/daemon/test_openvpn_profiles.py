"""OpenVPN profiles, as callers have to do with them: brought, shown, given a login; over a real loop and store."""

from __future__ import annotations

import asyncio
import stat
from ipaddress import ip_address
from pathlib import Path

import pytest

from daemon.service import DaemonService
from ipc.errors import Error
from policies.facts import Tunnel
from policies.firewall import TUNNEL_IFNAME
from policies.openvpn import OpenVPNProfile
from policies.states import Phase
from tests.daemon.test_loop import SETTINGS, Running
from tests.daemon.test_service import ROOT, refused, run
from tests.policies.openvpn_texts import corpus

TEXT = corpus("many-ports")
SECRET = "correct horse"


def test_brought_shown_and_given_a_login(tmp_path: Path) -> None:
    async def check(here: Running, service: DaemonService) -> None:
        told = await service.import_profile(ROOT, "vpn", TEXT)
        assert any("tunwarden profiles login vpn" in each.reason for each in told)
        (profile,) = await service.list_profiles(ROOT)
        assert (profile.kind, profile.servers[0]) == ("openvpn", "192.0.2.10:80")
        fields = [(each.name, each.value) for each in await service.show_profile(ROOT, "vpn")]
        assert ("user name and password", "missing") in fields
        await service.set_login(ROOT, "vpn", "alice", SECRET)
        kept = here.loop.profiles["vpn"]
        assert isinstance(kept, OpenVPNProfile)
        assert (kept.user, kept.password) == ("alice", SECRET)
        shown = str(await service.show_profile(ROOT, "vpn"))
        assert "kept, never shown" in shown
        assert "alice" not in shown
        file = here.loop.store.folder / "profiles" / "vpn.json"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert SECRET in file.read_text(), "the control"

    run(tmp_path, check, profile=False)


def test_no_secret_is_told_or_logged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def check(here: Running, service: DaemonService) -> None:
        await service.import_profile(ROOT, "vpn", TEXT)
        await service.set_login(ROOT, "vpn", "alice", SECRET)
        profile = here.loop.profiles["vpn"]
        assert isinstance(profile, OpenVPNProfile)
        assert profile.wrap_key is not None
        report = str(await service.get_report(ROOT))
        logged = capsys.readouterr()
        assert "vpn" in report
        assert "login for profile" in logged.out + logged.err
        for secret in (SECRET, profile.wrap_key.hex()[:32], "alice"):
            assert secret not in report + logged.out + logged.err

    run(tmp_path, check, profile=False)


def test_a_login_that_cannot_be_kept(tmp_path: Path) -> None:
    async def check(here: Running, service: DaemonService) -> None:
        await service.import_profile(ROOT, "vpn", TEXT)
        with refused(Error.NO_SUCH_PROFILE, "no profile 'x'"):
            await service.set_login(ROOT, "x", "alice", SECRET)
        with refused(Error.NO_SUCH_PROFILE, "no profile '../x'"):
            await service.show_profile(ROOT, "../x")
        with refused(Error.PROFILE_REFUSED, "WireGuard"):
            await service.set_login(ROOT, "office", "alice", SECRET)
        with refused(Error.PROFILE_REFUSED, "printable"):
            await service.set_login(ROOT, "vpn", "alice\nup /x", SECRET)
        assert here.loop.profiles["vpn"] == here.loop.store.profiles()["vpn"]

    run(tmp_path, check)


def test_a_refusal_says_the_line_and_keeps_nothing(tmp_path: Path) -> None:
    async def check(here: Running, service: DaemonService) -> None:
        with refused(Error.PROFILE_REFUSED, "line 3: up: would run a program as root"):
            await service.import_profile(ROOT, "vpn", "client\ndev tun\nup /bin/x\n")
        assert await service.list_profiles(ROOT) == ()

    run(tmp_path, check, profile=False)


def test_a_new_login_of_the_tunnel_in_use_makes_it_anew(tmp_path: Path) -> None:
    async def check(here: Running, service: DaemonService) -> None:
        await here.at_home()
        await service.import_profile(ROOT, "vpn", TEXT)
        await service.set_login(ROOT, "vpn", "alice", SECRET)
        await service.connect(ROOT, "vpn")
        await here.until(Phase.CONNECTED)
        before = here.loop.state.attempt
        await service.set_login(ROOT, "vpn", "alice", "another")
        await here.until(Phase.CONNECTED)
        assert here.loop.state.attempt > before

    run(tmp_path, check, profile=False)


def test_the_tunnel_is_what_the_server_says(tmp_path: Path) -> None:
    """Where it is known only when the tunnel stands."""
    given = Tunnel(TUNNEL_IFNAME, (), (ip_address("10.8.0.1"),))

    async def check(here: Running, service: DaemonService) -> None:
        async def established() -> Tunnel:
            await asyncio.sleep(0)
            return given

        here.loop.host.tunnel.established = established  # type: ignore[method-assign]
        await here.at_home()
        await service.import_profile(ROOT, "vpn", TEXT)
        await service.connect(ROOT, "vpn")
        await here.until(Phase.CONNECTED)
        assert here.loop.state.tunnel == given

    run(tmp_path, check, SETTINGS, profile=False)
