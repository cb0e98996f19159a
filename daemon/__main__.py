"""tunwardend: settings, block, wire, run, hand over. Read it downward.

Started as `python -I -m daemon` by the operating system, as root, without arguments.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import structlog

from daemon import adapters, logs, panic, settings_file
from daemon.inbox import Alive
from daemon.loop import Loop
from daemon.service import DaemonService
from daemon.settings_keeper import SettingsKeeper
from daemon.store import Store
from ipc import VERSION
from ipc.dbus import Dbus
from ipc.dbus_session import NameTakenError
from ipc.dispatch import Dispatcher
from ipc.sockets import SocketError
from ipc.varlink import Varlink
from policies.states import Changed

RUN = Path("/run/tunwarden")
STATE = Path("/var/lib/tunwarden")
FACE_AGAIN_S = 5.0  # after a face could not be offered
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"

log = structlog.get_logger()


def main() -> None:
    """Exit 0 after a SIGTERM or SIGINT, 1 with a sentence when it cannot run here."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the settings are about to be read; by default it would end us
    os.umask(0o077)
    logs.configure()
    if os.geteuid() != 0:
        raise SystemExit("tunwardend: only root can guard the network; the service manager starts it")
    notify, given = adapters.notifier(), adapters.listeners()
    os.environ.clear()
    os.environ["PATH"] = PATH  # for nothing of ours: children get an environment of their own
    with only_one():
        asyncio.run(life(notify, given))


async def life(notify: adapters.Notify, given: Mapping[str, socket.socket]) -> None:
    """From the first look at the network to handing it over. `given`: see `adapters.listeners`."""
    stop = asyncio.Event()
    running = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        running.add_signal_handler(number, stop.set)

    store = Store(STATE, time.time)
    loaded = settings_file.load(store)
    loop = Loop(adapters.host(loaded.settings, STATE), store, loaded.settings, lambda: service.publish())
    loop.opened_by_hand = panic.taken(STATE)
    keeper = SettingsKeeper(loop)
    service = DaemonService(loop, VERSION, keeper)
    if store.trouble:
        log.error("store", problem=store.trouble)
    service.diagnostics.begin()
    keeper.take(loaded)
    running.add_signal_handler(signal.SIGHUP, keeper.reload)
    file = settings_file.FILE
    watching = asyncio.create_task(adapters.on_change(file, file.parent / settings_file.DROP_INS, keeper.reload))

    protection = asyncio.create_task(loop.run())
    await asyncio.wait({protection, asyncio.create_task(loop.settled.wait())}, return_when=asyncio.FIRST_COMPLETED)
    tried = [asyncio.Event(), asyncio.Event()]
    faces = [asyncio.create_task(offered(*each, loop)) for each in zip(all_faces(service, given), tried, strict=True)]
    for each in tried:
        await each.wait()
    notify("READY=1", f"STATUS={loop.state.phase.value}")
    log.info("ready", phase=loop.state.phase.value)

    watchdog = asyncio.create_task(fed(notify, loop))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({protection, stopping}, return_when=asyncio.FIRST_COMPLETED)
    notify("STOPPING=1")
    watchdog.cancel()
    watching.cancel()
    for face in faces:
        face.cancel()
    await asyncio.wait(faces)
    if protection.done():  # it never returns by itself: this is a defect, and the rules stay in the kernel
        await protection
    protection.cancel()
    await asyncio.wait([protection])
    await loop.leave()
    log.info("handed over", phase=loop.state.phase.value)


async def fed(notify: adapters.Notify, loop: Loop) -> None:
    """The service manager ends a daemon that hangs. What counts is whether the owner of the state handles events."""
    while notify.patience:
        loop.post(Alive(lambda: notify("WATCHDOG=1", f"STATUS={loop.state.phase.value}")))
        await asyncio.sleep(notify.patience / 3)


def all_faces(service: DaemonService, given: Mapping[str, socket.socket]) -> list[Varlink | Dbus]:
    """Both faces. Protection is up before them and does not need them."""
    dispatcher = Dispatcher(service)
    return [Varlink(dispatcher, VERSION, given=given), Dbus(dispatcher)]


async def offered(face: Varlink | Dbus, tried: asyncio.Event, loop: Loop) -> None:
    """Serves until cancelled. A face that cannot be offered is no reason to stop guarding the network."""
    topic = type(face).__name__
    try:
        while True:
            try:
                await face.start()
                break
            except (OSError, SocketError, NameTakenError) as err:
                log.error("cannot be asked", face=topic, why=str(err), again_in_s=FACE_AGAIN_S)
                loop.warn(topic, f"The service cannot be asked over {topic}: {err}")
                loop.post(Changed())
            tried.set()
            await asyncio.sleep(FACE_AGAIN_S)
        tried.set()
        if loop.warnings.pop(topic, None):
            loop.post(Changed())
        await asyncio.Event().wait()
    finally:
        await face.stop()


@contextmanager
def only_one() -> Iterator[None]:
    """Two daemons would undo each other's work. The lock goes with the process, however it ends."""
    RUN.mkdir(mode=0o755, exist_ok=True)
    RUN.chmod(0o755)  # the umask is stricter than what readers of the socket need
    file = os.open(RUN / "daemon.pid", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.read(file, 20).decode().strip()
            raise SystemExit(f"tunwardend: already running as process {pid}") from None
        os.ftruncate(file, 0)
        os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(file)


if __name__ == "__main__":
    main()
