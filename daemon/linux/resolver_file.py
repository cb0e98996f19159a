"""Name resolution through /etc/resolv.conf: point it into the tunnel, and give back exactly what was there.

For machines where nobody manages that file who could be told (policies/resolvers.py). The firewall keeps DNS closed for
whoever goes past it.

Whose file it is, its first line tells. So a crash between any two steps needs no journal: `restore` looks at the file
and the copy, and does what is left to do.

    file is      copy is    meaning                                restore
    theirs       absent     never changed                          nothing
    theirs       there      crashed before the change, after the   drops the copy
                            restore, or somebody rewrote it since
    ours         there      connected, or crashed while connected  puts the copy back, then drops it
    ours         absent     somebody removed the copy              HostError: only a person can help
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import errno
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from daemon import files
from daemon.host import HostError
from policies.facts import Tunnel

HEADER = b"# tunwarden"  # shorter than any useful resolv.conf: see _write_mounted
LONGEST = 64 * 1024  # bytes of a resolv.conf; real ones have 20 to 2000


def render(tunnel: Tunnel) -> bytes:
    """The resolv.conf(5) of a tunnel. Asks for nothing but its resolvers: no search list, no options.

    `trust-ad` would vouch for a resolver we know nothing of, and a search list of the local network would send the
    names inside it to the tunnel's resolver. Without a nameserver line the C library asks 127.0.0.1, where nobody
    listens or somebody whose own questions the firewall stops: programs fail within a millisecond instead of waiting.
    """
    lines = [
        HEADER.decode() + ": this file points into the VPN tunnel. `tunwarden disconnect` puts yours back;",
        "# it is kept in /var/lib/tunwarden/resolv.conf.saved. Changes made here are lost.",
    ]
    if not tunnel.resolvers:
        lines.append("# The profile names no resolver, and DNS outside the tunnel is blocked: names do not resolve.")
    lines += [f"nameserver {address}" for address in tunnel.resolvers]
    return ("\n".join(lines) + "\n").encode("ascii")


class Kind(StrEnum):
    FILE = "file"
    LINK = "link"
    ABSENT = "absent"


@dataclass(frozen=True, slots=True)
class Original:
    """What stood at the path before us: all that is needed to put it back."""

    kind: Kind
    content: bytes = b""  # of a file; the target of a link
    mode: int = 0o644
    owner: tuple[int, int] = (0, 0)

    @property
    def ours(self) -> bool:
        return self.kind is Kind.FILE and self.content.startswith(HEADER)

    def to_bytes(self) -> bytes:
        content = base64.b64encode(self.content).decode("ascii")
        fields = {"kind": self.kind, "content": content, "mode": self.mode, "owner": self.owner}
        return json.dumps(fields).encode("ascii") + b"\n"

    @classmethod
    def from_bytes(cls, data: bytes) -> Original:
        """Raises ValueError when it is not one of ours."""
        try:
            fields = json.loads(data)
            uid, gid = fields["owner"]
            content = base64.b64decode(fields["content"], validate=True)
            return cls(Kind(fields["kind"]), content, int(fields["mode"]) & 0o7777, (int(uid), int(gid)))
        except (KeyError, TypeError, UnicodeDecodeError, binascii.Error) as err:
            raise ValueError("not a saved resolv.conf") from err


class ResolvConf:
    """The `Resolver` of daemon/host.py over one file. Blocks for a few fsyncs, once a connection: no thread needed."""

    def __init__(
        self,
        path: Path = Path("/etc/resolv.conf"),
        saved: Path = Path("/var/lib/tunwarden/resolv.conf.saved"),
    ) -> None:
        self.path, self._saved = path, saved
        self._written: bytes | None = None  # what `set` wrote last; None: nothing since the start

    async def set(self, tunnel: Tunnel) -> None:
        """Use the tunnel's resolvers. Twice is harmless; wins over whoever rewrote the file. Raises HostError."""
        content = render(tunnel)
        with self._explained("point name resolution into the tunnel"):
            now = self._read()
            if not now.ours:
                # Theirs, from before the tunnel or written since (a DHCP client on a new network): the newest is the
                # one worth giving back. It is on the disk before the path changes.
                files.make_folder(self._saved.parent)
                files.write(self._saved, now.to_bytes())
            if now.kind is not Kind.FILE or now.content != content:
                self._put(Original(Kind.FILE, content, 0o644, (os.geteuid(), os.getegid())), now)
            self._written = content

    async def restore(self) -> None:
        """Give back what was there before the first `set`, also after a crash in between. Idempotent.

        A file that another program wrote meanwhile is its own and stays. Raises HostError.
        """
        with self._explained("give name resolution back"):
            now = self._read()
            if now.ours:
                self._put(self._read_saved(), now)
            self._written = None
            files.tidy(self.path)
            files.remove(self._saved)

    def intact(self) -> bool:
        """Whether the file is still what `set` wrote. False before the first `set`. Cheap: one open and one read."""
        if self._written is None:
            return False
        try:
            now = self._read()
        except OSError:
            return False
        return now.kind is Kind.FILE and now.content == self._written

    def used(self) -> bool:
        """Whether there is anything to give back, of this process or an earlier one."""
        try:
            return self._saved.exists() or self._read().ours
        except OSError:
            return False

    def theirs(self) -> Original:
        """What stands at the path, or stood there before us. Raises OSError and ValueError."""
        now = self._read()
        return Original.from_bytes(files.read(self._saved)) if now.ours else now

    def _read(self) -> Original:
        """What stands at the path, not followed. Raises OSError."""
        try:
            file = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return Original(Kind.ABSENT)
        except OSError as err:
            if err.errno != errno.ELOOP:
                raise
            return Original(Kind.LINK, os.fsencode(self.path.readlink()))
        try:
            about = os.fstat(file)
            if not stat.S_ISREG(about.st_mode):
                raise OSError(errno.EINVAL, "neither a file nor a symbolic link", str(self.path))
            content = files.read_all(file, self.path, LONGEST)
            return Original(Kind.FILE, content, stat.S_IMODE(about.st_mode), (about.st_uid, about.st_gid))
        finally:
            os.close(file)

    def _read_saved(self) -> Original:
        try:
            return Original.from_bytes(files.read(self._saved))
        except FileNotFoundError as err:
            why = f"the copy {self._saved} is gone; renew the network connection to get a new {self.path.name}"
            raise HostError("give name resolution back", why) from err
        except ValueError as err:
            raise HostError("give name resolution back", f"the copy {self._saved} is damaged") from err

    def _put(self, wanted: Original, now: Original) -> None:
        """Make the path `wanted`. Raises OSError."""
        match wanted.kind:
            case Kind.ABSENT:
                files.remove(self.path)
            case Kind.LINK:
                files.link(self.path, os.fsdecode(wanted.content))
            case Kind.FILE:
                try:
                    files.write(self.path, wanted.content, wanted.mode, wanted.owner)
                except OSError as err:
                    if err.errno != errno.EBUSY:
                        raise
                    _write_mounted(self.path, wanted.content, now)

    @contextlib.contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as err:
            refused = err.strerror == os.strerror(errno.EPERM)
            hint = "; is it immutable (lsattr)? chattr -i, or choose another [dns] manager" if refused else ""
            raise HostError(what, f"{err.filename or self.path}: {err.strerror or err}{hint}") from err


def _write_mounted(path: Path, content: bytes, now: Original) -> None:
    """Change the content of a file that something is mounted on (containers do so): it cannot be replaced by rename.

    Not atomic, so ordered such that a file cut short still begins with our header as long as it is not wholly theirs:
    ours is written from the front, theirs from behind. (The last write is that of the header's eleven bytes, which the
    kernel copies in one go.)
    """
    file = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        cut = len(HEADER) if now.ours and len(content) > len(HEADER) else 0
        if cut:
            _write_at(file, content[cut:], cut)
            os.ftruncate(file, len(content))
            os.fsync(file)
        _write_at(file, content[: cut or len(content)], 0)
        os.ftruncate(file, len(content))
        os.fsync(file)
    finally:
        os.close(file)


def _write_at(file: int, data: bytes, offset: int) -> None:
    while data:
        written = os.pwrite(file, data, offset)
        data, offset = data[written:], offset + written
