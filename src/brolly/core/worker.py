"""Background loops: one protocol, one runner, failures retried with growing pauses."""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import anyio
import anyio.abc

log = logging.getLogger("brolly.worker")

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 60.0


@dataclass(frozen=True, slots=True)
class Worker:
    """A named loop. ``run`` works until cancelled; raising means "start me again later"."""

    name: str
    run: Callable[[], Awaitable[None]]


async def _keep_running(worker: Worker) -> None:
    pause = FIRST_PAUSE
    while True:
        started = anyio.current_time()
        try:
            await worker.run()
            return
        except Exception:
            log.exception("worker %s failed", worker.name)
        if anyio.current_time() - started > LONGEST_PAUSE:
            pause = FIRST_PAUSE
        # Spread restarts, so that several workers do not hit a database that is coming back all at once.
        await anyio.sleep(pause * (0.5 + random.random() / 2))  # noqa: S311
        pause = min(pause * 2, LONGEST_PAUSE)


def start_workers(group: anyio.abc.TaskGroup, workers: Sequence[Worker]) -> None:
    """Run every worker in the task group; cancelling the group ends them."""
    for worker in workers:
        group.start_soon(_keep_running, worker, name=worker.name)
