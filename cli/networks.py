"""tunwarden networks"""

from __future__ import annotations

import argparse

from cli.codes import Exit
from cli.output import Output, safe
from ipc.client import Client
from ipc.values import plain


def arguments(parser: argparse.ArgumentParser) -> None:
    pass


def run(options: argparse.Namespace, out: Output) -> int:
    with Client(options.run_folder) as client:
        networks = client.current()
    out.data(plain(networks))
    if not networks:
        out.line("No network.")
        return Exit.OK
    rows = [
        (
            network.ifname,
            network.kind if network.ssid is None else network.ssid,
            network.security or "",
            network.verdict or "",
            network.action or "",
            network.rule or "",
            "passes" if network.cleared else "tunnel only",
        )
        for network in networks
    ]
    out.table(("LINK", "NETWORK", "SECURITY", "VERDICT", "ACTION", "RULE", "TRAFFIC"), rows)
    for network in networks:
        for reason in network.reasons:
            out.line(f"{safe(network.ifname)}: {safe(reason.text)}")
    return Exit.OK
