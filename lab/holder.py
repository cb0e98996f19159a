"""Process 1 of a laboratory host: makes its file systems private, then reaps. Run by `hosts.py` inside `unshare`.

It is a script of its own (`python -I -S holder.py NAME`), because it must not import what the test process imports:
every host starts one, and it has to be there within some 30 ms. Prints "ready" when the host may be used.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import sys

MS_NOSUID, MS_NODEV = 2, 4  # <linux/mount.h>
FOLDERS = (
    ("/run", ("dbus", "lab", "lock", "wireguard")),
    ("/var/lib", ("dbus", "misc")),
)
NOT_INHERITED = ("/etc/tunwarden", "/etc/wireguard", "/etc/openvpn")  # a test must not see this machine's own VPNs

_libc = ctypes.CDLL(None, use_errno=True)


def mount(kind: str, target: str, flags: int = MS_NOSUID | MS_NODEV, options: str = "") -> None:
    """mount(2) of a file system without a device. Raises OSError."""
    if _libc.mount(kind.encode(), target.encode(), kind.encode(), flags, options.encode()) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"mount {kind} on {target}: {os.strerror(number)}")


def private_etc() -> None:
    """/etc stays readable as it is and takes writes that nobody else sees."""
    # The upper layer hides under /mnt only until the overlay holds it: nothing in the host can reach it afterwards.
    mount("tmpfs", "/mnt", options="size=16m,mode=0755")
    for folder in ("/mnt/upper", "/mnt/work"):
        os.mkdir(folder, 0o755)
    mount("overlay", "/etc", flags=0, options="lowerdir=/etc,upperdir=/mnt/upper,workdir=/mnt/work")
    if _libc.umount2(b"/mnt", 0) != 0:
        raise OSError(ctypes.get_errno(), "umount /mnt")
    for folder in NOT_INHERITED:
        shutil.rmtree(folder, ignore_errors=True)
    # The machine's resolvers cannot be reached from here, and a symbolic link into /run would dangle: a plain file.
    if os.path.lexists("/etc/resolv.conf"):
        os.unlink("/etc/resolv.conf")
    with open("/etc/resolv.conf", "w", encoding="utf-8") as file:
        file.write("# No network has been joined yet.\n")
    with open("/etc/hosts", "w", encoding="utf-8") as file:
        file.write("127.0.0.1 localhost\n::1 localhost\n")


def private_folders() -> None:
    """Empty /run and /var/lib: state of this machine is not the host's, and the host's never reaches the machine."""
    for folder, children in FOLDERS:
        mount("tmpfs", folder, options="mode=0755")
        for child in children:
            os.mkdir(f"{folder}/{child}", 0o755)
    machine_id = f"{int.from_bytes(os.urandom(16)):032x}\n"
    for path in ("/var/lib/dbus/machine-id", "/etc/machine-id"):
        with open(path, "w", encoding="ascii") as file:
            file.write(machine_id)


def reap() -> None:
    """Wait for children that lost their parent, for ever. A daemon's orphans would otherwise stay as zombies."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    while True:
        signal.sigwait({signal.SIGCHLD})
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            continue


def main() -> None:
    socket.sethostname(sys.argv[1])
    private_etc()
    private_folders()
    mount("sysfs", "/sys")  # /sys/class/net of this network namespace
    os.write(1, b"ready\n")
    reap()


if __name__ == "__main__":
    main()
