"""What the methods of interface.py take and return: each class is a struct on both faces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a network got its verdict."""

    code: Annotated[str, "Stable word for programs, such as `open` or `wep`."]
    text: Annotated[str, "One sentence for people."]


@dataclass(frozen=True, slots=True)
class Network:
    """A network this machine is on now."""

    ifname: Annotated[str, "Name of the link."]
    kind: Annotated[str, "`wifi`, `wired` or `cellular`."]
    ssid: Annotated[str | None, "Name of the Wi-Fi network with unprintable bytes escaped; null when not Wi-Fi."]
    ssid_hex: Annotated[str | None, "Its exact bytes in hexadecimal; null when not Wi-Fi."]
    security: Annotated[str | None, "How the air is protected, such as `open` or `wpa3`; null when not Wi-Fi."]
    verdict: Annotated[str | None, "`known`, `secured`, `unsecured` or `unidentified`; null while not classified."]
    reasons: Annotated[tuple[Reason, ...], "Why, the weightiest first."]
    action: Annotated[str | None, "The rule's `auto_connect`, `prompt`, `ignore` or `disconnect`; null: none yet."]
    rule: Annotated[str | None, "Which rule decided, in words; null: none yet."]
    cleared: Annotated[bool, "Whether traffic may use the link outside the tunnel."]
    internet: Annotated[
        str | None, "What is behind it: `internet`, `portal` (it wants a login) or `nothing`; null: not known."
    ] = None
    portal_url: Annotated[
        str | None, "Where its portal says people log in: http or https, printable ASCII; a stranger's word."
    ] = None
    source: Annotated[str | None, "Who told of the Wi-Fi network: `nl80211` or `networkmanager`; else null."] = None
    metered: Annotated[str | None, "Whether its traffic costs: `yes` or `no`; null: nobody says."] = None


@dataclass(frozen=True, slots=True)
class KnownNetwork:
    """A saved network."""

    ssid: Annotated[str, "Its name with unprintable bytes escaped."]
    ssid_hex: Annotated[str, "The exact bytes of its name in hexadecimal."]
    security: Annotated[str, "The weakest protection under which it still counts as itself."]
    action: Annotated[str | None, "What to do on it; null: the rule of the verdict."]
    profile: Annotated[str | None, "The profile to use on it; null: the default one."]
    allow_lan: Annotated[bool, "Whether its local network may be reached while protected."]
    source: Annotated[str, "`settings` (the administrator's file, fixed) or `user` (added with AddKnown)."]
    pattern: Annotated[bool, "Whether `*` and `?` in the name match, so that it stands for many."]
    exceptions: Annotated[tuple[str, ...], "Patterns of names that are not meant, escaped likewise."]
    bssids: Annotated[tuple[str, ...], "The only access points it may have, unless it learns; none: any."]
    gateways: Annotated[tuple[str, ...], "Hardware addresses of the only routers it may have; none: any."]
    beacon: Annotated[str | None, "Address and port of the TLS server that has to prove itself there; null: none."]
    beacon_sha256: Annotated[str | None, "SHA-256 of its certificate, in hexadecimal with colons; null: none."]
    learn: Annotated[bool, "Whether access points met are added to `bssids`, which bind once this ends."]
    entry: Annotated[str, "All of it as a JSON object with the keys of [[known]]: a line for ImportKnown."]


@dataclass(frozen=True, slots=True)
class Prompt:
    """The question whether to use the VPN on a network whose rule is `prompt`."""

    id: Annotated[str, "Names it; never used twice."]
    state: Annotated[
        str,
        "`raised`: it waits for an answer; `answered`; `expired`: nobody did, and the fallback applies; `withdrawn`: "
        "there is nothing to ask any more, for the network was left, a rule changed or somebody connected or "
        "disconnected.",
    ]
    network: Annotated[Network, "The network, as it was when this was last told."]
    deadline: Annotated[int, "When it expires, in seconds since 1970 UTC."]
    fallback: Annotated[str, "What applies then: `auto_connect` or `ignore`."]
    held: Annotated[bool, "Whether nothing leaves over the link while it waits."]
    remember: Annotated[tuple[str, ...], "The answers that can be remembered for this network; `ignore` by root alone."]
    answer: Annotated[str | None, "What was answered: `auto_connect` or `ignore`; null: nobody answered."]


@dataclass(frozen=True, slots=True)
class LoginState:
    """What becomes of a login to a captive portal."""

    state: Annotated[
        str,
        "`begun`: the caller can reach the portal; `done`: the portal is open; `expired`: its time is over; "
        "`withdrawn`: the network was left, or protection is not wanted any more.",
    ]
    url: Annotated[str, "Where people log in; where nobody said, a page in whose place the portal answers."]
    until: Annotated[int, "When it expires, in seconds since 1970 UTC."]


