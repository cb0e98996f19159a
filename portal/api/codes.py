"""Every code of a refusal, and what it means: the one table that docs/portal-api.md is made from."""

from __future__ import annotations

from dataclasses import dataclass

from portal.api.problems import STATUS

# Sent by the interface itself; the others are 400 unless problems.STATUS says otherwise.
DIRECT = {
    "malformed": 422,
    "not_signed_in": 401,
    "not_found": 404,
    "method_not_allowed": 405,
    "not_json": 415,
    "events_elsewhere": 421,
    "later": 503,
    "not_ready": 503,
    "refused": 403,
    "failed": 500,
}

MEANING = {
    # The interface
    "malformed": "The request has not the expected form; `fields` says where. 400 when it could not be read at all.",
    "not_signed_in": "The token is missing, unknown, or ended.",
    "reauthentication_required": "Confirm the password first: `POST /_allauth/app/v1/auth/reauthenticate`.",
    "not_found": "There is no such thing in this account. What belongs to others is not found either.",
    "method_not_allowed": "This address does not take this method; `Allow` lists those it takes.",
    "not_json": "The body is not announced as JSON: send `Content-Type: application/json`.",
    "refused": "Refused for another reason; `detail` says it.",
    "failed": "It failed on the server's side. Trying again later may help.",
    "not_ready": "The server has no signing keys yet. Try again later.",
    "too_many_tries": "Too often within the hour, or within the quarter of an hour for wrong codes and passwords.",
    # The image with characters
    "captcha_required": "Get an image with `POST /captcha`, and send `captcha` with the next try.",
    "captcha_wrong": "Those were not the characters, or the image was used already. Get a new one.",
    # Accounts
    "invalid": "This is no e-mail address, or it has letters that only look Latin.",
    "required": "A field is missing.",
    "email_taken": "There is an account with this e-mail. Said until the captcha is asked for.",
    "statement_changed": "The statement has a newer version: show it, and send that version.",
    "password_no_digit": "The password needs a digit.",
    "password_no_lower": "The password needs a lower-case Latin letter.",
    "password_no_upper": "The password needs an upper-case Latin letter.",
    "password_space": "The password must not have spaces.",
    "password_reused": "It is one of the last five passwords.",
    "password_mismatch": "The two passwords differ.",
    "rate_limited": "Far too many failed sign-ups.",
    "too_many_login_attempts": "Far too many failed sign-ins.",
    "code_required": "The code of the second step is missing.",
    "code_wrong": "That is not the code.",
    "incorrect_code": "That is not the code.",
    "code_expired": "The code has expired, or was tried too often. Ask for a new one.",
    "has_active_subscription": "A paid subscription is active: the account cannot be deleted now.",
    "provider_not_offered": "This quick sign-in is not offered in this country.",
    "unknown_provider": "There is no such quick sign-in.",
    "invalid_token": "The provider's token is not valid.",
    # Two steps
    "unverified_email": "Confirm the e-mail first: follow the link in the mail.",
    "phone_first": "Confirm a mobile number first; an authenticator app comes second.",
    "phone_not_allowed": "No SMS are sent to this country.",
    "sms_unavailable": "This portal sends no SMS.",
    "sms_not_sent": "The SMS could not be sent. Try again later.",
    "too_many_messages": "Too many SMS within the hour.",
    # Subscriptions
    "code_malformed": "This is no activation code: a character is wrong.",
    "code_unknown": "The code is not known here.",
    "code_used": "The code has been used, by another account.",
    "not_shareable": "This product is for its holder alone.",
    "not_active": "The subscription is not active.",
    "own_email": "That is the account's own e-mail.",
    "already_shared": "It is shared with this e-mail already.",
    "too_many": "It is shared with as many people as there may be.",
    "invitation_gone": "The invitation was withdrawn, or never existed.",
    "invitation_other": "The invitation is for another e-mail, or somebody else has accepted it.",
    "email_unconfirmed": "Confirm the e-mail first.",
    "not_holder": "The subscription is not this account's, and not shared with it.",
    "no_seat": "Every seat is taken: disconnect a device first.",
    # Downloads
    "region": "Not offered in this country.",
    "by_support": "This version is given out by support only.",
    "file_missing": "The file is not there at present.",
    "link_expired": "The link has expired: ask for another.",
    "link_invalid": "The link is not complete, or was changed.",
    # Devices
    "application_invalid": "The application's name is not one.",
    "key_invalid": "This is no WireGuard public key.",
    "machine_invalid": "The computer's own name is not text.",
    "name_invalid": "The device's name is not text.",
    "name_taken": "Another device of this account has this name.",
    "platform_invalid": "The platform is not known.",
    "product_invalid": "The product's name is not one.",
    "version_invalid": "The version is not one.",
    "device_unknown": "The device's credential is not known: it was disconnected.",
    "not_first": "Only the application that connected the device may do this.",
    "too_many_devices": "The account has as many devices as there may be.",
    "ticket_gone": "The ticket was used, has expired, or is for another computer.",
    "command_unknown": "There is no such command, or it is not one from afar.",
    "command_gone": "The command is done, or has expired.",
    "too_many_commands": "Too many commands wait for this device.",
    "message_invalid": "The device's message is not text, or too long.",
    "result_unknown": "That is no result of a command.",
    "events_elsewhere": "Events are served by another process: the proxy in front sends them to the wrong one.",
    "later": "Too many streams are open. Try again later.",
    # Support
    "text_missing": "Nothing is written.",
    "text_too_long": "It is too long; `detail` says how long it may be.",
    "text_characters": "It has characters that are not text.",
    "product_unknown": "There is no such product.",
    "platform_unknown": "The platform is not one of linux, macos, windows, android, ios and other.",
    "attachment_too_large": "A file, or all of them together, is too large.",
    "attachment_too_many": "Too many files for one message.",
    "attachment_empty": "A file is empty.",
    "attachment_type": "A file is not of an allowed type, or its content is not what its name says.",
}


@dataclass(frozen=True)
class Code:
    code: str
    status: int
    meaning: str


def table() -> list[Code]:
    return [Code(code, DIRECT.get(code, STATUS.get(code, 400)), meaning) for code, meaning in MEANING.items()]


TABLE = table()


def markdown() -> str:
    """The part of docs/portal-api.md between its two marks."""
    rows = [f"| `{each.code}` | {each.status} | {each.meaning} |" for each in sorted(TABLE, key=lambda one: one.code)]
    return "\n".join(["| code | status | meaning |", "|---|---|---|", *rows])
