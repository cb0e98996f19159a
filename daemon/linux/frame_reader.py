"""Reads the frames of one link, confined (see `confined.py`): `frames.py` starts it and hands it the packet socket."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence

from policies.hostile import Finding, Watch

FRAME = 2048  # bytes; what matters is in the first 1,500
# A flood is read in samples, for an attacker has to repeat himself, and the kernel drops what nobody reads.
BATCH, BATCH_S = 100, 0.1


def serve(sockets: Sequence[socket.socket], argument: bytes, tell: Callable[[bytes], None]) -> None:
    """Tells `! evidence what` of findings and `? address` of questions. Ends when the link does."""
    (frames,) = sockets
    frames.settimeout(None)
    watch = Watch()
    read, since = 0, time.monotonic()
    while True:
        try:
            frame = frames.recv(FRAME)
        except OSError:  # switched off, or gone
            return
        now = time.monotonic()
        for said in watch.seen(frame, now):
            if isinstance(said, Finding):
                tell(f"! {said.evidence.value} {said.what}".encode())
            else:
                tell(b"? " + said.address)
        read += 1
        if read == BATCH:
            time.sleep(max(0.0, since + BATCH_S - now))
            read, since = 0, time.monotonic()
