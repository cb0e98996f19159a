"""The words of the state machine: phases, causes, events and actions. `daemon/machine.py` moves between them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from policies.facts import Endpoint, ProfileFacts, Tunnel


class Phase(StrEnum):
    IDLE = "idle"  # not protected, by choice or by rule
    HELD = "held"  # a network is being classified, or people are asked about it: nothing leaves
    CONNECTING = "connecting"
    CONNECTED = "connected"
    RECONNECTING = "reconnecting"
    BLOCKED = "blocked"  # protection is wanted and there is no tunnel
    PORTAL = "portal"  # protection is wanted, and a captive portal is in the way: only its login may pass
    DISCONNECTING = "disconnecting"


class Target(StrEnum):
    """What is wanted, kept across restarts. Only an authorised user or a rule changes it, never a failure."""

    PROTECTED = "protected"
    UNPROTECTED = "unprotected"


class Cause(StrEnum):
    """Why protection is not up. `SENTENCES` says it to people."""

    NO_NETWORK = "no-network"
    NO_ROUTE = "no-route"
    NO_PROFILE = "no-profile"
    NO_SERVER = "no-server"
    CHOOSING_SERVER = "choosing-server"
    NO_INTERNET = "no-internet"
    PORTAL = "portal"
    SERVER_UNREACHABLE = "server-unreachable"
    CREDENTIALS_MISSING = "credentials-missing"
    CREDENTIALS_REFUSED = "credentials-refused"
    CERTIFICATE_REFUSED = "certificate-refused"
    TLS_FAILED = "tls-failed"
    TUNNEL_LOST = "tunnel-lost"
    TUNNEL_FAILED = "tunnel-failed"
    EXTERNAL_AWAY = "external-away"
    LOCKDOWN = "lockdown"
    SETTINGS_BROKEN = "settings-broken"
    STORE_BROKEN = "store-broken"
    FIREWALL_FAILED = "firewall-failed"
    ROUTES_FAILED = "routes-failed"
    RESOLVER_FAILED = "resolver-failed"
    STARTING = "starting"


SENTENCES: dict[Cause, str] = {
    Cause.NO_NETWORK: "There is no network link with a carrier.",
    Cause.NO_ROUTE: "The network has given no address yet, or no way to the VPN server.",
    Cause.NO_PROFILE: "No VPN profile is chosen, or it is gone: import one with `tunwarden profiles import`.",
    Cause.NO_SERVER: "No server of the profile's list is what was chosen: `tunwarden servers` shows them.",
    Cause.CHOOSING_SERVER: "The servers are being asked which of them answers fastest.",
    Cause.NO_INTERNET: "There is no Internet behind this network yet. It is looked for again.",
    Cause.PORTAL: "This network wants you to log in first: run `tunwarden portal-login`.",
    Cause.SERVER_UNREACHABLE: "The VPN server did not answer a handshake in time.",
    Cause.CREDENTIALS_MISSING: "The VPN server wants a user name and a password: run `tunwarden profiles login NAME`.",
    Cause.CREDENTIALS_REFUSED: "The VPN server refused the user name or the password.",
    Cause.CERTIFICATE_REFUSED: "A certificate was refused: the VPN server's, or this computer's. It may have expired.",
    Cause.TLS_FAILED: "The VPN server answered, but no secure connection came about.",
    Cause.TUNNEL_LOST: "The tunnel stopped answering.",
    Cause.TUNNEL_FAILED: "The tunnel could not be set up.",
    Cause.EXTERNAL_AWAY: "The external tunnel is not up, or went away: bring it up where you did. It is taken at once.",
    Cause.LOCKDOWN: "Lockdown is on: nothing passes without a tunnel.",
    Cause.SETTINGS_BROKEN: "The settings file has errors and there are no earlier good settings.",
    Cause.STORE_BROKEN: "What was wanted is not known: the saved state is damaged or gone. Connect or disconnect.",
    Cause.FIREWALL_FAILED: "The kernel refused the firewall rules.",
    Cause.ROUTES_FAILED: "The kernel refused the routing rules.",
    Cause.RESOLVER_FAILED: "The name resolution could not be pointed into the tunnel.",
    Cause.STARTING: "The service has just started and is reading the network.",
}


@dataclass(frozen=True, slots=True)
class State:
    """Where the machine is. Times and counters live elsewhere: the same inputs give the same State."""

    phase: Phase
    cause: Cause | None = None
    profile: ProfileFacts | None = None  # of the attempt: its servers are let through, its addresses guarded
    attempt: int = 0  # identifies one connection attempt; reports about another are ignored
    failures: int = 0  # attempts in a row that failed: the retry delay grows with it
    tunnel: Tunnel | None = None  # only in CONNECTED
    network: str = ""  # `Decision.network` of the last attempt: another network is tried at once
    turn: int = 0  # which of the profile's servers, where they are tried one at a time
    offline: frozenset[str] = frozenset()  # `Decision.offline` while blocked: where Internet comes, it is tried at once

    @property
    def servers(self) -> tuple[Endpoint, ...]:
        """Whom the attempt talks to."""
        return self.profile.servers(self.turn) if self.profile else ()


# --- events: hints that something changed; the facts are re-read before `step` sees them -----------------------------


@dataclass(frozen=True, slots=True)
class Changed:
    """Facts, settings or the intent changed; the decision that comes with it says how."""


@dataclass(frozen=True, slots=True)
class TunnelUp:
    attempt: int
    tunnel: Tunnel


@dataclass(frozen=True, slots=True)
class TunnelDown:
    attempt: int
    cause: Cause


@dataclass(frozen=True, slots=True)
class TunnelClosed:
    """The link of the attempt is gone and its process has ended."""

    attempt: int


@dataclass(frozen=True, slots=True)
class RetryDue:
    attempt: int


@dataclass(frozen=True, slots=True)
class Reconnect:
    """An authorised user asks for a fresh tunnel."""


@dataclass(frozen=True, slots=True)
class Failed:
    """An action did not work. `cause` is one of the *_FAILED causes."""

    cause: Cause


Event = Changed | TunnelUp | TunnelDown | TunnelClosed | RetryDue | Reconnect | Failed


# --- actions: executed in the order given -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Enforce:
    """Make the kernel (firewall and routing) follow the policy of the new state, and read it back."""


@dataclass(frozen=True, slots=True)
class OpenTunnel:
    """Start an attempt in the background; it answers with TunnelUp or TunnelDown."""

    attempt: int
    profile: str
    servers: tuple[Endpoint, ...] = ()  # of the profile, where they are tried one at a time


@dataclass(frozen=True, slots=True)
class CloseTunnel:
    """Take the attempt down in the background; it answers with TunnelClosed."""

    attempt: int


@dataclass(frozen=True, slots=True)
class SetResolvers:
    """Point name resolution into the tunnel."""

    tunnel: Tunnel


@dataclass(frozen=True, slots=True)
class RestoreResolvers:
    """Give name resolution back as it was."""


@dataclass(frozen=True, slots=True)
class ScheduleRetry:
    """RetryDue(attempt) after a delay that grows with `failures`, jittered."""

    attempt: int
    failures: int


Action = Enforce | OpenTunnel | CloseTunnel | SetResolvers | RestoreResolvers | ScheduleRetry
