"""What is wanted (`policies.decide.Intent`), as the JSON that is kept of it."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

from policies.decision import Answer, Intent, Manual, Rule
from policies.servers import parse_choice
from policies.settings_tables import WifiAction
from policies.states import Target


def to_json(intent: Intent) -> str:
    """What of it outlives a restart."""
    lasting = tuple(each for each in intent.answers if each.rule is Rule.ANSWER)  # the others follow from the rules
    return json.dumps(asdict(replace(intent, answers=lasting)))


def from_json(text: str) -> Intent:
    """Back, also from what earlier versions kept. Raises ValueError, TypeError, LookupError, AttributeError."""
    values = json.loads(text)
    manual = values.pop("manual")
    target = Target(values.pop("target"))
    chosen = Manual(Target(manual["choice"]), str(manual["network"])) if manual is not None else None
    answers = tuple(
        Answer(str(each["network"]), WifiAction(each["action"]), Rule(each["rule"]))
        for each in values.pop("answers", ())  # earlier versions kept none
    )
    servers = tuple((str(profile), str(choice)) for profile, choice in values.pop("servers", ()))
    for _, choice in servers:
        parse_choice(choice)
    intent = Intent(target=target, manual=chosen, answers=answers, servers=servers, **values)
    if not isinstance(intent.kill_switch, bool) or not isinstance(intent.lockdown, bool):
        raise ValueError("kill_switch and lockdown must be true or false")
    if not isinstance(intent.profile, str | None):
        raise ValueError("profile must be a name or null")
    return intent
