"""The client library: one call, one answer, over the Unix socket. Synchronous, and quick to import.

Every method is that of `interface.Service`; what it raises is ServiceError (the daemon said no), NotRunningError,
TimeoutError, or ProtocolError (what answers is no tunwardend).
"""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self, cast

from ipc.access import Transport
from ipc.describe import Method, methods
from ipc.errors import Error, ServiceError, error_of
from ipc.interface import NAME
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
from ipc.values import typed

FOLDER = "/run/tunwarden"
LONGEST = 16 << 20  # bytes of an answer


class NotRunningError(Exception):
    """No daemon answers, or it went away. What the machine lets through is not known then: never "off" (E14)."""

    def __init__(self, why: str) -> None:
        super().__init__(
            f"tunwardend does not answer ({why}), so whether this machine is protected is unknown. "
            "Start it: sudo systemctl start tunwarden"
        )


class ProtocolError(Exception):
    """The answer makes no sense."""


class Client:
    """A connection to the daemon. Prefers the socket that takes changes, else uses the one for reading."""

    def __init__(
        self, folder: str = FOLDER, timeout: float | None = 10.0, connected: socket.socket | None = None
    ) -> None:
        """`timeout` in seconds for each call; None: wait for ever. `connected`: by `connect`, perhaps elsewhere."""
        self._timeout = timeout
        self._buffer = bytearray()
        if connected is not None:
            self._socket, self.transport = connected, Transport.SOCKET
            return
        try:
            self._socket, self.transport = connect(f"{folder}/tunwarden.sock", timeout), Transport.SOCKET
        except PermissionError:
            self._socket, self.transport = connect(f"{folder}/read.sock", timeout), Transport.READ_SOCKET

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def hang_up(self) -> None:
        """End the connection from another thread: who waits for an answer gets NotRunningError. Then `close`."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def fileno(self) -> int:
        """Readable when there is an answer, or the end; unless one `waits` here already."""
        return self._socket.fileno()

    @property
    def waits(self) -> bool:
        """Whether an answer has been received that nobody has asked for."""
        return b"\0" in self._buffer

    # --- Manager ---

    def get_status(self) -> Status:
        return cast(Status, self._call("Manager.GetStatus"))

    def watch(self, left: Callable[[], float] | None = None) -> Iterator[Status]:
        """The status now, then every change. The connection serves nothing else afterwards.

        `left` tells how many seconds to wait for the next one: then TimeoutError. None: no limit but for the first.
        """
        return cast(Iterator[Status], self._stream("Manager.Watch", left))

    def get_version(self) -> str:
        return cast(str, self._call("Manager.GetVersion"))

    def connect(self, profile: str | None = None) -> None:
        self._call("Manager.Connect", profile=profile)

    def disconnect(self) -> None:
        self._call("Manager.Disconnect")

    def reconnect(self) -> None:
        self._call("Manager.Reconnect")

    def set_kill_switch(self, on: bool) -> None:
        self._call("Manager.SetKillSwitch", on=on)

    def set_lockdown(self, on: bool) -> None:
        self._call("Manager.SetLockdown", on=on)

    # --- Networks ---

    def current(self) -> tuple[Network, ...]:
        return cast(tuple[Network, ...], self._call("Networks.Current"))

    def list_known(self, start: int = 0) -> tuple[KnownNetwork, ...]:
        return cast(tuple[KnownNetwork, ...], self._call("Networks.ListKnown", start=start))

    def all_known(self) -> tuple[KnownNetwork, ...]:
        """The saved networks, in as many calls of ListKnown as that takes."""
        found: list[KnownNetwork] = []
        while page := self.list_known(len(found)):
            found.extend(page)
        return tuple(found)

    def add_known(
        self,
        ssid: str | None = None,
        ssid_hex: str | None = None,
        security: str | None = None,
        action: str | None = None,
        profile: str | None = None,
        allow_lan: bool = False,
        pin: bool = False,
        learn: bool = False,
    ) -> KnownNetwork:
        added = self._call(
            "Networks.AddKnown",
            ssid=ssid,
            ssid_hex=ssid_hex,
            security=security,
            action=action,
            profile=profile,
            allow_lan=allow_lan,
            pin=pin,
            learn=learn,
        )
        return cast(KnownNetwork, added)

    def edit_known(self, ssid_hex: str, changes: str, pattern: bool = False) -> KnownNetwork:
        edited = self._call("Networks.EditKnown", ssid_hex=ssid_hex, changes=changes, pattern=pattern)
        return cast(KnownNetwork, edited)

    def forget_known(self, ssid_hex: str, pattern: bool = False) -> None:
        self._call("Networks.ForgetKnown", ssid_hex=ssid_hex, pattern=pattern)

    def import_known(self, text: str) -> int:
        return cast(int, self._call("Networks.ImportKnown", text=text))

    def portal_login(self, left: Callable[[], float] | None = None) -> Iterator[LoginState]:
        """`begun`, then what became of it. The daemon takes the process that connected. `left`: as with `watch`."""
        return cast(Iterator[LoginState], self._stream("Networks.PortalLogin", left))

    # --- Split ---

    def list_split(self) -> tuple[SplitEntry, ...]:
        return cast(tuple[SplitEntry, ...], self._call("Split.List"))

    def add_split(self, group: str, pid: int = 0) -> None:
        self._call("Split.Add", group=group, pid=pid)

    def remove_split(self, pid: int) -> None:
        self._call("Split.Remove", pid=pid)

    def add_split_program(self, group: str, path: str, uid: int = -1) -> None:
        self._call("Split.AddProgram", group=group, path=path, uid=uid)

    def remove_split_program(self, path: str, uid: int = -1) -> None:
        self._call("Split.RemoveProgram", path=path, uid=uid)

    # --- Prompts ---

    def waiting_prompts(self) -> tuple[Prompt, ...]:
        return cast(tuple[Prompt, ...], self._call("Prompts.Waiting"))

    def watch_prompts(self, left: Callable[[], float] | None = None) -> Iterator[Prompt | None]:
        """Be an agent: None at once, then the prompts that wait, then every change. `left`: as with `watch`."""
        return cast(Iterator[Prompt | None], self._stream("Prompts.Watch", left))

    def answer_prompt(self, id: str, answer: str, remember: bool = False) -> None:
        self._call("Prompts.Answer", id=id, answer=answer, remember=remember)

    # --- Profiles ---

    def import_profile(self, name: str, text: str) -> tuple[Notice, ...]:
        return cast(tuple[Notice, ...], self._call("Profiles.Import", name=name, text=text))

    def list_profiles(self) -> tuple[Profile, ...]:
        return cast(tuple[Profile, ...], self._call("Profiles.List"))

    def show_profile(self, name: str) -> tuple[ProfileField, ...]:
        return cast(tuple[ProfileField, ...], self._call("Profiles.Show", name=name))

    def set_login(self, name: str, user: str, password: str) -> None:
        self._call("Profiles.SetLogin", name=name, user=user, password=password)

    def remove_profile(self, name: str) -> None:
        self._call("Profiles.Remove", name=name)

    # --- Traffic ---

    def get_traffic(self) -> Traffic:
        return cast(Traffic, self._call("Traffic.GetTraffic"))

    def follow_traffic(self, left: Callable[[], float] | None = None) -> Iterator[Traffic]:
        """At once, then what is new, at most once a second. `left`: as with `watch`."""
        return cast(Iterator[Traffic], self._stream("Traffic.FollowTraffic", left))

    def get_usage(self, by: str, first: str | None = None, last: str | None = None) -> tuple[Usage, ...]:
        return cast(tuple[Usage, ...], self._call("Traffic.GetUsage", by=by, first=first, last=last))

    def grant_allowance(self) -> None:
        self._call("Traffic.GrantAllowance")

    # --- Servers ---

    def import_servers(self, profile: str, text: str) -> int:
        return cast(int, self._call("Servers.ImportServers", profile=profile, text=text))

    def remove_servers(self, profile: str) -> None:
        self._call("Servers.RemoveServers", profile=profile)

    def list_servers(
        self, profile: str | None = None, country: str | None = None, start: int = 0
    ) -> tuple[Server, ...]:
        found = self._call("Servers.ListServers", profile=profile, country=country, start=start)
        return cast(tuple[Server, ...], found)

    def all_servers(self, profile: str | None = None, country: str | None = None) -> tuple[Server, ...]:
        """The servers of a list, in as many calls of ListServers as that takes."""
        found: list[Server] = []
        while page := self.list_servers(profile, country, len(found)):
            found.extend(page)
        return tuple(found)

    def connect_server(self, profile: str | None, server: str) -> None:
        self._call("Servers.ConnectServer", profile=profile, server=server)

    def set_favourite(self, profile: str | None, server: str, on: bool) -> None:
        self._call("Servers.SetFavourite", profile=profile, server=server, on=on)

    # --- Settings ---

    def list_settings(self) -> tuple[Setting, ...]:
        return cast(tuple[Setting, ...], self._call("Settings.ListSettings"))

    def change_setting(self, key: str, value: str) -> None:
        self._call("Settings.ChangeSetting", key=key, value=value)

    def reset_settings(self, key: str | None = None) -> None:
        self._call("Settings.ResetSettings", key=key)

    def import_settings(self, text: str) -> int:
        return cast(int, self._call("Settings.ImportSettings", text=text))

    # --- Diagnostics ---

    def check_settings(self, text: str) -> tuple[Problem, ...]:
        return cast(tuple[Problem, ...], self._call("Diagnostics.CheckSettings", text=text))

    def get_trace(self) -> Trace:
        return cast(Trace, self._call("Diagnostics.GetTrace"))

    def start_trace(self, minutes: int, hide_names: bool = False) -> Trace:
        return cast(Trace, self._call("Diagnostics.StartTrace", minutes=minutes, hide_names=hide_names))

    def stop_trace(self) -> Trace:
        return cast(Trace, self._call("Diagnostics.StopTrace"))

    def get_report(self, hide_names: bool = False) -> tuple[ReportPart, ...]:
        return cast(tuple[ReportPart, ...], self._call("Diagnostics.GetReport", hide_names=hide_names))

    # --- the wire ---

    def _stream(self, name: str, left: Callable[[], float] | None) -> Iterator[object]:
        method = methods()[f"{NAME}.{name}"]
        self._send({"method": method.wire_name, "more": True})
        while True:
            if left is not None:
                self._socket.settimeout(max(left(), 0.001))
            yield _result(method, self._receive())
            self._socket.settimeout(None)

    def _call(self, name: str, /, **arguments: bool | int | str | None) -> object:
        method = methods()[f"{NAME}.{name}"]
        given = {key: value for key, value in arguments.items() if value is not None}
        self._socket.settimeout(self._timeout)
        self._send({"method": method.wire_name, "parameters": given})
        return _result(method, self._receive())

    def _send(self, call: dict[str, object]) -> None:
        # When the daemon hangs up on us it says why first: then the answer is there to be read.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._socket.sendall(json.dumps(call).encode() + b"\0")

    def _receive(self) -> dict[str, object]:
        while (end := self._buffer.find(b"\0")) < 0:
            if len(self._buffer) > LONGEST:
                raise ProtocolError("the answer is too long")
            try:
                part = self._socket.recv(1 << 16)
            except ConnectionResetError:
                part = b""
            if not part:
                raise NotRunningError("the connection ended")
            self._buffer += part
        raw = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        try:
            reply = json.loads(raw)
        except ValueError:
            raise ProtocolError("the answer is not JSON") from None
        if not isinstance(reply, dict):
            raise ProtocolError("the answer is not an object")
        return reply


def connect(path: str, timeout: float | None) -> socket.socket:
    """A socket of the daemon's. Raises NotRunningError, PermissionError or another OSError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout)
        sock.connect(path)
    except (FileNotFoundError, ConnectionRefusedError):
        sock.close()
        raise NotRunningError(f"nothing listens at {path}") from None
    except BaseException:
        sock.close()
        raise
    return sock


def _result(method: Method, reply: dict[str, object]) -> object:
    parameters = reply.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise ProtocolError("the answer has no parameters")
    if name := reply.get("error"):
        raise _error(method, str(name), parameters)
    if method.returns is None:
        return None
    try:
        return typed(method.returns.type, parameters.get(method.returns.name))
    except ValueError as error:
        raise ProtocolError(f"{method.wire_name}: {error}") from None


def _error(method: Method, name: str, parameters: dict[str, object]) -> ServiceError:
    what, why, remedy = (str(parameters.get(key, "")) for key in ("what", "why", "remedy"))
    error = error_of(name)
    if error is None:
        return ServiceError(Error.INTERNAL, f"{method.interface}.{method.name}", f"the daemon answered {name}.")
    return ServiceError(error, what, why, remedy)
