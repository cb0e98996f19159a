"""P15: the portal on a real PostgreSQL: its rules, its races and its migrations."""

from __future__ import annotations

import faulthandler
import os
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as tree
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.portal import postgres
from tests.portal.postgres import Cluster

TOP = Path(__file__).parent.parent.parent
pytestmark = pytest.mark.skipif(bool(postgres.MISSING), reason=postgres.MISSING)
# The rules; pages, browsers and settings do not depend on the database. PORTAL_POSTGRES_ALL=1: all the same.
RULES = (
    "test_rules_accounts.py",
    "test_rules_consents.py",
    "test_captcha.py",
    "test_subscriptions.py",
    "test_support.py",
)
WHOLE = "PORTAL_POSTGRES_ALL" in os.environ
ELSEWHERE = ("test_postgres.py", "test_browser.py", "test_accessible.py", "test_project.py", "test_api.py")
RACES = (
    "test_subscriptions::test_simultaneous_redemption",
    "test_subscriptions::test_simultaneous_codes_of_one_account",
    "test_subscriptions::test_seats",
    "test_captcha::test_simultaneous_tries",
    "test_captcha::test_simultaneous_answers",
    "test_support::test_limit_of_an_hour[web]",
)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    made = Cluster()
    yield made
    made.stop()
    assert not made.folder.exists()


@pytest.fixture(scope="module")
def outcomes(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The same tests, run on PostgreSQL: file::test → passed, or what was wrong."""
    report = tmp_path_factory.mktemp("postgres") / "report.xml"
    every = [each.name for each in Path(__file__).parent.glob("test_*.py") if each.name not in ELSEWHERE]
    tests = [f"tests/portal/{name}" for name in (sorted(every) if WHOLE else RULES)]
    tests.append("tests/portal/test_project.py::test_double_sign_up")
    command = [sys.executable, "-m", "pytest", "-q", *tests, f"--junitxml={report}", "-p", "no:cacheprovider"]
    command += ["-n", "2", "--dist", "loadfile"]
    if shutil.which("setpriv"):
        command = ["setpriv", "--pdeathsig", "KILL", *command]  # it ends with us, however that is
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PORTAL_", "PYTEST_"))}
    environment["PORTAL_TEST_POSTGRES"] = str(cluster.socket)
    # Each of those tests has its own five minutes (faulthandler_timeout); all of them together are not one test.
    faulthandler.cancel_dump_traceback_later()
    done = subprocess.run(
        command, cwd=TOP, env=environment, capture_output=True, text=True, timeout=1200, check=False
    )  # fmt: skip
    assert report.exists(), done.stdout + done.stderr
    found = {}
    for case in tree.parse(report).iter("testcase"):
        wrong = [each for each in case if each.tag in ("failure", "error", "skipped")]
        name = f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name')}"
        found[name] = " ".join(f"{each.tag}: {each.get('message')}" for each in wrong) or "passed"
    return found


def test_the_rules_hold_on_postgresql(outcomes: dict[str, str]) -> None:
    """P15: the same tests, the same answers. What only concerns SQLite says so."""
    wrong = {name: what for name, what in outcomes.items() if what != "passed" and "on SQLite alone" not in what}
    assert wrong == {}
    assert len(outcomes) > 200


@pytest.mark.parametrize("race", [*RACES, "test_project::test_double_sign_up"])
def test_races_on_postgresql(outcomes: dict[str, str], race: str) -> None:
    """P8, P9, P3, P1: among them 1,000 tries of one code: one wins, with several connections at once."""
    assert outcomes[race] == "passed"


def portal(cluster: Cluster, name: str, *command: str, folder: Path) -> str:
    environment = {
        "PATH": os.environ["PATH"],
        "PORTAL_CONFIG": os.devnull,
        "PORTAL_DEBUG": "true",
        "PORTAL_STATE": str(folder),
        "PORTAL_DATABASE": postgres.url(str(cluster.socket), name),
    }
    done = subprocess.run(
        [sys.executable, "-m", "portal", *command],
        cwd=TOP, env=environment, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def schema(cluster: Cluster, name: str) -> str:
    """As PostgreSQL itself tells it, without the order in which tables were made."""
    dump = [postgres.PROGRAMS[0].parent / "pg_dump", "--schema-only", "--host", cluster.socket, "--username", "portal"]
    done = subprocess.run([*dump, name], check=True, capture_output=True, text=True, timeout=120)
    lines = [line.rstrip(",") for line in done.stdout.splitlines() if not line.startswith(("--", "\\", "SET "))]
    return "\n".join(sorted(lines))


def test_migrations_there_and_back(cluster: Cluster, tmp_path: Path) -> None:
    """P15: from nothing; each of our apps back to nothing; and there again, to the same tables."""
    postgres.run(str(cluster.socket), "CREATE DATABASE migrations")
    portal(cluster, "migrations", "migrate", "--verbosity", "0", folder=tmp_path)
    first = schema(cluster, "migrations")
    assert "CREATE TABLE public.support_ticket (" in first
    apps = {each.parent.parent.name for each in (TOP / "portal").glob("*/migrations/0001_initial.py")}

    def there() -> list[str]:
        now = schema(cluster, "migrations")
        return sorted(each for each in apps if f"CREATE TABLE public.{each}_" in now)

    assert there() == sorted(apps) and len(apps) >= 4
    # Nearly everything depends on the accounts and goes with them; the rest after.
    for each in ("accounts", "vpn"):
        portal(cluster, "migrations", "migrate", each, "zero", "--verbosity", "0", folder=tmp_path)
    assert there() == []
    portal(cluster, "migrations", "migrate", "--verbosity", "0", folder=tmp_path)
    assert schema(cluster, "migrations") == first
    portal(cluster, "migrations", "makemigrations", "--check", "--dry-run", folder=tmp_path)


def test_nothing_stays_when_the_tests_are_killed() -> None:
    """The server ends and its folder goes, though nobody said so."""
    code = "from tests.portal.postgres import Cluster; c = Cluster(); print(c.folder, flush=True); input()"
    child = subprocess.Popen(
        [sys.executable, "-c", code], cwd=TOP, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None and child.stdin is not None
    folder = Path(child.stdout.readline().strip())
    number = int((folder / "data/postmaster.pid").read_text().split()[0])
    owner = Path(f"/proc/{number}").stat().st_uid
    assert owner != 0
    child.send_signal(signal.SIGKILL)
    child.wait(60)
    child.stdin.close()
    child.stdout.close()
    end = time.monotonic() + 60
    while folder.exists() or Path(f"/proc/{number}").exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    assert shutil.which("setpriv") or os.getuid() != 0
