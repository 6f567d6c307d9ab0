"""Runs what is due, writes the log of invocations, and clears away what is old."""

from __future__ import annotations

from typing import Any

from brolly.core.worker import Worker
from brolly.deps import Deps
from brolly.functions.cron import keep_running
from brolly.functions.logs import keep_flushing
from brolly.functions.outbox import keep_delivering


async def end_functions(deps: Deps, app: Any) -> None:
    """The app is gone, and its process with all that runs in it."""
    if app is not None:
        await deps.deno.forget(app.id)


def workers(deps: Deps) -> list[Worker]:
    """The loops of functions."""

    async def log() -> None:
        await keep_flushing(deps)

    async def clock() -> None:
        await keep_running(deps)

    async def events() -> None:
        await keep_delivering(deps)

    return [Worker("function log", log), Worker("function cron", clock), Worker("function events", events)]
