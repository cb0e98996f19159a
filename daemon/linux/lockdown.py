"""The closed ruleset that the early unit loads at boot, before any network and without Python (K2).

`python -I -m daemon.linux.lockdown` prints the fixed one, which `systemd/install` keeps beside the program: the early
unit loads it first, so that a damaged file of ours leaves the machine closed, too.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from daemon import files
from daemon.host import HostError
from daemon.linux import libnftables
from daemon.linux.libnftables import Nft, NftError
from daemon.linux.nft_render import render
from policies.firewall import FirewallPolicy
from policies.states import Phase

NAME = "lockdown.nft"  # in the state folder; tunwarden-lockdown.service and `tunwarden panic-reset` know it
CLOSED = FirewallPolicy(Phase.BLOCKED)


class LockdownFile:
    """Implements `daemon.host.Lockdown`. After every event: what is on the disk already costs a comparison."""

    def __init__(self, state_folder: Path, connect: Callable[[], Nft] = libnftables.best) -> None:
        self._folder = state_folder
        self._connect = connect
        self._nft: Nft | None = None
        self._known = False  # whether the disk holds `_kept`, lastingly
        self._kept: FirewallPolicy | None = None

    async def keep(self, policy: FirewallPolicy | None) -> None:
        """The file says this policy, or is gone. Raises HostError: then the old file stays."""
        if self._known and policy == self._kept:
            return
        self._known = False
        try:
            file = self._folder.resolve() / NAME  # an administrator may have moved the folder to another disk
            if policy is None:
                files.remove(file)
            else:
                await self._write(file, render(policy))
        except NftError as err:
            raise HostError("keep the rules for the next boot", f"the kernel refuses them: {err}") from err
        except (OSError, ValueError) as err:
            raise HostError("keep the rules for the next boot", str(err)) from err
        self._known, self._kept = True, policy

    async def _write(self, file: Path, text: str) -> None:
        """Never written unless the kernel would take it: what is there is better than what cannot be loaded."""
        if self._nft is None:
            self._nft = self._connect()
        await self._nft.run(text, check=True)
        if not _holds(file, text):
            files.write(file, text.encode(), mode=0o600)


def _holds(file: Path, text: str) -> bool:
    """Whether this is there already, as a file that only root can have written and nobody else may read."""
    try:
        return files.read(file) == text.encode() and file.lstat().st_mode & 0o777 == 0o600
    except OSError:
        return False


if __name__ == "__main__":
    print(render(CLOSED), end="")
