"""The real program, as a process, against the real Varlink face with the fake service behind it."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.ipc.places import MEMBERS, ROOT, ROOT_USER, Who, place_of, public_folder


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str

    @property
    def json(self) -> object:
        """The one JSON value of the output."""
        (line,) = self.out.splitlines()
        return json.loads(line)


def popen(
    folder: Path, *words: str, who: Who = ROOT_USER, env: dict[str, str] | None = None, stdin: int = subprocess.PIPE
) -> subprocess.Popen[str]:
    """The program, started."""
    interpreter, checkout = place_of(who)
    return subprocess.Popen(
        [interpreter, "-W", "error", "-m", "cli.main", "--run-folder", str(folder), *words],
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        cwd=checkout,
        env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "TZ": "UTC", **(env or {})},
        user=who.uid,
        group=who.gid,
        extra_groups=who.groups,
    )


def tunwarden(
    folder: Path, *words: str, who: Who = ROOT_USER, stdin: str = "", env: dict[str, str] | None = None
) -> Ended:
    """The program, run to its end."""
    with popen(folder, *words, who=who, env=env) as process:
        try:
            out, err = process.communicate(stdin, timeout=60)
        except BaseException:
            process.kill()
            raise
    return Ended(process.returncode, out, err)


@contextlib.contextmanager
def daemon(command: Sequence[str] = ()) -> Iterator[Path]:
    """The folder of a running face; the fake service starts idle."""
    with public_folder() as folder:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.ipc.fake_service", str(folder), str(MEMBERS)],
            stdout=subprocess.PIPE,
            cwd=ROOT,
        )
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            yield folder
        finally:
            process.kill()
            process.wait()
            process.stdout.close()  # type: ignore[union-attr]
