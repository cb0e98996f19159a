"""The administrator's settings: one TOML file, and the same names in the environment.

`PORTAL_CONFIG` names the file (otherwise /etc/tunwarden-portal/portal.toml, if there). `PORTAL_<KEY>`, in capitals,
wins over the file, so a container needs no file. An unknown key, a wrong type or a missing secret is an error that
names it.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl, unquote, urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

DEFAULT_FILE = Path("/etc/tunwarden-portal/portal.toml")
# In the environment: separated by commas, and as JSON.
LISTS = ("hosts", "attachment_types", "sms_prefixes")
TABLES = ("sms_headers", "sms_body", "social", "social_not_in")
Count = Annotated[int, Field(ge=1, le=1_000_000)]


class ConfigError(Exception):
    """A setting that cannot be used: which, where, and why."""


SocialProvider = Literal["apple", "facebook", "google", "vk", "yandex"]


class Provider(BaseModel):
    """What a provider of quick sign-in gave the host; Apple: `secret` is the private key (PEM)."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    client_id: str = Field(min_length=1)
    secret: str = ""
    secret_file: Path | None = None
    team_id: str = ""  # Apple
    key_id: str = ""  # Apple

    @model_validator(mode="after")
    def _secret(self) -> Provider:
        if self.secret_file is not None:
            self.secret = self.secret_file.read_text(encoding="utf-8").strip()
        if not self.secret:
            raise ValueError("secret or secret_file is missing")
        return self


