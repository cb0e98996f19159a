"""The interface, written once. Both faces, the client, the reference in docs/ and the tests are derived from it.

`Service` is what the daemon implements. Its annotations are the wire types (`describe.py` turns them into plain data),
its docstrings the documentation, its decorators say who may call and what can go wrong.

Wire names are the same on both faces: method `org.tunwarden.Daemon1.Manager.Connect`, error
`org.tunwarden.Daemon1.Error.NotNow`. D-Bus has no null: there, a nullable string is "" when it is null.
Methods take content, never a path or a command line (E7).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import Annotated, NamedTuple, Protocol, TypeVar

from ipc.access import Access, Caller
from ipc.errors import Error
from ipc.structs import (
    KnownNetwork,
    LoginState,
    Network,
    Notice,
    Problem,
    Profile,
    ProfileField,
    Prompt,
    ReportPart,
    Server,
    Setting,
    SplitEntry,
    Status,
    Trace,
    Traffic,
    Usage,
)

NAME = "org.tunwarden.Daemon1"
PATH = "/org/tunwarden/Daemon1"

INTERFACES = {
    "Manager": "The state of protection, and the switches that change it.",
    "Networks": "The networks this machine is on, and those it knows.",
    "Prompts": "Questions that the daemon has for people about networks, and their answers.",
    "Profiles": "VPN configurations: brought as text, stored by the daemon, never given back.",
    "Servers": "The servers of a profile that has a list of them, and which of them is used.",
    "Traffic": "What was counted, how fast it goes, and what is left of an allowance.",
    "Split": "Programs that never use the tunnel, and programs that use nothing else.",
    "Settings": "The settings in force, where each comes from, and those that users set.",
    "Diagnostics": "Questions about the configuration, and what helps to find a fault.",
}


class Longest(NamedTuple):
    """The most bytes (UTF-8) a string argument may have. Beyond it: InvalidArgument."""

    size: int


class OneOf(NamedTuple):
    """The values a string argument may have. Anything else: InvalidArgument."""

    values: tuple[str, ...]


class Spec(NamedTuple):
    """What a decorator says about a method of `Service`."""

    name: str  # interface and member, such as Manager.Connect
    access: Access
    errors: tuple[Error, ...]
    returns: str  # name of the result on the wire; empty: nothing is returned
    opens: str  # name of a bool argument: when it is false, the call needs ADMIN
    relaxes: tuple[tuple[str, bool | str], ...]  # arguments: when all are so, the call needs ADMIN
    tightens: bool  # the call needs only CHANGE where its `key` and `value` are one of TIGHTENS
    stream: bool  # replies until the caller hangs up (Varlink, with `more`)
    signal: str  # of a stream on D-Bus: it goes to the caller with each reply, until it leaves the bus


SPECS: dict[str, Spec] = {}  # by the Python name, in the order of the interface
F = TypeVar("F", bound=Callable[..., object])


def method(
    name: str,
    access: Access,
    *errors: Error,
    returns: str = "",
    opens: str = "",
    relaxes: tuple[tuple[str, bool | str], ...] = (),
    tightens: bool = False,
    stream: bool = False,
    signal: str = "",
) -> Callable[[F], F]:
    """Make a method of `Service` part of the interface, under `name`."""

    def mark(function: F) -> F:
        SPECS[function.__name__] = Spec(name, access, errors, returns, opens, relaxes, tightens, stream, signal)
        return function

    return mark


# Settings that cannot relax anything, whatever they were before: the strictest value of each. All others need ADMIN:
# what one of them relaxes depends on the rest: a longer prompt on an open network, a longer pause without kill switch.
TIGHTENS = frozenset(
    {
        ("protection.kill_switch", "true"),
        ("protection.lockdown", "true"),
        ("protection.allow_lan", "false"),
        ("protection.lan_subnets", ""),
        ("wifi.unsecured", "auto_connect"),
        ("wifi.unidentified", "auto_connect"),
        ("wifi.secured", "auto_connect"),
        ("wifi.hostile", "auto_connect"),
        ("wifi.prompt_fallback", "auto_connect"),
        ("wifi.hold_while_asking", "true"),
        ("wifi.criteria.weak_encryption", "true"),
        ("wifi.criteria.enhanced_open", "true"),
        ("wifi.criteria.wps", "true"),
        ("wifi.criteria.common_names", "true"),
        ("portal.detect", "false"),
        ("allowance.at_limit", "block"),
        ("split.subnets", ""),
        ("split.names", "tunnel"),
        ("wired.action", "auto_connect"),
        ("cellular.action", "auto_connect"),
    }
)

SECURITIES = (
    "unknown", "open", "owe-transition", "owe", "wep", "wpa", "wpa2", "wpa2-wpa3", "wpa3", "8021x", "8021x-192",
)  # fmt: skip
ACTIONS = ("auto_connect", "prompt", "ignore", "disconnect")

USAGE_BY = ("minute", "hour", "day", "network", "profile")
ANSWERS = ("auto_connect", "ignore")
GROUPS = ("never", "only")
PROMPT_STATES = ("raised", "answered", "expired", "withdrawn")

Name = Annotated[str, Longest(64)]  # of a profile
Hex = Annotated[str, Longest(64)]  # of an SSID: two digits a byte
PROFILE_BYTES = 1 << 20
SERVERS_BYTES = 1 << 20  # of a list of servers as text
SERVERS_PAGE = 100  # servers of one answer
VALUE_BYTES = 4096  # of a setting as text
KNOWN_BYTES = 256 << 10  # of saved networks as text
SETTINGS_BYTES = 48 << 10  # fits, escaped as JSON, into a message from an unprivileged peer


class Property(NamedTuple):
    """A D-Bus property of `.Manager`, read from the status. Changes are announced with PropertiesChanged."""

    name: str
    source: str  # the field of Status


PROPERTIES = (
    Property("State", "state"),
    Property("Protected", "protected"),
    Property("Blocking", "blocking"),
    Property("Alarm", "alarm"),
    Property("Cause", "cause"),
    Property("Profile", "profile"),
    Property("Since", "since"),
    Property("KillSwitch", "kill_switch"),
    Property("Lockdown", "lockdown"),
)


class Service(Protocol):
    """What the daemon does for its callers. The face has checked access and arguments before it calls.

    Methods raise ServiceError; anything else reaches the caller as Internal, without its text.
    """

    # --- Manager ---

    @method("Manager.GetStatus", Access.READ, returns="status")
    async def get_status(self, caller: Caller) -> Status:
        """The state of protection. Never asks for anything, never changes anything."""
        ...

    @method("Manager.Watch", Access.READ, returns="status", stream=True)
    def watch(self, caller: Caller) -> AsyncGenerator[Status, None]:
        """The status now, then every change of it, until the caller hangs up (Varlink, with `more`).

        Sequence numbers have no gap: a reader that is too slow is disconnected instead. It connects again and gets
        the present status first. On D-Bus, PropertiesChanged tells of changes.
        """
        ...

    @method("Manager.GetVersion", Access.READ, returns="version")
    async def get_version(self, caller: Caller) -> str:
        """Version of the daemon."""
        ...

    @method("Manager.Connect", Access.CHANGE, Error.NO_SUCH_PROFILE, Error.NOT_NOW)
    async def connect(
        self, caller: Caller, profile: Annotated[Name | None, "The profile; null or empty: the chosen one."]
    ) -> None:
        """Ask for protection. Returns before the tunnel is up, but not before the status shows the new target.

        GetStatus, Watch and the properties tell how it goes on.
        """
        ...

    @method("Manager.Disconnect", Access.CHANGE, Error.NOT_NOW)
    async def disconnect(self, caller: Caller) -> None:
        """Give up protection. With lockdown on, nothing passes afterwards; otherwise the machine is open."""
        ...

    @method("Manager.Reconnect", Access.CHANGE, Error.NOT_NOW)
    async def reconnect(self, caller: Caller) -> None:
        """Take the tunnel down and up again; everything stays blocked in between."""
        ...

    @method("Manager.SetKillSwitch", Access.CHANGE, Error.LOCKED, opens="on")
    async def set_kill_switch(self, caller: Caller, on: Annotated[bool, "The new position."]) -> None:
        """Block all traffic when protection is wanted and the tunnel is down. Switching it off needs root."""
        ...

    @method("Manager.SetLockdown", Access.CHANGE, Error.LOCKED, opens="on")
    async def set_lockdown(self, caller: Caller, on: Annotated[bool, "The new position."]) -> None:
        """Block all traffic also while disconnected, from boot on. Switching it off needs root."""
        ...

    # --- Networks ---

    @method("Networks.Current", Access.READ, returns="networks")
    async def current(self, caller: Caller) -> tuple[Network, ...]:
        """The networks this machine is on now, with verdict, reasons and rule."""
        ...

    @method("Networks.ListKnown", Access.READ, returns="known")
    async def list_known(
        self, caller: Caller, start: Annotated[int, "How many to leave out: those of earlier answers."] = 0
    ) -> tuple[KnownNetwork, ...]:
        """The saved networks, those of the settings file first: up to 200. Ask for more until there are none."""
        ...

    @method(
        "Networks.AddKnown", Access.ADMIN, Error.NO_SUCH_NETWORK, Error.NO_SUCH_PROFILE, Error.LOCKED, Error.NOT_NOW,
        returns="known",
    )  # fmt: skip
    async def add_known(
        self,
        caller: Caller,
        ssid: Annotated[str | None, Longest(32), "Name as text; with `ssid_hex` also empty: the network joined now."],
        ssid_hex: Annotated[Hex | None, "Name as hexadecimal bytes; wins over `ssid`."],
        security: Annotated[
            str | None, OneOf(SECURITIES), "The weakest protection to accept; null: that of the joined one, or wpa2."
        ],
        action: Annotated[str | None, OneOf(ACTIONS), "What to do on it; null: the rule of the verdict."],
        profile: Annotated[Name | None, "The profile to use on it; null: the chosen one."],
        allow_lan: Annotated[bool, "Whether its local network may be reached while protected."] = False,
        pin: Annotated[bool, "Only the access point and the router that are joined now."] = False,
        learn: Annotated[
            bool, "Add access points as they are met; EditKnown ends that, and then only those count."
        ] = False,
    ) -> KnownNetwork:
        """Save a network, or replace a saved one. Rules for known networks relax protection, so this needs root.

        Patterns, and lists of access points and routers, come with EditKnown and ImportKnown.
        """
        ...

    @method(
        "Networks.EditKnown", Access.ADMIN, Error.NO_SUCH_NETWORK, Error.NO_SUCH_PROFILE, Error.LOCKED, Error.NOT_NOW,
        returns="known",
    )  # fmt: skip
    async def edit_known(
        self,
        caller: Caller,
        ssid_hex: Annotated[Hex, "The name's bytes in hexadecimal."],
        changes: Annotated[str, Longest(KNOWN_BYTES), "A JSON object: keys of [[known]], or `learn`; null ends one."],
        pattern: Annotated[bool, "Whether the pattern of this spelling is meant, not the name."] = False,
    ) -> KnownNetwork:
        """Change a saved network; what is not named stays. The result must be one that could be added.

        `beacon` without `beacon_sha256` takes the certificate that is shown now: the network has to be joined, and not
        blocked.
        """
        ...

    @method("Networks.ForgetKnown", Access.ADMIN, Error.NO_SUCH_NETWORK, Error.LOCKED, Error.NOT_NOW)
    async def forget_known(
        self,
        caller: Caller,
        ssid_hex: Annotated[Hex, "The name's bytes in hexadecimal."],
        pattern: Annotated[bool, "Whether the pattern of this spelling is meant, not the name."] = False,
    ) -> None:
        """Forget a saved network. Its rule may have asked for protection, so this needs root."""
        ...

    @method(
        "Networks.ImportKnown", Access.ADMIN, Error.NO_SUCH_PROFILE, Error.LOCKED, Error.NOT_NOW, returns="imported"
    )
    async def import_known(
        self,
        caller: Caller,
        text: Annotated[str, Longest(KNOWN_BYTES), "JSON objects, one a line, each with the keys of [[known]]."],
    ) -> int:
        """Save up to 500 networks, all or none, in place of those of the same names. Returns how many.

        InvalidArgument names the line. More of them take several calls. `entry` of ListKnown is such a line.
        """
        ...

    @method("Networks.PortalLogin", Access.CHANGE, Error.NOT_NOW, returns="login", stream=True)
    def portal_login(self, caller: Caller) -> AsyncGenerator[LoginState, None]:
        """Log in to the captive portal that is in the way: the caller's process, and what it starts from now on, may.

        They reach HTTP and HTTPS over the portal's link, and nothing else, with sockets made after the first reply,
        `begun`; addresses of names are answered. Everybody else stays blocked. It lasts until the caller hangs up. The
        second reply says what ended it before; then these processes reach nothing, and are ended after five seconds. On
        the socket only (Varlink, with `more`).
        """
        ...

    # --- Prompts ---

    @method("Prompts.Waiting", Access.READ, returns="prompts")
    async def waiting_prompts(self, caller: Caller) -> tuple[Prompt, ...]:
        """The prompts that wait for an answer. Asking for them raises none and makes nobody an agent."""
        ...

    @method("Prompts.Watch", Access.CHANGE, returns="prompt", stream=True, signal="Changed")
    def watch_prompts(self, caller: Caller) -> AsyncGenerator[Prompt | None, None]:
        """Be an agent: somebody who asks people. While there is none, fallbacks apply at once.

        On Varlink the first reply is null: you are an agent now, until you hang up. Then come the prompts that wait,
        and every change of one. On D-Bus the call returns when you are an agent, until you leave the bus; the signal
        Changed is sent to you alone. Whoever reads too slowly is an agent no more.
        """
        ...

    @method("Prompts.Answer", Access.CHANGE, Error.NO_SUCH_PROMPT, Error.LOCKED, Error.NOT_NOW,
            relaxes=(("answer", "ignore"), ("remember", True)))  # fmt: skip
    async def answer_prompt(
        self,
        caller: Caller,
        id: Annotated[str, Longest(64), "The prompt's."],
        answer: Annotated[str, OneOf(ANSWERS), "`auto_connect`: use the VPN; `ignore`: use the network without it."],
        remember: Annotated[bool, "Save the network with this rule, so that it is not asked about again."] = False,
    ) -> None:
        """Answer a prompt. The first valid answer counts, until the network is left; all agents are told.

        Remembering `ignore` relaxes protection in future too, so it needs root, and a network that cannot be imitated.
        """
        ...

    # --- Profiles ---

    @method("Profiles.Import", Access.ADMIN, Error.PROFILE_REFUSED, Error.NOT_NOW, returns="notices")
    async def import_profile(
        self,
        caller: Caller,
        name: Annotated[Name, "A new name, or that of the profile to replace."],
        text: Annotated[str, Longest(PROFILE_BYTES), "The configuration itself, never a path."],
    ) -> tuple[Notice, ...]:
        """Store a VPN configuration. Scripts, plugins and unknown directives are refused; nothing is executed."""
        ...

    @method("Profiles.List", Access.READ, returns="profiles")
    async def list_profiles(self, caller: Caller) -> tuple[Profile, ...]:
        """The stored profiles, without their keys."""
        ...

    @method("Profiles.Show", Access.READ, Error.NO_SUCH_PROFILE, returns="fields")
    async def show_profile(self, caller: Caller, name: Annotated[Name, "Its name."]) -> tuple[ProfileField, ...]:
        """What a stored profile says, without its keys, passwords and user names."""
        ...

    @method("Profiles.SetLogin", Access.ADMIN, Error.NO_SUCH_PROFILE, Error.PROFILE_REFUSED, Error.NOT_NOW)
    async def set_login(
        self,
        caller: Caller,
        name: Annotated[Name, "The profile's name."],
        user: Annotated[str, Longest(128), "What the VPN server calls its user."],
        password: Annotated[str, Longest(128), "The password. It is kept like a key."],
    ) -> None:
        """Store the user name and the password that a profile's server asks for; in use, it connects anew."""
        ...

    @method("Profiles.Remove", Access.ADMIN, Error.NO_SUCH_PROFILE, Error.NOT_NOW)
    async def remove_profile(self, caller: Caller, name: Annotated[Name, "Its name."]) -> None:
        """Delete a stored profile and its keys."""
        ...

    # --- Traffic ---

    @method("Traffic.GetTraffic", Access.READ, returns="traffic")
    async def get_traffic(self, caller: Caller) -> Traffic:
        """What was counted today, how fast it goes now, and what is left of the allowance."""
        ...

    @method("Traffic.FollowTraffic", Access.READ, returns="traffic", stream=True, signal="Moved")
    def follow_traffic(self, caller: Caller) -> AsyncGenerator[Traffic, None]:
        """The same at once, and then whenever it has changed, at most once a second, until the caller hangs up."""
        ...

    @method("Traffic.GetUsage", Access.READ, returns="usage")
    async def get_usage(
        self,
        caller: Caller,
        by: Annotated[str, OneOf(USAGE_BY), "Minutes and hours with traffic, days, networks or profiles."],
        first: Annotated[str | None, Longest(10), "The first local day, 2026-11-22; null: the first there is."] = None,
        last: Annotated[str | None, Longest(10), "The last local day, included; null: the last there is."] = None,
    ) -> tuple[Usage, ...]:
        """What was counted, up to 1,000 lines. Times come latest first, networks and profiles with most bytes first.

        The last 1,440 minutes and 744 hours with traffic are kept, and the last five years of days.
        """
        ...

    @method("Traffic.GrantAllowance", Access.CHANGE, Error.NOT_NOW, Error.LOCKED)
    async def grant_allowance(self, caller: Caller) -> None:
        """Grant the limit once more for this period. Only where it is used up and `at_limit` is `ask`."""
        ...

    # --- Servers ---

    @method(
        "Servers.ImportServers", Access.ADMIN, Error.NO_SUCH_PROFILE, Error.PROFILE_REFUSED, Error.NOT_NOW,
        returns="imported",
    )  # fmt: skip
    async def import_servers(
        self,
        caller: Caller,
        profile: Annotated[Name, "A WireGuard profile with one [Peer]."],
        text: Annotated[str, Longest(SERVERS_BYTES), "The list itself, TOML or JSON: docs/servers.md has the layout."],
    ) -> int:
        """Give a profile a list of servers, in place of its own server and of a former list. Returns how many."""
        ...

    @method("Servers.RemoveServers", Access.ADMIN, Error.NO_SUCH_PROFILE, Error.NOT_NOW)
    async def remove_servers(self, caller: Caller, profile: Annotated[Name, "A profile with a list."]) -> None:
        """Take the list away: the profile has its own server again."""
        ...

    @method("Servers.ListServers", Access.READ, Error.NO_SUCH_PROFILE, Error.NOT_NOW, returns="servers")
    async def list_servers(
        self,
        caller: Caller,
        profile: Annotated[Name | None, "The profile; null or empty: the chosen one."],
        country: Annotated[str | None, Longest(2), "Only those there; null or empty: all."] = None,
        start: Annotated[int, "How many to leave out: those of earlier answers."] = 0,
    ) -> tuple[Server, ...]:
        """The servers of the profile's list: up to 100. Ask for more until there are none. Nobody is asked anything."""
        ...

    @method(
        "Servers.ConnectServer", Access.CHANGE, Error.NO_SUCH_PROFILE, Error.NO_SUCH_SERVER, Error.LOCKED, Error.NOT_NOW
    )
    async def connect_server(
        self,
        caller: Caller,
        profile: Annotated[Name | None, "The profile; null or empty: the chosen one."],
        server: Annotated[
            str,
            Longest(80),
            "A server's name, `country:SE`, `city:NAME`, `tag:NAME`, `fastest`, `random` or `favourites`, these three "
            "also as `fastest:SE`; empty: as listed.",
        ],
    ) -> None:
        """Ask for protection through such a server, now and from now on. Several are tried in turn, eight at most.

        `fastest` asks all that fit with marked handshakes, unless that was done within ten minutes; the state is
        `blocked`, with the cause `choosing-server`, meanwhile. Chosen anew, `random` may come to another one.
        """
        ...

    @method("Servers.SetFavourite", Access.CHANGE, Error.NO_SUCH_PROFILE, Error.NO_SUCH_SERVER, Error.NOT_NOW)
    async def set_favourite(
        self,
        caller: Caller,
        profile: Annotated[Name | None, "The profile; null or empty: the chosen one."],
        server: Annotated[Name, "The server's name."],
        on: Annotated[bool, "Whether it is to be one."],
    ) -> None:
        """Add a server to the favourites, or take it out. What is tried now stays until somebody chooses anew."""
        ...

    # --- Split ---

    @method("Split.List", Access.READ, returns="entries")
    async def list_split(self, caller: Caller) -> tuple[SplitEntry, ...]:
        """The caller's programs that are in a group; everybody's, for root."""
        ...

    @method("Split.Add", Access.CHANGE, Error.NOT_NOW, relaxes=(("group", "never"),))
    async def add_split(
        self,
        caller: Caller,
        group: Annotated[str, OneOf(GROUPS), "`never`: beside the tunnel; `only`: through it or not at all."],
        pid: Annotated[int, "One of the caller's processes; 0: the one that asks (on the socket only)."] = 0,
    ) -> None:
        """Put a process, and all that it starts from now on, into a group, until it ends or is removed.

        Sockets that it has already stay as they are. `never` lets it out of the tunnel, so that needs root, who may
        name processes of everybody.
        """
        ...

    @method("Split.Remove", Access.CHANGE, Error.NOT_NOW)
    async def remove_split(
        self, caller: Caller, pid: Annotated[int, "A process that was added, or is in a group."]
    ) -> None:
        """Take a process, and all that was started in there with it, out of its group. Their connections end."""
        ...

    @method("Split.AddProgram", Access.CHANGE, Error.NOT_NOW, relaxes=(("group", "never"),))
    async def add_split_program(
        self,
        caller: Caller,
        group: Annotated[str, OneOf(GROUPS), "`never`: beside the tunnel; `only`: through it or not at all."],
        path: Annotated[str, Longest(4095), "A program that only root can change. It is looked at, never opened."],
        uid: Annotated[int, "The user whose processes are meant; -1: the caller."] = -1,
    ) -> None:
        """Put all processes of a program into a group, now and, within a second of their start, later; for good."""
        ...

    @method("Split.RemoveProgram", Access.CHANGE, Error.NOT_NOW)
    async def remove_split_program(
        self,
        caller: Caller,
        path: Annotated[str, Longest(4095), "As it is listed."],
        uid: Annotated[int, "The user whose processes are meant; -1: the caller."] = -1,
    ) -> None:
        """Forget a program, and take its processes out of their group. Their connections end."""
        ...

    # --- Settings ---

    @method("Settings.ListSettings", Access.READ, returns="settings")
    async def list_settings(self, caller: Caller) -> tuple[Setting, ...]:
        """All settings but the rules for links and the saved networks, in the order of the settings file."""
        ...

    @method("Settings.ChangeSetting", Access.ADMIN, Error.LOCKED, Error.NO_SUCH_PROFILE, Error.NOT_NOW, tightens=True)
    async def change_setting(
        self,
        caller: Caller,
        key: Annotated[str, Longest(64), "The key, with the names of its tables: `wifi.secured`."],
        value: Annotated[str, Longest(VALUE_BYTES), "As in the file, without quotes or brackets; lists with commas."],
    ) -> None:
        """Set a setting for this machine, for good. What the administrator's files say is Locked, and they are named.

        Most settings can relax protection, so this needs root; the strictest value of each does not.
        """
        ...

    @method("Settings.ResetSettings", Access.ADMIN, Error.NOT_NOW)
    async def reset_settings(
        self, caller: Caller, key: Annotated[str | None, Longest(64), "The key; null or empty: all of them."]
    ) -> None:
        """Forget what users set, so that the default counts. The default may be laxer, so this needs root."""
        ...

    @method(
        "Settings.ImportSettings", Access.ADMIN, Error.LOCKED, Error.NO_SUCH_PROFILE, Error.NOT_NOW, returns="imported"
    )
    async def import_settings(
        self, caller: Caller, text: Annotated[str, Longest(SETTINGS_BYTES), "The layout of the settings file."]
    ) -> int:
        """Set all that the text says, and forget what users set besides: all or nothing. Returns how many."""
        ...

    # --- Diagnostics ---

    @method("Diagnostics.CheckSettings", Access.READ, returns="problems")
    async def check_settings(
        self, caller: Caller, text: Annotated[str, Longest(SETTINGS_BYTES), "The settings file's content."]
    ) -> tuple[Problem, ...]:
        """What is wrong with a settings text. Looks at the text alone; nothing is changed."""
        ...

    @method("Diagnostics.GetTrace", Access.READ, returns="trace")
    async def get_trace(self, caller: Caller) -> Trace:
        """Whether a trace is running, and how much it has."""
        ...

    @method("Diagnostics.StartTrace", Access.ADMIN, Error.NOT_NOW, returns="trace")
    async def start_trace(
        self,
        caller: Caller,
        minutes: Annotated[int, "1 to 1440; then it ends by itself, also after a restart."],
        hide_names: Annotated[bool, "Hide names of networks and addresses too; keys and passwords always are."] = False,
    ) -> Trace:
        """Write every event in detail into files of root's. A running trace gets the new time."""
        ...

    @method("Diagnostics.StopTrace", Access.ADMIN, returns="trace")
    async def stop_trace(self, caller: Caller) -> Trace:
        """End the trace. What was written stays for a week."""
        ...

    @method("Diagnostics.GetReport", Access.ADMIN, returns="parts")
    async def get_report(
        self,
        caller: Caller,
        hide_names: Annotated[bool, "Hide names of networks and addresses too; keys and passwords always are."] = False,
    ) -> tuple[ReportPart, ...]:
        """What helps to find a fault, for people to read before they pass it on. Nothing is sent anywhere."""
        ...
