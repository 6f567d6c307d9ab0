"""Timing one call, or several kinds of call in turn so that a drift of the machine hits all alike."""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bench.figures import Sample, sample
from bench.runner import Run

Call = Callable[[], Awaitable[Any]]


@dataclass(frozen=True)
class Timing:
    """What one kind of call took, on the clock and of this process's processor time."""

    wall: Sample
    cpu: Sample


async def timed(call: Callable[..., Awaitable[Any]], *args: Any, **named: Any) -> float:
    """Seconds that the call took."""
    began = time.perf_counter()
    await call(*args, **named)
    return time.perf_counter() - began


async def in_turn(run: Run, calls: Mapping[str, Call], rounds: int, warmup: int) -> dict[str, Timing]:
    """Each call once per round; what the first rounds took is not counted.

    Shuffled within the round, always alike: a call that follows an expensive one pays for cold caches.
    """
    order, dice = list(calls), random.Random(1)
    wall: dict[str, list[float]] = {name: [] for name in calls}
    cpu: dict[str, list[float]] = {name: [] for name in calls}
    for index in range(warmup + rounds):
        dice.shuffle(order)
        for name in order:
            spent = time.process_time()
            took = await timed(calls[name])
            if index >= warmup:
                wall[name].append(took)
                cpu[name].append(time.process_time() - spent)
        run.step()
    return {name: Timing(sample(wall[name]), sample(cpu[name])) for name in calls}
