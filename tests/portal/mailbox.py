"""A real mail server for the tests, on the loopback interface."""

from __future__ import annotations

import email
import socket
from collections.abc import Iterator
from email.message import EmailMessage
from email.policy import default
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from django.conf import settings

ORIGIN = "https://portal.example"
BOX = "help@portal.example"


class Box:
    """Keeps what arrived: the envelope's recipients and the bytes."""

    def __init__(self) -> None:
        self.mails: list[tuple[list[str], bytes]] = []

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        self.mails.append((envelope.rcpt_tos, envelope.original_content))
        return "250 kept"

    def last(self) -> EmailMessage:
        """The newest, after the checks that every mail has to pass."""
        recipients, raw = self.mails[-1]
        message = email.message_from_bytes(raw, policy=default)
        assert isinstance(message, EmailMessage)
        raw.partition(b"\r\n\r\n")[0].decode("ascii")  # letters of all languages are encoded (RFC 2047)
        assert all(len(line) <= 998 for line in raw.split(b"\r\n")), "RFC 5322, 2.1.1"
        names = [name.lower() for name in message]
        for name in ("from", "to", "subject", "date", "message-id", "mime-version"):
            assert names.count(name) == 1, (name, names)
        assert not {"bcc", "cc"} & set(names)
        assert [message["To"].addresses[0].addr_spec] == recipients
        assert message["From"].addresses[0].addr_spec == settings.DEFAULT_FROM_EMAIL
        assert not message.defects and not any(value.defects for value in message.values())
        assert message.get_content_charset() == "utf-8"
        return message


class Server(Controller):
    """On a socket that is bound already: no other test can take its port."""

    listening: socket.socket

    def _create_server(self) -> Any:
        return self.loop.create_server(self._factory_invoker, sock=self.listening)


@pytest.fixture
def box(monkeypatch: Any) -> Iterator[Box]:
    """A mail server on the loopback interface, to which the portal hands its mails."""
    kept, listening = Box(), socket.create_server(("127.0.0.1", 0))
    # Its own patience are five seconds, which a busy machine may take to run a thread.
    server = Server(kept, hostname="127.0.0.1", port=listening.getsockname()[1], ready_timeout=60)
    server.listening = listening
    server.start()
    monkeypatch.setattr(settings, "EMAIL_BACKEND", "django.core.mail.backends.smtp.EmailBackend")
    monkeypatch.setattr(settings, "EMAIL_HOST", "127.0.0.1")
    monkeypatch.setattr(settings, "EMAIL_PORT", server.port)
    yield kept
    server.stop()


@pytest.fixture
def replies(monkeypatch: Any) -> None:
    monkeypatch.setattr(settings, "REPLY_MAIL", BOX)
