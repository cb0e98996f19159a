"""The administrator's file. With errors in it the last good text counts and people are told; else all is shut."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from daemon.store import Store, StoreError
from policies.settings import Settings, SettingsError, parse_settings

FILE = Path("/etc/tunwarden/tunwarden.toml")
LARGEST = 1 << 20  # bytes


@dataclass(frozen=True, slots=True)
class Loaded:
    settings: Settings
    warning: str | None = None  # what people should know
    broken: bool = False  # nothing usable was found: everything stays closed


def load(store: Store, file: Path = FILE) -> Loaded:
    """The settings in force. No file at all is a fresh install: the defaults."""
    try:
        with file.open("rb") as opened:
            raw = opened.read(LARGEST + 1)
        settings = parse_settings(raw.decode(), str(file))
    except FileNotFoundError:
        return Loaded(Settings())
    except (OSError, UnicodeDecodeError, SettingsError) as err:
        return _last_good(store, f"{file}: {err}" if not isinstance(err, SettingsError) else str(err))
    try:
        store.save_good_settings(raw.decode())
    except StoreError as err:
        return Loaded(settings, f"The settings are in force, but could not be kept for the next start: {err}")
    return Loaded(settings)


def _last_good(store: Store, why: str) -> Loaded:
    text = store.last_good_settings()
    if text is not None:
        try:
            settings = parse_settings(text, "the last good settings")
        except SettingsError as err:  # written by another version, perhaps
            why = f"{why}\n{err}"
        else:
            return Loaded(settings, f"The settings file has errors; the last good settings are in force.\n{why}")
    return Loaded(Settings(), f"The settings file has errors, so nothing may pass.\n{why}", broken=True)
