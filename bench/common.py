"""What every benchmark needs: medians, and a line that can be read without the code."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

TOP = Path(__file__).parent.parent


def report(what: str, values: Sequence[float], unit: str, goal: str = "") -> float:
    """Print median, least and greatest; the median."""
    middle = statistics.median(values)
    about = f"median {middle:.2f} {unit}, {min(values):.2f} to {max(values):.2f}, {len(values)} runs"
    print(f"{what}: {about}" + (f"  (goal {goal})" if goal else ""), flush=True)
    return middle


@contextmanager
def installed() -> Iterator[str]:
    """The interpreter of an environment as `make install` makes it, without the packages of development."""
    with tempfile.TemporaryDirectory(prefix="tunwarden-bench-") as folder:
        subprocess.run(["/usr/bin/python3", "-m", "venv", folder], check=True)
        python = f"{folder}/bin/python"
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "--require-hashes", "-r", str(TOP / "requirements.lock")], check=True)
        subprocess.run([*pip, "--no-deps", str(TOP)], check=True, stderr=subprocess.DEVNULL)
        yield python


def main(title: str, *parts: str) -> None:
    """The heading of a benchmark."""
    print(f"--- {title}", file=sys.stderr)
    for part in parts:
        print(part, flush=True)
