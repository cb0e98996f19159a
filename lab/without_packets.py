"""Runs a module that may open no packet socket, as the daemon under systemd: `python -m lab.without_packets MODULE`"""

from __future__ import annotations

import os
import sys

from lab.socket_activated import SETPRIV


def main() -> None:
    drop = ("--bounding-set", "-net_raw", "--inh-caps", "-net_raw")
    os.execv(SETPRIV, [SETPRIV, *drop, sys.executable, "-I", "-m", *sys.argv[1:]])


if __name__ == "__main__":
    main()
