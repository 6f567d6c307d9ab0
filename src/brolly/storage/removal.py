"""A file's way out: nobody sees it any more, then its bytes go, then its row. Each step bears repetition."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import anyio

from brolly.deps import Deps
from brolly.registry import App
from brolly.storage import schedule
from brolly.storage.access import files_of
from brolly.storage.names import app_prefix, object_key

RESUME_SECONDS = 30
"""When the worker takes up a removal that its process did not finish."""
AT_ONCE = 8

_MARK = "update storage.objects set status = 'deleting', updated_at = now() where id = any($1) and status <> 'deleting'"
_FORGET = (
    "with gone as (delete from storage.objects where id = any($1) and status = 'deleting' returning size_bytes), "
    "sums as (select coalesce(sum(size_bytes), 0)::bigint as bytes, count(*) as files from gone) "
    "update storage.usage u set bytes = u.bytes - sums.bytes, files = u.files - sums.files from sums "
    "where sums.files > 0"
)


async def remove(deps: Deps, app: App, ids: Sequence[UUID]) -> None:
    """Remove files with all that was made of them. Raises ``S3_ERROR`` when the store is down: then they are
    gone for everybody, the quota keeps their room, and the worker or another call finishes.
    """
    if not ids:
        return
    await schedule.due(deps, app.id, RESUME_SECONDS)
    async with files_of(deps, app) as connection:
        await connection.execute(_MARK, ids)
    await finish(deps, app, ids)


async def finish(deps: Deps, app: App, ids: Sequence[UUID]) -> None:
    """Remove the bytes, then the rows, of files that are marked."""
    gone: list[UUID] = []
    errors: list[Exception] = []
    room = anyio.CapacityLimiter(AT_ONCE)

    async def bytes_of(object_id: UUID) -> None:
        async with room:
            try:
                await deps.blob.delete_prefix(object_key(app.id, object_id))
            except Exception as error:
                errors.append(error)
            else:
                gone.append(object_id)

    async with anyio.create_task_group() as group:
        for object_id in ids:
            group.start_soon(bytes_of, object_id)
    if gone:
        async with files_of(deps, app) as connection:
            await connection.execute(_FORGET, gone)
    if errors:
        raise errors[0]


async def remove_all(deps: Deps, app: App) -> None:
    """The app is deleted: its bytes go. What a link that is still good brings later, the worker removes."""
    await schedule.gone(deps, app.id)
    await deps.blob.delete_prefix(app_prefix(app.id))
