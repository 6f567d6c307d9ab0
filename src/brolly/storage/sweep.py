"""Compares an app's files with what the store holds. What does not fit is reported first, and removed later."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

from brolly.blob.store import Listed
from brolly.core.audit_event import AuditEvent
from brolly.core.caller import anonymous
from brolly.deps import Deps
from brolly.registry import App
from brolly.storage.access import files_of
from brolly.storage.names import app_prefix
from brolly.storage.removal import remove

log = logging.getLogger("brolly.storage")

BATCH = 1000
BYTES_DAYS = 1
"""For how long bytes that no file names are kept after they were reported."""
FILES_DAYS = 7
"""For how long a file is listed after its bytes were found missing."""

_UNKNOWN = (
    "select key, size from unnest($1::text[], $2::uuid[], $3::bigint[]) as k(key, id, size) "
    "where not exists (select 1 from storage.objects o where o.id = k.id)"
)
_REPORT_BYTES = (
    "insert into storage.orphans (key, size_bytes) select * from unnest($1::text[], $2::bigint[]) "
    "on conflict (key) do nothing returning key"
)
_REPORT_FILES = (
    # What came after the listing began is not missing.
    "update storage.objects set missing_since = coalesce(missing_since, now()) "
    "where status = 'ready' and uploaded_at < $4 and ($1::uuid is null or id > $1) and ($2::uuid is null or id <= $2) "
    "and id <> all($3) and missing_since is null returning id"
)


@dataclass(frozen=True, slots=True)
class Findings:
    """What a sweep found: bytes without a file and files without bytes; ``new`` since the last, ``removed`` by this."""

    new_bytes: int = 0
    new_files: int = 0
    removed_bytes: int = 0
    removed_files: int = 0
    objects: int = 0

    def __bool__(self) -> bool:
        return any((self.new_bytes, self.new_files, self.removed_bytes, self.removed_files))


async def sweep(deps: Deps, app: App) -> Findings:
    """Go through all the app's objects in the store and all its files, both in order, a batch at a time."""
    found = Findings()
    async with files_of(deps, app) as connection:
        began = await connection.fetchval("select now()")
    after: UUID | None = None
    async with aclosing(_batches(deps, app)) as batches:
        async for batch, last in batches:
            upto = None if last else _id_of(batch[-1].key)
            ids = [i for i in (_id_of(each.key) for each in batch) if i is not None]
            found = replace(found, objects=found.objects + len(batch))
            async with files_of(deps, app) as connection:
                rows = await connection.fetch(
                    _UNKNOWN,
                    [each.key for each in batch],
                    [_id_of(each.key) for each in batch],
                    [each.size for each in batch],
                )
                if rows:
                    new = await connection.fetch(_REPORT_BYTES, [r["key"] for r in rows], [r["size"] for r in rows])
                    found = replace(found, new_bytes=found.new_bytes + len(new))
                # An empty store means another store, not that all is lost: then nothing is missing.
                if found.objects:
                    await connection.execute(
                        "update storage.objects set missing_since = null "
                        "where id = any($1) and missing_since is not null",
                        ids,
                    )
                    gone = await connection.fetch(_REPORT_FILES, after, upto, ids, began)
                    found = replace(found, new_files=found.new_files + len(gone))
            after = upto
    found = await _remove_reported(deps, app, found)
    await _drop_uploads(deps, app)
    if found:
        await _tell(deps, app, found)
    return found


def _id_of(key: str) -> UUID | None:
    """The object to which the bytes under a key belong, be it as something made of it."""
    try:
        return UUID(key.partition("/")[2].partition(".")[0])
    except ValueError:
        return None


async def _batches(deps: Deps, app: App) -> AsyncGenerator[tuple[list[Listed], bool]]:
    """The listing in batches, each with whether it is the last; one object's own keys stay together."""
    batch: list[Listed] = []
    async for each in deps.blob.listing(app_prefix(app.id)):
        if len(batch) >= BATCH and _id_of(each.key) != _id_of(batch[-1].key):
            yield batch, False
            batch = []
        batch.append(each)
    yield batch, True


async def _remove_reported(deps: Deps, app: App, found: Findings) -> Findings:
    """Remove what an earlier sweep reported and is still as it was then."""
    async with files_of(deps, app) as connection:
        rows = await connection.fetch(
            "select key from storage.orphans where found_at < now() - make_interval(days => $1) limit $2",
            BYTES_DAYS,
            BATCH,
        )
        files = await connection.fetch(
            "select id from storage.objects where missing_since < now() - make_interval(days => $1) limit $2",
            FILES_DAYS,
            BATCH,
        )
        # Somebody may have made the file known again.
        keys = [row["key"] for row in rows]
        known = await connection.fetch(
            "select key from unnest($1::text[], $2::uuid[]) as k(key, id) "
            "where exists (select 1 from storage.objects o where o.id = k.id)",
            keys,
            [_id_of(key) for key in keys],
        )
    unknown = sorted({*keys} - {row["key"] for row in known})
    if unknown:
        await deps.blob.delete(unknown)
    await remove(deps, app, [row["id"] for row in files])
    if keys:
        async with files_of(deps, app) as connection:
            await connection.execute("delete from storage.orphans where key = any($1)", keys)
    return replace(found, removed_bytes=len(unknown), removed_files=len(files))


async def _drop_uploads(deps: Deps, app: App) -> None:
    """Drop uploads in parts that belong to no file which still waits for its bytes."""
    long_ago = datetime.now(UTC) - timedelta(days=BYTES_DAYS)
    old = [each for each in await deps.blob.open_multiparts(app_prefix(app.id)) if each.started < long_ago]
    async with files_of(deps, app) as connection:
        rows = await connection.fetch(
            "select id from storage.objects where id = any($1) and status = 'pending'",
            [_id_of(each.key) for each in old],
        )
    waiting = {row["id"] for row in rows}
    for each in old:
        if _id_of(each.key) not in waiting:
            await deps.blob.abort_multipart(each.key, each.upload_id)


async def _tell(deps: Deps, app: App, found: Findings) -> None:
    facts = {name: getattr(found, name) for name in ("new_bytes", "new_files", "removed_bytes", "removed_files")}
    log.warning("files of app %s: %s", app.id, facts)
    await deps.record(
        AuditEvent(
            account_id=app.account_id,
            app_id=app.id,
            category="admin",
            event_type="storage.sweep",
            action="delete" if found.removed_bytes or found.removed_files else "read",
            resource_type="storage",
            resource_id=None,
            caller=anonymous(),
            event_data=facts,
            success=True,
            error_message=None,
            durable=True,
        )
    )
