"""What becomes of the prompts that the rules ask for: what is settled of them, and for how long."""

from __future__ import annotations

from dataclasses import replace

from policies.decision import Answer, Intent, Judgement, Rule
from policies.settings import Settings
from policies.settings_tables import WifiAction
from policies.states import Target


def settle(
    judged: tuple[Judgement, ...],
    settings: Settings,
    intent: Intent,
    chosen: Target | None,
    offline: frozenset[str],
    ask: bool,
) -> tuple[Answer, ...]:
    """What is settled of the prompts that the rules ask for; about the others people are asked now.

    But for those without Internet: they wait until there is some, also for their fallback.
    """
    waits = {each.network for each in judged if each.ifname in offline}
    prompts = [each.network for each in judged if each.action is WifiAction.PROMPT]
    earlier = {each.network: each for each in intent.answers}
    settled = {}
    for network in prompts:
        before = earlier.get(network)
        if chosen is not None:
            action = WifiAction.AUTO_CONNECT if chosen is Target.PROTECTED else WifiAction.IGNORE
            settled[network] = Answer(network, action, Rule.MANUAL)
        elif before and before.rule is not Rule.FALLBACK:
            settled[network] = before
        elif before or (not ask and network not in waits):
            settled[network] = Answer(network, settings.wifi.prompt_fallback, Rule.FALLBACK)
    actions = {each.action for each in judged} | {each.action for each in settled.values()}
    if intent.target is Target.PROTECTED or WifiAction.AUTO_CONNECT in actions:
        for network in prompts:
            settled.setdefault(network, Answer(network, WifiAction.AUTO_CONNECT, Rule.WANTED))
    return tuple(settled.values())


def answered(judgement: Judgement, answers: tuple[Answer, ...], offline: frozenset[str]) -> Judgement:
    answer = next((each for each in answers if each.network == judgement.network), None)
    if judgement.action is not WifiAction.PROMPT:
        return judgement
    if answer is None:
        return replace(judgement, rule=Rule.OFFLINE) if judgement.ifname in offline else judgement
    return replace(judgement, action=answer.action, rule=answer.rule)


def keep(answers: tuple[Answer, ...], judgements: tuple[Judgement, ...], intent: Intent) -> tuple[Answer, ...]:
    """The answers that hold from now on: also those of a Wi-Fi network that may be back in a moment.

    A cable that was pulled out says nothing about the network at its other end when it is back.
    """
    here = {each.network: each.action for each in judgements}
    unsure = not here or None in here.values()
    kept = {each.network: each for each in answers}
    for each in intent.answers:
        gone = unsure and "/" in each.network and each.network not in here
        if gone or here.get(each.network, WifiAction.PROMPT) is None:
            kept.setdefault(each.network, each)
    return tuple(kept[network] for network in sorted(kept))
