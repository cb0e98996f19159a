"""What strangers send is read by a process that can do nothing else (see `confinement.py`), never by the daemon.

A child has no environment, files, network, capabilities or children; its memory, time and words are bounded; it ends
with the daemon. What it says is still a stranger's word: callers check it as they would check a packet.
"""

from __future__ import annotations

import asyncio
import contextlib
import marshal
import math
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from types import TracebackType

from daemon.host import HostError
from daemon.linux import confinement
from daemon.linux.confinement import FAILED, LONGEST, RESULT, TOLD

SCRIPT = Path(confinement.__file__).resolve()
MEMORY = 64 << 20  # bytes more than the interpreter with its modules takes
CPU_S = 600  # seconds of processor time of a child that serves; whoever wants more starts another
SAID_BURST, SAID_PER_S = 200.0, 20.0  # messages of a child that serves


async def run(module: str, sockets: Sequence[socket.socket], argument: bytes, *, seconds: float) -> bytes:
    """What `main(sockets, argument)` of the module returns, at most LONGEST bytes less one.

    The sockets stay the caller's to close. Raises HostError when it fails, ends, talks nonsense or takes longer than
    `seconds`. Never leaves a process behind.
    """
    async with Confined(module, sockets, argument, serves=False, cpu=math.ceil(seconds) + 1) as child:
        try:
            async with asyncio.timeout(seconds):
                kind, said = await child.hear()
        except TimeoutError as err:
            raise HostError(child.what, f"it took longer than {seconds:g} s") from err
        if kind != RESULT:
            raise HostError(child.what, "it talks nonsense")
        return said


class Confined:
    """A child that serves: `async with Confined(...) as child: async for said in child.told(): ...`

    Its module has `serve(sockets, argument, tell)`; each `tell(bytes)` is one message here.
    """

    def __init__(
        self,
        module: str,
        sockets: Sequence[socket.socket],
        argument: bytes = b"",
        *,
        serves: bool = True,
        memory: int = MEMORY,
        cpu: int = CPU_S,
    ) -> None:
        """`memory` in bytes, `cpu` in seconds of processor time. `argument`: less than LONGEST bytes."""
        if len(argument) >= LONGEST:
            raise ValueError(f"an argument of {len(argument)} bytes")
        self.what = f"run {module}"
        self.pid = 0
        self._module, self._sockets, self._argument, self._serves = module, sockets, argument, serves
        self._memory, self._cpu = memory, cpu

    async def __aenter__(self) -> Confined:
        """Start it. From the main thread, for the child ends with its thread. Raises HostError."""
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[int] = self._loop.create_future()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            ours.setblocking(False)
            with theirs:
                self._start(theirs)
            task = {
                "path": [str(SCRIPT.parents[2]), *sys.path],
                "module": self._module,
                "sockets": [each.fileno() for each in self._sockets],
                "serves": self._serves,
                "parent": os.getpid(),
                "memory": self._memory,
                "cpu": self._cpu,
            }
            with contextlib.suppress(ConnectionError):  # it has ended already: `hear` says so
                ours.send(marshal.dumps(task))
                ours.send(b"\0" + self._argument)  # an empty message would read as the end
        except OSError as err:
            ours.close()
            await self._end()
            raise HostError(self.what, err.strerror or str(err)) from err
        self._channel = ours
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, err: BaseException | None, where: TracebackType | None
    ) -> None:
        # First: who still hears in another task, cancelled a moment ago, would have the event loop forget the number's
        # next owner.
        self._loop.remove_reader(self._channel)
        self._channel.close()
        await self._end()

    async def told(self) -> AsyncIterator[bytes]:
        """Each message; ends when `serve` returns. Raises HostError when the child fails, ends or says too much."""
        budget, since = SAID_BURST, self._loop.time()
        while True:
            kind, said = await self.hear()
            if kind == RESULT:
                return
            now = self._loop.time()
            budget, since = min(SAID_BURST, budget + (now - since) * SAID_PER_S) - 1, now
            if budget < 0:
                raise HostError(self.what, "it says too much")
            yield said

    async def hear(self) -> tuple[bytes, bytes]:
        """The next message, and whether it is RESULT or TOLD. Raises HostError."""
        said = await self._loop.sock_recv(self._channel, LONGEST + 1)
        if not said:
            self._kill()
            status = await asyncio.shield(self._ended)
            raise HostError(self.what, f"it ended by signal {-status}" if status < 0 else f"it ended, status {status}")
        if len(said) > LONGEST:
            raise HostError(self.what, f"it said more than {LONGEST} bytes at once")
        kind, said = said[:1], said[1:]
        if kind == FAILED:
            reason = said.decode("utf-8", "replace")[:200]
            raise HostError(self.what, "".join(char if char.isprintable() else "?" for char in reason))
        if kind not in (RESULT, TOLD):
            raise HostError(self.what, "it talks nonsense")
        return kind, said

    def _start(self, channel: socket.socket) -> None:
        self._popen = subprocess.Popen(
            [sys.executable, "-I", "-S", str(SCRIPT), str(channel.fileno())],
            env={}, cwd="/", umask=0o077, start_new_session=True, close_fds=True,
            pass_fds=[channel.fileno(), *(each.fileno() for each in self._sockets)],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self.pid = self._popen.pid
        try:
            self._pidfd = os.pidfd_open(self.pid)
        except OSError:  # kernels before 5.3
            self._popen.kill()
            self._popen.wait()
            self.pid = 0
            raise
        self._loop.add_reader(self._pidfd, self._reap)

    def _reap(self) -> None:
        self._loop.remove_reader(self._pidfd)
        status = self._popen.wait()  # returns at once: the pidfd says that it has ended
        os.close(self._pidfd)
        self.pid = 0
        if not self._ended.done():
            self._ended.set_result(status)

    def _kill(self) -> None:
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    async def _end(self) -> None:
        """Gone and reaped when this returns. Cancelled meanwhile, it is reaped all the same, a moment later."""
        if self.pid:
            self._kill()
            await asyncio.shield(self._ended)
