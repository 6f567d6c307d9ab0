"""Looks after files: reservations that ran out, removals that were interrupted, orphans, open uploads."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta

import anyio

from brolly.core.errors import AppError
from brolly.core.worker import Worker
from brolly.deps import Deps
from brolly.pg.locks import advisory_lock
from brolly.registry import App
from brolly.storage import schedule
from brolly.storage.access import COLUMNS, file_of, files_of
from brolly.storage.names import app_prefix
from brolly.storage.removal import finish
from brolly.storage.reservations import GRACE_SECONDS, announce, settle
from brolly.storage.schedule import Work
from brolly.storage.sweep import sweep

log = logging.getLogger("brolly.storage")

PAUSE_SECONDS = 10
RETRY_SECONDS = 60
SWEEP_EVERY = timedelta(days=1)
TIDY_SECONDS = 3600
BATCH = 200
LINKS_END = timedelta(hours=2)
"""After which no link to send bytes to is good any more, with an upload in progress."""


def workers(deps: Deps) -> list[Worker]:
    """One loop; of several replicas, one at a time looks after an app."""

    async def run() -> None:
        tidied = -TIDY_SECONDS
        while True:
            if anyio.current_time() - tidied >= TIDY_SECONDS:
                tidied = anyio.current_time()
                await tidy(deps)
            for work in await schedule.next_due(deps):
                await tend(deps, work)
            await anyio.sleep(PAUSE_SECONDS)

    return [Worker("storage", run)]


async def tidy(deps: Deps) -> None:
    """Remove what killed processes have left half written in the store."""
    try:
        await deps.blob.tidy()
    except AppError as error:
        log.warning("the object store was not tidied: %s", error.message)


async def tend(deps: Deps, work: Work) -> None:
    """Do what is due for one app, unless another replica does."""
    async with (
        deps.control.acquire() as connection,
        advisory_lock(connection, f"storage {work.app_id}", wait=False) as held,
    ):
        if not held:
            return
        try:
            await _tend(deps, work)
        except AppError as error:
            # A store or database that is down must not keep the other apps waiting.
            log.warning("files of app %s: %s; again in %s s", work.app_id, error.message, RETRY_SECONDS)
            await schedule.done(deps, work.app_id, _in(RETRY_SECONDS), swept=False)


async def _tend(deps: Deps, work: Work) -> None:
    app = await deps.registry.find(work.app_id)
    if app is None:
        await _clear(deps, work)
        return
    if app.status != "ready":
        await schedule.done(deps, app.id, _in(RETRY_SECONDS), swept=False)
        return
    more = await settle_expired(deps, app)
    more = await finish_removals(deps, app) or more
    more = await announce_again(deps, app) or more
    swept = not more and (work.swept_at is None or work.swept_at < datetime.now(UTC) - SWEEP_EVERY)
    if swept:
        await sweep(deps, app)
    again = _in(RETRY_SECONDS) if more else await _again(deps, app, datetime.now(UTC) if swept else work.swept_at)
    if again is None:
        await schedule.forget(deps, app.id)
    else:
        await schedule.done(deps, app.id, again, swept=swept)


def _in(seconds: float) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)


async def _clear(deps: Deps, work: Work) -> None:
    """The app is gone: remove its bytes now, and once more when no link can bring any."""
    await deps.blob.delete_prefix(app_prefix(work.app_id))
    # swept_at is when it was first cleared after the app's end.
    if work.swept_at is not None and work.swept_at < datetime.now(UTC) - LINKS_END:
        await schedule.forget(deps, work.app_id)
    else:
        await schedule.done(deps, work.app_id, _in(LINKS_END.total_seconds() + 60), swept=True)


async def settle_expired(deps: Deps, app: App) -> bool:
    """Drop reservations whose time is over and for which no bytes came; whether there are more."""
    async with files_of(deps, app) as connection:
        rows = await connection.fetch(
            f"select {COLUMNS} from storage.objects where status = 'pending' "
            "and expires_at < now() - make_interval(secs => $1) order by expires_at limit $2",
            float(GRACE_SECONDS),
            BATCH,
        )
    for row in rows:
        file = file_of(row)
        if await settle(deps, app, file) is None:
            async with files_of(deps, app) as connection:
                # Not when its time was extended, or its bytes came, meanwhile.
                expired = await connection.fetchval(
                    "update storage.objects set status = 'deleting', updated_at = now() where id = $1 "
                    "and status = 'pending' and expires_at < now() - make_interval(secs => $2) returning true",
                    file.id,
                    float(GRACE_SECONDS),
                )
            if expired:
                await finish(deps, app, [file.id])
    return len(rows) == BATCH


async def finish_removals(deps: Deps, app: App) -> bool:
    """Take up removals that were interrupted; whether there are more."""
    async with files_of(deps, app) as connection:
        rows = await connection.fetch(
            "select id from storage.objects where status = 'deleting' "
            "and updated_at < now() - interval '20 s' limit $1",
            BATCH,
        )
    await finish(deps, app, [row["id"] for row in rows])
    return len(rows) == BATCH


async def announce_again(deps: Deps, app: App) -> bool:
    """Tell of files whose arrival did not reach who listens; whether there are more."""
    if "object_uploaded" not in deps.capabilities:
        return False
    async with files_of(deps, app) as connection:
        rows = await connection.fetch(
            f"select {COLUMNS} from storage.objects where status = 'ready' and announced_at is null "
            "and uploaded_at < now() - interval '30 s' order by uploaded_at limit $1",
            BATCH,
        )
    for row in rows:
        await announce(deps, app, file_of(row))
    return len(rows) == BATCH


async def _again(deps: Deps, app: App, swept_at: datetime | None) -> datetime | None:
    """When there is something to do next: None for an app without files."""
    async with files_of(deps, app) as connection:
        row = await connection.fetchrow(
            "select (select min(expires_at) from storage.objects where status = 'pending') as expires, "
            "exists (select 1 from storage.objects where status = 'deleting') as deleting, "
            "exists (select 1 from storage.objects) or exists (select 1 from storage.orphans) as any"
        )
    if row["deleting"]:
        return _in(RETRY_SECONDS)
    times = [swept_at + SWEEP_EVERY] if row["any"] and swept_at else []
    if row["expires"] is not None:
        times.append(row["expires"] + timedelta(seconds=GRACE_SECONDS + 1))
    return min(times) if times else None
