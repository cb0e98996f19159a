"""Kernel settings that protection changes, and their former values, which survive a crash."""

from __future__ import annotations

import contextlib
import json
import os
import re
from pathlib import Path

from daemon.host import HostError

PROC = Path("/proc/sys")
SRC_VALID_MARK = "net/ipv4/conf/all/src_valid_mark"
ARP_IGNORE = "net/ipv4/conf/all/arp_ignore"
OURS = re.compile(r"net/ipv4/conf/(all/src_valid_mark|[^/]+/arp_ignore)")

SILENT = ("2", "8")  # values of arp_ignore with which no other link answers for the tunnel's address


class Sysctls:
    """The saved file maps each setting we changed to [former value, ours]. A setting we found right is not in it."""

    def __init__(self, saved: Path) -> None:
        self._saved = saved

    def protect(self) -> None:
        """Save, then set. Twice is harmless: a former value once saved is never overwritten. Raises HostError."""
        try:
            changes = {name: (is_now, ours) for name, ours in _wanted().items() if (is_now := _get(name)) != ours}
            if not changes:
                return
            before = self._load()
            if new := {name: change for name, change in changes.items() if name not in before}:
                self._save(before | new)
            for name, (_, ours) in changes.items():
                with contextlib.suppress(FileNotFoundError):  # the link has just gone
                    _set(name, ours)
                    if _get(name) != ours:
                        raise HostError(f"set {name.replace('/', '.')} to {ours}", "the kernel kept another value")
        except OSError as err:
            raise HostError("change the kernel's network settings", str(err)) from err

    def stand(self) -> bool:
        """Whether nobody has changed those of the whole machine since. Raises HostError."""
        try:
            return _get(SRC_VALID_MARK) == "1" and _get(ARP_IGNORE) in SILENT
        except OSError as err:
            raise HostError("check the kernel's network settings", str(err)) from err

    def restore(self) -> None:
        """Give back what was there, unless somebody else has changed it since. Idempotent. Raises HostError."""
        try:
            before = self._load()
            for name, (former, ours) in before.items():
                with contextlib.suppress(FileNotFoundError):
                    if _get(name) == ours:
                        _set(name, former)
            if before:
                self._saved.unlink()
                _sync_folder(self._saved.parent)
        except OSError as err:
            raise HostError("restore the kernel's network settings", str(err)) from err

    def _load(self) -> dict[str, tuple[str, str]]:
        """A damaged file is set aside: better settings that are too strict than guesses about former ones."""
        try:
            text = self._saved.read_text(encoding="ascii")
        except FileNotFoundError:
            return {}
        try:
            saved = {name: (str(former), str(ours)) for name, (former, ours) in json.loads(text).items()}
            if not all(OURS.fullmatch(name) for name in saved):
                raise ValueError("names a setting that is not ours")
        except (ValueError, TypeError, AttributeError):
            self._saved.replace(self._saved.with_suffix(".damaged"))
            return {}
        return saved

    def _save(self, former: dict[str, tuple[str, str]]) -> None:
        """Whole or not at all, also when the power fails: write, fsync, rename, fsync the folder."""
        self._saved.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = self._saved.with_suffix(".new")
        new.unlink(missing_ok=True)
        # O_EXCL and O_NOFOLLOW: never through something that another user has put there.
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            json.dump(former, file)
            file.flush()
            os.fsync(file.fileno())
        new.replace(self._saved)
        _sync_folder(self._saved.parent)


def _wanted() -> dict[str, str]:
    """What differs from what protection needs.

    src_valid_mark: strict rp_filter looks at the mark too, so answers of the server pass.

    arp_ignore 2: ARP for the tunnel's address is not answered on other links (MLLVD-CR-24-03). The kernel takes the
    greater one of "all" and the link's own, but greater is not stricter: 3 answers for it, 4 to 7 for everything
    (net/ipv4/arp.c, arp_ignore). Only 8, which answers nothing, is; "default" becomes that of the next link.
    """
    wanted = {SRC_VALID_MARK: "1"}
    if _get(ARP_IGNORE) not in SILENT:
        wanted[ARP_IGNORE] = "2"
    for path in PROC.glob("net/ipv4/conf/*/arp_ignore"):
        name = str(path.relative_to(PROC))
        with contextlib.suppress(FileNotFoundError):  # the link has just gone
            if name != ARP_IGNORE and _get(name) not in ("0", "1", *SILENT):
                wanted[name] = "2"
    return wanted


def _get(name: str) -> str:
    return PROC.joinpath(name).read_text(encoding="ascii").strip()


def _set(name: str, value: str) -> None:
    PROC.joinpath(name).write_text(value, encoding="ascii")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
