"""Waiting for somebody's answer, and not longer than a while."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

SLICES = 5


async def within(seconds: float, work: Coroutine[Any, Any, T]) -> T:
    """What `work` comes to, or raises. Raises TimeoutError when it takes longer; then it has been cancelled.

    Where we may not run for a while, the answer waits for us; but a single time limit would be over by then, and it is
    what is looked at before anybody has read the answer. So the time is waited in slices: such a pause takes one.
    """
    task = asyncio.create_task(work)
    try:
        for _ in range(SLICES):
            await asyncio.wait((task,), timeout=seconds / SLICES)
            if task.done():
                return task.result()
        raise TimeoutError
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
