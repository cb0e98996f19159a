"""tunwarden status"""

from __future__ import annotations

import argparse

from cli.codes import Exit
from cli.output import Output
from cli.words import show
from ipc.client import Client
from ipc.values import plain


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Exits with 3 when no daemon answers: what the machine lets through is unknown then;\nwith 6 on an alarm."
    )


def run(options: argparse.Namespace, out: Output) -> int:
    with Client(options.run_folder) as client:
        status = client.get_status()
    out.data(plain(status))
    show(status, out)
    return Exit.ALARM if status.alarm else Exit.OK
