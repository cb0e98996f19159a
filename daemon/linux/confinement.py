"""The inside of `confined.py`: a process that reads what strangers send gives up everything before it begins.

Started as a script, so that it loads nothing but what it needs. Modules are imported first, for afterwards no file can
be opened: a module must import at its top all it will ever need (also `encodings.idna` and the like), and wait with
`poll` or blocking sockets, for asyncio makes sockets of its own.

Sources: seccomp(2), prctl(2), <linux/seccomp.h>, <linux/bpf_common.h>; <asm/unistd_64.h> and <asm-generic/unistd.h>.
"""

from __future__ import annotations

import ctypes
import errno
import importlib
import marshal
import os
import resource
import signal
import socket
import struct
import sys
from collections.abc import Iterable, Sequence

LONGEST = 64 << 10  # bytes of a message, either way
RESULT, TOLD, FAILED = b"r", b"t", b"e"  # the first byte of what we say
NOBODY = 65534

# <linux/prctl.h>, <linux/capability.h>
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38
SECCOMP_MODE_FILTER, CAPABILITY_VERSION_3 = 2, 0x20080522
# <linux/seccomp.h>, <linux/filter.h>
ALLOW, REFUSE, KILL = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x80000000
LOAD, EQUAL, ANY_BIT, RETURN = 0x20, 0x15, 0x45, 0x06
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data
PROT_EXEC, FIONBIO = 4, 0x5421

# By machine: AUDIT_ARCH_*, and the numbers of the system calls. A name that a machine does not have is not there.
MACHINES: dict[str, tuple[int, dict[str, int]]] = {
    "x86_64": (
        0xC000003E,
        {
            "read": 0, "write": 1, "close": 3, "fstat": 5, "poll": 7, "lseek": 8, "mmap": 9, "mprotect": 10,
            "munmap": 11, "brk": 12, "rt_sigaction": 13, "rt_sigprocmask": 14, "rt_sigreturn": 15, "ioctl": 16,
            "readv": 19, "writev": 20, "select": 23, "sched_yield": 24, "mremap": 25, "madvise": 28, "nanosleep": 35,
            "getpid": 39, "sendto": 44, "recvfrom": 45, "sendmsg": 46, "recvmsg": 47, "shutdown": 48,
            "getsockname": 51, "getpeername": 52, "getsockopt": 55, "exit": 60, "gettimeofday": 96,
            "sigaltstack": 131, "gettid": 186, "time": 201, "futex": 202, "restart_syscall": 219,
            "clock_gettime": 228, "clock_getres": 229, "clock_nanosleep": 230, "exit_group": 231, "pselect6": 270,
            "ppoll": 271, "getrandom": 318,
        },
    ),
    "aarch64": (
        0xC00000B7,
        {
            "ioctl": 29, "close": 57, "lseek": 62, "read": 63, "write": 64, "readv": 65, "writev": 66, "pselect6": 72,
            "ppoll": 73, "fstat": 80, "exit": 93, "exit_group": 94, "futex": 98, "nanosleep": 101, "clock_gettime": 113,
            "clock_getres": 114, "clock_nanosleep": 115, "sched_yield": 124, "restart_syscall": 128, "sigaltstack": 132,
            "rt_sigaction": 134, "rt_sigprocmask": 135, "rt_sigreturn": 139, "gettimeofday": 169, "getpid": 172,
            "gettid": 178, "getsockname": 204, "getpeername": 205, "sendto": 206, "recvfrom": 207, "getsockopt": 209,
            "shutdown": 210, "sendmsg": 211, "recvmsg": 212, "brk": 214, "munmap": 215, "mremap": 216, "mmap": 222,
            "mprotect": 226, "madvise": 233, "getrandom": 278,
        },
    ),
}  # fmt: skip
SENDING = ("write", "writev", "sendto", "sendmsg")
MAPPING = ("mmap", "mprotect")


