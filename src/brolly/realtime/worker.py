"""Tends the apps that record changes: trims what is old, puts back triggers that were lost."""

from __future__ import annotations

import logging

import anyio

from brolly.core.errors import AppError
from brolly.core.worker import Worker
from brolly.deps import Deps
from brolly.pg.databases import REALTIME_ROLE
from brolly.pg.session import as_platform
from brolly.realtime.service import repair
from brolly.registry import App

log = logging.getLogger("brolly.realtime")

LOOK_SECONDS = 5.0
AT_ONCE = 20
IDLE_TIMES = 10
"""How many times longer the pause is for an app in which nothing changes."""
_BATCH = 5_000

_DUE = (
    "update brolly.realtime_work set due_at = now() + make_interval(secs => $1) where app_id in "
    "(select app_id from brolly.realtime_work where due_at <= now() order by due_at limit $2 for update skip locked) "
    "returning app_id"
)
_NEWEST_OLD = (
    "select taken_at from realtime.marks where taken_at < clock_timestamp() - make_interval(secs => $1) "
    "order by taken_at desc limit 1"
)
# Before it trims: a reader who looks in between must know that something may be missing.
_TO_TRIM = "update realtime.marks set trimmed = true where taken_at = $1"
_TRIM = (
    "delete from realtime.changes c where (c.transaction, c.id) in (select o.transaction, o.id "
    "from realtime.changes o, realtime.marks m where m.taken_at = $1 and o.transaction < pg_snapshot_xmax(m.snapshot) "
    "and pg_visible_in_snapshot(o.transaction, m.snapshot) limit $2)"
)
# Numbers of another cluster, from which the database was copied; here nobody has got that far.
_FOREIGN = "delete from realtime.changes where transaction >= pg_snapshot_xmax(pg_current_snapshot())"


def pause_of(deps: Deps) -> float:
    """How often an app is tended."""
    return max(deps.settings.realtime_retention / 5, LOOK_SECONDS)


def workers(deps: Deps) -> list[Worker]:
    """One loop; of several replicas, one at a time tends an app."""

    async def run() -> None:
        while True:
            if await tend_due(deps) < AT_ONCE:
                await anyio.sleep(LOOK_SECONDS)

    return [Worker("realtime", run)]


async def tend_due(deps: Deps) -> int:
    """Tend the apps for which it is time; how many these were."""
    rows = await deps.control.fetch(_DUE, pause_of(deps), AT_ONCE)
    for row in rows:
        await tend(deps, row["app_id"])
    return len(rows)


async def tend(deps: Deps, app_id: str) -> None:
    """Trim what is old, put back what was lost."""
    app = await deps.registry.find(app_id)
    if app is None or app.status != "ready":
        return
    try:
        if not await trim(deps, app):
            await deps.control.execute(
                "update brolly.realtime_work set due_at = now() + make_interval(secs => $2) where app_id = $1",
                app_id,
                pause_of(deps) * IDLE_TIMES,
            )
        if repaired := await repair(deps, app):
            log.warning("app %s: put back the triggers of %s", app_id, ", ".join(repaired))
    except AppError as error:
        # One database that does not answer must not keep the others waiting.
        log.warning("changes of app %s: %s", app_id, error.message)


async def trim(deps: Deps, app: App) -> bool:
    """Remove what has been there to be seen for longer than the retention; whether there is anything else."""
    async with as_platform(deps.pools.door(app), REALTIME_ROLE) as connection:
        await connection.execute("insert into realtime.marks default values")
        await connection.execute(_FOREIGN)
        mark = await connection.fetchval(_NEWEST_OLD, float(deps.settings.realtime_retention))
        if mark is not None:
            await connection.execute(_TO_TRIM, mark)
            await connection.execute("delete from realtime.marks where taken_at < $1", mark)
    while mark is not None:
        async with as_platform(deps.pools.door(app), REALTIME_ROLE, durable=False) as connection:
            done = await connection.execute(_TRIM, mark, _BATCH)
        if int(done.rpartition(" ")[2]) < _BATCH:
            break
    async with as_platform(deps.pools.door(app), REALTIME_ROLE) as connection:
        return await connection.fetchval("select exists (select from realtime.changes)")
