"""The administrator's settings: one TOML file, and the same names in the environment.

`PORTAL_CONFIG` names the file (otherwise /etc/tunwarden-portal/portal.toml, if there). `PORTAL_<KEY>`, in capitals,
wins over the file, so a container needs no file. An unknown key, a wrong type or a missing secret is an error that
names it.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Annotated
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

DEFAULT_FILE = Path("/etc/tunwarden-portal/portal.toml")
Count = Annotated[int, Field(ge=1, le=1_000_000)]


class ConfigError(Exception):
    """A setting that cannot be used: which, where, and why."""


class Config(BaseModel):
    """What an administrator may set. docs/portal.md lists the keys."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    debug: bool = False
    secret_key: str = ""
    secret_key_file: Path | None = None
    hosts: list[str] = []  # the names under which the portal answers; any other Host header is refused
    brand: str = "tunwarden portal"
    state: Path = Path("/var/lib/tunwarden-portal")  # the SQLite database, in development also the mail box
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

    captcha_per_account: Count = 3  # failures within the window before an image must be solved
    captcha_per_address: Count = 10
    captcha_window_minutes: Count = 15
    flite: Path = Path("/usr/bin/flite")  # speaks the captcha; without it there is no audio alternative
    activation_days: Count = 7  # accounts whose e-mail was not confirmed by then are removed
    grace_days: int = Field(7, ge=0, le=365)  # a subscription still works this long after its last term

    @model_validator(mode="after")
    def _secrets(self) -> Config:
        if self.secret_key_file is not None:
            self.secret_key = self.secret_key_file.read_text(encoding="utf-8").strip()
        if not self.debug:
            if len(self.secret_key) < 50:
                raise ValueError("secret_key (or secret_key_file) needs at least 50 characters")
            if not self.hosts:
                raise ValueError("hosts must list the names under which the portal answers")
        return self


def _from_environment() -> dict[str, object]:
    found: dict[str, object] = {}
    for key in Config.model_fields:
        value = os.environ.get(f"PORTAL_{key.upper()}")
        if value is not None:
            found[key] = [part.strip() for part in value.split(",") if part.strip()] if key == "hosts" else value
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
        "HOST": url.hostname or "",
        "PORT": str(url.port or ""),
        "OPTIONS": {"pool": True},
    }


def cache(config: Config) -> dict[str, object]:
    """Django's description of the cache. It is shared by every worker: limits must hold across them."""
    if config.cache:
        if urlsplit(config.cache).scheme not in ("redis", "rediss"):
            raise ConfigError("cache: redis://host:port/number expected")
        return {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": config.cache}
    return {"BACKEND": "django.core.cache.backends.db.DatabaseCache", "LOCATION": "cache"}
