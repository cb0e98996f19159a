"""Boots the virtual machine that `lab/radio/image` builds, and runs one command in it with the checkout at /project."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from lab.processes import LabError

TOP = Path(__file__).parents[2]
IMAGE = TOP / "lab" / "radio" / "image"
FOLDER = Path("/var/cache/tunwarden-radio")
CONSOLE = "console"
COMPILED = ("cli", "daemon", "ipc", "lab", "policies", "tests/radio")
BUILD_S = 1200  # seconds; most of it is downloading
# Hardware virtualisation with a stock kernel; the module kvm_pvm, which gives a /dev/kvm too, needs a patched one.
KVM = any(Path(f"/sys/module/kvm_{maker}").is_dir() for maker in ("intel", "amd")) and os.access("/dev/kvm", os.W_OK)
# Of the emulated processors this one boots fastest: newer ones spend their time on AVX.
PROCESSOR = ("-accel", "kvm", "-cpu", "host") if KVM else ("-accel", "tcg,thread=multi", "-cpu", "Nehalem,+rdrand")
KERNEL = (
    "console=ttyS0 quiet panic=-1 mitigations=off cryptomgr.notests nokaslr tsc=reliable no_timer_check audit=0"
    " apparmor=0 selinux=0 systemd.show_status=0"
)


MEMORY = 1024  # MiB, of the machine


def why_no_machine() -> str | None:
    """Why the radio tier cannot run here, or None."""
    if os.uname().machine != "x86_64":
        return f"the radio tier's machine is x86_64, this is {os.uname().machine}"
    if os.geteuid() != 0:
        return "needs root: the radio tier's machine is built from packages"
    if shutil.which("apt-get") is None:
        return "the radio tier's machine is built from Debian packages, and there is no apt-get"
    with open("/proc/meminfo", encoding="ascii") as file:
        free = next(int(line.split()[1]) // 1024 for line in file if line.startswith("MemAvailable"))
    if free < MEMORY * 2:
        return f"the radio tier's machine needs {MEMORY * 2} MiB of memory, {free} are free"
    return None


def build() -> None:
    """The image, where its inputs have changed. Raises LabError."""
    builder = subprocess.Popen([IMAGE, FOLDER], start_new_session=True)
    try:
        if builder.wait(BUILD_S) != 0:
            raise LabError("the radio machine could not be built: see above")
        subprocess.run(["qemu-system-x86_64", "--version"], check=True, stdout=subprocess.DEVNULL, timeout=60)
    except (OSError, subprocess.SubprocessError) as err:
        raise LabError(f"the radio machine could not be built: {err}") from err
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(builder.pid, signal.SIGTERM)  # with all that it has started
        builder.wait()


class RadioMachine:
    """`with RadioMachine("command") as machine:` builds what is missing, boots, runs; then `output()`, `status()`.

    The command sees the checkout at /project (what it writes there is thrown away) and `outside` at /outside.
    It has no network but its own. Booting takes 15 s under emulation, building the image 1 to 2 minutes once.
    """

    def __init__(self, command: str) -> None:
        self._command = command
        self.outside = Path(tempfile.mkdtemp(prefix="tunwarden-radio-"))
        self._qemu: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> RadioMachine:
        try:
            build()
            # What is not compiled yet would be in there, each time a program starts.
            subprocess.run([sys.executable, "-m", "compileall", "-q", *COMPILED], cwd=TOP, check=False, timeout=600)
            (self.outside / "command").write_text(self._command, encoding="utf-8")
            self._boot()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _boot(self) -> None:
        shared = "security_model=none"
        with (self.outside / "qemu").open("wb") as log:
            self._qemu = subprocess.Popen(
                [
                    "setpriv", "--pdeathsig", "KILL", "qemu-system-x86_64", *PROCESSOR, "-nodefaults",
                    "-display", "none", "-no-reboot", "-nic", "none", "-m", str(MEMORY),
                    "-smp", str(min(2, os.cpu_count() or 1)),
                    "-kernel", FOLDER / "vmlinux", "-initrd", FOLDER / "initrd", "-append", KERNEL,
                    "-drive", f"file={FOLDER}/root.img,format=raw,if=virtio,snapshot=on",
                    "-virtfs", f"local,path={TOP},mount_tag=project,{shared},readonly=on",
                    "-virtfs", f"local,path={self.outside},mount_tag=outside,{shared}",
                    "-serial", f"file:{self.outside / CONSOLE}",
                ],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    @property
    def running(self) -> bool:
        return self._qemu is not None and self._qemu.poll() is None

    def wait(self, timeout: float) -> int:
        """The exit status of the command. Raises LabError when the machine ends without one, or not in time."""
        deadline = time.monotonic() + timeout
        while self.running:
            if time.monotonic() > deadline:
                raise LabError(f"the radio machine did not end within {timeout} s\n{self.told()}")
            time.sleep(0.1)
        if not (text := self.read("status")):
            raise LabError(f"the radio machine ended without a result\n{self.told()}")
        return int(text)

    def read(self, name: str) -> str:
        """A file of `outside`; empty when there is none yet."""
        try:
            return (self.outside / name).read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""

    def told_live(self, timeout: float) -> Iterator[str]:
        """What the command prints, as it does, until it ends. Raises LabError when that takes too long."""
        deadline = time.monotonic() + timeout
        seen, over = 0, False
        while not over:
            over = not self.running
            if time.monotonic() > deadline:
                raise LabError(f"the radio machine did not end within {timeout} s")
            text = self.read("output")
            yield text[seen:]
            seen = len(text)
            time.sleep(0.2)

    def told(self) -> str:
        """The last of what QEMU, the kernel and the command said."""
        return "\n".join(f"--- {name}\n{self.read(name)[-3000:]}" for name in ("qemu", CONSOLE, "output"))

    def __exit__(self, *_: object) -> None:
        if self._qemu is not None:
            if self.running:
                self._qemu.send_signal(signal.SIGKILL)
            self._qemu.wait()
        shutil.rmtree(self.outside, ignore_errors=True)


def main() -> None:
    """`python -m lab.radio.machine [COMMAND]`: its output, for trying things out; without one, only the image."""
    if why := why_no_machine():
        print(f"left out: {why}")
        return
    build()
    if len(sys.argv) > 1:
        with RadioMachine(sys.argv[1]) as machine:
            for text in machine.told_live(3600):
                print(text, end="", flush=True)
            status = machine.wait(60)
        sys.exit(status)


if __name__ == "__main__":
    main()
