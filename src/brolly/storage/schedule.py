"""Which app's files the worker looks after next (control table ``storage_work``)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from brolly.deps import Deps

_DUE = (
    "insert into brolly.storage_work (app_id, due_at) values ($1, now() + make_interval(secs => $2)) "
    # Mostly something is due sooner already: then nothing is written.
    "on conflict (app_id) do update set due_at = excluded.due_at where storage_work.due_at > excluded.due_at"
)


@dataclass(frozen=True, slots=True)
class Work:
    """An app whose time has come. ``swept_at`` is when its files were last compared with the store."""

    app_id: str
    swept_at: datetime | None


async def due(deps: Deps, app_id: str, seconds: float) -> None:
    """Have the app looked after in that time, or sooner."""
    await deps.control.execute(_DUE, app_id, float(seconds))


async def gone(deps: Deps, app_id: str) -> None:
    """The app is deleted: have what is left of its bytes removed, as if they had never been looked at."""
    await deps.control.execute(
        "insert into brolly.storage_work (app_id, due_at) values ($1, now()) "
        "on conflict (app_id) do update set due_at = now(), swept_at = null",
        app_id,
    )


async def next_due(deps: Deps) -> list[Work]:
    """The apps whose time has come, the longest waiting first."""
    rows = await deps.control.fetch(
        "select app_id, swept_at from brolly.storage_work where due_at <= now() order by due_at limit 100"
    )
    return [Work(row["app_id"], row["swept_at"]) for row in rows]


async def done(deps: Deps, app_id: str, again: datetime, *, swept: bool) -> None:
    """Look again then."""
    await deps.control.execute(
        "update brolly.storage_work set due_at = $2, swept_at = case when $3 then now() else swept_at end "
        "where app_id = $1",
        app_id,
        again,
        swept,
    )


async def forget(deps: Deps, app_id: str) -> None:
    """Nothing is left to look after."""
    await deps.control.execute("delete from brolly.storage_work where app_id = $1", app_id)