def main() -> None:
    """Reads what to do from the channel, does it and ends. Exit status 0 when it could say what came of it."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    task = marshal.loads(channel.recv(LONGEST))  # noqa: S302  from our own daemon; json would take 5 ms
    argument = channel.recv(LONGEST)[1:]
    try:
        sys.path[:] = task["path"]
        _restore_absent()
        module = importlib.import_module(task["module"])
        sockets = [socket.socket(fileno=number) for number in task["sockets"]]
        # A packet socket is for listening: who takes this process over must not send frames with it.
        open_ways = [each for each in sockets if each.family != socket.AF_PACKET]
        _confine(
            task["parent"], task["memory"], task["cpu"], [channel.fileno(), *(each.fileno() for each in open_ways)]
        )
        if task["serves"]:
            module.serve(sockets, argument, lambda said: channel.sendall(TOLD + said))
            answer = RESULT
        else:
            answer = RESULT + module.main(sockets, argument)
    except BaseException as err:
        answer = FAILED + f"{type(err).__name__}: {err}".encode("utf-8", "replace")[:1000]
    channel.sendall(answer)
    os._exit(0)  # nothing else has to be written, and may not be


def _restore_absent() -> None:
    """What `daemon/__init__.py` makes absent for the daemon may be just what a module is for: TLS."""
    importlib.import_module("daemon")
    for name in [name for name, module in sys.modules.items() if module is None]:
        del sys.modules[name]


def _confine(parent: int, memory: int, cpu: int, sendable: Sequence[int]) -> None:
    """Give up everything; raises OSError where that is not possible."""
    architecture, numbers = MACHINES[os.uname().machine]
    with open("/proc/self/statm") as pages:  # noqa: PTH123  pathlib is 3 ms of the 20 that a child takes
        used = int(pages.read().split()[0]) * resource.getpagesize()
    libc = ctypes.CDLL(None, use_errno=True)
    program = seccomp_filter(architecture, numbers, sendable)
    instructions = ctypes.create_string_buffer(program)
    fprog = struct.pack("@HP", len(program) // 8, ctypes.addressof(instructions))
    for limit, value in (
        (resource.RLIMIT_AS, used + memory),
        (resource.RLIMIT_CPU, cpu),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 64),
    ):
        resource.setrlimit(limit, (value, value))
    try:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    except PermissionError:
        # The service has no CAP_SETUID, for who has it can be everybody. Then it is root without a capability, and the
        # filter below takes the calls that ask who somebody is: there is no file, signal or program to be had.
        pass
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    _call(libc.prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    header = struct.pack("=Ii", CAPABILITY_VERSION_3, 0)
    _call(libc.capset, ctypes.create_string_buffer(header), ctypes.create_string_buffer(24))
    _call(libc.prctl, PR_SET_DUMPABLE, 0, 0, 0, 0)
    _call(libc.prctl, PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # after setresuid, which clears it
    if os.getppid() != parent:
        os._exit(1)  # it ended before that
    _call(libc.prctl, PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.create_string_buffer(fprog), 0, 0)


def seccomp_filter(architecture: int, numbers: dict[str, int], sendable: Iterable[int]) -> bytes:
    """The BPF program: what is not in `numbers` is refused (EPERM), another architecture ends the process.

    Sending only through the file descriptors `sendable`; no executable memory; of ioctl only FIONBIO.
    """
    lines = [
        (LOAD, 0, 0, ARCHITECTURE),
        (EQUAL, 1, 0, architecture),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, NUMBER),
    ]
    for name, number in numbers.items():
        checks: list[tuple[int, int, int, int]] = []
        if name in SENDING:
            checks = [(LOAD, 0, 0, ARGUMENTS)]
            for each in sendable:
                checks += [(EQUAL, 0, 1, each), (RETURN, 0, 0, ALLOW)]
            checks += [(RETURN, 0, 0, REFUSE)]
        elif name in MAPPING:
            checks = [(LOAD, 0, 0, ARGUMENTS + 2 * 8), (ANY_BIT, 0, 1, PROT_EXEC), (RETURN, 0, 0, REFUSE)]
        elif name == "ioctl":
            checks = [(LOAD, 0, 0, ARGUMENTS + 8), (EQUAL, 1, 0, FIONBIO), (RETURN, 0, 0, REFUSE)]
        lines += [(EQUAL, 0, len(checks) + 1, number), *checks, (RETURN, 0, 0, ALLOW)]
    lines += [(RETURN, 0, 0, REFUSE)]
    return b"".join(struct.pack("@HBBI", *line) for line in lines)


def _call(function: ctypes._NamedFuncPointer, *arguments: object) -> None:
    # Numbers without a type would be 32 bits wide, and prctl reads 64.
    wide = [ctypes.c_ulong(each) if isinstance(each, int) else each for each in arguments]
    if function(*wide) != 0:
        raise OSError(ctypes.get_errno(), f"{function.__name__}: {os.strerror(ctypes.get_errno())}")


if __name__ == "__main__":
    main()
