"""Telling systemd how we are: sd_notify(3), in the few lines that it takes."""

from __future__ import annotations

import os
import socket


class Notifier:
    """`notify("READY=1")`. Takes the address out of the environment, so that no child can speak in our name."""

    def __init__(self) -> None:
        address = os.environ.pop("NOTIFY_SOCKET", "")
        self._path = "\0" + address[1:] if address.startswith("@") else address

    def __call__(self, *lines: str) -> None:
        """Without systemd this does nothing; a systemd that does not listen is not our problem."""
        if not self._path:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            try:
                sender.sendto("\n".join(lines).encode(), self._path)
            except OSError:
                return
