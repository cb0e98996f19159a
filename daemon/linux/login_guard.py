"""Ends the process tree of a login when the daemon that began it has ended, however that happened. A script.

`login_guard.py FD`: writes to that descriptor, which is the tree's cgroup.kill, when standard input ends. Until then it
sleeps. The daemon cannot do this itself: after SIGKILL it does nothing any more, and the firewall stands as it was.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys

if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # it ends with the daemon, not before
        signal.signal(number, signal.SIG_IGN)
    os.read(0, 1)
    with contextlib.suppress(OSError):  # the tree has gone already
        os.write(int(sys.argv[1]), b"1")
