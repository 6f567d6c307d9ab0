"""Which isolate of a process holds too much of its memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import anyio

from brolly.engines.deno.isolate import Isolate

BASE_MB = 100
"""What a process holds without what its functions at work hold."""
ANSWER_SECONDS = 0.3
"""How long an isolate may take to say what it holds, before it counts as one that never awaits."""
AGAIN_SECONDS = 0.4
"""And when several did not."""


@dataclass(frozen=True, slots=True)
class Heaviest:
    """The isolate, and whether it is ``over`` its own limit without looking at it itself."""

    isolate: Isolate
    over: bool


async def _held_by(isolates: Sequence[Isolate], seconds: float) -> tuple[dict[Isolate, float], list[Isolate]]:
    """What each says that it holds, and which did not say it in time."""
    held: dict[Isolate, float] = {}
    silent: list[Isolate] = []

    async def ask(isolate: Isolate) -> None:
        found = await isolate.memory(seconds)
        if found is None:
            silent.append(isolate)
        held[isolate] = found or 0.0

    async with anyio.create_task_group() as group:
        for isolate in isolates:
            group.start_soon(ask, isolate)
    return held, silent


async def heaviest(at_work: Sequence[Isolate], memory: int) -> Heaviest | None:
    """Each says what it holds; one that cannot, as it never awaits, holds what the others and the process do not."""
    held, silent = await _held_by(at_work, ANSWER_SECONDS)
    if len(silent) > 1:
        # One that never awaits takes the processor from the others, which only answer late.
        more, silent = await _held_by(silent, AGAIN_SECONDS)
        held |= more
    if not held:
        return None
    rest = memory - BASE_MB * 2**20 - sum(held.values())
    worst = silent[0] if silent else max(held, key=lambda isolate: held[isolate])
    return Heaviest(worst, bool(silent) and rest > worst.memory_mb * 2**20)
