"""Runs what is due, writes the log of invocations, and clears away what is old."""

from __future__ import annotations

from typing import Any

import anyio

from brolly.core.worker import Worker
from brolly.deps import Deps
from brolly.functions.cron import keep_running
from brolly.functions.logs import keep_flushing
from brolly.functions.outbox import keep_delivering


async def end_functions(deps: Deps, app: Any) -> None:
    """The app is gone, and its process with all that runs in it."""
    if app is not None:
        await deps.deno.forget(app.id)


async def keep_ending(deps: Deps) -> None:
    """End the processes of apps that another server of this installation deleted."""
    told, wake = set(deps.deno.app_ids), anyio.Event()

    def hear(app_id: str) -> None:
        told.update(deps.deno.app_ids if not app_id else [app_id])
        wake.set()

    with deps.registry.watched(hear):
        while True:
            while told:
                app_id = told.pop()
                if app_id in deps.deno.app_ids:
                    app = await deps.registry.find(app_id)
                    if app is None or app.status == "deleting":
                        await deps.deno.forget(app_id)
            await wake.wait()
            wake = anyio.Event()


def workers(deps: Deps) -> list[Worker]:
    """The loops of functions."""

    async def log() -> None:
        await keep_flushing(deps)

    async def clock() -> None:
        await keep_running(deps)

    async def events() -> None:
        await keep_delivering(deps)

    async def ends() -> None:
        await keep_ending(deps)

    return [
        Worker("function log", log),
        Worker("function cron", clock),
        Worker("function events", events),
        Worker("function processes", ends),
    ]
