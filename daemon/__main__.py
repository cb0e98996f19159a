"""tunwardend: settings, block, wire, run, hand over. Read it downward.

Started as `python -I -m daemon` by the operating system, as root, without arguments.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import structlog

from daemon import adapters, logs, settings_file
from daemon.loop import Loop
from daemon.service import DaemonService
from daemon.store import Store
from ipc import VERSION
from ipc.dbus import Dbus
from ipc.dispatch import Dispatcher
from ipc.varlink import Varlink
from policies.states import Changed, Event

RUN = Path("/run/tunwarden")
STATE = Path("/var/lib/tunwarden")
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"

log = structlog.get_logger()


def main() -> None:
    """Exit 0 after a SIGTERM or SIGINT, 1 with a sentence when it cannot run here."""
    os.umask(0o077)
    logs.configure()
    if os.geteuid() != 0:
        raise SystemExit("tunwardend: only root can guard the network; the service manager starts it")
    notify = adapters.notifier()
    os.environ.clear()
    os.environ["PATH"] = PATH  # for nothing of ours: children get an environment of their own
    with only_one():
        asyncio.run(life(notify))


async def life(notify: Callable[..., None]) -> None:
    """From the first look at the network to handing it over."""
    stop = asyncio.Event()
    running = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        running.add_signal_handler(number, stop.set)

    store = Store(STATE, time.time)
    loaded = settings_file.load(store)
    loop = Loop(adapters.host(loaded.settings, STATE), store, loaded.settings, lambda: service.publish())
    service = DaemonService(loop, VERSION)
    if store.damaged:
        loop.warn(
            "store", f"The saved state was damaged; a copy is {store.damaged}. Connect or disconnect to decide anew."
        )
    take_settings(loop, loaded)
    running.add_signal_handler(signal.SIGHUP, lambda: loop.post_command(lambda: reloaded(loop, store)))

    protection = asyncio.create_task(loop.run())
    await asyncio.wait({protection, asyncio.create_task(loop.settled.wait())}, return_when=asyncio.FIRST_COMPLETED)
    faces = await open_faces(service)
    notify("READY=1", f"STATUS={loop.state.phase.value}")
    log.info("ready", phase=loop.state.phase.value)

    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({protection, stopping}, return_when=asyncio.FIRST_COMPLETED)
    notify("STOPPING=1")
    for face in faces:
        await face.stop()
    if protection.done():  # it never returns by itself: this is a defect, and the rules stay in the kernel
        await protection
    protection.cancel()
    await asyncio.wait([protection])
    await loop.leave()
    log.info("handed over", phase=loop.state.phase.value)


async def open_faces(service: DaemonService) -> list[Varlink | Dbus]:
    """Both faces. Protection is up before them and does not need them; without the socket nobody could ask for more."""
    dispatcher = Dispatcher(service)
    faces: list[Varlink | Dbus] = [Varlink(dispatcher, VERSION), Dbus(dispatcher)]
    for face in faces:
        await face.start()
    return faces


def take_settings(loop: Loop, loaded: settings_file.Loaded) -> None:
    """Put settings in force, and what people should know about them."""
    loop.take_settings(loaded.settings)
    loop.facts = replace(loop.facts, settings_broken=loaded.broken)
    loop.warnings.pop("settings", None)
    if loaded.warning:
        loop.warn("settings", loaded.warning)
        log.warning("settings", problem=loaded.warning)


async def reloaded(loop: Loop, store: Store) -> Event:
    """SIGHUP: read the settings file again."""
    take_settings(loop, settings_file.load(store))
    return Changed()


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
