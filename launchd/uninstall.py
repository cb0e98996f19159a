"""Takes the daemon off this Mac. Settings and profiles stay unless --purge is given.

    sudo /usr/bin/python3 -I launchd/uninstall.py [--purge]

`--root FOLDER` takes it out of a folder, and stops nothing.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path, PurePosixPath

sys.path.insert(0, str(Path(__file__).resolve().parent))
import install
import property_list

FILES = (install.PLIST, install.SEARCH)
FOLDERS = (
    property_list.PREFIX,
    property_list.PREFIX.with_name("tunwarden.new"),
    property_list.PREFIX.with_name("tunwarden.old"),
    PurePosixPath("/var/run/tunwarden"),
)
KEPT = (install.SETTINGS.parent, PurePosixPath("/var/lib/tunwarden"), property_list.LOG.parent)


def uninstall(root: Path, run: install.Run, purge: bool) -> list[Path]:
    """What could not be removed; empty is what one wants."""
    command = install.place(root, property_list.PREFIX) / "bin/tunwarden"
    if command.exists():  # asked first, the daemon itself gives everything back; it may be gone, or not allowed to
        run((str(command), "disconnect"))
    run((install.LAUNCHCTL, "bootout", f"system/{property_list.LABEL}"))
    left = []
    for path in (*FILES, *FOLDERS, *(KEPT if purge else ())):
        here = install.place(root, path)
        try:
            shutil.rmtree(here) if here.is_dir() and not here.is_symlink() else here.unlink(missing_ok=True)
        except OSError:
            left.append(here)
    return left


def main() -> None:
    """Exit status 1 when something is left, or when it cannot be done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, metavar="FOLDER")
    parser.add_argument("--purge", action="store_true")
    options = parser.parse_args()
    if options.root is None and (os.geteuid() != 0 or os.uname().sysname != "Darwin"):
        raise SystemExit("uninstall: this needs root, and macOS")
    run = install.launchctl if options.root is None else install.nothing
    if left := uninstall(options.root or Path("/"), run, options.purge):
        raise SystemExit(f"uninstall: could not remove {', '.join(map(str, left))}")


if __name__ == "__main__":
    main()
