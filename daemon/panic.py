"""What `tunwarden panic-reset` leaves for the next daemon: an administrator has opened this machine by hand (K6)."""

from __future__ import annotations

from pathlib import Path

import structlog

from daemon import files

NAME = "panic-reset"  # in the state folder; cli/panic_reset.py writes it
LONGEST = 64  # characters of it that are shown

log = structlog.get_logger()


def taken(folder: Path) -> str | None:
    """When the machine was opened, as the marker says it; None when it was not. The marker is gone afterwards.

    One that root alone cannot have written, or that cannot be removed lastingly, is not believed: it would open the
    machine at this start, or at every start for ever.
    """
    try:
        marker = folder.resolve() / NAME
        said = files.read(marker).decode("ascii", "replace")
        files.remove(marker)
    except FileNotFoundError:
        return None
    except OSError as err:
        log.error("the marker of panic-reset is not believed", marker=str(folder / NAME), why=str(err))
        return None
    return "".join(char for char in said.strip()[:LONGEST] if char.isprintable()) or "an unknown time"
