"""Prompts: what people are asked about networks, who can be asked, and what became of each question.

`decide` says about which links people are to be asked; here a question gets its id, its deadline and its listeners. An
agent is whoever listens. All are told the same, after the kernel agreed; the first valid answer wins.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, replace

import structlog
from pydantic import ValidationError

from daemon import status as tell
from ipc.errors import Error, ServiceError
from ipc.feed import BACKLOG, TooSlowError
from ipc.interface import ANSWERS
from ipc.structs import Prompt
from policies.classify import Verdict
from policies.decision import Answer, Decision, Judgement, Rule
from policies.facts import Facts
from policies.firewall import FirewallPolicy
from policies.known_network import KnownNetwork
from policies.settings import Settings
from policies.settings_tables import WifiAction

log = structlog.get_logger()

REMEMBERED = 32  # prompts that are over, to tell late ones what became of theirs

ENDS = {
    "answered": "it has been answered already.",
    "expired": "its time is over, and its fallback applies.",
    "withdrawn": "the network was left, a rule was changed, or somebody connected or disconnected.",
}


@dataclass(frozen=True, slots=True)
class Asked:
    """A prompt that waits, and the judgement it was made from."""

    prompt: Prompt
    judgement: Judgement


class Prompts:
    """Used by the owner of the state alone, but for `listen`, which any number of agents do."""

    def __init__(self, agents_changed: Callable[[], None], expire: Callable[[str, float, str], None]) -> None:
        """`expire(ifname, seconds, id)`: call `expired(id)` then, unless it is called again for the link before."""
        self._agents_changed, self._expire = agents_changed, expire
        self._agents: set[asyncio.Queue[Prompt | None]] = set()
        self._asked: dict[str, Asked] = {}  # by ifname
        self._answers: dict[str, str] = {}  # by id, to those that are about to end
        self._over: deque[Prompt] = deque(maxlen=REMEMBERED)

    # --- agents ------------------------------------------------------------------------------------------------------

    @property
    def agents(self) -> int:
        """How many listen."""
        return len(self._agents)

    @property
    def waiting(self) -> tuple[Prompt, ...]:
        """The prompts that wait for an answer."""
        return tuple(asked.prompt for asked in self._asked.values())

    async def listen(self) -> AsyncGenerator[Prompt | None, None]:
        """Be an agent while this is read: None at once, what waits, every change. Raises TooSlowError."""
        queue: asyncio.Queue[Prompt | None] = asyncio.Queue()
        for prompt in self.waiting:
            queue.put_nowait(prompt)
        self._agents.add(queue)
        self._agents_changed()
        try:
            yield None
            while (told := await queue.get()) is not None:
                yield told
            raise TooSlowError
        finally:
            if queue in self._agents:
                self._agents.discard(queue)
                self._agents_changed()

    def _tell(self, prompt: Prompt) -> None:
        log.info("prompt", id=prompt.id, state=prompt.state, ifname=prompt.network.ifname, answer=prompt.answer)
        for queue in tuple(self._agents):
            if queue.qsize() < BACKLOG:
                queue.put_nowait(prompt)
            else:
                queue.put_nowait(None)
                self._agents.discard(queue)
                self._agents_changed()

    # --- prompts -----------------------------------------------------------------------------------------------------

    def follow(
        self,
        decision: Decision,
        facts: Facts,
        enforced: FirewallPolicy | None,
        settings: Settings,
        saved: tuple[KnownNetwork, ...],
    ) -> None:
        """Raise and end prompts as the decision says. Call it when the kernel has agreed to it.

        `settings` are the administrator's, `saved` the networks that users saved.
        """
        wanted = {each.ifname: each for each in decision.judgements if each.ifname in decision.asking}
        became = {answer.network: answer for answer in decision.answers}
        for ifname, asked in tuple(self._asked.items()):
            if ifname not in wanted or wanted[ifname].network != asked.judgement.network:
                del self._asked[ifname]
                self._end(asked.prompt, became.get(asked.judgement.network))
        networks = {each.ifname: each for each in tell.networks(facts, decision, enforced)} if wanted else {}
        for ifname, judgement in wanted.items():
            seconds, former = settings.wifi.prompt_timeout, self._asked.get(ifname)
            prompt = Prompt(
                # Never used twice, also not by the next daemon: a late answer must not meet another question.
                id=former.prompt.id if former else secrets.token_hex(8),
                state="raised",
                network=networks[ifname],
                deadline=former.prompt.deadline if former else round(time.time() + seconds),
                fallback=settings.wifi.prompt_fallback.value,
                held=settings.wifi.hold_while_asking,
                remember=_can_be_saved(judgement, facts, settings, saved),
                answer=None,
            )
            self._asked[ifname] = Asked(prompt, judgement)
            if former is None:
                self._expire(ifname, seconds, prompt.id)
            if former is None or prompt != former.prompt:
                self._tell(prompt)

    def _end(self, prompt: Prompt, became: Answer | None) -> None:
        if answer := self._answers.pop(prompt.id, None):
            prompt = replace(prompt, state="answered", answer=answer)
        else:
            expired = became is not None and became.rule is Rule.FALLBACK
            prompt = replace(prompt, state="expired" if expired else "withdrawn")
        self._over.append(prompt)
        self._tell(prompt)

    def find(self, id: str) -> Asked:
        """The prompt that waits for an answer. Raises ServiceError, which says what became of it."""
        for asked in self._asked.values():
            if asked.prompt.id == id:
                return asked
        state = next((prompt.state for prompt in self._over if prompt.id == id), None)
        why = ENDS[state] if state else "there is none of that id."
        raise ServiceError(Error.NO_SUCH_PROMPT, "Answer", why, "`tunwarden prompts list` shows those that wait.")

    def answered(self, id: str, answer: str) -> None:
        """Whatever ends this prompt now, it is this answer."""
        self._answers[id] = answer

    def expired(self, id: str) -> str | None:
        """The network whose prompt has had its time; None: somebody answered, or it was left."""
        found = next((asked for asked in self._asked.values() if asked.prompt.id == id), None)
        return found.judgement.network if found else None


def rule_to_save(
    judgement: Judgement, answer: str, facts: Facts, settings: Settings, saved: tuple[KnownNetwork, ...]
) -> KnownNetwork:
    """The known network that makes the answer last. Raises ServiceError where there can be none."""
    found, network = judgement.classification, facts.wifi.get(judgement.ifname)
    entry = found.known if found else None
    if judgement.rule is Rule.LINK or entry in settings.known:
        rule = f"rule for {judgement.ifname}" if judgement.rule is Rule.LINK else "rule for this network"
        raise ServiceError(
            Error.LOCKED, "Remember", f"the administrator's {rule} asks each time.", "Answer without remembering."
        )
    readable = network is not None and network.ssid.strip(b"\0") and not network.malformed
    if network is None or found is None or not readable or found.verdict is Verdict.UNIDENTIFIED:
        raise _cannot("only a Wi-Fi network whose name and security can be read is saved.")
    if entry is None and any(each.key == (False, network.ssid) for each in (*settings.known, *saved)):
        raise _cannot("another network of this name is saved already: this one may be an imitation.")
    former = dict(entry) if entry else {"minimum_security": network.offered}
    try:
        # Of a pattern that a user saved, this one network gets an entry of its own.
        own = {"ssid": network.ssid, "pattern": False, "exceptions": (), "action": WifiAction(answer)}
        return KnownNetwork(**{**former, **own})
    except ValidationError as err:
        raise _cannot("; ".join(each["msg"].removeprefix("Value error, ") for each in err.errors()) + ".") from None


def _can_be_saved(
    judgement: Judgement, facts: Facts, settings: Settings, saved: tuple[KnownNetwork, ...]
) -> tuple[str, ...]:
    def can(answer: str) -> bool:
        try:
            rule_to_save(judgement, answer, facts, settings, saved)
        except ServiceError:
            return False
        return True

    return tuple(answer for answer in ANSWERS if can(answer))


def _cannot(why: str) -> ServiceError:
    return ServiceError(Error.INVALID_ARGUMENT, "Remember", why, "Answer without remembering.")
