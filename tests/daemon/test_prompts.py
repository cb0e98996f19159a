"""Prompts over a real loop, store and service in front of FakeHost (N9)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import replace
from pathlib import Path

import pytest

from daemon import prompts as module
from daemon.service import DaemonService
from daemon.store import Store, StoreError
from ipc.access import Caller, Transport
from ipc.errors import Error
from ipc.feed import TooSlowError
from ipc.structs import Prompt
from policies.decision import Intent, Rule
from policies.facts import Security
from policies.intents import from_json as intent_from_json
from policies.settings import parse_settings
from policies.settings_tables import Wifi
from policies.states import Phase, Target
from tests.daemon.fake_host import CABLE, CAFE, WLAN, FakeHost
from tests.daemon.test_loop import Running, impatient, running
from tests.daemon.test_service import refused

assert impatient

ASKS = """
[wifi]
secured = "prompt"
prompt_fallback = "ignore"
identify_timeout = "1s"
[tunnel]
connect_timeout = "1s"
[portal]
detect = false
"""
ROOT = Caller(0, frozenset({0}), 1, Transport.SOCKET)


class Agent:
    """Somebody who listens."""

    def __init__(self, service: DaemonService) -> None:
        self._stream = service.watch_prompts(ROOT)
        self._heard: asyncio.Queue[Prompt | None] = asyncio.Queue()
        self.ended = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        async with contextlib.aclosing(self._stream):
            async for prompt in self._stream:
                self._heard.put_nowait(prompt)

    async def next(self) -> Prompt:
        prompt = await asyncio.wait_for(self._heard.get(), 20)
        assert prompt is not None
        return prompt

    async def begin(self) -> None:
        assert await asyncio.wait_for(self._heard.get(), 20) is None

    async def leave(self) -> None:
        self.ended.cancel()
        await asyncio.wait([self.ended])

    async def nothing_more(self) -> None:
        await asyncio.sleep(0.02)
        assert self._heard.empty()


class Place:
    def __init__(self, here: Running, service: DaemonService) -> None:
        self.here, self.service, self.loop, self.fake = here, service, here.loop, here.fake
        self.agents: list[Agent] = []

    async def agent(self) -> Agent:
        agent = Agent(self.service)
        await agent.begin()
        await self.here.turn()
        self.agents.append(agent)
        return agent

    async def join(self, ssid: bytes = b"Cafe", security: Security = Security.OPEN) -> None:
        self.fake.links = (replace(WLAN, carrier_changes=WLAN.carrier_changes + len(self.fake.asked)),)
        self.fake.wifi = {}  # a look that is due anyway must not meet the new name with the old association
        await self.here.hint("links")
        self.fake.wifi = {"wlan0": replace(CAFE, ssid=ssid, security=security)}
        await self.here.hint("wifi")

    @property
    def rule(self) -> Rule:
        return self.loop.decision.judgements[0].rule


Check = Callable[[Place], Coroutine[None, None, None]]


@contextlib.asynccontextmanager
async def place(folder: Path, settings: str, fake: FakeHost | None = None) -> AsyncIterator[Place]:
    async with running(folder, settings, fake=fake) as here:
        service = DaemonService(here.loop, "1.2.3")
        here.loop._on_change = service.publish
        found = Place(here, service)
        try:
            yield found
        finally:
            for agent in found.agents:
                await agent.leave()


def run(folder: Path, check: Check, settings: str = ASKS) -> None:
    async def inside() -> None:
        async with place(folder, settings) as here:
            await check(here)

    asyncio.run(inside())


def test_a_prompt_holds_and_its_answer_opens_or_protects(tmp_path: Path) -> None:
    async def check(here: Place) -> None:
        agent = await here.agent()
        await here.join()
        raised = await agent.next()
        assert here.loop.state.phase is Phase.HELD
        assert not here.fake.leaks, "told before the kernel held it"
        assert (raised.state, raised.fallback, raised.held, raised.answer) == ("raised", "ignore", True, None)
        assert (raised.network.ssid, raised.network.verdict, raised.network.action) == ("Cafe", "unsecured", "prompt")
        assert raised.network.reasons[0].code == "open" and not raised.network.cleared
        assert await here.service.waiting_prompts(ROOT) == (raised,)
        await here.service.answer_prompt(ROOT, raised.id, "ignore")
        assert here.loop.state.phase is Phase.IDLE and here.fake.leaks, "the answer returned before its effect"
        assert await agent.next() == replace(raised, state="answered", answer="ignore")
        await here.join(b"Bar")
        second = await agent.next()
        assert second.id != raised.id and second.network.ssid == "Bar"
        await here.service.answer_prompt(ROOT, second.id, "auto_connect")
        assert (await agent.next()).state == "answered"
        await here.here.until(Phase.CONNECTED)
        assert here.loop.intent.target is Target.PROTECTED
        assert await here.service.waiting_prompts(ROOT) == ()

    run(tmp_path, check)


def test_several_agents_the_first_valid_answer_wins_and_all_hear_of_it(tmp_path: Path) -> None:
    async def check(here: Place) -> None:
        first, second = await here.agent(), await here.agent()
        await here.join()
        raised = await first.next()
        assert await second.next() == raised
        late = await here.agent()  # who comes later is told what waits
        assert await late.next() == raised
        answers = [here.service.answer_prompt(ROOT, raised.id, answer) for answer in ("ignore", "auto_connect")]
        done, refusal = await asyncio.gather(*answers, return_exceptions=True)
        assert done is None and "answered already" in str(refusal)
        for agent in (first, second, late):
            assert (await agent.next()).answer == "ignore"
            await agent.nothing_more()
        assert here.loop.state.phase is Phase.IDLE

    run(tmp_path, check)


def test_the_last_agent_dies_and_the_fallback_applies_at_once(tmp_path: Path) -> None:
    async def check(here: Place) -> None:
        first, second = await here.agent(), await here.agent()
        await here.join()
        await second.next()
        await first.leave()
        await here.here.turn()
        assert here.loop.decision.asking == {"wlan0"}
        await second.leave()
        await here.here.until(lambda loop: not loop.decision.asking)
        assert (here.rule, here.loop.facts.agents) == (Rule.FALLBACK, 0)
        assert here.loop.state.phase is Phase.IDLE
        third = await here.agent()
        await third.nothing_more()  # it is settled: nobody is asked late

    run(tmp_path, check)


def test_the_deadline_is_the_loops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(here: Place) -> None:
        soon = here.loop.settings.wifi.model_copy(update={"prompt_timeout": 0.05})
        here.loop.configuration.take(here.loop.settings.model_copy(update={"wifi": soon}))
        agent = await here.agent()
        await here.join()
        raised = await agent.next()
        expired = await agent.next()
        assert expired == replace(raised, state="expired")
        assert (here.rule, here.loop.state.phase) == (Rule.FALLBACK, Phase.IDLE)
        with refused(Error.NO_SUCH_PROMPT, "its time is over"):
            await here.service.answer_prompt(ROOT, raised.id, "auto_connect")
        await here.join()  # the same network again
        await agent.nothing_more()

    run(tmp_path, check)
    assert Wifi().prompt_timeout == 60


def test_what_ends_a_prompt_without_an_answer(tmp_path: Path) -> None:
    async def check(here: Place) -> None:
        async def leave() -> None:
            here.fake.links, here.fake.wifi = (), {}
            await here.here.hint("links", "wifi")

        async def other_name() -> None:  # without an association that was seen
            here.fake.wifi = {"wlan0": replace(CAFE, ssid=b"Pub")}
            await here.here.hint("wifi")

        async def other_settings() -> None:
            here.loop.configuration.take(parse_settings('[wifi]\nunsecured = "ignore"\nunidentified = "ignore"'))
            await here.here.turn()

        agent = await here.agent()
        ways: list[Callable[[], Coroutine[None, None, None]]] = [
            leave,
            lambda: here.join(b"Bar"),
            other_name,
            lambda: here.service.disconnect(ROOT),
            lambda: here.service.connect(ROOT, None),
            other_settings,
        ]
        for number, way in enumerate(ways):
            here.loop.intent = replace(here.loop.intent, target=Target.UNPROTECTED, manual=None)
            await here.join(b"Cafe %d" % number)
            raised = await agent.next()
            assert raised.state == "raised", number
            await way()
            ended = await agent.next()
            assert (ended.id, ended.state) == (raised.id, "withdrawn"), number
            before = here.loop.intent
            with refused(Error.NO_SUCH_PROMPT, "the network was left, a rule was changed"):
                await here.service.answer_prompt(ROOT, raised.id, "ignore")
            assert here.loop.intent == before
            for waiting in await here.service.waiting_prompts(ROOT):
                assert await agent.next() == waiting
                await here.service.disconnect(ROOT)
                await agent.next()
        with refused(Error.NO_SUCH_PROMPT, "there is none of that id"):
            await here.service.answer_prompt(ROOT, "0", "ignore")

    run(tmp_path, check)


def test_a_renewal_and_a_roam_ask_nothing(tmp_path: Path) -> None:
    async def check(here: Place) -> None:
        agent = await here.agent()
        await here.join()
        raised = await agent.next()
        here.fake.links = (replace(here.fake.links[0], gateways=()),)  # an address is renewed
        await here.here.hint("links")
        here.fake.wifi = {"wlan0": replace(CAFE, bssid=b"\x02\0\0\0\0\x77")}
        await here.here.hint("wifi")
        await agent.nothing_more()
        await here.agent()
        (waiting,) = await here.service.waiting_prompts(ROOT)
        assert waiting == raised

    run(tmp_path, check)


def test_not_held_while_asking(tmp_path: Path) -> None:
    async def check(here: Place) -> None:
        agent = await here.agent()
        await here.join()
        raised = await agent.next()
        assert (raised.held, raised.network.cleared, here.loop.state.phase) == (False, True, Phase.IDLE)

    run(tmp_path, check, ASKS.replace("[tunnel]", "hold_while_asking = false\n[tunnel]"))


def test_a_cable_goes_on_while_the_wifi_is_asked_about(tmp_path: Path) -> None:
    async def check(here: Place) -> None:
        agent = await here.agent()
        here.fake.links, here.fake.wifi = (WLAN, CABLE), {"wlan0": CAFE}
        await here.here.hint("links", "wifi")
        await agent.next()
        policy = here.loop.enforcer.enforced
        assert policy is not None and policy.cleared == {"eth0"}

    run(tmp_path, check)


def test_sleep_withdraws_and_asks_again(tmp_path: Path) -> None:
    async def check(here: Place) -> None:
        agent = await here.agent()
        await here.join()
        raised = await agent.next()
        await here.fake.sleeps.put(True)
        assert (await agent.next()).state == "withdrawn"
        await here.fake.sleeps.put(False)
        again = await agent.next()
        assert (again.state, again.network.ssid) == ("raised", "Cafe") and again.id != raised.id

    run(tmp_path, check)


# --- remembering ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "security, answers", [(Security.OPEN, ("auto_connect",)), (Security.WPA2, ("auto_connect", "ignore"))]
)
def test_what_can_be_remembered_is_said_and_is(tmp_path: Path, security: Security, answers: tuple[str, ...]) -> None:
    async def check(here: Place) -> None:
        agent = await here.agent()
        await here.join(b"Guest", security)
        raised = await agent.next()
        assert raised.remember == answers
        if "ignore" not in answers:
            with refused(Error.INVALID_ARGUMENT, "anybody can imitate"):
                await here.service.answer_prompt(ROOT, raised.id, "ignore", True)
            assert (here.loop.known, here.loop.decision.asking) == ((), {"wlan0"}), "a refusal changes nothing"
        await here.service.answer_prompt(ROOT, raised.id, answers[-1], True)
        assert (await agent.next()).state == "answered"
        (saved,) = here.loop.known
        assert (saved.ssid, saved.minimum_security, saved.action) == (b"Guest", security, answers[-1])
        assert here.rule is Rule.KNOWN
        await here.join(b"Bar")
        await here.join(b"Guest", security)
        assert here.rule is Rule.KNOWN

    run(tmp_path, check)


def test_remembering_reads_nothing_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With ten thousand networks that would hold up the loop for half a second."""

    async def check(here: Place) -> None:
        await here.service.import_known(ROOT, '{"ssid": "Alpha"}\n{"ssid": "Zulu"}')
        agent = await here.agent()
        await here.join(b"Guest", Security.WPA2)
        raised = await agent.next()
        read = here.loop.store.known
        monkeypatch.setattr(here.loop.store, "known", lambda: pytest.fail("the store was read"))
        await here.service.answer_prompt(ROOT, raised.id, "ignore", True)
        assert [each.ssid for each in here.loop.known] == [b"Alpha", b"Guest", b"Zulu"]
        assert read() == here.loop.known

    run(tmp_path, check)


