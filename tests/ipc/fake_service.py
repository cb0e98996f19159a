"""A service that remembers what it was asked; as a program: `python -m tests.ipc.fake_service FOLDER GID`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path

from ipc.access import Caller
from ipc.dispatch import Dispatcher
from ipc.errors import Error, ServiceError
from ipc.feed import Feed
from ipc.structs import (
    Allowance,
    KnownNetwork,
    LoginState,
    Network,
    Notice,
    Problem,
    Profile,
    ProfileField,
    Prompt,
    Reason,
    ReportPart,
    Server,
    Setting,
    SplitEntry,
    Status,
    Trace,
    Traffic,
    Usage,
)
from ipc.varlink import Varlink

CAFE = Network(
    ifname="wlan0",
    kind="wifi",
    ssid="Caf\u00e9 \\x1b[31m",
    ssid_hex="436166c3a9201b5b33316d",
    security="open",
    verdict="unsecured",
    reasons=(Reason("open", "The network has no encryption."),),
    action="prompt",
    rule="wifi.unsecured",
    cleared=False,
)
DAY = "2026-11-22"
EVIL = "=cmd|' /C x'!A1 \x1b[31m"  # a name for spreadsheets and terminals to stumble over
TRAFFIC = Traffic(
    day=DAY,
    today=(
        Usage("tunnel", 0, DAY, None, None, 150_000_000, 12_345_678, 120_000, 60_000),
        Usage("clear", 0, DAY, None, None, 999, 0, 9, 0),
        Usage("carrier", 0, DAY, None, None, 160_000_000, 13_000_000, 120_100, 60_100),
    ),
    rx_rate=1_250_000, tx_rate=80_000, clear_rx_rate=0, clear_tx_rate=0,
    allowance=Allowance(True, "day", 200_000_000, 162_345_678, 37_654_322, 1_700_007_200, "block", False),
)  # fmt: skip
USAGE = {
    "minute": (Usage("tunnel", 1_700_000_040, "", None, None, 60, 40, 2, 1),),
    "hour": (
        Usage("tunnel", 1_700_006_400, "", None, None, 3_000_000, 1_000_000, 3000, 1000),
        Usage("clear", 1_700_006_400, "", None, None, 1_000_000, 0, 900, 0),
        Usage("carrier", 1_700_006_400, "", None, None, 9_000_000, 9_000_000, 900, 900),
        Usage("tunnel", 1_700_002_800, "", None, None, 500_000, 500_000, 500, 500),
    ),
    "day": (Usage("tunnel", 0, DAY, None, None, 150_000_000, 12_345_678, 120_000, 60_000),),
    "network": (
        Usage("tunnel", 0, EVIL, "wifi", EVIL.encode().hex(), 5_000, 600, 7, 8),
        Usage("carrier", 0, "eth0", "wired", None, 1, 2, 3, 4),
    ),
    "profile": (Usage("tunnel", 0, "home", None, None, 5_000, 600, 7, 8),),
}
CABLE = Network("eth0", "wired", None, None, None, None, (), "ignore", "wired", True)
IDLE = Status(
    state="idle",
    target="unprotected",
    protected=False,
    blocking=False,
    cause=None,
    cause_text=None,
    profile=None,
    server=None,
    since=1_700_000_000,
    networks=(CAFE, CABLE),
    kill_switch=True,
    lockdown=False,
    warnings=(),
    alarm=None,
    rx_bytes=0,
    tx_bytes=0,
    lists=1,
    sequence=0,
    version="9.8.7",
)
KNOWN = KnownNetwork(
    "Home", "486f6d65", "wpa2", "ignore", None, True, "user",
    False, (), ("02:00:00:00:00:01",), (), None, None, True,
    '{"ssid_hex": "486f6d65", "allow_lan": true, "learn": true}',
)  # fmt: skip
OFFICES = KnownNetwork(
    "Corp-*", "436f72702d2a", "8021x", None, None, False, "settings",
    True, ("Corp-\\x1bGuest*",), (), ("02:00:00:00:00:02",), "192.0.2.1:443", "01:02", False,
    '{"pattern": "Corp-*", "security": "8021x"}',
)  # fmt: skip
PROFILE = Profile("home", "wireguard", ("198.51.100.7:51820",), True)
SERVERS = (
    Server("se-1", "SE", "Malm\u00f6", ("fast",), ("198.51.100.7:51820",), True, True, True, 12, 0, 1_700_000_000),
    Server("de-1", "DE", None, (), ("[2001:db8::1]:443",), False, False, False, 0, 100, 1_700_000_000),
    Server("plain", None, None, (), ("198.51.100.9:51820",), False, False, False, 0, 0, 0),
)
SECURED = Setting(
    "wifi.secured", "prompt", "user", None, "ignore", "prompt", "choice", "auto_connect, prompt, ignore", "What to do.",
)  # fmt: skip
LOCKDOWN = Setting(
    "protection.lockdown", "true", "administrator", "/etc/tunwarden/tunwarden.toml:3", "false", None,
    "boolean", "true, false", "Block all traffic.",
)  # fmt: skip
SUBNETS = Setting(
    "protection.lan_subnets", "100.64.0.0/10, fd00::/48", "user", None, "", "100.64.0.0/10, fd00::/48",
    "list", "networks", "Local ones.",
)  # fmt: skip
PROMPT = Prompt("ab12", "raised", CAFE, 1_700_000_060, "auto_connect", True, ("auto_connect",), None)
CONNECTED = {
    "state": "connected",
    "target": "protected",
    "protected": True,
    "blocking": True,
    "profile": "home",
    "server": "198.51.100.7:51820",
}
CLOSED = {"target": "protected", "blocking": True}


class FakeService:
    """Knows the profile `home`. Connecting to it takes one turn of the loop; to `slow`, for ever; to `none`, fails."""

    def __init__(self) -> None:
        self.feed = Feed(IDLE)
        self.calls: list[tuple[str, Caller, tuple[object, ...]]] = []
        self.prompts: tuple[Prompt, ...] = (PROMPT,)
        self.agents: list[asyncio.Queue[Prompt]] = []
        self.logins: list[str] = ["begun"]
        self.known_networks: tuple[KnownNetwork, ...] = (OFFICES, KNOWN)
        self.page = 1
        self.profiles: tuple[Profile, ...] = (PROFILE,)
        self.trace = Trace(False, 0, False, 0, "/var/lib/tunwarden/trace", None)
        self.padding = ""  # goes into the version, to make answers large

    def _note(self, name: str, caller: Caller, *arguments: object) -> None:
        self.calls.append((name, caller, arguments))

    def change(self, **changes: object) -> None:
        self.feed.publish(replace(self.feed.status, **changes))  # type: ignore[arg-type]

    async def get_status(self, caller: Caller) -> Status:
        self._note("get_status", caller)
        return self.feed.status

    def watch(self, caller: Caller) -> AsyncGenerator[Status, None]:
        self._note("watch", caller)
        return self.feed.watch()

    async def get_version(self, caller: Caller) -> str:
        self._note("get_version", caller)
        return f"9.8.7{self.padding}"

    async def connect(self, caller: Caller, profile: str | None) -> None:
        self._note("connect", caller, profile)
        match profile:
            case "broken":
                raise RuntimeError("private key 0123")
            case "slow":
                self.change(
                    state="connecting",
                    target="protected",
                    blocking=True,
                    cause="server-unreachable",
                    cause_text="No answer.",
                )
            case "none":
                self.change(**CLOSED, state="blocked", cause="no-profile", cause_text="No profile.")
            case None | "home":
                self.change(**CLOSED, state="connecting")
                asyncio.get_running_loop().call_soon(lambda: self.change(**CONNECTED))
            case _:
                raise ServiceError(Error.NO_SUCH_PROFILE, f"Profile {profile}", "it is not stored.", "Import it.")

    async def disconnect(self, caller: Caller) -> None:
        self._note("disconnect", caller)
        self.change(state="idle", target="unprotected", protected=False, blocking=False, profile=None, server=None)

    async def reconnect(self, caller: Caller) -> None:
        self._note("reconnect", caller)
        if self.feed.status.target != "protected":
            raise ServiceError(Error.NOT_NOW, "Reconnect", "there is no connection.", "Connect first.")

    async def set_kill_switch(self, caller: Caller, on: bool) -> None:
        self._note("set_kill_switch", caller, on)
        self.change(kill_switch=on)

    async def set_lockdown(self, caller: Caller, on: bool) -> None:
        self._note("set_lockdown", caller, on)
        if not on:
            raise ServiceError(Error.LOCKED, "Lockdown", "the settings fix it.", "Edit tunwarden.toml.")
        self.change(lockdown=True)

    async def current(self, caller: Caller) -> tuple[Network, ...]:
        self._note("current", caller)
        return self.feed.status.networks

    async def list_known(self, caller: Caller, start: int) -> tuple[KnownNetwork, ...]:
        self._note("list_known", caller, start)
        return self.known_networks[start:][: self.page]

    async def add_known(
        self,
        caller: Caller,
        ssid: str | None,
        ssid_hex: str | None,
        security: str | None,
        action: str | None,
        profile: str | None,
        allow_lan: bool,
        pin: bool,
        learn: bool,
    ) -> KnownNetwork:
        self._note("add_known", caller, ssid, ssid_hex, security, action, profile, allow_lan, pin, learn)
        return KNOWN

    async def edit_known(self, caller: Caller, ssid_hex: str, changes: str, pattern: bool) -> KnownNetwork:
        self._note("edit_known", caller, ssid_hex, changes, pattern)
        if ssid_hex != KNOWN.ssid_hex:
            raise ServiceError(Error.LOCKED, "That network", "the settings fix it.")
        return replace(KNOWN, profile=changes)

    async def import_known(self, caller: Caller, text: str) -> int:
        self._note("import_known", caller, text)
        return len(text.splitlines())

    async def forget_known(self, caller: Caller, ssid_hex: str, pattern: bool) -> None:
        self._note("forget_known", caller, ssid_hex, pattern)
        if ssid_hex != KNOWN.ssid_hex:
            raise ServiceError(Error.NO_SUCH_NETWORK, "That network", "it is not known.")

    async def import_profile(self, caller: Caller, name: str, text: str) -> tuple[Notice, ...]:
        self._note("import_profile", caller, name, text)
        if "PostUp" in text:
            raise ServiceError(Error.PROFILE_REFUSED, "The profile", "line 3: PostUp runs a program.", "Remove it.")
        return (Notice(2, "Table", "tunwarden has its own."),)

    async def list_split(self, caller: Caller) -> tuple[SplitEntry, ...]:
        self._note("list_split", caller)
        return (SplitEntry("never", "browser", 4711, 61001, 2),)

    async def add_split(self, caller: Caller, group: str, pid: int) -> None:
        self._note("add_split", caller, group, pid)

    async def remove_split(self, caller: Caller, pid: int) -> None:
        self._note("remove_split", caller, pid)

    async def add_split_program(self, caller: Caller, group: str, path: str, uid: int) -> None:
        self._note("add_split_program", caller, group, path, uid)

    async def remove_split_program(self, caller: Caller, path: str, uid: int) -> None:
        self._note("remove_split_program", caller, path, uid)

    async def waiting_prompts(self, caller: Caller) -> tuple[Prompt, ...]:
        self._note("waiting_prompts", caller)
        return self.prompts

    async def portal_login(self, caller: Caller) -> AsyncGenerator[LoginState, None]:
        self._note("portal_login", caller)
        for state in self.logins:
            yield LoginState(state, "http://portal.example/login", 1_700_000_600)
        await asyncio.Event().wait()

    async def watch_prompts(self, caller: Caller) -> AsyncGenerator[Prompt | None, None]:
        self._note("watch_prompts", caller)
        told: asyncio.Queue[Prompt] = asyncio.Queue()
        for prompt in self.prompts:
            told.put_nowait(prompt)
        self.agents.append(told)
        try:
            yield None
            while True:
                yield await told.get()
        finally:
            self.agents.remove(told)

    async def answer_prompt(self, caller: Caller, id: str, answer: str, remember: bool) -> None:
        self._note("answer_prompt", caller, id, answer, remember)
        if id not in [prompt.id for prompt in self.prompts]:
            raise ServiceError(Error.NO_SUCH_PROMPT, "Answer", "its time is over.")
        self.prompts = ()
        self.tell(replace(PROMPT, state="answered", answer=answer))

    def tell(self, prompt: Prompt) -> None:
        for agent in self.agents:
            agent.put_nowait(prompt)

    async def list_profiles(self, caller: Caller) -> tuple[Profile, ...]:
        self._note("list_profiles", caller)
        return self.profiles

    async def show_profile(self, caller: Caller, name: str) -> tuple[ProfileField, ...]:
        self._note("show_profile", caller, name)
        return (ProfileField("kind", "wireguard"), ProfileField("private key", "kept, never shown"))

    async def set_login(self, caller: Caller, name: str, user: str, password: str) -> None:
        self._note("set_login", caller, name, user, password)

    async def remove_profile(self, caller: Caller, name: str) -> None:
        self._note("remove_profile", caller, name)

    async def import_servers(self, caller: Caller, profile: str, text: str) -> int:
        self._note("import_servers", caller, profile, text)
        return text.count("[[servers]]")

    async def remove_servers(self, caller: Caller, profile: str) -> None:
        self._note("remove_servers", caller, profile)

    async def list_servers(
        self, caller: Caller, profile: str | None, country: str | None, start: int
    ) -> tuple[Server, ...]:
        self._note("list_servers", caller, profile, country, start)
        return tuple(each for each in SERVERS if country in (None, "", each.country))[start:][: self.page]

    async def connect_server(self, caller: Caller, profile: str | None, server: str) -> None:
        self._note("connect_server", caller, profile, server)
        if server == "gone":
            raise ServiceError(Error.NO_SUCH_SERVER, "Connect", "the list of home has no gone.")
        self.change(**{**CONNECTED, "server_name": server})

    async def set_favourite(self, caller: Caller, profile: str | None, server: str, on: bool) -> None:
        self._note("set_favourite", caller, profile, server, on)

    async def get_trace(self, caller: Caller) -> Trace:
        self._note("get_trace", caller)
        return self.trace

    async def start_trace(self, caller: Caller, minutes: int, hide_names: bool = False) -> Trace:
        self._note("start_trace", caller, minutes, hide_names)
        self.trace = Trace(True, 1_700_000_000 + 60 * minutes, hide_names, 0, "/var/lib/tunwarden/trace", None)
        return self.trace

    async def stop_trace(self, caller: Caller) -> Trace:
        self._note("stop_trace", caller)
        self.trace = replace(self.trace, on=False, until=0, bytes=4096)
        return self.trace

    async def get_report(self, caller: Caller, hide_names: bool = False) -> tuple[ReportPart, ...]:
        self._note("get_report", caller, hide_names)
        return (ReportPart("Log", "The last lines.", "12:00 info \x1b[31mstate phase=idle\n"),)

    async def get_traffic(self, caller: Caller) -> Traffic:
        self._note("get_traffic", caller)
        return TRAFFIC

    async def follow_traffic(self, caller: Caller) -> AsyncGenerator[Traffic, None]:
        self._note("follow_traffic", caller)
        yield TRAFFIC
        yield replace(TRAFFIC, rx_rate=2_500_000)
        await asyncio.Event().wait()

    async def get_usage(self, caller: Caller, by: str, first: str | None, last: str | None) -> tuple[Usage, ...]:
        self._note("get_usage", caller, by, first, last)
        return USAGE[by] if not first else ()

    async def grant_allowance(self, caller: Caller) -> None:
        self._note("grant_allowance", caller)

    async def list_settings(self, caller: Caller) -> tuple[Setting, ...]:
        self._note("list_settings", caller)
        return (LOCKDOWN, SUBNETS, SECURED)

    async def change_setting(self, caller: Caller, key: str, value: str) -> None:
        self._note("change_setting", caller, key, value)
        if key == "protection.lockdown":
            raise ServiceError(Error.LOCKED, "ChangeSetting", "it is fixed in /etc/tunwarden/tunwarden.toml:3.")

    async def reset_settings(self, caller: Caller, key: str | None) -> None:
        self._note("reset_settings", caller, key)

    async def import_settings(self, caller: Caller, text: str) -> int:
        self._note("import_settings", caller, text)
        return len(text.splitlines())

    async def check_settings(self, caller: Caller, text: str) -> tuple[Problem, ...]:
        self._note("check_settings", caller, text)
        return (Problem(1, "wifi.secured", "unknown action", "auto_connect, prompt or ignore"),)


async def main(folder: Path, gid: int) -> None:
    """Serve until killed, and say so once the sockets are open."""
    await Varlink(Dispatcher(FakeService(), gid), "9.8.7", folder).start()
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
