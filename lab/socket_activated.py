"""Starts a program as systemd would by one of our sockets: `python -m lab.socket_activated PATH PROGRAM...`

It listens at PATH for SOCK_SEQPACKET, and the program finds that as its first given socket, with CAP_NET_RAW and
nothing else. It stays root by name, for a checkout may be in a folder that nobody else can read, but that gives it no
capability (SECBIT_NOROOT), as it gives none to another user.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

SETPRIV = "/usr/bin/setpriv"
RIGHTS = ("--bounding-set", "-all,+net_raw", "--inh-caps", "-all,+net_raw", "--ambient-caps", "-all,+net_raw",
          "--securebits", "+noroot", "--no-new-privs")  # fmt: skip
FIRST_DESCRIPTOR = 3  # sd_listen_fds(3)


def main() -> None:
    path, program = Path(sys.argv[1]), sys.argv[2:]
    path.parent.mkdir(mode=0o755, exist_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    os.umask(0o177)
    unready = path.with_suffix(".unready")  # who finds it at its place is let in
    listener.bind(str(unready))
    listener.listen()
    unready.rename(path)
    os.umask(0o077)
    if listener.fileno() == FIRST_DESCRIPTOR:
        os.set_inheritable(FIRST_DESCRIPTOR, True)
    else:
        os.dup2(listener.fileno(), FIRST_DESCRIPTOR)
    given = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": path.name}
    os.execve(SETPRIV, [SETPRIV, *RIGHTS, *program], given)


if __name__ == "__main__":
    main()
