"""What both fuzz tests need: what fits a method, and what a process holds."""

from __future__ import annotations

import asyncio
import inspect
import os
import resource
from collections.abc import Sequence

from ipc.access import Access, Caller
from ipc.describe import BASES, Method, methods
from tests.ipc.fake_service import FakeService

PYTHON = {name: cls for cls, name in BASES.items()}
FUNCTIONS = {method.function: method for method in methods().values()}


def check_calls(calls: Sequence[tuple[str, Caller, tuple[object, ...]]], most: Access) -> None:
    """All that reached the service is allowed, and of the types and sizes that the interface says."""
    for function, caller, values in calls:
        method = FUNCTIONS[function]
        given = _by_name(method, caller, values)
        assert method.access_for(given) <= most, (function, values)
        for field in method.parameters:
            value = given[field.name]
            if value is None:
                assert field.type.nullable or not field.required, (function, field.name)
                continue
            assert type(value) is PYTHON[field.type.base], (function, field.name, value)
            if isinstance(value, str):
                assert "\0" not in value
                assert field.longest is None or len(value.encode()) <= field.longest
                assert not field.choices or value in field.choices


def _by_name(method: Method, caller: Caller, values: tuple[object, ...]) -> dict[str, object]:
    bound = inspect.signature(getattr(FakeService, method.function)).bind(None, caller, *values)
    bound.apply_defaults()
    return dict(bound.arguments)


def held() -> tuple[int, int]:
    """Descriptors and tasks of this process and its loop."""
    return len(os.listdir("/proc/self/fd")), len(asyncio.all_tasks())


def peak() -> int:
    """MiB that were ever resident."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
