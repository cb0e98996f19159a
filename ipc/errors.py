"""The errors both faces speak. Names are stable: programs compare them, people read what, why and remedy."""

from __future__ import annotations

from enum import Enum

PREFIX = "org.tunwarden.Daemon1.Error"


class Error(Enum):
    """Value: the last part of the wire name, and when it is raised."""

    NOT_PERMITTED = ("NotPermitted", "The caller may not do this.")
    INVALID_ARGUMENT = (
        "InvalidArgument",
        "An argument is missing, of the wrong type, too long or not one of the choices.",
    )
    NO_SUCH_PROFILE = ("NoSuchProfile", "No profile of that name is stored.")
    PROFILE_REFUSED = ("ProfileRefused", "The text cannot become a profile; `why` names the line and the directive.")
    NO_SUCH_SERVER = ("NoSuchServer", "No server of the profile's list is meant by that.")
    NO_SUCH_NETWORK = ("NoSuchNetwork", "No such known network, or no Wi-Fi network is joined now.")
    NO_SUCH_PROMPT = ("NoSuchPrompt", "No prompt of that id waits; `why` says what became of it.")
    NOT_NOW = ("NotNow", "Not possible in the present state; it may be later.")
    LOCKED = ("Locked", "The administrator's settings fix this value.")
    INTERNAL = ("Internal", "A defect or a failure of the system; the log tells more.")

    @property
    def wire_name(self) -> str:
        """The full name on D-Bus and Varlink."""
        return f"{PREFIX}.{self.value[0]}"

    @property
    def doc(self) -> str:
        return self.value[1]


_BY_NAME = {error.wire_name: error for error in Error}


def error_of(wire_name: str) -> Error | None:
    """The error of that full name, if it is one of ours."""
    return _BY_NAME.get(wire_name)


class ServiceError(Exception):
    """What the service raises and the client library raises again: `what` failed, `why`, and the `remedy`."""

    def __init__(self, error: Error, what: str, why: str, remedy: str = "") -> None:
        super().__init__(error, what, why, remedy)
        self.error, self.what, self.why, self.remedy = error, what, why, remedy

    def __str__(self) -> str:
        text = f"{self.what}: {self.why}"
        return f"{text} {self.remedy}".rstrip() if self.remedy else text
