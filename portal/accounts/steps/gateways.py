"""How a text message leaves: by mail to a gateway that sends SMS, by a gateway's HTTP interface, or to the terminal.

`settings.SMS` names one (config.py judges it at the start). The number and the text are never part of an address that
is fetched: addresses end up in the logs of proxies, and a number in one could change what is asked for.
"""

from __future__ import annotations

import json
import re
import smtplib
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import IO, Any, Protocol
from urllib.parse import urlencode

from django.conf import settings
from django.core.mail import EmailMessage

TIMEOUT = 10  # seconds that somebody who signs in waits at most
PLACEHOLDER = re.compile(r"\{(number|digits|text|secret)\}")


class SmsError(Exception):
    """The message was not taken; what the gateway said, without the number and the text."""


class Gateway(Protocol):
    def send(self, number: str, text: str) -> None:
        """Hands over one message to a number in E.164 (`+` and digits). Raises SmsError."""


def fill(template: Any, values: Mapping[str, str]) -> Any:
    """The template with its placeholders replaced, once, in every text of it: what is put in is not read again."""
    if isinstance(template, str):
        return PLACEHOLDER.sub(lambda found: values[found[1]], template)
    if isinstance(template, Mapping):
        return {key: fill(value, values) for key, value in template.items()}
    if isinstance(template, list):
        return [fill(value, values) for value in template]
    return template


def _values(number: str, text: str, secret: str = "") -> dict[str, str]:
    return {"number": number, "digits": number.removeprefix("+"), "text": text, "secret": secret}


@dataclass(frozen=True)
class MailGateway:
    """SMTP to SMS: a mail whose address has the number and whose body is the message."""

    to: str

    def send(self, number: str, text: str) -> None:
        try:
            EmailMessage(subject="", body=text, to=[fill(self.to, _values(number, ""))]).send()
        except (OSError, smtplib.SMTPException) as err:
            raise SmsError(f"mail to the SMS gateway: {type(err).__name__}") from err


class _Stay(urllib.request.HTTPRedirectHandler):
    """A gateway that moves is an error: the secret must not follow it to another host."""

    def redirect_request(self, req: Any, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str) -> None:
        return None


@dataclass(frozen=True)
class HttpGateway:
    """Any gateway that takes a JSON or form document."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: Mapping[str, Any]
    form: bool
    secret: str = field(repr=False)

    def send(self, number: str, text: str) -> None:
        values = _values(number, text, self.secret)
        body = fill(self.body, values)
        data = urlencode(body).encode() if self.form else json.dumps(body).encode()
        kind = "application/x-www-form-urlencoded" if self.form else "application/json"
        headers = {"Content-Type": kind} | {
            name: fill(value, {**values, "text": ""}) for name, value in self.headers.items()
        }
        request = urllib.request.Request(self.url, data, headers, method=self.method)  # noqa: S310 -- config.py judged it
        try:
            with urllib.request.build_opener(_Stay).open(request, timeout=TIMEOUT) as response:
                response.read(65_536)
        except urllib.error.HTTPError as err:
            err.close()
            raise SmsError(f"the SMS gateway answered {err.code}") from err
        except (OSError, HTTPException, ValueError) as err:
            raise SmsError(f"the SMS gateway: {type(err).__name__}") from err


class ConsoleGateway:
    """Development only: to the terminal."""

    def send(self, number: str, text: str) -> None:
        sys.stderr.write(f"SMS to {number}: {text}\n")


def gateway() -> Gateway | None:
    """The one that is set; None: this portal sends no SMS, and two-step verification is not offered."""
    given: dict[str, Any] = settings.SMS
    match given["gateway"]:
        case "mail":
            return MailGateway(given["to"])
        case "http":
            return HttpGateway(**{name: given[name] for name in HttpGateway.__dataclass_fields__})
        case "console":
            return ConsoleGateway()
        case _:
            return None
