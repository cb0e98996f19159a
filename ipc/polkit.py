"""Asks polkit whether somebody on the bus may do what the group does not let him do.

The subject is the caller's unique name on the bus, which nobody can take over: process ids are reused (CVE-2017-7572,
CVE-2023-4104). Where there is no polkit, or it does not answer, nobody may.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Awaitable, Callable
from enum import Enum

from dbus_fast import Message, MessageType, Variant

from ipc.access import Access

log = logging.getLogger("tunwarden.ipc")

NAME, PATH = "org.freedesktop.PolicyKit1", "/org/freedesktop/PolicyKit1/Authority"
AUTHORITY = "org.freedesktop.PolicyKit1.Authority"
BUS, BUS_PATH = "org.freedesktop.DBus", "/org/freedesktop/DBus"
ANSWER = "(bba{ss})"  # of CheckAuthorization: yes, a question would help, details
INTERACTIVE = 1  # CheckAuthorizationFlags: a question to the user is allowed
QUICK_S = 25.0  # polkit may have to be started
PATIENT_S = 300.0  # somebody looks for a password

# systemd/org.tunwarden.policy describes them to polkit, with its defaults.
ACTIONS = {Access.CHANGE: "org.tunwarden.control", Access.ADMIN: "org.tunwarden.administer"}

Ask = Callable[[Message, float], Awaitable[Message]]


class Word(Enum):
    YES = "yes"
    NO = "no"
    CHALLENGE = "challenge"  # after a question to the user, which this call does not allow


class Polkit:
    """`ask` puts a question on the bus and waits so many seconds for its answer. `owner`: who may answer as polkit."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self.owner: str | None = None

    async def may(self, name: str, access: Access, *, interactive: bool) -> Word:
        """What polkit says of the owner of a unique bus name. READ is nobody's question.

        A question to a person goes with our connection to the bus, and after five minutes.
        """
        action, ticket = ACTIONS[access], secrets.token_hex(8)
        try:
            owner = await self._find()
            try:
                answer = await self._authority(
                    owner, "CheckAuthorization", "(sa{sv})sa{ss}us",
                    [["system-bus-name", {"name": Variant("s", name)}], action, {}, INTERACTIVE * interactive, ticket],
                    PATIENT_S if interactive else QUICK_S,
                )  # fmt: skip
            except TimeoutError:
                await self._authority(owner, "CancelCheckAuthorization", "s", [ticket], QUICK_S)
                raise
            if answer.signature != ANSWER:
                raise LookupError(f"its answer is of the type {answer.signature!r}, not {ANSWER!r}")
            yes, challenge, _ = answer.body[0]
        except (LookupError, TimeoutError, ConnectionError) as err:
            log.warning("polkit gives no answer about %s: %r", action, err)
            return Word.NO
        return Word.YES if yes is True else Word.CHALLENGE if challenge is True and not interactive else Word.NO

    async def _find(self) -> str:
        """Polkit's unique name; it is started where nobody has needed it yet. Raises LookupError, TimeoutError."""
        answer = await self._bus("GetNameOwner", "s", [NAME])
        if answer.message_type is MessageType.ERROR:
            await self._bus("StartServiceByName", "su", [NAME, 0])
            answer = await self._bus("GetNameOwner", "s", [NAME])
        if answer.message_type is MessageType.ERROR or answer.signature != "s":
            raise LookupError(f"polkit is not there: {answer.error_name}")
        self.owner = str(answer.body[0])
        return self.owner

    async def _bus(self, member: str, signature: str, body: list[object]) -> Message:
        question = Message(BUS, BUS_PATH, BUS, member, signature=signature, body=body)
        return await self._ask(question, QUICK_S)

    async def _authority(self, owner: str, member: str, signature: str, body: list[object], seconds: float) -> Message:
        answer = await self._ask(Message(owner, PATH, AUTHORITY, member, signature=signature, body=body), seconds)
        if answer.message_type is MessageType.ERROR:
            raise LookupError(f"{answer.error_name}: {answer.body}")
        return answer
