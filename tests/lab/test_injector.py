"""The fault injector counts what was done, also where two changes run at a time."""

from __future__ import annotations

import pytest

from lab.fault_injector import Injector


class Died(Exception):
    """Instead of SIGKILL."""


class Immortal(Injector):
    def _die(self, number: int, what: str) -> None:
        raise Died(f"{number}: {what}")


@pytest.mark.parametrize("moment", ["before", "after"])
def test_it_dies_although_the_change_with_that_number_fails_beside_another(moment: str) -> None:
    injector = Immortal(2, moment, later=False)

    def do() -> None:
        with injector.change("first"):
            pass
        failing, other = injector.change("fails"), injector.change("beside it")
        failing.__enter__()
        other.__enter__()
        assert not failing.__exit__(OSError, OSError(), None)
        other.__exit__(None, None, None)

    with pytest.raises(Died):
        do()
