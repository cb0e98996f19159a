"""What the short commands have in common: ask for a change, then say where that leads."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from cli.codes import Exit
from cli.output import Output
from cli.words import headline, switch
from ipc.client import Client
from ipc.structs import Status
from ipc.values import plain


def act(options: argparse.Namespace, out: Output, change: Callable[[Client], None]) -> int:
    """Make the change and show the new state."""
    with Client(options.run_folder) as client:
        change(client)
        status = client.get_status()
    out.data(plain(status))
    colour, text = headline(status)
    out.line(out.paint(text, colour))
    return Exit.OK


def turn(
    options: argparse.Namespace,
    out: Output,
    name: str,
    change: Callable[[Client, bool], None],
    position: Callable[[Status], bool],
) -> int:
    """Turn a switch, if a position is given, and show where it stands."""
    with Client(options.run_folder) as client:
        if options.position is not None:
            change(client, options.position == "on")
        on = position(client.get_status())
    out.data({"on": on})
    out.line(f"{name} {switch(on)}.")
    return Exit.OK
