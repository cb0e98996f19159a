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
from ipc.interface import (
    KnownNetwork,
    Network,
    Notice,
    PortalLogin,
    Problem,
    Profile,
    Prompt,
    Reason,
    ReportPart,
    Setting,
    Status,
    Trace,
)  # fmt: skip
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

    async def waiting_prompts(self, caller: Caller) -> tuple[Prompt, ...]:
        self._note("waiting_prompts", caller)
        return self.prompts

    async def portal_login(self, caller: Caller) -> AsyncGenerator[PortalLogin, None]:
        self._note("portal_login", caller)
        for state in self.logins:
            yield PortalLogin(state, "http://portal.example/login", 1_700_000_600)
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

    async def remove_profile(self, caller: Caller, name: str) -> None:
        self._note("remove_profile", caller, name)

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
