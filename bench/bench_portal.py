"""The portal as it is deployed (portal/deploy's units, their number of workers apart): how much, and what it costs.

On SQLite and on PostgreSQL, with 1, 2 and 4 workers: 160 sign-ins at once, each of another account from another
address; entitlements, each for a device that last asked 13 hours ago; codes redeemed; and 1,000 event streams. Every
answer is checked: tokens by their signature, sign-ins by whose they are, codes by the database. Beside them the same
server answers what needs no database. The judge on a busy machine is the processor's time a request, of workers and
database.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shlex
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jwt

from bench import portal_load, portal_seed
from bench.common import TOP, resident_mib, title
from tests.portal import postgres

WORKERS = (1, 2, 4)
SIGN_INS, ENTITLEMENTS, CODES, PINGS, SPARE = 160, 640, 160, 800, 32
EACH = ENTITLEMENTS + SPARE  # accounts with a device, of one number of workers
STREAMS, COMMANDS, A_SECOND = 1000, 250, 50
CONNECTIONS = 8  # except for sign-ins
READ = """read, not measured here:
  Keycloak's sizing guide: a vCPU for each 15 sign-ins with a password and for each 120 refreshed tokens a second,
  hence 30 and 240 on 2 cores (keycloak.org/high-availability/concepts-memory-and-cpu-sizing)
  NetBird publishes no such figures; users of it report 1.5 to 3 s to list 500 peers (issue 2587), and 8 vCPU for 70
  connected peers with 480 networks (issue 4488)"""


@dataclass
class Server:
    """A running service. `also`: the database's process, whose time counts too."""

    process: subprocess.Popen[bytes]
    address: tuple[str, int]
    also: int | None = None

    def cpu(self) -> tuple[float, float]:
        """Milliseconds, of the service and of its database."""
        return tree_ms(self.process.pid), tree_ms(self.also) if self.also else 0.0


@dataclass
class Place:
    """A database with accounts in it, and the environment of what uses it."""

    name: str
    folder: Path
    env: dict[str, str]
    count: Callable[[str], int]
    also: int | None = None
    codes: list[str] = field(default_factory=list)


def children(pid: int) -> list[int]:
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(FileNotFoundError, ProcessLookupError):  # a process of the database that has ended since
            for each in task.read_text(encoding="ascii").split():
                found += children(int(each))
    return found