@dataclass(frozen=True, slots=True)
class Profile:
    """A stored VPN configuration. Its keys never leave the daemon."""

    name: Annotated[str, "Its name."]
    kind: Annotated[str, "`wireguard` or `openvpn`."]
    servers: Annotated[tuple[str, ...], "Address and port of each server."]
    chosen: Annotated[bool, "Whether Connect without a name would use it."]


@dataclass(frozen=True, slots=True)
class ProfileField:
    """Something that a stored profile says. Of secrets, only that they are there."""

    name: Annotated[str, "What it is, in words; it may stand more than once."]
    value: Annotated[str, "Its value, for people."]


@dataclass(frozen=True, slots=True)
class Server:
    """A server of a profile's list. Its keys never leave the daemon."""

    name: Annotated[str, "Its name in the list."]
    country: Annotated[str | None, "Where it is, ISO 3166-1 alpha-2; null: the list does not say."]
    city: Annotated[str | None, "The city; null: the list does not say."]
    tags: Annotated[tuple[str, ...], "What else the list says of it."]
    endpoints: Annotated[tuple[str, ...], "Its addresses and ports."]
    favourite: Annotated[bool, "Whether it is one of the favourites."]
    chosen: Annotated[bool, "Whether it is among those that are tried now."]
    used: Annotated[bool, "Whether it is the one in use."]
    latency_ms: Annotated[int, "How soon it answered a handshake, in milliseconds; 0: no answer is known."]
    loss_percent: Annotated[int, "How many of 100 handshakes it left unanswered, where it was asked."]
    measured: Annotated[int, "When it was asked, in seconds since 1970 UTC; 0: it was not, or too long ago."]


@dataclass(frozen=True, slots=True)
class SplitEntry:
    """A process with what it has started, or a program, that never uses the tunnel or uses nothing else."""

    group: Annotated[str, "`never`: beside the tunnel; `only`: through the tunnel or not at all."]
    name: Annotated[str, "What a process calls itself; of a program its path."]
    pid: Annotated[int, "The process that was added; 0: a program, of which every process is added as it is seen."]
    uid: Annotated[int, "The user."]
    processes: Annotated[int, "How many processes there are now; of a program 0: they are listed by themselves."]


@dataclass(frozen=True, slots=True)
class Notice:
    """A directive of an imported text that was ignored."""

    line: Annotated[int, "Line, counted from 1; 0: the whole text."]
    directive: Annotated[str, "Its name."]
    reason: Annotated[str, "Why it was ignored."]