def test_what_the_administrator_says_and_imitations_are_not_remembered(tmp_path: Path) -> None:
    known = '[[known]]\nssid = "Fixed"\naction = "prompt"\n[[known]]\nssid = "Home"\naction = "ignore"\n'

    async def check(here: Place) -> None:
        agent = await here.agent()
        for ssid, security, error, text in (
            (b"Fixed", Security.WPA2, Error.LOCKED, "asks each time"),
            (b"Home", Security.OPEN, Error.INVALID_ARGUMENT, "may be an imitation"),
            (b"", Security.OPEN, Error.INVALID_ARGUMENT, "can be read"),
        ):
            await here.join(ssid, security)
            raised = await agent.next()
            while raised.state != "raised":
                raised = await agent.next()
            assert raised.remember == (), ssid
            with refused(error, text):
                await here.service.answer_prompt(ROOT, raised.id, "auto_connect", True)
        assert here.loop.known == ()

    run(tmp_path, check, ASKS + known)


def test_link_rules_cannot_be_remembered(tmp_path: Path) -> None:
    async def check(here: Place) -> None:
        agent = await here.agent()
        here.fake.links = (CABLE,)
        await here.here.hint("links")
        raised = await agent.next()
        assert (raised.remember, raised.network.kind) == ((), "wired")
        with refused(Error.LOCKED, "rule for eth0"):
            await here.service.answer_prompt(ROOT, raised.id, "auto_connect", True)
        await here.service.answer_prompt(ROOT, raised.id, "ignore")
        assert here.loop.state.phase is Phase.IDLE

    run(tmp_path, check, ASKS + '[[links]]\nname = "eth*"\naction = "prompt"\n')


