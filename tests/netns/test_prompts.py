"""N9 with the real daemon: nothing leaves while people are asked; answers, deaths, deadlines do what they say."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest

from ipc.errors import Error, ServiceError
from ipc.interface import NAME, PATH
from ipc.structs import Prompt
from lab.bus import BusClient
from lab.probes import exit_address
from lab.processes import Process
from lab.subject import CLI, SETTINGS, Subject
from lab.topology import Laboratory
from tests.netns.conftest import Layers

pytestmark = pytest.mark.netns

ASKS = SETTINGS.replace('unsecured = "auto_connect"', 'unsecured = "prompt"\nprompt_fallback = "ignore"')
WAIT = 20.0


class Terminal:
    """Somebody who runs `tunwarden prompts`."""

    def __init__(self, subject: Subject) -> None:
        self.process: Process = subject.lab.laptop.start(CLI, "prompts", stdin=subprocess.PIPE)
        self.process.wait_output("Waiting for questions", WAIT)

    def types(self, line: str) -> None:
        os.write(self.process.stdin, f"{line}\n".encode())

    def reads(self, text: str) -> None:
        self.process.wait_output(text, WAIT)


@pytest.fixture
def asks(lab: Laboratory) -> Iterator[Subject]:
    """The daemon with `unsecured = "prompt"`, started, the profile imported; nothing is joined yet."""
    subject = Subject(lab, ASKS)
    subject.start(20)
    subject.set_up()
    yield subject
    assert subject.process is not None
    assert "Traceback" not in subject.process.output(), subject.process.output()


def waiting(subject: Subject) -> Prompt:
    deadline = time.monotonic() + WAIT
    while time.monotonic() < deadline:
        with subject.client() as client:
            if prompts := client.waiting_prompts():
                (prompt,) = prompts
                return prompt
        time.sleep(0.01)
    raise AssertionError(f"nobody is asked: {subject.status()}")


def test_nothing_leaves_while_people_are_asked(layers: Layers, sealed: Any) -> None:
    """N8, N9, N10: held from the association until the answer, and from there in the tunnel."""
    subject = layers(ASKS)
    lab = subject.lab
    person = Terminal(subject)
    with sealed(bound=layers.name != "routing"):
        lab.join("cafe")
        prompt = waiting(subject)
        person.reads("Nothing leaves over it until then.")
        time.sleep(1.0)  # of traffic against the hold
        status = subject.status()
        assert (status.state, status.blocking, status.networks[0].action) == ("held", True, "prompt")
        assert (prompt.network.verdict, prompt.network.cleared, prompt.held) == ("unsecured", False, True)
        person.types("connect")
        subject.wait("connected", WAIT)
        person.reads("answered, the VPN is used")
    if layers.name != "firewall":  # which lets into the tunnel, but does not lead there
        assert exit_address(lab.laptop, lab.plan.internet4) == lab.plan.server4


def test_used_without_the_vpn_by_an_answer_until_another_network_comes(asks: Subject, sealed: Any) -> None:
    lab = asks.lab
    bus = BusClient(lab.laptop)
    try:
        bus.wait_owned(NAME)  # its socket answers first
        bus.call(NAME, PATH, f"{NAME}.Prompts.Watch", "")  # an agent of the desktop
        lab.join("cafe")
        prompt = waiting(asks)
        assert asks.status().state == "held"
        asks.cli("prompts", "answer", prompt.id, "ignore")
        asks.wait("idle", WAIT)
        assert exit_address(lab.laptop, lab.plan.internet4) == lab.plan.cafe_uplink.host4(2)
        with asks.client() as client, pytest.raises(ServiceError, match="answered already") as late:
            client.answer_prompt(prompt.id, "auto_connect")
        assert late.value.error is Error.NO_SUCH_PROMPT
        lab.leave()
        lab.join("cafe")  # the same network: not asked again
        asks.wait(lambda status: status.state == "idle" and bool(status.networks), WAIT)
        asks.kill()
        asks.start(20)
        assert asks.wait("idle", WAIT).networks[0].rule == "answer to the prompt", "the next daemon knows the answer"
        bus.wait_owned(NAME)  # its socket answers first
        bus.call(NAME, PATH, f"{NAME}.Prompts.Watch", "")
        lab.leave()
        with sealed():
            lab.join("cafe", ssid=b"Another Cafe")
            assert waiting(asks).network.ssid == "Another Cafe"
    finally:
        bus.close()


@pytest.mark.parametrize("fallback, state", [("ignore", "idle"), ("auto_connect", "connected")])
def test_the_last_agent_is_killed_and_the_fallback_applies(
    lab: Laboratory, sealed: Any, fallback: str, state: str
) -> None:
    subject = Subject(lab, ASKS.replace('prompt_fallback = "ignore"', f'prompt_fallback = "{fallback}"'))
    subject.start(20)
    subject.set_up()
    people = [Terminal(subject), Terminal(subject)]
    with sealed():
        lab.join("cafe")
        waiting(subject)
        people[0].process.kill()
        time.sleep(0.3)
        assert subject.status().state == "held", "somebody is still there to be asked"
    people[1].process.kill()
    status = subject.wait(state, WAIT)
    assert status.networks[0].rule == "fallback of the prompt: nobody answered"


def test_the_deadline_ends_the_hold(lab: Laboratory) -> None:
    subject = Subject(lab, ASKS.replace("[tunnel]", 'prompt_timeout = "5s"\n\n[tunnel]'))
    subject.start(20)
    subject.set_up()
    person = Terminal(subject)
    lab.join("cafe")
    person.reads("Nothing leaves over it until then.")
    person.reads("nobody answered, the network is used without the VPN")
    assert subject.wait("idle", WAIT).networks[0].cleared


def test_not_held_while_asking_if_so_set(lab: Laboratory) -> None:
    subject = Subject(lab, ASKS.replace("[tunnel]", "hold_while_asking = false\n\n[tunnel]"))
    subject.start(20)
    subject.set_up()
    person = Terminal(subject)
    lab.join("cafe")
    prompt = waiting(subject)
    assert exit_address(lab.laptop, lab.plan.internet4) == lab.plan.cafe_uplink.host4(2)
    assert not prompt.held
    person.types("connect always")
    subject.wait("connected", WAIT)
    with subject.client() as client:
        (known,) = (each for each in client.list_known() if each.source == "user")
    assert (known.security, known.action) == ("open", "auto_connect")
    lab.leave()
    lab.join("cafe")
    assert subject.wait("connected", WAIT).networks[0].rule == "rule of the known network"
