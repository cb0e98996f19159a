"""The file for Prometheus, judged by the parser of Prometheus' own Python client (Debian's package)."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daemon.accounting import Accounting
from daemon.prometheus import Exporter, render
from daemon.usage_store import UsageStore
from policies.classify import ssid_text
from policies.counting import Counts, Owner, Way
from policies.quota import quota
from policies.settings_tables import Allowance
from policies.states import Phase
from tests.daemon.fake_host import FakeCounters
from tests.daemon.test_accounting import NOON

PARSE = """
import json, sys
from prometheus_client.parser import text_string_to_metric_families
texts = json.load(sys.stdin)
found = [
    [[s.name, s.labels, s.value, kind.type] for kind in text_string_to_metric_families(text) for s in kind.samples]
    for text in texts
]
print(json.dumps(found))
"""
Sample = tuple[str, dict[str, str], float, str]


def parsed(*texts: str) -> list[list[Sample]]:
    done = subprocess.run(
        ["/usr/bin/python3", "-I", "-c", PARSE], input=json.dumps(texts), capture_output=True, text=True
    )
    if "No module named 'prometheus_client'" in done.stderr:
        pytest.skip("python3-prometheus-client is missing: run lab/install-missing")
    assert done.returncode == 0, done.stderr
    return [[(name, labels, value, kind) for name, labels, value, kind in found] for found in json.loads(done.stdout)]


def test_everything_is_in_it() -> None:
    office = Owner(Way.TUNNEL, "wifi", b"Cafe".hex(), "office")
    state = quota(600, Allowance(limit=1000), 0, NOON, ZoneInfo("UTC"))
    text = render([(office, Counts(1 << 50, 2, 3, 4))], Phase.CONNECTED, True, True, state)
    (samples,) = parsed(text)
    traffic = {(name, labels.get("direction")): (value, kind) for name, labels, value, kind in samples}
    assert traffic["tunwarden_traffic_bytes_total", "rx"] == (float(1 << 50), "counter")
    assert traffic["tunwarden_traffic_bytes_total", "tx"] == (2.0, "counter")
    assert traffic["tunwarden_traffic_packets_total", "rx"] == (3.0, "counter")
    assert traffic["tunwarden_allowance_used_bytes", None] == (600.0, "gauge")
    states = {labels["state"]: value for name, labels, value, _ in samples if name == "tunwarden_state"}
    assert states.keys() == set(Phase) and sum(states.values()) == states["connected"] == 1
    assert ("tunwarden_protected", None) in traffic and ("tunwarden_blocking", None) in traffic
    assert not any("allowance" in name for name, *_ in parsed(render([], Phase.IDLE, False, False, None))[0])


SSIDS = st.lists(st.binary(min_size=1, max_size=32), min_size=1, max_size=30, unique=True)


@settings(max_examples=20, suppress_health_check=[HealthCheck.too_slow])
@given(SSIDS)
def test_whatever_an_access_point_calls_itself(ssids: list[bytes]) -> None:
    """Quotes, backslashes, newlines: each name comes back as it was, and adds no line."""
    owners = [(Owner(Way.CLEAR, "wifi", ssid.hex(), ""), Counts(1, 1, 1, 1)) for ssid in ssids]
    (samples,) = parsed(render(owners, Phase.IDLE, False, False, None))
    names = {
        labels["ssid_hex"]: labels["network"] for name, labels, _, _ in samples if name.startswith("tunwarden_traffic")
    }
    assert names == {ssid.hex(): ssid_text(ssid) for ssid in ssids}


def written(tmp_path: Path, path: Path) -> list[str | None]:
    said: list[str | None] = []

    async def run() -> None:
        accounting = Accounting(FakeCounters(), UsageStore(tmp_path / "traffic.db"), lambda _: None)
        exporter = Exporter(accounting, said.append)
        exporter.look(str(path), Phase.IDLE, False, False, None)
        exporter.look(str(path), Phase.HELD, False, False, None)  # not again so soon
        await exporter.end()

    asyncio.run(run())
    return said


def test_it_is_written_whole_and_readable(tmp_path: Path) -> None:
    path = tmp_path / "exporter" / "tunwarden.prom"
    path.parent.mkdir(mode=0o755)
    path.write_text("the one before")
    assert written(tmp_path, path) == [None]
    (samples,) = parsed(path.read_text())
    assert [labels["state"] for name, labels, value, _ in samples if name == "tunwarden_state" and value] == ["idle"]
    assert path.stat().st_mode & 0o777 == 0o644
    assert os.listdir(path.parent) == [path.name], "nothing half is left, which the collector would read"


@pytest.mark.parametrize("kind", ["absent", "others may write it", "no folder"])
def test_a_folder_that_will_not_do_is_said(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "exporter"
    match kind:
        case "others may write it":
            folder.mkdir()
            folder.chmod(0o777)
        case "no folder":
            folder.write_text("")
    (said,) = written(tmp_path, folder / "tunwarden.prom")
    assert said is not None and "cannot be written" in said and "tunwarden.prom" in said