def test_a_disk_that_refuses_leaves_the_prompt_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(here: Place) -> None:
        agent = await here.agent()
        await here.join()
        raised = await agent.next()

        def full(*_: object) -> None:
            raise StoreError("the disk is full")

        monkeypatch.setattr(Store, "save_known", full)
        with refused(Error.NOT_NOW, "the disk is full"):
            await here.service.answer_prompt(ROOT, raised.id, "auto_connect", True)
        assert await here.service.waiting_prompts(ROOT) == (raised,)

    run(tmp_path, check)


# --- across restarts, and bad agents ----------------------------------------------------------------------------------


def test_an_answer_outlives_the_daemon_and_a_fallback_does_not(tmp_path: Path) -> None:
    async def first() -> str:
        async with place(tmp_path, ASKS) as here:
            agent = await here.agent()
            await here.join()
            raised = await agent.next()
            await here.service.answer_prompt(ROOT, raised.id, "ignore")
            return raised.id

    async def second(id: str) -> None:
        fake = FakeHost(links=(WLAN,), wifi={"wlan0": CAFE})
        async with place(tmp_path, ASKS.replace('"ignore"', '"auto_connect"'), fake) as here:
            assert (here.rule, here.loop.state.phase) == (Rule.ANSWER, Phase.IDLE)
            with refused(Error.NO_SUCH_PROMPT, "none of that id"):
                await here.service.answer_prompt(ROOT, id, "auto_connect")
            await here.join(b"Bar")
            assert here.rule is Rule.FALLBACK
        store = Store(tmp_path / "state", lambda: 1.0)
        assert store.intent().answers == ()
        store.close()

    asyncio.run(second(asyncio.run(first())))


def test_an_intent_of_before_there_were_answers() -> None:
    old = '{"target": "protected", "manual": null, "kill_switch": true, "lockdown": false, "profile": null}'
    assert intent_from_json(old) == Intent(target=Target.PROTECTED)
    for bad in ("5", '["x"]', '[{"network": "wlan0"}]', '[{"network": "wlan0", "action": "x", "rule": "default"}]'):
        with pytest.raises((ValueError, TypeError, LookupError)):
            intent_from_json(old.replace("}", f', "answers": {bad}}}'))


def test_an_agent_that_does_not_listen_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BACKLOG", 3)

    async def check(here: Place) -> None:
        await here.join()
        stream = here.service.watch_prompts(ROOT)
        assert await anext(stream) is None
        for number in range(3):
            await here.join(b"Cafe %d" % number)
        await here.here.until(lambda loop: loop.facts.agents == 0 and not loop.decision.asking)
        with pytest.raises(TooSlowError):
            async for _ in stream:
                pass

    run(tmp_path, check)