class Config(BaseModel):
    """What an administrator may set. docs/portal.md lists the keys."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    debug: bool = False
    secret_key: str = ""
    secret_key_file: Path | None = None
    hosts: list[str] = []  # the names under which the portal answers; any other Host header is refused
    brand: str = "tunwarden portal"
    state: Path = Path("/var/lib/tunwarden-portal")  # the SQLite database, in development also the mail box
    keys: Path | None = None  # the folder of the signing keys, by default `state`/keys; never in the database
    database: str = ""  # postgresql://user:password@host:port/name; empty: SQLite in `state`
    cache: str = ""  # redis://host:port/number; empty: a table of the database, shared by every worker
    proxies: int = Field(0, ge=0, le=10)  # trusted proxies in front that add X-Forwarded-For
    https: bool = True  # cookies, redirects and links for HTTPS only
    hsts_seconds: int = Field(31_536_000, ge=0)

    mail_host: str = "localhost"
    mail_port: int = Field(25, ge=1, le=65_535)
    mail_user: str = ""
    mail_password: str = ""
    mail_tls: bool = False  # STARTTLS
    mail_from: str = "portal@localhost"
    support_mail: str = ""
    reply_mail: str = ""  # support@portal.example: answers by mail come to support+...@portal.example; empty: none do

    # Two-step verification: how SMS leave ("mail", "http", in development "console"); empty: it is not offered.
    sms: Literal["", "mail", "http", "console"] = ""
    sms_mail_to: str = ""  # {number}@gateway.example; {digits}: without the +
    sms_url: str = ""  # https://gateway.example/send, without any placeholder
    sms_method: Literal["POST", "PUT"] = "POST"
    sms_headers: dict[str, str] = {}  # may have {secret}
    sms_body: dict[str, Any] = {}  # its texts have {number} or {digits}, {text} and perhaps {secret}
    sms_form: bool = False  # the body as a form instead of JSON
    sms_secret: str = ""
    sms_secret_file: Path | None = None
    sms_prefixes: list[str] = []  # +49, +33: only there; empty: everywhere
    sms_per_hour: Count = 5  # to one number, and for one account
    sms_per_address: Count = 20  # in an hour

    social: dict[SocialProvider, Provider] = {}  # quick sign-in: only the providers that are here
    # Not offered to accounts and browsers of a country: Russia allows no foreign ones since December 2023.
    social_not_in: dict[str, list[SocialProvider]] = {"BY": ["facebook"], "RU": ["apple", "facebook", "google"]}

    captcha_per_account: Count = 3  # failures within the window before an image must be solved
    captcha_per_address: Count = 10
    captcha_window_minutes: Count = 15
    flite: Path = Path("/usr/bin/flite")  # speaks the captcha; without it there is no audio alternative
    activation_days: Count = 7  # accounts whose e-mail was not confirmed by then are removed
    geoip: Path | None = None  # the folder with geoip and geoip6 of Debian's tor-geoipdb: countries of addresses
    country_header: str = ""  # otherwise a header that a trusted proxy sets (proxies), such as CF-IPCountry
    event_streams: Count = 5_000  # held open by the events process; more are asked to come again later
    event_keepalive_seconds: int = Field(15, ge=1, le=300)  # shorter than any proxy's patience
    grace_days: int = Field(7, ge=0, le=365)  # a subscription still works this long after its last term
    tickets_per_hour: Count = 5  # requests to support, of one account
    attachment_megabytes: int = Field(10, ge=1, le=1_000)  # one file
    attachment_count: int = Field(5, ge=0, le=50)  # of one message
    attachment_types: list[str] = [
        "txt", "log", "json", "csv", "conf", "png", "jpg", "jpeg", "gif", "webp", "pdf", "zip", "gz", "pcap", "pcapng"
    ]  # fmt: skip

    vpn_product: str = "vpn"  # the slug of the product whose subscription gives the premium plan
    quota_mb: Count = 200  # a day (1 MB: 1,000,000 bytes) on the free plan, for a device that nobody signed in on
    quota_mb_signed_in: Count = 300
    entitlement_hours: int = Field(72, ge=1, le=720)  # what a device was told holds this long without the portal
    entitlement_refresh_hours: int = Field(12, ge=1, le=720)
    server_list_hours: int = Field(168, ge=2, le=8_760)
    releases: Path | None = None  # the folder of what is downloaded, by default `state`/releases
    # Instead of the folder: a bucket of an S3-compatible store.
    s3_endpoint: str = Field("", pattern=r"^(https?://[A-Za-z0-9.:\[\]-]+(/[A-Za-z0-9._/-]*)?)?$")
    s3_bucket: str = Field("", pattern=r"^([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])?$")
    s3_region: str = Field("us-east-1", pattern=r"^[a-z0-9-]{1,40}$")
    s3_key: str = ""
    s3_secret: str = ""
    s3_secret_file: Path | None = None
    release_max_mb: Count = 2_000  # of one file
    releases_accel: str = Field("", pattern=r"^(/[A-Za-z0-9_-]+/)?$")  # nginx's internal location of that folder
    download_link_hours: int = Field(24, ge=1, le=720)
    anonymous_per_address: Count = 30  # entitlements without sign-in, of one address within an hour

    @model_validator(mode="after")
    def _secrets(self) -> Config:
        if self.secret_key_file is not None:
            self.secret_key = self.secret_key_file.read_text(encoding="utf-8").strip()
        if self.sms_secret_file is not None:
            self.sms_secret = self.sms_secret_file.read_text(encoding="utf-8").strip()
        if not self.debug:
            if len(self.secret_key) < 50:
                raise ValueError("secret_key (or secret_key_file) needs at least 50 characters")
            if not self.hosts:
                raise ValueError("hosts must list the names under which the portal answers")
        return self

    @model_validator(mode="after")
    def _messages(self) -> Config:
        if self.sms == "console" and not self.debug:
            raise ValueError("sms = console shows codes on the terminal: it is for debug = true")
        address = r"[^@\s{}]*\{(number|digits)\}[^@\s{}]*@[^@\s{}]+"
        if self.sms == "mail" and not re.fullmatch(address, self.sms_mail_to):
            raise ValueError("sms_mail_to must be an address with {number} or {digits} before the @")
        if self.sms == "http":
            url = urlsplit(self.sms_url)
            loopback = url.hostname in ("127.0.0.1", "::1", "localhost")
            if not url.hostname or not (url.scheme == "https" or (url.scheme == "http" and loopback)):
                raise ValueError("sms_url must be an https address")
            if "{" in self.sms_url:
                raise ValueError("sms_url must not have placeholders: the number and the text belong into sms_body")
            body = json.dumps(self.sms_body)
            if "{text}" not in body or ("{number}" not in body and "{digits}" not in body):
                raise ValueError("sms_body must have {text} and {number} or {digits}")
            if self.sms_form and not all(isinstance(value, str) for value in self.sms_body.values()):
                raise ValueError("sms_body: a form has texts only")
        if self.reply_mail and not re.fullmatch(r"[a-z0-9._-]{1,20}@[a-z0-9.-]+", self.reply_mail, re.IGNORECASE):
            raise ValueError("reply_mail must be a plain address, such as support@portal.example")
        if not all(re.fullmatch(r"\+[0-9]{1,7}", prefix) for prefix in self.sms_prefixes):
            raise ValueError("sms_prefixes: + and digits, such as +49")
        return self


def _from_environment() -> dict[str, object]:
    found: dict[str, object] = {}
    for key in Config.model_fields:
        value = os.environ.get(f"PORTAL_{key.upper()}")
        if value is not None:
            if key in LISTS:
                found[key] = [part.strip() for part in value.split(",") if part.strip()]
            elif key in TABLES:
                try:
                    found[key] = json.loads(value)
                except ValueError as err:
                    raise ConfigError(f"PORTAL_{key.upper()}: JSON expected: {err}") from err
            else:
                found[key] = value
    return found


def load() -> Config:
    """The settings in force. Raises ConfigError."""
    named = os.environ.get("PORTAL_CONFIG")
    file = Path(named) if named else DEFAULT_FILE
    values: dict[str, object] = {}
    if named or file.exists():
        try:
            values = tomllib.loads(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as err:
            raise ConfigError(f"{file}: {err}") from err
    try:
        return Config.model_validate(values | _from_environment())
    except (ValidationError, OSError) as err:
        if isinstance(err, ValidationError):
            parts = [f"{'.'.join(map(str, e['loc'])) or 'settings'}: {e['msg']}" for e in err.errors()]
            raise ConfigError(f"{file} and PORTAL_*: {'; '.join(parts)}") from err
        raise ConfigError(f"secret_key_file: {err}") from err


def database(config: Config) -> dict[str, object]:
    """Django's description of the database. Raises ConfigError."""
    if not config.database:
        return {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": str(config.state / "portal.sqlite3"),
            # Django's defaults lose most of many simultaneous sign-ins to "database is locked".
            "OPTIONS": {
                "transaction_mode": "IMMEDIATE",
                "timeout": 20,
                "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
            },
            "CONN_MAX_AGE": 60,
        }
    url = urlsplit(config.database)
    if url.scheme not in ("postgresql", "postgres") or not url.path.strip("/"):
        raise ConfigError("database: postgresql://user:password@host:port/name expected")
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": unquote(url.path.strip("/")),
        "USER": unquote(url.username or ""),
        "PASSWORD": unquote(url.password or ""),
        "HOST": dict(parse_qsl(url.query)).get("host") or url.hostname or "",  # ?host=/run/postgresql: a Unix socket
        "PORT": str(url.port or ""),
        "OPTIONS": {"pool": True},
        "CONN_HEALTH_CHECKS": True,  # a restarted server costs nobody a request
    }