def tree_ms(pid: int) -> float:
    """User and system time of a process and all below it, ended ones included."""
    ticks = 0
    for each in children(pid):
        try:
            fields = Path(f"/proc/{each}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        ticks += sum(map(int, fields[11:15]))
    return ticks * 1000 / os.sysconf("SC_CLK_TCK")


def deployed(unit: str, **changed: str) -> list[str]:
    """The command of a unit in portal/deploy, with other options."""
    lines = (TOP / "portal/deploy" / unit).read_text(encoding="utf-8").splitlines()
    program, *rest = shlex.split(next(line for line in lines if line.startswith("ExecStart=")).partition("=")[2])
    command = [sys.executable] if program.endswith("python") else [sys.executable, "-m", Path(program).name]
    command += rest
    for name, value in changed.items():
        command[command.index(f"--{name}") + 1] = value
    return command


@contextmanager
def serving(place: Place, unit: str, **changed: str) -> Iterator[Server]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    changed |= {"bind": f"127.0.0.1:{port}"} if "workers" in changed else {"port": str(port)}
    with (place.folder / "log").open("ab") as log:
        process = subprocess.Popen(deployed(unit, **changed), cwd=TOP, env=place.env, stdout=log, stderr=log)
    made = Server(process, ("127.0.0.1", port), place.also)
    try:
        end = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(made.address, timeout=1).close()
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < end, (place.folder / "log").read_text()
                time.sleep(0.05)
        yield made
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def filled(name: str) -> Iterator[Place]:
    """SQLite, or a PostgreSQL of our own; with the accounts."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tunwarden-bench-portal-")))
        (folder / "static").mkdir()
        secret = "x" * 50
        env = {key: value for key, value in os.environ.items() if not key.startswith("PORTAL_")} | {
            "DJANGO_SETTINGS_MODULE": "portal.settings",
            "PORTAL_CONFIG": os.devnull,
            "PORTAL_STATE": str(folder),
            "PORTAL_SECRET_KEY": secret,
            "PORTAL_HOSTS": "portal.example",
            "PORTAL_HTTPS": "false",
            "PORTAL_PROXIES": "1",
        }
        also = None
        if name == "PostgreSQL":
            cluster = postgres.Cluster()
            stack.callback(cluster.stop)
            postgres.run(str(cluster.socket), "CREATE DATABASE portal")
            env["PORTAL_DATABASE"] = postgres.url(str(cluster.socket), "portal")
            also = cluster.guard.pid

            def count(query: str) -> int:
                import psycopg

                with psycopg.connect(host=str(cluster.socket), user="portal", dbname="portal") as connection:
                    return int(connection.execute(query).fetchone()[0])  # type: ignore[index]
        else:

            def count(query: str) -> int:
                import sqlite3

                with sqlite3.connect(folder / "portal.sqlite3") as connection:
                    return int(connection.execute(query).fetchone()[0])

        make = [
            sys.executable,
            "-m",
            "bench.portal_seed",
            "make",
            str(max(STREAMS, EACH * len(WORKERS))),
            str(folder / "codes"),
        ]
        subprocess.run(make, cwd=TOP, env=env, check=True)
        yield Place(name, folder, env, count, also, json.loads((folder / "codes").read_text()))


# --- Requests and what is a right answer -----------------------------------------------------------------------------


def from_somewhere(number: int) -> dict[str, str]:
    return {"X-Forwarded-For": f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"}


def sign_in(number: int, address: int | None = None) -> bytes:
    body = {"email": portal_seed.email(number), "password": portal_seed.PASSWORD}
    headers = from_somewhere(number if address is None else address)
    return portal_load.request("POST", "/_allauth/app/v1/auth/login", headers, body)


def ask(number: int) -> bytes:
    headers = {"Authorization": f"Bearer {portal_seed.credential(number)}"} | from_somewhere(number)
    return portal_load.request("GET", "/api/v1/entitlement", headers)


def session(number: int, answer: tuple[int, bytes] | None) -> str:
    """The token of a sign-in, when it is that account's."""
    if answer is None or answer[0] != 200:
        return ""
    said = json.loads(answer[1])
    mine = said["data"]["user"]["email"] == portal_seed.email(number) and said["meta"]["is_authenticated"]
    return str(said["meta"]["session_token"]) if mine else ""


def entitled(number: int, answer: tuple[int, bytes] | None, keys: dict[str, jwt.PyJWK]) -> bool:
    if answer is None or answer[0] != 200:
        return False
    claims = verified(json.loads(answer[1])["token"], "vpn", keys)
    wanted = {"dev": portal_seed.device(number), "wg": portal_seed.wireguard(number), "plan": "premium"}
    return wanted.items() <= claims.items()


def verified(token: str, audience: str, keys: dict[str, jwt.PyJWK]) -> dict[str, Any]:
    try:
        key = keys[jwt.get_unverified_header(token)["kid"]]
        return jwt.decode(token, key, algorithms=["EdDSA"], audience=audience)
    except (jwt.PyJWTError, KeyError):
        return {}


# --- Measures --------------------------------------------------------------------------------------------------------


@dataclass
class Figure:
    a_second: float
    ms: float  # of the service's processor time a request
    database_ms: float
    share: float  # of the generator, of all processor time that was used
    p99: float
    wrong: int

    def __str__(self) -> str:
        cost = f"{self.ms:.2f}" + (f" + {self.database_ms:.2f}" if self.database_ms else "")
        rest = f"99 of 100 within {self.p99:.0f} ms, generator {self.share:.0%} of the CPU, {self.wrong} wrong"
        return f"{self.a_second:,.0f}/s, {cost} ms of CPU each, {rest}"


def measured(
    pool: Any, server: Server, requests: list[bytes], right: Callable[[int, Any], bool], connections: int = CONNECTIONS
) -> tuple[Figure, list[tuple[int, bytes] | None]]:
    before = server.cpu()
    done: portal_load.Done = pool.apply(portal_load.closed, (server.address, requests, connections))
    ours, database = (after - then for after, then in zip(server.cpu(), before, strict=True))
    wrong = sum(not right(number, answer) for number, answer in enumerate(done.answers))
    p99 = statistics.quantiles(done.milliseconds, n=100)[98] if len(done.milliseconds) > 1 else 0.0
    count, total = len(requests), ours + database + done.cpu_ms
    figure = Figure(count / done.seconds, ours / count, database / count, done.cpu_ms / total, p99, wrong)
    return figure, done.answers


def workers(pool: Any, place: Place, number: int, first: int) -> tuple[dict[str, Figure], list[str]]:
    """All figures with so many workers. Its accounts begin at `first`."""
    found: dict[str, Figure] = {}
    with serving(place, "tunwarden-portal.service", workers=str(number)) as server:
        got = pool.apply(portal_load.closed, (server.address, [portal_load.request("GET", "/api/v1/keys")], 1))
        keys = {each["kid"]: jwt.PyJWK(each) for each in json.loads(got.answers[0][1])["keys"]}
        spare = range(first + ENTITLEMENTS, first + EACH)  # every worker has done everything once
        pool.apply(portal_load.closed, (server.address, [f(each) for each in spare for f in (sign_in, ask)], 16))

        ping = [portal_load.request("GET", "/")] * PINGS
        found["ping"], _ = measured(pool, server, ping, lambda _n, answer: answer is not None and answer[0] == 302)
        asked = [ask(first + each) for each in range(ENTITLEMENTS)]
        found["entitlements"], _ = measured(pool, server, asked, lambda n, answer: entitled(first + n, answer, keys))
        asked = [sign_in(first + each) for each in range(SIGN_INS)]
        found["sign-ins"], answers = measured(
            pool, server, asked, lambda n, answer: bool(session(first + n, answer)), SIGN_INS
        )
        tokens = [session(first + n, answer) for n, answer in enumerate(answers)]
        asked = [
            portal_load.request(
                "POST", "/api/v1/subscriptions/redeem",
                {"X-Session-Token": tokens[each % SIGN_INS]} | from_somewhere(first + each % SIGN_INS),
                {"code": place.codes[first + each]},
            )
            for each in range(CODES)
        ]  # fmt: skip
        used = "SELECT count(*) FROM subscriptions_activationcode WHERE redeemed_at IS NOT NULL AND batch = 'bench'"
        before = place.count(used)
        found["codes"], _ = measured(pool, server, asked, redeemed)
        found["codes"].wrong += abs(place.count(used) - before - CODES)
        lines = [f"  {name:13}{figure}" for name, figure in found.items()]
        memory = [resident_mib(each) for each in children(server.process.pid)[1:]]
        least = found["ping"].ms
        ratios = ", ".join(f"{name} {(each.ms + each.database_ms) / least:.1f}" for name, each in found.items())
        lines.append(f"  CPU each, as a ratio to the ping: {ratios}; {max(memory):.0f} MiB a worker at most")
    return found, lines


def redeemed(_number: int, answer: tuple[int, bytes] | None) -> bool:
    return answer is not None and answer[0] == 200 and json.loads(answer[1])["outcome"] in ("activated", "reserved")


def streams(pool: Any, place: Place) -> int:
    """Prints what 1,000 cost, and how soon commands arrive; how many were wrong."""
    sender = ["-m", "bench.portal_seed", "send", str(COMMANDS), str(A_SECOND)]
    with serving(place, "tunwarden-portal-events.service") as server:
        credentials = [portal_seed.credential(each) for each in range(STREAMS)]
        arguments = (server.address, server.process.pid, credentials, sender, place.env)
        told: portal_load.Streams = pool.apply(portal_load.streams, arguments)
    public = {each["kid"]: jwt.PyJWK(each) for each in public_keys(place)}
    sent = dict(told.sent)
    delays, wrong, seen = [], told.ended, set()
    for number, token, when in told.got:
        jti = verified(token, portal_seed.device(number), public).get("jti", "")
        if jti in seen or jti not in sent:
            wrong += 1
            continue
        seen.add(jti)
        delays.append((when - sent[jti]) * 1000)
    wrong += COMMANDS - len(seen)
    points = statistics.quantiles(delays, n=100)
    grown = told.mib_open - told.mib_before
    each, opening = grown / STREAMS * 1024, told.open_cpu_ms / STREAMS
    print(
        f"  {STREAMS:,} streams: {told.mib_open:.0f} MiB, {grown:.0f} of them the streams' ({each:.0f} KiB each); "
        f"opened in {told.open_seconds:.1f} s, {opening:.2f} ms of CPU each; idle {told.idle_percent:.1f} % of a core"
    )
    print(
        f"  {COMMANDS} commands, {A_SECOND} a second: half within {points[49]:.0f} ms, 99 of 100 within "
        f"{points[98]:.0f} ms; {told.told_cpu_ms / COMMANDS:.2f} ms of CPU each, the generator's "
        f"{told.cpu_ms / COMMANDS:.2f}; {wrong} wrong"
    )
    return wrong


def public_keys(place: Place) -> list[dict[str, str]]:
    program = (
        "import json, django; django.setup(); from portal import signing; print(json.dumps(signing.public_keys()))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=TOP, env=place.env, check=True, stdout=subprocess.PIPE)
    return list(json.loads(done.stdout))


def main() -> None:
    title("portal: sign-ins, entitlements, codes, event streams")
    print(READ)
    wrong, best = 0, {"sign-ins": 0.0, "entitlements": 0.0}
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        for name in ("SQLite", "PostgreSQL"):
            if name == "PostgreSQL" and postgres.MISSING:
                print(f"{name}: left out: {postgres.MISSING}")
                continue
            begun = time.monotonic()
            with filled(name) as place:
                for index, number in enumerate(WORKERS):
                    found, lines = workers(pool, place, number, index * EACH)
                    print(f"{name}, {number} workers (load {os.getloadavg()[0]:.1f})", *lines, sep="\n", flush=True)
                    wrong += sum(each.wrong for each in found.values())
                    if name == "SQLite":
                        best = {each: max(rate, found[each].a_second) for each, rate in best.items()}
                print(f"{name}, the events process (load {os.getloadavg()[0]:.1f})")
                wrong += streams(pool, place)
                if wrong and "PORTAL_BENCH_LOG" in os.environ:
                    shutil.copy(place.folder / "log", os.environ["PORTAL_BENCH_LOG"])
            print(f"  {name}: {time.monotonic() - begun:.0f} s in all", flush=True)
    print(f"SQLite, best of {WORKERS} workers: {best['sign-ins']:.0f} sign-ins/s (goal 45), "
          f"{best['entitlements']:.0f} entitlements/s (goal 600); {wrong} wrong (goal 0)")  # fmt: skip
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