@dataclass(frozen=True, slots=True)
class Problem:
    """An error in a settings text."""

    line: Annotated[int, "Line, counted from 1; 0: the whole text."]
    key: Annotated[str, "The key, with the names of its tables."]
    problem: Annotated[str, "What is wrong."]
    remedy: Annotated[str, "What would be right."]


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting that users may change, unless the administrator has fixed it."""

    key: Annotated[str, "The key, with the names of its tables: `wifi.secured`."]
    value: Annotated[str, "What is in force, as ChangeSetting takes it."]
    origin: Annotated[str, "`administrator`: a settings file says it, so it is fixed; `user`; `default`."]
    place: Annotated[str | None, "File and line where the administrator says it; null: nowhere."]
    default: Annotated[str, "The value that nobody has to set."]
    own: Annotated[str | None, "What users set, also where it is not in force; null: nothing."]
    kind: Annotated[str, "`boolean`, `choice`, `time`, `size`, `name` or `list`."]
    allowed: Annotated[str, "The values it may have, in words."]
    text: Annotated[str, "What it means, in a sentence."]


@dataclass(frozen=True, slots=True)
class Usage:
    """What was counted on one way, of one minute, hour, day, network or profile."""

    way: Annotated[
        str,
        "`tunnel`: what went through the tunnel; `clear`: what went outside it, where that was allowed; `carrier`: "
        "what links carried else: the tunnel's own packets, the local network, what keeps a link up.",
    ]
    start: Annotated[int, "Of a minute or an hour: when it began, in seconds since 1970 UTC; else 0."]
    name: Annotated[str, "The local day (2026-11-22), the network or the profile; empty: none, or not known."]
    kind: Annotated[str | None, "Of a network: `wifi`, `wired` or `cellular`; else null."]
    ssid_hex: Annotated[str | None, "Of a Wi-Fi network: the exact bytes of its name in hexadecimal; else null."]
    rx_bytes: Annotated[int, "Bytes received, as the kernel counts the link."]
    tx_bytes: Annotated[int, "Bytes sent."]
    rx_packets: Annotated[int, "Packets received."]
    tx_packets: Annotated[int, "Packets sent."]


@dataclass(frozen=True, slots=True)
class Allowance:
    """How much traffic there is in this period, in bytes through the tunnel, both directions together."""

    limited: Annotated[bool, "Whether there is a limit; without one, the numbers are 0."]
    per: Annotated[str, "`day`, `week` or `month`."]
    total: Annotated[int, "The limit, with the bonus and what was granted."]
    used: Annotated[int, "What was used of it; may be more, for what arrives is counted before it is dropped."]
    available: Annotated[int, "What is left."]
    resets: Annotated[int, "When the next period begins, in seconds since 1970 UTC."]
    at_limit: Annotated[str, "What happens at the limit on this network: `block`, `ask` or `disconnect`."]
    used_up: Annotated[bool, "Whether it is used up."]


@dataclass(frozen=True, slots=True)
class Traffic:
    """The traffic of today, and of this moment."""

    day: Annotated[str, "The local day: 2026-11-22."]
    today: Annotated[tuple[Usage, ...], "What was counted today, by way."]
    rx_rate: Annotated[int, "Bytes a second received through the tunnel, of late."]
    tx_rate: Annotated[int, "Bytes a second sent through it."]
    clear_rx_rate: Annotated[int, "Bytes a second received outside the tunnel, where that is allowed."]
    clear_tx_rate: Annotated[int, "Bytes a second sent outside it."]
    allowance: Annotated[Allowance, "What is left of the allowance."]


@dataclass(frozen=True, slots=True)
class Trace:
    """Whether every event is being written down in detail, for finding a fault."""

    on: Annotated[bool, "Whether it is running."]
    until: Annotated[int, "When it ends by itself, in seconds since 1970 UTC; 0 while it is off."]
    hide_names: Annotated[bool, "Whether names of networks and addresses are hidden in it."]
    bytes: Annotated[int, "How much there is; older records are removed beyond 8 MiB, all of them after a week."]
    folder: Annotated[str, "Where root finds the files."]
    trouble: Annotated[str | None, "Why it ended before its time; null: it did not."]


@dataclass(frozen=True, slots=True)
class ReportPart:
    """One part of a report of a problem."""

    name: Annotated[str, "Its heading."]
    doc: Annotated[str, "What is in it, in a sentence."]
    text: Annotated[str, "The content. Keys and passwords are never in it."]


@dataclass(frozen=True, slots=True)
class Status:
    """Everything a front-end shows. Published only after the kernel agreed."""

    state: Annotated[
        str,
        "`idle`, `held`, `connecting`, `connected`, `reconnecting`, `blocked`, `portal` or `disconnecting`.",
    ]
    target: Annotated[str, "What is wanted: `protected` or `unprotected`."]
    protected: Annotated[bool, "Whether traffic leaves through the tunnel, and only there."]
    blocking: Annotated[
        bool, "Whether the kernel lets nothing out beside the tunnel. False while protection is wanted is an alarm."
    ]
    cause: Annotated[str | None, "Why protection is not up: a stable word; null: nothing is wrong."]
    cause_text: Annotated[str | None, "The same in a sentence for people."]
    profile: Annotated[str | None, "The profile in use; null: none."]
    server: Annotated[str | None, "Address and port of the server in use; null: none."]
    since: Annotated[int, "When the state was entered, in seconds since 1970 UTC."]
    networks: Annotated[tuple[Network, ...], "The networks this machine is on."]
    kill_switch: Annotated[bool, "Whether traffic is blocked when protection is wanted and the tunnel is down."]
    lockdown: Annotated[bool, "Whether traffic is blocked also while disconnected."]
    warnings: Annotated[tuple[str, ...], "Sentences people should read."]
    alarm: Annotated[str | None, "Packets may be leaving, and why: shown before all else; null: none."]
    rx_bytes: Annotated[int, "Bytes received through the tunnel since it was opened."]
    tx_bytes: Annotated[int, "Bytes sent through it."]
    lists: Annotated[int, "Another number: the lists of profiles and known networks have changed. Read them anew."]
    sequence: Annotated[int, "Grows by one with each published status, so a reader sees that none was missed."]
    version: Annotated[str, "Version of the daemon."]
    detail: Annotated[
        str | None,
        "What else is to be said of the state: `nothing-comes-back` (connected, traffic goes out, none comes in) or "
        "`allowance-used-up`; null: nothing. A warning says it in words.",
    ] = None
    server_name: Annotated[str | None, "The name of that server in the profile's list; null: it has no list."] = None
    outside: Annotated[int, "How many programs never use the tunnel now: each with all that it has started."] = 0
    tunnel: Annotated[str | None, "The link of the tunnel that is up; null: none is."] = None
    mtu: Annotated[int, "The largest packet that the tunnel takes, in bytes; 0: there is no tunnel."] = 0
    mtu_source: Annotated[
        str | None,
        "Where that comes from: `profile`, `search` (the largest that was answered) or `default` (nothing was found "
        "yet, or nobody answered); null: there is no tunnel.",
    ] = None
