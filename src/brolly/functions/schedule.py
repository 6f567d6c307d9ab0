"""When functions run by the clock: their next time, the times that passed, and what was run."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from cronsim import CronSim

from brolly.core.times import iso
from brolly.deps import Deps
from brolly.functions.triggers import TriggerParams
from brolly.registry import App

MOST_MISSED = 1000
_HISTORY = (
    "select due_at, started_at, finished_at, status, error, missed from brolly.cron_runs "
    "where app_id = $1 and function_name = $2 order by id desc limit $3"
)
_NEXT = "select next_run_at from brolly.cron_triggers where app_id = $1 and function_name = $2"


def next_time(schedule: str, timezone: str, after: datetime) -> datetime:
    """When the schedule comes next, in UTC."""
    return next(CronSim(schedule, after.astimezone(ZoneInfo(timezone)))).astimezone(UTC)


def passed(schedule: str, timezone: str, due: datetime, now: datetime) -> tuple[datetime, datetime, int]:
    """The last time that has come, the next one, and how many between ``due`` and the last were missed."""
    times = CronSim(schedule, due.astimezone(ZoneInfo(timezone)))
    last, missed = due, 0
    for coming in times:
        at = coming.astimezone(UTC)
        if at > now:
            return last, at, missed
        last, missed = at, missed + 1
        if missed >= MOST_MISSED:
            # Far behind: go on from now rather than count on.
            times = CronSim(schedule, now.astimezone(ZoneInfo(timezone)))
            return last, next(times).astimezone(UTC), missed
    raise ValueError(f"the schedule {schedule!r} ends")


async def set_schedule(deps: Deps, app: App, name: str, triggers: Sequence[TriggerParams]) -> None:
    """Note when the function is due next; a schedule that stays keeps its time."""
    cron = next((t for t in triggers if t.type == "cron" and t.enabled), None)
    if cron is None:
        await deps.control.execute(
            "delete from brolly.cron_triggers where app_id = $1 and function_name = $2", app.id, name
        )
        return
    schedule, timezone = cron.config["schedule"], cron.config["timezone"]
    await deps.control.execute(
        "insert into brolly.cron_triggers as c (app_id, function_name, schedule, timezone, next_run_at) "
        "values ($1, $2, $3, $4, $5) on conflict (app_id, function_name) do update set schedule = excluded.schedule, "
        "timezone = excluded.timezone, next_run_at = case when (c.schedule, c.timezone) = "
        "(excluded.schedule, excluded.timezone) then c.next_run_at else excluded.next_run_at end",
        app.id,
        name,
        schedule,
        timezone,
        next_time(schedule, timezone, datetime.now(UTC)),
    )


async def bring_forward(deps: Deps, app_id: str, name: str) -> bool:
    """Have the function run by the clock now, beside its times; whether it has a clock. A server's worker runs it."""
    sql = "update brolly.cron_triggers set next_run_at = now() where app_id = $1 and function_name = $2 returning 1"
    return await deps.control.fetchval(sql, app_id, name) is not None


async def history(deps: Deps, app: App, name: str, limit: int = 20) -> dict[str, Any]:
    """When the function ran by the clock, newest first, and when it runs next."""
    rows = await deps.control.fetch(_HISTORY, app.id, name, limit)
    coming = await deps.control.fetchval(_NEXT, app.id, name)
    shown = [{k: iso(v) if isinstance(v, datetime) else v for k, v in row.items()} for row in rows]
    return {"nextRun": iso(coming), "runs": shown}
