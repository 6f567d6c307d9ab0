"""Functions that run by the clock: each time once, whatever the number of servers, and what was missed is told."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from datetime import UTC, datetime

import anyio

from brolly.core.caller import Caller
from brolly.core.errors import AppError
from brolly.core.times import iso
from brolly.deps import Deps
from brolly.functions import invoke
from brolly.functions.schedule import passed
from brolly.functions.store import find_function

log = logging.getLogger("brolly.cron")

LOOK_SECONDS = 1.0
AT_ONCE = 20
LOST_AFTER = "10 minutes"
KEPT_DAYS = 30

_DUE = (
    "select app_id, function_name, schedule, timezone, next_run_at from brolly.cron_triggers "
    "where next_run_at <= $1 order by next_run_at limit $2 for update skip locked"
)
_MOVE = "update brolly.cron_triggers set next_run_at = $3 where app_id = $1 and function_name = $2"
_START = "insert into brolly.cron_runs (app_id, function_name, due_at, missed) values ($1, $2, $3, $4) returning id"
_END = "update brolly.cron_runs set finished_at = now(), status = $2, error = $3 where id = $1"
_LOST = (
    "update brolly.cron_runs set finished_at = now(), error = 'The server ended during this run.' "
    f"where finished_at is null and started_at < now() - interval '{LOST_AFTER}'"
)
_OLD = f"delete from brolly.cron_runs where started_at < now() - interval '{KEPT_DAYS} days'"


@dataclass(frozen=True, slots=True)
class Run:
    """A time at which a function is to run, taken by this process alone. ``missed`` times passed before it."""

    id: int
    app_id: str
    function_name: str
    due_at: datetime
    missed: int


async def take_due(deps: Deps, now: datetime) -> list[Run]:
    """What is due, moved on to its next time in the same transaction: no other process takes it too."""
    async with deps.control.acquire() as connection, connection.transaction():
        runs: list[Run] = []
        for row in await connection.fetch(_DUE, now, AT_ONCE):
            last, coming, missed = passed(row["schedule"], row["timezone"], row["next_run_at"], now)
            await connection.execute(_MOVE, row["app_id"], row["function_name"], coming)
            number = await connection.fetchval(_START, row["app_id"], row["function_name"], last, missed)
            runs.append(Run(number, row["app_id"], row["function_name"], last, missed))
        return runs


async def run_one(deps: Deps, run: Run) -> None:
    """Run it and note how it ended."""
    status: int | None = None
    error: str | None = None
    try:
        status, error = await _call(deps, run)
    except AppError as failure:
        status, error = failure.status, f"{failure.code}: {failure.message}"
    except Exception:
        log.exception("cron %s %s", run.app_id, run.function_name)
        error = "Something went wrong in the server."
    await deps.control.execute(_END, run.id, status, error)


async def _call(deps: Deps, run: Run) -> tuple[int | None, str | None]:
    app = await deps.registry.find(run.app_id)
    if app is None or app.status != "ready":
        return None, "The app is not there."
    if app.paused_at is not None:
        return None, "The app is paused."
    function = await find_function(deps, app, run.function_name)
    trigger = function.trigger("cron")
    if trigger is None:
        return None, "The function has no cron trigger any more."
    told = {"scheduled_at": iso(run.due_at), "missed": run.missed}
    asked = invoke.Asked(
        headers=[("content-type", "application/json"), ("x-trigger-type", "cron")],
        body=json.dumps(told).encode(),
        about=told,
    )
    async with invoke.run(deps, app, function, trigger, Caller("service"), asked) as answer:
        body = await invoke.whole(answer)
    return answer.status, body.decode("utf-8", "replace")[:1000] if answer.status >= 400 else None


async def tidy(deps: Deps) -> None:
    """Mark runs that a server took with it into its end, and forget old ones."""
    await deps.control.execute(_LOST)
    await deps.control.execute(_OLD)


async def keep_running(deps: Deps) -> None:
    """Look once a second for what is due; runs of one function may overlap only if they take longer than its pause."""
    slots = anyio.Semaphore(AT_ONCE)

    async def one(run: Run) -> None:
        try:
            await run_one(deps, run)
        finally:
            slots.release()

    async with anyio.create_task_group() as group:
        looked = 0
        while True:
            if looked % 600 == 0:
                await tidy(deps)
            looked += 1
            for run in await take_due(deps, datetime.now(UTC)):
                await slots.acquire()
                group.start_soon(one, run)
            await anyio.sleep(LOOK_SECONDS)
