"""Talking with systemd: sd_notify(3), sd_watchdog_enabled(3), sd_listen_fds(3), in the few lines that it takes."""

from __future__ import annotations

import os
import socket

FIRST_DESCRIPTOR = 3  # SD_LISTEN_FDS_START


def listeners() -> dict[str, socket.socket]:
    """The sockets at which systemd listens for us, by FileDescriptorName=; none that are meant for another process.

    Takes them out of the environment. Of two with one name, the first counts.
    """
    ours, count = os.environ.pop("LISTEN_PID", ""), os.environ.pop("LISTEN_FDS", "")
    names = os.environ.pop("LISTEN_FDNAMES", "").split(":")
    if ours != str(os.getpid()) or not (count.isdecimal() and count.isascii()):
        return {}
    found: dict[str, socket.socket] = {}
    for name, descriptor in zip(names, range(FIRST_DESCRIPTOR, FIRST_DESCRIPTOR + int(count)), strict=False):
        try:
            os.set_inheritable(descriptor, False)  # no child can answer in our name
            sock = socket.socket(fileno=descriptor)
        except OSError:
            continue
        if found.setdefault(name, sock) is not sock:
            sock.close()
    return found


class Notifier:
    """`notify("READY=1")`. Takes the address out of the environment, so that no child can speak in our name."""

    def __init__(self) -> None:
        address = os.environ.pop("NOTIFY_SOCKET", "")
        self._path = "\0" + address[1:] if address.startswith("@") else address
        patience, ours = os.environ.pop("WATCHDOG_USEC", ""), os.environ.pop("WATCHDOG_PID", str(os.getpid()))
        # Seconds within which WATCHDOG=1 is expected; 0: nobody waits for it.
        self.patience = int(patience) / 1e6 if patience.isdigit() and ours == str(os.getpid()) and address else 0.0

    def __call__(self, *lines: str) -> None:
        """Without systemd this does nothing; a systemd that does not listen is not our problem."""
        if not self._path:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            try:
                sender.sendto("\n".join(lines).encode(), self._path)
            except OSError:
                return
