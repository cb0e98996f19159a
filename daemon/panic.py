"""What `tunwarden panic-reset` leaves for the next daemon: an administrator has opened this machine by hand (K6)."""

from __future__ import annotations

from pathlib import Path

NAME = "panic-reset"  # in the state folder; cli/panic_reset.py writes it
LONGEST = 64  # characters of it that are shown


def taken(folder: Path) -> str | None:
    """When the machine was opened, as the marker says it; None when it was not. The marker is gone afterwards."""
    marker = folder / NAME
    try:
        said = marker.read_text(encoding="ascii", errors="replace")
        marker.unlink()
    except FileNotFoundError:
        return None
    except OSError as err:
        return f"an unknown time ({marker}: {err.strerror})"
    return "".join(char for char in said.strip()[:LONGEST] if char.isprintable()) or "an unknown time"