def sms(config: Config) -> dict[str, object]:
    """What accounts/steps/gateways.py sends with."""
    return {
        "gateway": config.sms or ("console" if config.debug else ""),
        "to": config.sms_mail_to,
        "method": config.sms_method,
        "url": config.sms_url,
        "headers": config.sms_headers,
        "body": config.sms_body,
        "form": config.sms_form,
        "secret": config.sms_secret,
    }


def providers(config: Config) -> dict[str, dict[str, object]]:
    """allauth's SOCIALACCOUNT_PROVIDERS: the scopes ask for the e-mail and no more."""
    more: dict[str, dict[str, object]] = {
        "apple": {"SCOPE": ["email"]},
        # Both tell only e-mails that they have confirmed, without a field that says so.
        "facebook": {"SCOPE": ["email"], "FIELDS": ["id", "email"], "VERIFIED_EMAIL": True},
        "vk": {"SCOPE": ["email"], "VERIFIED_EMAIL": True},
        "google": {"SCOPE": ["openid", "email"], "OAUTH_PKCE_ENABLED": True},
        "yandex": {"SCOPE": ["login:info", "login:email"], "OAUTH_PKCE_ENABLED": True},
    }
    found: dict[str, dict[str, object]] = {}
    for name, given in config.social.items():
        app: dict[str, object] = {"client_id": given.client_id, "secret": given.secret}
        if name == "apple":
            app |= {"secret": given.key_id, "key": given.team_id, "settings": {"certificate_key": given.secret}}
        found[name] = {"APPS": [app], **more[name]}
    return found


def cache(config: Config) -> dict[str, object]:
    """Django's description of the cache. It is shared by every worker: limits must hold across them."""
    if config.cache:
        if urlsplit(config.cache).scheme not in ("redis", "rediss"):
            raise ConfigError("cache: redis://host:port/number expected")
        return {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": config.cache}
    # Django's own 300 entries are too few: a device code is two, and the table throws some away when it is full.
    options = {"MAX_ENTRIES": 20_000}
    return {"BACKEND": "django.core.cache.backends.db.DatabaseCache", "LOCATION": "cache", "OPTIONS": options}


def releases(config: Config) -> dict[str, object]:
    """Django's description of where releases are kept. Raises ConfigError."""
    if config.s3_endpoint:
        names = ("endpoint", "bucket", "region", "key", "secret")
        options = {name: getattr(config, f"s3_{name}") for name in names}
        if config.s3_secret_file is not None:
            try:
                options["secret"] = config.s3_secret_file.read_text(encoding="utf-8").strip()
            except OSError as err:
                raise ConfigError(f"s3_secret_file: {err}") from err
        missing = [f"s3_{name}" for name, value in options.items() if not value]
        if missing:
            raise ConfigError(f"s3_endpoint needs {' and '.join(missing)} too")
        return {"BACKEND": "portal.downloads.s3.S3", "OPTIONS": options}
    location = str(config.releases or config.state / "releases")
    modes = {"file_permissions_mode": 0o600, "directory_permissions_mode": 0o700}
    return {"BACKEND": "portal.downloads.storage.Folder", "OPTIONS": {"location": location, **modes}}
