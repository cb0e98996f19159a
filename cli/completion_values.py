"""What the running daemon knows that can stand on a command line. Quick, and silent where there is no daemon."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ipc.client import Client

SECONDS = 1.0  # for the daemon to answer: somebody has pressed a key and waits
MOST = 400  # known networks, in two calls


def values(kind: str, run_folder: str) -> list[str]:
    """One of KINDS, each value a line of printable text; none where nobody answers in time."""
    try:
        with Client(run_folder, timeout=SECONDS) as client:
            return [value for value in KINDS[kind](client) if value.isprintable() and value[:1] not in ("", "-", " ")]
    except Exception:  # whatever it is: words of an error would be typed into somebody's command line
        return []


def _known(client: Client) -> Iterable[str]:
    """As listed; in hexadecimal where that would not come back as it is, or reads otherwise than it looks.

    fish takes a `~` at the beginning for a home."""
    start = 0
    while start < MOST and (page := client.list_known(start)):
        for each in page:
            plain = each.ssid.isprintable() and "\\" not in each.ssid and each.ssid.strip("-~ ") == each.ssid != ""
            yield each.ssid if plain else each.ssid_hex
        start += len(page)


KINDS: dict[str, Callable[[Client], Iterable[str]]] = {
    "profiles": lambda client: (each.name for each in client.list_profiles()),
    "known": _known,
    "settings": lambda client: (each.key for each in client.list_settings()),
    "prompts": lambda client: (each.id for each in client.waiting_prompts()),
}
# What is written in a place: by the command it belongs to ("" for any), and what the help calls it.
MEANT = {
    ("", "PROFILE"): "profiles",
    ("profiles", "NAME"): "profiles",
    ("known", "NAME"): "known",
    ("settings", "KEY"): "settings",
    ("prompts", "ID"): "prompts",
}


def meant(command: str, metavar: str) -> str:
    """The kind of values that belong there; "" where the daemon knows none."""
    return MEANT.get((command, metavar)) or MEANT.get(("", metavar), "")
