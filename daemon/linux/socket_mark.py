"""Marks every Internet socket that processes of a control group make from now on: a BPF program of four instructions.

The kernel runs it for each new IPv4 or IPv6 socket of the group and of the groups below (BPF_CGROUP_INET_SOCK_CREATE,
Linux 4.10); `ip vrf exec` works the same way. Sockets made before gain nothing, and without CAP_NET_ADMIN (or
CAP_NET_RAW, since Linux 5.17) nobody changes the mark.

`attach` does it through a link (Linux 5.7), which ends with the process that holds it, so a daemon that is killed marks
nothing any more. `attach_for_good` is for as long as the group lives, whatever becomes of the daemon; a second time
replaces the first. `silence` has a group's sockets send nothing any more, also those whose process has left the group,
and after the group has gone: a socket belongs to the group that it was made in.

Sources: bpf(2), <linux/bpf.h>.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct

from daemon.host import HostError

SYSCALL = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "ppc64le": 361, "s390x": 351}  # __NR_bpf
PROG_LOAD, PROG_ATTACH, LINK_CREATE = 5, 8, 28
TYPE_CGROUP_SKB, CGROUP_INET_EGRESS = 8, 1
TYPE_CGROUP_SOCK, CGROUP_INET_SOCK_CREATE = 9, 2
MOV, STORE_WORD, EXIT = 0xB7, 0x63, 0x95  # BPF_ALU64 | BPF_MOV | BPF_K, BPF_STX | BPF_MEM | BPF_W, BPF_JMP | BPF_EXIT
MARK_OFFSET = 16  # in struct bpf_sock
RESULT, CONTEXT, VALUE = 0, 1, 2  # registers; the program gets its struct bpf_sock in the second

_libc = ctypes.CDLL(None, use_errno=True)


def program(mark: int) -> bytes:
    """sock->mark = mark; return 1 (go on)."""
    return _code(
        (MOV, VALUE, 0, mark),
        (STORE_WORD, CONTEXT | VALUE << 4, MARK_OFFSET, 0),
        (MOV, RESULT, 0, 1),
        (EXIT, 0, 0, 0),
    )


def _code(*instructions: tuple[int, int, int, int]) -> bytes:
    return b"".join(struct.pack("=BBhi", *each) for each in instructions)


def attach(cgroup: int, mark: int) -> int:
    """Mark the sockets of the control group, a folder's descriptor, until the descriptor returned is closed.

    Raises HostError.
    """
    loaded = _load(TYPE_CGROUP_SOCK, CGROUP_INET_SOCK_CREATE, program(mark), b"tunwarden_login")
    try:
        return _bpf(LINK_CREATE, struct.pack("=IIII", loaded, cgroup, CGROUP_INET_SOCK_CREATE, 0))
    finally:
        os.close(loaded)


def attach_for_good(cgroup: int, mark: int) -> None:
    """Mark the sockets of the control group, a folder's descriptor, for as long as it exists. Raises HostError."""
    _attach(cgroup, TYPE_CGROUP_SOCK, CGROUP_INET_SOCK_CREATE, program(mark), b"tunwarden_split")


def silence(cgroup: int) -> None:
    """No socket that was made in the control group sends a packet any more. Raises HostError."""
    nothing = _code((MOV, RESULT, 0, 0), (EXIT, 0, 0, 0))
    _attach(cgroup, TYPE_CGROUP_SKB, CGROUP_INET_EGRESS, nothing, b"tunwarden_quiet")


def _attach(cgroup: int, kind: int, place: int, code: bytes, name: bytes) -> None:
    loaded = _load(kind, place, code, name)
    try:
        _bpf(PROG_ATTACH, struct.pack("=IIII", cgroup, loaded, place, 0))
    finally:
        os.close(loaded)


def _load(kind: int, place: int, code: bytes, name: bytes) -> int:
    instructions, licence = ctypes.create_string_buffer(code, len(code)), ctypes.create_string_buffer(b"GPL")
    attributes = struct.pack(
        "=IIQQIIQII16sII", kind, len(code) // 8, ctypes.addressof(instructions),
        ctypes.addressof(licence), 0, 0, 0, 0, 0, name, 0, place,
    )  # fmt: skip
    return _bpf(PROG_LOAD, attributes)


def _bpf(command: int, attributes: bytes) -> int:
    number = SYSCALL.get(platform.machine())
    if number is None:
        raise HostError("mark a group's packets", f"how to ask this kernel ({platform.machine()}) is not known")
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    result = _libc.syscall(
        ctypes.c_long(number), ctypes.c_long(command), ctypes.byref(buffer), ctypes.c_ulong(len(attributes))
    )
    if result < 0:
        code = ctypes.get_errno()
        why = {
            errno.EPERM: "the kernel does not let us load a BPF program: the service needs CAP_BPF and the call bpf",
            errno.ENOSYS: "this kernel has no BPF (CONFIG_BPF_SYSCALL)",
            errno.EINVAL: "this kernel marks no sockets of control groups: it needs Linux 5.7 with CONFIG_CGROUP_BPF",
        }.get(code, os.strerror(code))
        raise HostError("mark a group's packets", why)
    return int(result)
