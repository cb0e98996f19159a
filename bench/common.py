"""What every benchmark needs: medians, a line that can be read without the code, and the machine it was measured on."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

TOP = Path(__file__).parent.parent
LEFTOVERS = shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__", "tests")


def title(what: str) -> None:
    """What is measured, when and where. Take no figure seriously that was measured beside other work."""
    when, load = time.strftime("%Y-%m-%d %H:%M"), os.getloadavg()[0]
    where = f"{os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}"
    print(f"--- {what}\n    {when}, {where}, load {load:.1f} before it began", flush=True)


def report(what: str, values: Sequence[float], unit: str, goal: str = "") -> float:
    """Print median, least and greatest; the median."""
    middle = statistics.median(values)
    about = f"median {middle:.2f} {unit}, {min(values):.2f} to {max(values):.2f}, {len(values)} runs"
    print(f"{what}: {about}" + (f"  (goal {goal})" if goal else ""), flush=True)
    return middle


def cpu_ms(pid: int) -> float:
    """User and system time that a process has used; a step is one tick of the kernel, 10 ms as a rule."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * 1000 / os.sysconf("SC_CLK_TCK")


def resident_mib(pid: int, field: str = "VmRSS") -> float:
    """What the kernel counts as resident of a process; with the field VmHWM, the most that it ever was."""
    text = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) / 1024 for line in text.splitlines() if line.startswith(field))


@contextmanager
def installed() -> Iterator[str]:
    """The interpreter of an environment as `make install` makes it, without the packages of development."""
    with tempfile.TemporaryDirectory(prefix="tunwarden-bench-") as folder:
        python = f"{folder}/env/bin/python"
        subprocess.run(["/usr/bin/python3", "-m", "venv", f"{folder}/env"], check=True)
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        lock = ["--require-hashes", "-r", str(TOP / "requirements.lock")]
        subprocess.run([*pip, *lock], check=True, stderr=subprocess.DEVNULL)
        shutil.copytree(TOP, f"{folder}/copy", ignore=LEFTOVERS)  # building leaves things behind
        subprocess.run([*pip, "--no-deps", f"{folder}/copy"], check=True, stderr=subprocess.DEVNULL)
        yield python


GUIDED = """
import logging, sys, atheris
with atheris.instrument_imports(include=["{package}"]):
    from {judge} import judge
logging.disable()
def one(data):
    judge(data)
atheris.Setup(sys.argv, one)
atheris.Fuzz()
"""


def guided(judge: str, package: str, seeds: Sequence[bytes], *options: str) -> int:
    """Has libFuzzer look for inputs of `judge.judge` that reach new lines of a package; its exit code.

    In a process of its own, whose imports are instrumented and which libFuzzer ends.
    """
    if importlib.util.find_spec("atheris") is None:
        print("atheris is not installed: its turn is left out")
        return 0
    with tempfile.TemporaryDirectory(prefix="tunwarden-fuzz-") as folder:
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        for number, data in enumerate(seeds):
            (corpus / f"{number:03}").write_bytes(data)
        program = GUIDED.format(judge=judge, package=package)
        command = [sys.executable, "-c", program, *options, f"-artifact_prefix={folder}/", str(corpus)]
        done = subprocess.run(command, cwd=TOP, stderr=subprocess.PIPE, text=True)
        lines = done.stderr.splitlines()
        telling = [line for line in lines if "cov:" in line][-1:] + lines[-1:] if not done.returncode else lines[-30:]
        print("guided by atheris:", *telling, sep="\n  ")
        return done.returncode
