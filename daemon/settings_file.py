"""The administrator's files, and what users set beneath them.

With errors in the files the last good ones count, and people are told; with none, nothing opens.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from daemon import files
from daemon.store import Files, Store, StoreError
from policies.own_settings import together
from policies.settings import Fixed, Settings, parse_files
from policies.settings_errors import Problem, SettingsError
from policies.settings_toml import MAX_BYTES

FILE = Path("/etc/tunwarden/tunwarden.toml")
DROP_INS = "tunwarden.d"  # beside it: more of them, *.toml, in the order of their names
MOST = 100  # drop-ins
NOTHING = Fixed({}, {})


@dataclass(frozen=True, slots=True)
class Loaded:
    """What is in force. `fixed` and `own` together are `settings`."""

    settings: Settings
    warning: str | None = None  # what people should know
    broken: bool = False  # nothing usable was found: everything stays closed
    fixed: Fixed = NOTHING
    own: Mapping[str, str] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)  # of `own`: what is not in force, and why


def load(store: Store, file: Path = FILE, in_force: Fixed | None = None) -> Loaded:
    """The settings to put in force. No file at all is a fresh install: the defaults, and what users set.

    `in_force` is what the administrator said to a running daemon; None at the start, or while nothing could be used.
    """
    warning: str | None = None
    try:
        texts = _texts(file)
        fixed = parse_files(texts)
    except SettingsError as err:
        try:
            good = _last_good(store, in_force)
        except (StoreError, SettingsError) as worse:  # written by another version, perhaps
            good, err = None, SettingsError([*err.problems, Problem("the last good settings", 1, "", str(worse))])
        if good is None:
            return Loaded(Settings(), f"The settings file has errors, so nothing may pass.\n{err}", broken=True)
        fixed, warning = good, f"The settings file has errors; the last good settings are in force.\n{err}"
    else:
        try:
            if texts:
                store.save_good_settings(texts)
        except StoreError as err:
            warning = f"The settings are in force, but could not be kept for the next start: {err}"
    try:
        return over(Loaded(Settings(), warning, fixed=fixed), store.own_settings())
    except StoreError as err:
        return over(Loaded(Settings(), f"What users set cannot be read: {err}", fixed=fixed), {})


def over(loaded: Loaded, own: Mapping[str, str]) -> Loaded:
    """The same with other settings of users beneath what the administrator says."""
    settings, refused = together(loaded.fixed, own)
    return replace(loaded, settings=settings, own=own, refused=refused)


def _texts(file: Path) -> Files:
    """The file, then the drop-ins. Raises SettingsError."""
    found = [file] if os.path.lexists(file) else []
    folder = file.parent / DROP_INS
    try:
        if os.path.lexists(folder):
            found += sorted(
                each for each in folder.iterdir() if each.suffix == ".toml" and not each.name.startswith(".")
            )
    except OSError as err:
        raise SettingsError([Problem(str(folder), 1, "", f"cannot be used: {err.strerror}")]) from err
    if len(found) > MOST:
        raise SettingsError([Problem(str(folder), 1, "", f"more than {MOST} files")])
    problems, texts = [], []
    for each in found:
        try:
            # The parser names the line of a byte that is no UTF-8.
            texts.append((str(each), files.read(each, MAX_BYTES, follow=True).decode(errors="surrogateescape")))
        except OSError as err:  # also where others could have written it. Links are followed (to /nix/store, say)
            problems.append(Problem(str(each), 1, "", f"cannot be used: {err.strerror}"))
    if problems:
        raise SettingsError(problems)
    return texts


def _last_good(store: Store, in_force: Fixed | None) -> Fixed | None:
    """What the administrator said last without errors; None: never anything. Raises StoreError, SettingsError."""
    if in_force is not None:
        return in_force
    texts = store.last_good_settings()
    return None if texts is None else parse_files(texts)
