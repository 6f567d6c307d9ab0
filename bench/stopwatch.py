"""Timing one call, or several kinds of call in turn so that a drift of the machine hits all alike."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from bench.figures import Sample, sample
from bench.runner import Run

Call = Callable[[], Awaitable[Any]]


async def timed(call: Callable[..., Awaitable[Any]], *args: Any, **named: Any) -> float:
    """Seconds that the call took."""
    began = time.perf_counter()
    await call(*args, **named)
    return time.perf_counter() - began


async def in_turn(run: Run, calls: Mapping[str, Call], rounds: int, warmup: int) -> dict[str, Sample]:
    """Each call once per round, A B C A B C; what the first rounds took is not counted."""
    took: dict[str, list[float]] = {name: [] for name in calls}
    for index in range(warmup + rounds):
        for name, call in calls.items():
            seconds = await timed(call)
            if index >= warmup:
                took[name].append(seconds)
        run.step()
    return {name: sample(values) for name, values in took.items()}
