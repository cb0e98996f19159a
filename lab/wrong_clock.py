"""The daemon with a wall clock that is wrong: `python -I -m lab.wrong_clock FILE`, which holds by how many seconds.

Only for tests: the machine's own clock belongs to everybody on it. `time.time` is replaced, so what another program
or the kernel says of the time of day is not; the monotonic clock never jumps, and is the real one. libfaketime cannot
do this: it reads its environment again and again, and the daemon clears it.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from daemon import __main__ as daemon


def main() -> None:
    (file,) = map(Path, sys.argv[1:])
    real = time.time
    time.time = lambda: real() + float(file.read_text(encoding="ascii"))
    daemon.main()


if __name__ == "__main__":
    main()
