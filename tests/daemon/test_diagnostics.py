"""I6: no secret that entered the daemon appears in anything that leaves it; and what a trace and a report have."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
import logging
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stderr, suppress
from pathlib import Path

import pytest
import structlog
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from daemon import logs
from daemon.service import DaemonService
from ipc.errors import Error, ServiceError
from ipc.values import plain
from tests.daemon.profiles_for_tests import CONFIG
from tests.daemon.test_loop import SETTINGS, running
from tests.daemon.test_service import ROOT, refused

# As keys are: no pattern in them, so that none is found by accident, nor refused as a key of zeros.
KEY = st.integers(0, 2**64).map(lambda seed: base64.b64encode(hashlib.sha256(f"{seed}".encode()).digest()).decode())
PASSWORD = st.integers(0, 2**64).map(lambda seed: "Pw!" + hashlib.sha256(f"p{seed}".encode()).hexdigest()[:16])


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    """The daemon's own logging, as its life story sets it up; put back afterwards."""
    told, root = io.StringIO(), logging.getLogger()
    before = structlog.get_config(), root.handlers[:], root.level
    with redirect_stderr(told):
        logs.configure()
        logs.recent.clear()
        structlog.configure(cache_logger_on_first_use=False)
        yield told
    logs._trace, logs._tracing = None, lambda: False
    logs.recent.clear()
    structlog.configure(**before[0])
    root.handlers[:] = before[1]
    root.setLevel(before[2])
    logging.getLogger("tunwarden").setLevel(logging.NOTSET)


def forms(key: str) -> set[str]:
    """As text, as its sockets write it, and as Python shows bytes."""
    raw = base64.b64decode(key)
    return {key, raw.hex(), repr(raw)[2:-1]}


async def everything(service: DaemonService, told: io.StringIO, errors: list[str]) -> str:
    """All that leaves the daemon."""
    loop = service._loop
    parts = [
        told.getvalue(), *logs.recent, *errors, service.diagnostics.trace.tail(1 << 24),
        repr(loop.profiles), repr(loop.facts),
        repr(loop.decision), repr(loop.state), repr(loop.intent), str(loop.warnings), repr(loop.settings),
        *(json.dumps(plain(each), ensure_ascii=False) for each in (
            await service.get_status(ROOT), await service.list_profiles(ROOT), await service.list_settings(ROOT),
            await service.list_known(ROOT), await service.get_report(ROOT), await service.get_report(ROOT, True),
        )),
        "\n".join(part.text for part in await service.get_report(ROOT)),
    ]  # fmt: skip
    return "\n".join(parts)


@settings(max_examples=10, phases=[Phase.generate])  # nothing to shrink: a secret is as long as it is
@given(private=KEY, preshared=KEY, other=KEY, password=PASSWORD)
def test_no_secret_that_entered_ever_leaves(private: str, preshared: str, other: str, password: str) -> None:
    """Keys of good profiles and of refused ones, passwords in settings where they do not belong, errors with text."""

    async def check() -> None:
        good = CONFIG.replace(CONFIG.split("PrivateKey = ")[1].split("\n")[0], private)
        good = good.replace("[Peer]", f"[Peer]\nPresharedKey = {preshared}", 1)
        wrong = (
            good.replace("PrivateKey", "PrivatKey"),
            good.replace(private, f"{private}x"),
            good.replace("[Interface]", f"[Interface]\nPostUp = echo {other}"),
            good.replace("[Interface]", f"[Interface]\nPassword = {password}"),
            good.replace("AllowedIPs = ", f"AllowedIPs = {other}, "),
            good.replace("Address = ", f"Address = {other}, "),
            f"{other}\n{good}",
        )
        texts = (
            f"[wifi]\npassword = '{password}'", f"[tunnel]\npresharedkey = '{other}'", f"token = '{password}'",
            f"[tunnel]\ndefault_profile = '-{other}'", f"PrivateKey = {other}",
        )  # fmt: skip
        errors: list[str] = []
        async with running(Path(folder), SETTINGS) as here:
            service = DaemonService(here.loop, "1")
            service.diagnostics.begin()
            here.loop._on_change = service.publish
            await service.start_trace(ROOT, 5)
            await service.import_profile(ROOT, "good", good)
            for text in wrong:
                try:
                    await service.import_profile(ROOT, "bad", text)
                except ServiceError as err:
                    errors += [str(err), repr(err)]
            for text in texts:
                errors += [json.dumps(plain(await service.check_settings(ROOT, text)))]
                with suppress(ServiceError):
                    await service.import_settings(ROOT, text)
            log = structlog.get_logger()
            log.warning("odd", error=repr(ValueError(f"private_key={base64.b64decode(private).hex()}")), psk=password)
            log.debug("odd", text=good)
            await here.at_the_cafe()
            await service.connect(ROOT, "good")
            await here.turn()
            left = await everything(service, told, errors)
            service.diagnostics.trace.stop()
        assert len(errors) >= 2 * 5 + len(texts), "the control: the errors were told"
        assert '"event": "handled"' in left and "event=asked" in left, "the control: log and trace were looked at"
        for secret in (*forms(private), *forms(preshared), *forms(other), password):
            assert secret not in left, left[max(left.index(secret) - 300, 0) :][:700]

    told = io.StringIO()
    root, before = logging.getLogger(), (structlog.get_config(), logging.getLogger().handlers[:])
    with tempfile.TemporaryDirectory() as folder, redirect_stderr(told):
        try:
            logs.configure()
            structlog.configure(cache_logger_on_first_use=False)
            asyncio.run(check())
        finally:
            logs._trace, logs._tracing = None, lambda: False
            logs.recent.clear()
            structlog.configure(**before[0])
            root.handlers[:] = before[1]


