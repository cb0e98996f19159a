"""Hints are taken once, everything else in its order."""

from __future__ import annotations

from daemon.inbox import Inboxed, LinksHint, TamperHint, WifiHint, coalesced
from policies.states import Cause, Changed, Failed


def test_hints_are_taken_once_and_everything_else_in_order() -> None:
    failed = Failed(Cause.FIREWALL_FAILED)
    batch: list[Inboxed] = [LinksHint(), Changed(), LinksHint(), WifiHint(), failed, Changed(), WifiHint()]
    assert coalesced(list(batch)) == [LinksHint(), Changed(), WifiHint(), failed, Changed()]


def test_a_hint_about_others_is_not_lost_behind_one_about_ourselves() -> None:
    ours, theirs = TamperHint("by us"), TamperHint("by others", foreign=True)
    assert coalesced([ours, LinksHint(), theirs, ours]) == [theirs, LinksHint()]
    assert coalesced([theirs, ours]) == [theirs]
    assert coalesced([ours, ours]) == [ours]
