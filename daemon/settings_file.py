"""The administrator's file. With errors the last good text counts, and people are told; with none, nothing opens."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from daemon import files
from daemon.store import Store, StoreError
from policies.settings import Problem, Settings, SettingsError, parse_settings

FILE = Path("/etc/tunwarden/tunwarden.toml")
LARGEST = 1 << 20  # bytes


@dataclass(frozen=True, slots=True)
class Loaded:
    settings: Settings
    warning: str | None = None  # what people should know
    broken: bool = False  # nothing usable was found: everything stays closed


def load(store: Store, file: Path = FILE, in_force: Settings | None = None) -> Loaded:
    """The settings to put in force. No file at all is a fresh install: the defaults.

    `in_force` are those of a running daemon; None at the start, or while none could be used.
    """
    if not os.path.lexists(file):
        return Loaded(Settings())
    try:
        text = _text(file)
        settings = parse_settings(text, str(file))
    except SettingsError as err:
        return _last_good(store, in_force, str(err))
    try:
        store.save_good_settings(text)
    except StoreError as err:
        return Loaded(settings, f"The settings are in force, but could not be kept for the next start: {err}")
    return Loaded(settings)


def _text(file: Path) -> str:
    """Raises SettingsError, also where others could have written the file. Links are followed (to /nix/store, say)."""
    try:
        # The parser names the line of a byte that is no UTF-8.
        return files.read(file, LARGEST, follow=True).decode(errors="surrogateescape")
    except OSError as err:
        raise SettingsError([Problem(str(file), 1, "", f"cannot be used: {err.strerror}")]) from err


def _last_good(store: Store, in_force: Settings | None, why: str) -> Loaded:
    settings = in_force
    try:
        text = store.last_good_settings()
        if settings is None and text is not None:
            settings = parse_settings(text, "the last good settings")
    except (StoreError, SettingsError) as err:  # written by another version, perhaps
        why = f"{why}\n{err}"
    if settings is None:
        return Loaded(Settings(), f"The settings file has errors, so nothing may pass.\n{why}", broken=True)
    return Loaded(settings, f"The settings file has errors; the last good settings are in force.\n{why}")
