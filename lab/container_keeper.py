"""Makes the file system of a booted container, starts it, and takes everything away when its owner is gone.

A script of its own (`python -I -S container_keeper.py NAME FOLDER:PLACE ...`), run by `container.py`. It outlives the
test process for as long as cleaning up takes: only then can control groups, which no namespace holds, be removed.
Standard input is its owner: the end of it is the owner's end. Prints the process id of systemd-nspawn at each boot.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

CLONE_NEWNS = 0x20000  # <linux/sched.h>
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18

WORK = Path("/mnt")  # covered by a tmpfs that only this process and its children see
ROOT = WORK / "root"
SEPARATE = ("/usr", "/var", "/opt")  # may be mounted on their own; an overlay shows one file system
TUN = "/dev/net/tun"
GROUPS = ("/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified", "/sys/fs/cgroup")
PREFIX = "tunwarden-boot-"  # of the control groups; the process id of their keeper follows

# A test must see neither this machine's own services nor its tunwarden.
NOT_INHERITED = (
    "/etc/fstab", "/etc/resolv.conf", "/etc/hostname", "/etc/systemd/system", "/etc/tunwarden", "/usr/bin/tunwarden",
    "/usr/lib/tunwarden", "/usr/share/dbus-1/system.d/org.tunwarden.Daemon1.conf", "/var/lib/tunwarden",
    "/var/log/journal",
)  # fmt: skip

_libc = ctypes.CDLL(None, use_errno=True)


def checked(what: str, result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    """mount(2). Raises OSError."""
    call = (source.encode(), target.encode(), kind.encode(), flags, options.encode())
    checked(f"mount {source} on {target}", _libc.mount(*call))


def overlay(lower: str, name: str) -> None:
    """What is at `lower`, writable, at the same place below ROOT. The writes live in memory."""
    upper, work = WORK / f"upper-{name}", WORK / f"work-{name}"
    upper.mkdir()
    work.mkdir()
    mount("overlay", f"{ROOT}{lower}", "overlay", 0, f"lowerdir={lower},upperdir={upper},workdir={work}")


def make_root(name: str, binds: dict[str, str]) -> None:
    """This machine's own root with a volatile layer on top, and `binds` (folder: place) read-only in it."""
    # Opened before anything is covered, so that a folder below WORK is as good as any other.
    folders = {os.open(folder, os.O_PATH | os.O_DIRECTORY): place for folder, place in binds.items()}
    mount("tmpfs", str(WORK), "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755")
    ROOT.mkdir()
    overlay("/", "root")
    for place in SEPARATE:
        if os.path.ismount(place):
            overlay(place, place[1:])
    for path in NOT_INHERITED:
        remove(Path(f"{ROOT}{path}"))
    (ROOT / "etc/systemd/system").mkdir()
    (ROOT / "etc/fstab").touch()
    (ROOT / "etc/resolv.conf").write_text("# There is no network.\n", encoding="ascii")
    (ROOT / "etc/hostname").write_text(f"{name}\n", encoding="ascii")
    # Any id but none: systemd would take an empty one for the first boot ever and enable all it finds.
    (ROOT / "etc/machine-id").write_text(f"{int.from_bytes(os.urandom(16)):032x}\n", encoding="ascii")
    for folder, place in folders.items():
        target = f"{ROOT}{place}"
        os.makedirs(target, exist_ok=True)
        mount(f"/proc/self/fd/{folder}", target, flags=MS_BIND)
        mount("", target, flags=MS_BIND | MS_REMOUNT | MS_RDONLY)
        os.close(folder)


def remove(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.is_dir():
        shutil.rmtree(path)


def make_groups() -> list[Path]:
    """A control group of its own for the container, where no systemd of this machine gives it one."""
    if os.path.isdir("/run/systemd/system"):
        return []
    mount("tmpfs", "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755")  # nspawn's notes; it wants memory there
    made = []
    for top in map(Path, GROUPS):
        if os.access(top / "cgroup.procs", os.W_OK):
            sweep(top)
            made.append(top / f"{PREFIX}{os.getpid()}")
            made[-1].mkdir()
    return made


def sweep(top: Path) -> None:
    """Remove the groups of keepers that were killed before they could."""
    for left in top.glob(f"{PREFIX}*"):
        if not os.path.exists(f"/proc/{left.name.removeprefix(PREFIX)}"):
            with contextlib.suppress(OSError):
                remove_group(left)


def remove_group(group: Path) -> None:
    """With all groups below it. Raises OSError while there are processes in them."""
    for folder, _, _ in os.walk(group, topdown=False):
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(folder)


def command(name: str, groups: list[Path]) -> list[str]:
    """systemd-nspawn in a PID namespace of its own: whoever dies, and however, takes all of it along."""
    here = ["--keep-unit"] if groups else [f"--property=DeviceAllow={TUN} rwm"]
    tun = [f"--bind={TUN}"] if os.path.exists(TUN) else []
    return [
        "setpriv", "--pdeathsig", "KILL", "--",
        "unshare", "--pid", "--mount", "--mount-proc", "--fork", "--kill-child=KILL", "--",
        "systemd-nspawn", "--quiet", "--boot", f"--directory={ROOT}", f"--machine={name}", "--register=no", *here,
        "--private-network", "--capability=CAP_NET_ADMIN,CAP_BPF", "--system-call-filter=bpf", "--console=pipe",
        "--link-journal=no", "--resolv-conf=off", "--timezone=off", *tun, "systemd.show_status=0",
    ]  # fmt: skip


def only_child(parent: int) -> int:
    """The process that `parent` forks. `unshare` is what `setpriv` turned into, so it has just this one."""
    while True:
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                with contextlib.suppress(OSError):
                    stat = Path(f"/proc/{entry}/stat").read_text(encoding="utf-8", errors="replace")
                    if int(stat[stat.rindex(")") + 2 :].split()[1]) == parent:
                        return int(entry)
        if not os.path.exists(f"/proc/{parent}/ns/pid"):
            raise SystemExit("unshare ended")
        time.sleep(0.002)


def run(name: str, binds: dict[str, str]) -> None:
    """Until the container or its owner ends."""
    checked("unshare", _libc.unshare(CLONE_NEWNS))
    mount("none", "/", flags=MS_REC | MS_PRIVATE)
    make_root(name, binds)
    groups = make_groups()

    try:
        # Powered off, it boots again: the files are still there, and whoever has had enough of it closes our input.
        while boot(command(name, groups), groups) == 0:
            pass
    finally:
        clean(groups)


def boot(argv: list[str], groups: list[Path]) -> int | None:
    """One life of the container; its exit status, None when the owner ended it."""

    def join() -> None:
        for group in groups:
            (group / "cgroup.procs").write_text("0")

    container = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=sys.stderr, stderr=sys.stderr, preexec_fn=join)
    end = os.pidfd_open(container.pid)
    try:
        print(only_child(container.pid), flush=True)
        poll = select.poll()
        poll.register(0, select.POLLIN)  # nothing is ever written: readable means closed
        poll.register(end, select.POLLIN)
        return None if 0 in dict(poll.poll()) else container.wait()
    finally:
        container.kill()
        container.wait()
        os.close(end)


def clean(groups: list[Path]) -> None:
    """The kernel needs a moment to end all processes of a namespace. What will not go is left to the next sweep."""
    deadline = time.monotonic() + 10
    for group in groups:
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                remove_group(group)
                break
            time.sleep(0.01)


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # through every `finally`
    run(sys.argv[1], dict(pair.rsplit(":", 1) for pair in sys.argv[2:]))


if __name__ == "__main__":
    main()
