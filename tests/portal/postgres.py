"""A PostgreSQL of its own for the tests: Debian's, in a temporary folder, on a Unix socket alone, never as root.

However the tests end, also by SIGKILL, a little guard ends the server and removes the folder.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)
MISSING = "" if PROGRAMS else "PostgreSQL is not installed: apt-get install postgresql (lab/install-missing does)"
# Its standard input ends when we do.
GUARD = """
trap '' INT HUP TERM
folder=$1
shift
"$@" </dev/null >"$folder/log" 2>&1 &
server=$!
read -r _
kill -QUIT $server
wait $server
rm -rf "$folder"
"""
# Nothing here has to survive a power cut.
FAST = ("fsync=off", "full_page_writes=off", "synchronous_commit=off", "max_connections=200", "shared_buffers=64MB")
# A database that autovacuum looks at cannot be copied.
FAST += ("autovacuum=off",)


def as_nobody() -> list[str]:
    """What drops root, for PostgreSQL refuses to run as root."""
    if os.getuid() != 0:
        return []
    return ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "--no-new-privs", "--pdeathsig", "QUIT"]


class Cluster:
    """A running server. `socket` is the folder of its socket."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="tunwarden-postgres-"))
        self.socket = self.folder / "socket"
        self.socket.mkdir()
        programs = PROGRAMS[0].parent
        if os.getuid() == 0:
            for each in (self.folder, self.socket):
                shutil.chown(each, "nobody", "nogroup")
        data = self.folder / "data"
        clean = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "TZ": "UTC"}
        make = [programs / "initdb", "--pgdata", data, "--username", "portal", "--auth", "trust"]
        make += ["--encoding", "UTF8", "--locale", "C.UTF-8", "--no-sync"]
        subprocess.run([*as_nobody(), *make], check=True, capture_output=True, timeout=120, env=clean, cwd="/")
        serve = [programs / "postgres", "-D", data, "-k", self.socket, "-c", "listen_addresses="]
        serve += [part for each in FAST for part in ("-c", each)]
        self.guard = subprocess.Popen(
            ["/bin/sh", "-c", GUARD, "guard", self.folder, *as_nobody(), *serve],
            stdin=subprocess.PIPE, env=clean, cwd="/", start_new_session=True,
        )  # fmt: skip
        ready = [programs / "pg_isready", "--quiet", "--host", self.socket, "--username", "portal"]
        end = time.monotonic() + 60
        while subprocess.run(ready, check=False, env=clean, timeout=60).returncode:
            assert time.monotonic() < end, (self.folder / "log").read_text()
            time.sleep(0.05)

    def stop(self) -> None:
        assert self.guard.stdin is not None
        self.guard.stdin.close()
        self.guard.wait(60)


def url(socket: str, name: str) -> str:
    """As the setting `database` takes it."""
    return f"postgresql://portal@/{name}?host={quote(socket, safe='')}"


def connected(socket: str) -> Any:
    """To the server itself."""
    import psycopg

    return psycopg.connect(host=socket, user="portal", dbname="postgres", autocommit=True)


def run(socket: str, *statements: str) -> None:
    """On the server itself, each on its own."""
    with connected(socket) as connection:
        for each in statements:
            connection.execute(each)


def forget_connections() -> None:
    """Of this process: a database that is in use cannot be replaced."""
    from django.db import connections

    connections.close_all()
    for each in connections.all(initialized_only=True):
        pool: Any = getattr(each, "close_pool", None)
        if pool is not None:
            pool()


def replace(socket: str, name: str, template: str) -> None:
    """Makes the database `name` anew, as `template` is."""
    forget_connections()
    # A closed connection's process may be there for a while, and the server would wait five seconds for its end.
    with connected(socket) as connection:
        end = time.monotonic() + 60
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s"
        while connection.execute(query, [template]).fetchone() != (0,):
            assert time.monotonic() < end, f"{template} is in use"
            time.sleep(0.05)
    run(socket, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)", f"CREATE DATABASE {name} TEMPLATE {template}")
