"""The daemon over a kernel that misbehaves: `python -I -m lab.lying_kernel {ignores|refuses}`. A fake, for tests only.

`ignores` acknowledges each change of the firewall and does nothing, as old kernels did with parts they did not know.
`refuses` adds a rule that no kernel takes to each, so that the real kernel refuses the whole transaction.
SIGUSR1 makes it behave, SIGUSR2 misbehave; it begins behaving with `later` as a second argument. All else is real.
"""

from __future__ import annotations

import signal
import sys

from daemon import __main__ as daemon
from daemon.linux.libnftables import LibNft

IMPOSSIBLE = "add rule inet tunwarden no_such_chain accept\n"


def main() -> None:
    how, *later = sys.argv[1:]
    assert how in ("ignores", "refuses"), how
    misbehaves = [not later]
    signal.signal(signal.SIGUSR1, lambda *_: misbehaves.__setitem__(0, False))
    signal.signal(signal.SIGUSR2, lambda *_: misbehaves.__setitem__(0, True))
    real = LibNft.run

    async def run(self: LibNft, commands: str, *, check: bool = False) -> str:
        if misbehaves[0] and not check and not commands.startswith("list"):
            if how == "ignores":
                return await real(self, commands, check=True)
            return await real(self, commands + IMPOSSIBLE)
        return await real(self, commands, check=check)

    LibNft.run = run  # type: ignore[method-assign]
    daemon.main()


if __name__ == "__main__":
    main()
