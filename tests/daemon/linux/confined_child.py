"""What `test_confined.py` runs confined: children that try what they must not, one for each argument."""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path

_STATUS = Path("/proc/self/status").read_text  # a bound method only: it is called inside
SO_DETACH_FILTER = 27
LIBC = ctypes.CDLL(None, use_errno=True)
SYSCALLS = {  # of x86_64
    "ptrace": 101, "bpf": 321, "unshare": 272, "io_uring_setup": 425, "setns": 308, "process_vm_readv": 310,
    "prlimit64": 302, "seccomp": 317, "clone": 56, "execve": 59, "openat": 257,
}  # fmt: skip


def main(sockets: Sequence[socket.socket], argument: bytes) -> bytes:
    word = argument.decode()
    match word:
        case "echo":
            return b"echo"
        case "bytes":
            return bytes(range(256))
        case "environment":
            return json.dumps(sorted(os.environ)).encode()
        case "sleep":
            time.sleep(60)
        case "loop":
            while True:
                pass
        case "memory":
            return b"%d" % len(bytearray(1 << 30))
        case "exit":
            os._exit(3)
        case "crash":
            ctypes.string_at(0)
        case "raise":
            raise ValueError("a reason\n\x1b[31m")
        case "flood":
            return bytes(1 << 17)
        case "long":
            return bytes((64 << 10) - 1)
        case "nonsense":
            return b""
        case "received":
            return b" ".join(each.recv(100) for each in sockets)
        case "send":
            sockets[0].sendall(b"hello")
            return b"sent"
        case _:
            return attempt(ATTEMPTS[word], sockets)
    return b""


def attempt(what: Callable[[Sequence[socket.socket]], object], sockets: Sequence[socket.socket]) -> bytes:
    """The name of the exception, or "done"."""
    try:
        what(sockets)
    except OSError as err:
        return type(err).__name__.encode()
    return b"done"


def system_call(name: str) -> None:
    """By its number, as an attacker's machine code would."""
    if LIBC.syscall(SYSCALLS[name], 0, 0, 0, 0, 0) == -1:
        raise OSError(ctypes.get_errno(), name)


def executable_memory() -> None:
    LIBC.mmap.restype = ctypes.c_void_p
    if LIBC.mmap(None, ctypes.c_size_t(4096), 7, 0x22, -1, ctypes.c_long(0)) == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), "mmap")


ATTEMPTS: dict[str, Callable[[Sequence[socket.socket]], object]] = {
    "open": lambda _: os.open("/etc/hostname", os.O_RDONLY),
    "write": lambda _: os.open("/tmp/tunwarden-confined", os.O_WRONLY | os.O_CREAT, 0o600),
    "status": lambda _: _STATUS(),
    "list": lambda _: os.listdir("/"),
    "remove": lambda _: os.unlink("/tmp/tunwarden-confined"),
    "socket": lambda _: socket.socket(socket.AF_INET, socket.SOCK_STREAM),
    "netlink": lambda _: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
    "connect": lambda sockets: sockets[0].connect(("127.0.0.1", 9)),
    "bind": lambda sockets: sockets[0].bind(("127.0.0.1", 0)),
    "option": lambda sockets: sockets[0].setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0),
    "send-frame": lambda sockets: sockets[0].send(b"\xff" * 14),
    "write-frame": lambda sockets: os.write(sockets[0].fileno(), b"\xff" * 14),
    "copy": lambda sockets: os.dup(sockets[0].fileno()),
    "exec": lambda _: os.execv("/bin/true", ["true"]),
    "fork": lambda _: os.fork(),
    "kill": lambda _: os.kill(os.getppid(), signal.SIGKILL),
    "kill-self": lambda _: os.kill(os.getpid(), 0),
    "setuid": lambda _: os.setuid(0),
    "chroot": lambda _: os.chroot("/"),
    "executable": lambda _: executable_memory(),
    **{name: (lambda _, name=name: system_call(name)) for name in SYSCALLS},  # type: ignore[misc]
}


def serve(sockets: Sequence[socket.socket], argument: bytes, tell: Callable[[bytes], None]) -> None:
    match argument:
        case b"pid":
            tell(b"%d" % os.getpid())
            select.poll().poll()
        case b"three":
            for number in range(3):
                tell(b"%d" % number)
        case b"flood":
            while True:
                tell(bytes(1000))
        case b"memory":
            kept = []
            while True:
                kept.append(bytes(1 << 20))
        case b"loop":
            while True:
                pass
        case b"forge":  # what a child that was taken over could say
            tell.__closure__[0].cell_contents.sendall(b"?")  # type: ignore[index]
        case _:
            raise AssertionError(argument)