def test_a_trace_has_decisions_and_a_report_has_its_end(tmp_path: Path, logged: io.StringIO) -> None:
    async def check() -> None:
        async with running(tmp_path, SETTINGS) as here:
            service = DaemonService(here.loop, "1.2.3")
            service.diagnostics.begin()
            here.loop._on_change = service.publish
            assert not (await service.get_trace(ROOT)).on
            started = await service.start_trace(ROOT, 30, hide_names=True)
            assert (started.on, started.hide_names, started.trouble) == (True, True, None)
            await here.at_the_cafe()
            await here.turn()
            tail = service.diagnostics.trace.tail(1 << 20)
            handled = [each for each in map(json.loads, tail.splitlines()) if each["event"] == "handled"]
            assert handled[-1]["facts"]["wifi"]["wlan0"]["ssid"].startswith("<network")
            assert handled[-1]["state"]["phase"] == here.loop.state.phase
            hidden = {part.name: part.text for part in await service.get_report(ROOT, True)}
            shown = {part.name: part.text for part in await service.get_report(ROOT, False)}
            ssid = next(iter(here.loop.facts.wifi.values())).ssid
            for name, text in hidden.items():
                assert ssid.decode() not in text and ssid.hex() not in text, name
            assert ssid.decode() in shown["Status"]
            assert "handled" in shown["Trace"] and "event=state" in shown["Log"]
            assert "wifi.unsecured = auto_connect" in shown["Settings"]
            assert all(part.doc.endswith(".") for part in await service.get_report(ROOT))
            stopped = await service.stop_trace(ROOT)
            assert (stopped.on, stopped.until, stopped.bytes > 0) == (False, 0, True)

    asyncio.run(check())


@pytest.mark.parametrize("minutes", [0, 1441, 2**63])
def test_a_trace_has_an_end(tmp_path: Path, minutes: int) -> None:
    async def check() -> None:
        async with running(tmp_path, SETTINGS) as here:
            with refused(Error.INVALID_ARGUMENT, "allowed: 1 to 1440"):
                await DaemonService(here.loop, "1").start_trace(ROOT, minutes)

    asyncio.run(check())


def test_a_report_is_bounded(tmp_path: Path, logged: io.StringIO) -> None:
    """Whatever was logged and traced: it fits into one answer of either face."""

    async def check() -> None:
        async with running(tmp_path, SETTINGS) as here:
            service = DaemonService(here.loop, "1")
            service.diagnostics.begin()
            await service.start_trace(ROOT, 5)
            for number in range(1500):
                structlog.get_logger().info("é\x00" * 400, number=number)
            parts = await service.get_report(ROOT)
            assert len(json.dumps(plain(parts), ensure_ascii=False).encode()) < 1 << 20
            assert "number=1499" in next(part.text for part in parts if part.name == "Log")

    asyncio.run(check())
