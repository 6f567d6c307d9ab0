"""What is kept of what was deployed, and how the rest goes: rows first, then contents that nothing names."""

from __future__ import annotations

import logging

from brolly.deps import Deps
from brolly.hosting.names import app_of_namespace, namespace
from brolly.registry import App

log = logging.getLogger("brolly.hosting")

TOUCHED_SECONDS = 3600
"""For how long a content that nothing names is kept after a deployment asked for it, which may still be at work:
none lasts that long."""
FAILED_HOURS = 72
BATCH = 500

_OLD = (
    "with kept as (select id from brolly.deployments where app_id = $1 and status = 'READY' "
    "order by completed_at desc, id limit $2) "
    "delete from brolly.deployments d where d.app_id = $1 and d.status = 'READY' "
    "and d.id not in (select id from kept) "
    "and not exists (select 1 from brolly.sites s where d.id in (s.deployment_id, s.former_id)) "
    "returning upload_key"
)
_FAILED = (
    "delete from brolly.deployments where "
    "(status in ('ERROR', 'CANCELED') and updated_at < now() - make_interval(hours => $1)) "
    "or (status = 'WAITING' and upload_expires_at < now() - make_interval(hours => $1)) returning upload_key"
)
_UNUSED = (
    "delete from brolly.site_blobs b using (select id from brolly.site_blobs c "
    "where c.touched_at < now() - make_interval(secs => $1) "
    "and not exists (select 1 from brolly.deployment_files f where f.blob_id = c.id) "
    "limit $2 for update skip locked) as unused where b.id = unused.id returning b.key"
)


async def keep_newest(deps: Deps, app: App) -> None:
    """Drop the app's oldest finished deployments; the live one and the one before it always stay."""
    rows = await deps.control.fetch(_OLD, app.id, deps.settings.deployments_kept)
    await deps.blob.delete([row["upload_key"] for row in rows if row["upload_key"]])


async def sweep(deps: Deps) -> int:
    """Remove what failed or was never sent some days ago, and contents that no deployment names; how many of these.

    The row of a content goes first, and its key is never used again: who deploys the same content meanwhile waits
    for the row, makes a new one and brings the bytes anew. What dies in between leaves bytes, found by ``strays``.
    """
    rows = await deps.control.fetch(_FAILED, FAILED_HOURS)
    await deps.blob.delete([row["upload_key"] for row in rows if row["upload_key"]])
    count = 0
    while True:
        rows = await deps.control.fetch(_UNUSED, float(TOUCHED_SECONDS), BATCH)
        await deps.blob.delete([row["key"] for row in rows])
        count += len(rows)
        if len(rows) < BATCH:
            return count


async def strays(deps: Deps) -> int:
    """Remove bytes that no row names, some time after they were written; how many."""
    count = 0
    for name in await deps.blob.namespaces():
        app_id = app_of_namespace(name)
        if app_id is None:
            continue
        if await deps.registry.find(app_id) is None:
            count += await deps.blob.delete_prefix(f"{name}/")
            continue
        count += await _strays_of(deps, app_id)
    return count


async def _strays_of(deps: Deps, app_id: str) -> int:
    now = await deps.control.fetchval("select now()")
    old = [
        each.key
        async for each in deps.blob.listing(f"{namespace(app_id)}/")
        if (now - each.modified).total_seconds() > TOUCHED_SECONDS
    ]
    unknown: list[str] = []
    for start in range(0, len(old), BATCH):
        rows = await deps.control.fetch(
            "select key from unnest($1::text[]) as k(key) "
            "where not exists (select 1 from brolly.site_blobs b where b.key = k.key) "
            "and not exists (select 1 from brolly.deployments d where d.upload_key = k.key)",
            old[start : start + BATCH],
        )
        unknown += [row["key"] for row in rows]
    if unknown:
        await deps.blob.delete(unknown)
        log.info("removed %s objects that no deployment of app %s names", len(unknown), app_id)
    return len(unknown)


async def remove_all(deps: Deps, app: App) -> None:
    """The app is deleted: its rows go with its own, its bytes here."""
    await deps.blob.delete_prefix(f"{namespace(app.id)}/")
