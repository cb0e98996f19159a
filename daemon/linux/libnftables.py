"""Two ways to speak to nftables: libnftables in this process, or the nft program where the library is missing.

In the process a transaction takes about 1.5 ms, too short to be worth a thread: it runs in the event loop, and no other
task can run between "the old rules" and "the new ones". The program takes 20 ms. Both return what nft prints with
`--debug=netlink`: the bytecode as sent to the kernel or, when listing, as the kernel gives it back.
"""

from __future__ import annotations

import asyncio
import ctypes
import re
from enum import IntFlag
from pathlib import Path
from typing import Protocol

from daemon.linux import ports

LIBRARY = "libnftables.so.1"
PROGRAM = Path("/usr/sbin/nft")
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
KEPT = 4  # transactions of which is known what they print
ALLOWANCE = re.compile(r"over \d+ bytes")
LIMIT = 10.0  # seconds for the program; it never took a hundredth of that


class Output(IntFlag):
    """NFT_CTX_OUTPUT_* of nftables/libnftables.h."""

    STATELESS = 1 << 2
    NUMERIC = 1 << 7 | 1 << 8 | 1 << 9  # protocols, priorities and symbols


NETLINK_NETFILTER = 12  # <linux/netlink.h>
DEBUG_NETLINK = 1 << 3  # NFT_DEBUG_NETLINK


class NftError(Exception):
    """nft refused; the text is its first complaint, without the position."""


class Nft(Protocol):
    async def run(self, commands: str, *, check: bool = False) -> str:
        """One transaction: all of it or nothing. `check` asks the kernel without changing anything. Raises NftError."""
        ...


class LibNft:
    """libnftables by ctypes. It belongs to the thread and the network namespace it was made in."""

    def __init__(self) -> None:
        """Raises OSError if the library is not there."""
        self._lib = _library()
        self._ctx = self._lib.nft_ctx_new(0)
        if not self._ctx:
            raise OSError("nft_ctx_new failed")
        self._lib.nft_ctx_buffer_output(self._ctx)
        self._lib.nft_ctx_buffer_error(self._ctx)
        self._told: dict[str, str] = {}  # transactions: their bytecode is always the same, and slow to print
        self._lib.nft_ctx_output_set_flags(self._ctx, int(Output.STATELESS | Output.NUMERIC))

    def __del__(self) -> None:
        if getattr(self, "_ctx", None):
            self._lib.nft_ctx_free(self._ctx)

    async def run(self, commands: str, *, check: bool = False) -> str:
        # How much an allowance has left is no part of the bytecode.
        known = ALLOWANCE.sub("over", commands, count=1) if "quota" in commands else commands
        told = self._told.get(known)
        self._lib.nft_ctx_set_dry_run(self._ctx, check)
        self._lib.nft_ctx_output_set_debug(self._ctx, DEBUG_NETLINK if told is None else 0)
        failed = self._lib.nft_run_cmd_from_buffer(self._ctx, commands.encode())
        output: bytes = self._lib.nft_ctx_get_output_buffer(self._ctx)  # both are emptied by reading
        errors: bytes = self._lib.nft_ctx_get_error_buffer(self._ctx)
        if failed:
            raise NftError(complaint(errors.decode(errors="replace")))
        if told is None:
            told = output.decode(errors="replace")
            if not commands.startswith(("list", "add quota")):  # the latter never twice
                self._told = dict([*self._told.items(), (known, told)][-KEPT:])
        return told


class NftProgram:
    """`/usr/sbin/nft -f -` for each transaction."""

    async def run(self, commands: str, *, check: bool = False) -> str:
        options = (*(["--check"] if check else []), "-s", "-n", "--debug=netlink")
        try:
            process = await asyncio.create_subprocess_exec(
                PROGRAM, *options, "-f", "-", env=ENVIRONMENT, cwd="/",
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            )  # fmt: skip
        except OSError as err:
            raise NftError(f"{PROGRAM}: {err.strerror}") from err
        ports.remember(NETLINK_NETFILTER, process.pid)  # the kernel gives a process its own number for its first port
        try:
            async with asyncio.timeout(LIMIT):
                output, errors = await process.communicate(commands.encode())
        except TimeoutError as err:
            raise NftError(f"{PROGRAM} did not answer within {LIMIT:.0f} s") from err
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode:
            raise NftError(complaint(errors.decode(errors="replace")))
        return output.decode(errors="replace")


def best() -> Nft:
    """The library if there is one, else the program."""
    try:
        return LibNft()
    except OSError:
        return NftProgram()


def complaint(errors: str) -> str:
    """nft's first error as one line: `/dev/stdin:3:5-9: Error: syntax error ...` -> `syntax error ...`."""
    for line in errors.splitlines():
        if match := re.match(r"(?:\S+: )?Error: (.*)", line):
            return match[1].strip()
    return errors.strip().splitlines()[0] if errors.strip() else "nft failed without a message"


def _library() -> ctypes.CDLL:
    lib = ctypes.CDLL(LIBRARY)
    for name, result, arguments in (
        ("nft_ctx_new", ctypes.c_void_p, [ctypes.c_uint32]),
        ("nft_ctx_free", None, [ctypes.c_void_p]),
        ("nft_ctx_buffer_output", ctypes.c_int, [ctypes.c_void_p]),
        ("nft_ctx_buffer_error", ctypes.c_int, [ctypes.c_void_p]),
        ("nft_ctx_get_output_buffer", ctypes.c_char_p, [ctypes.c_void_p]),
        ("nft_ctx_get_error_buffer", ctypes.c_char_p, [ctypes.c_void_p]),
        ("nft_ctx_output_set_flags", None, [ctypes.c_void_p, ctypes.c_uint]),
        ("nft_ctx_output_set_debug", None, [ctypes.c_void_p, ctypes.c_uint]),
        ("nft_ctx_set_dry_run", None, [ctypes.c_void_p, ctypes.c_bool]),
        ("nft_run_cmd_from_buffer", ctypes.c_int, [ctypes.c_void_p, ctypes.c_char_p]),
    ):
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments
    return lib
