"""From a folder of finished files to the live site: contents into the store, the list into Postgres, then the switch.

Nothing of the former deployment is touched before the switch, which is one row's change; whoever dies before it has
changed nothing that anybody sees, and doing it again does the same.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import anyio
from anyio import to_thread

from brolly.blob.store import CHUNK
from brolly.core.errors import AppError
from brolly.deps import Deps
from brolly.hosting import retention
from brolly.hosting.archive import BadArchiveError, Bounds
from brolly.hosting.compress import ENCODINGS, Packed, digest, is_worth_packing, pack
from brolly.hosting.deployments import COLUMNS, LEASE_SECONDS, Deployment, deployment_of, missing, renew, take_turn
from brolly.hosting.layout import Layout, inspect
from brolly.hosting.media import content_type_of, is_compressible
from brolly.hosting.names import blob_name
from brolly.hosting.rules import RULE_FILES, read_rules
from brolly.pg.pool import Connection
from brolly.registry import App

AT_ONCE = 16
"""Contents on their way to the store: disks bring many to safety in the time of one."""
LARGE, LARGE_AT_ONCE = 1_048_576, 4
_THREADS = anyio.CapacityLimiter(2)
"""Compression takes whole processors: some are left for requests."""

_TAKE = (
    # A content that a sweep is just removing is made anew, under another key.
    "insert into brolly.site_blobs as b (app_id, sha256, key, size) "
    "select $1, * from unnest($2::bytea[], $3::text[], $4::bigint[]) "
    "on conflict (app_id, sha256) do update set touched_at = now() "
    "returning id, sha256, key, stored_at is not null as stored"
)
_STORED = (
    "update brolly.site_blobs b set size = s.size, br_size = s.br, gzip_size = s.gzip, zstd_size = s.zstd, "
    "stored_at = now() from unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[]) "
    "as s(id, size, br, gzip, zstd) where b.id = s.id"
)

_HELD = (
    "select coalesce(sum(size + coalesce(br_size, 0) + coalesce(gzip_size, 0) + coalesce(zstd_size, 0)), 0)::bigint "
    "from brolly.site_blobs b where app_id = $1 and (id = any($2::bigint[]) "
    "or exists (select 1 from brolly.deployment_files f where f.blob_id = b.id))"
)


@dataclass(frozen=True, slots=True)
class _File:
    """One file of the folder."""

    path: str
    source: Path
    size: int
    sha256: bytes
    content_type: str


def bounds_of(deps: Deps) -> Bounds:
    """How much a deployment may be."""
    return Bounds(deps.settings.deployment_unpacked_mb * 1_048_576, deps.settings.deployment_files)


def room_of(deps: Deps) -> int:
    """How many bytes an app's front ends may be together, compressed forms included."""
    return deps.settings.site_storage_mb * 1_048_576


@asynccontextmanager
async def leased(deps: Deps, deployment: Deployment) -> AsyncGenerator[None]:
    """Tell other processes, as long as the block lasts, that this one works on the deployment."""

    async def keep() -> None:
        while True:
            await anyio.sleep(LEASE_SECONDS / 3)
            await renew(deps, deployment.id)

    errors: list[Exception] = []
    async with anyio.create_task_group() as group:
        group.start_soon(keep)
        try:
            yield
        except Exception as error:
            # Raised below by itself, not in a group of errors.
            errors.append(error)
        finally:
            group.cancel_scope.cancel()
    if errors:
        raise errors[0]


async def publish_folder(deps: Deps, app: App, deployment: Deployment, folder: Path) -> Deployment:
    """Make the folder's files the deployment's, and the deployment the live one, unless a later one is already.

    For a deployment that was begun (``deployments.begin``) and whose lease is held. Raises ``BadArchiveError`` when
    the folder is no site; then nothing was changed, and the caller says so with ``deployments.fail``.
    """
    layout = await to_thread.run_sync(partial(inspect, folder, bounds_of(deps)), limiter=_THREADS)
    rules = await to_thread.run_sync(read_rules, layout.files)
    files = await to_thread.run_sync(_described, layout, limiter=_THREADS)
    ids = await _store(deps, app, files)
    done = await _finish(deps, app, deployment, layout, (files, ids), rules.as_json(), rules.warnings)
    await deps.registry.changed(app.id)
    await retention.keep_newest(deps, app)
    return done


def _described(layout: Layout) -> list[_File]:
    found: list[_File] = []
    for path, source in layout.files.items():
        if path not in RULE_FILES:
            found.append(_File(path, source, source.stat().st_size, digest(source), content_type_of(path)))
    return found


async def _store(deps: Deps, app: App, files: Sequence[_File]) -> Mapping[bytes, int]:
    """Bring what is new into the store; the id of each content by its hash."""
    by_hash = {file.sha256: file for file in files}
    hashes = sorted(by_hash)  # In one order, so that two deployments do not wait for each other in a circle.
    async with deps.control.acquire() as connection, connection.transaction():
        rows = await connection.fetch(
            _TAKE, app.id, hashes, [blob_name(app.id, h) for h in hashes], [by_hash[h].size for h in hashes]
        )
        await _require_room(deps, connection, app, [row["id"] for row in rows])
    errors: list[Exception] = []
    brought: list[tuple[int | None, ...]] = []
    room, large_room = anyio.CapacityLimiter(AT_ONCE), anyio.CapacityLimiter(LARGE_AT_ONCE)

    async def bring(row: Any) -> None:
        # What is compressed is held whole.
        async with large_room if by_hash[row["sha256"]].size > LARGE else room:
            try:
                if not errors:
                    packed = await _bring(deps, row["key"], by_hash[row["sha256"]])
                    sizes = (packed.sizes.get(name) for name in ENCODINGS)
                    brought.append((row["id"], packed.size, *sizes))
            except Exception as error:
                errors.append(error)

    async with anyio.create_task_group() as group:
        for row in rows:
            if not row["stored"]:
                group.start_soon(bring, row)
    if brought:
        await deps.control.execute(_STORED, *map(list, zip(*brought, strict=True)))
    if errors:
        raise errors[0]
    return {row["sha256"]: row["id"] for row in rows}


async def _require_room(deps: Deps, connection: Connection, app: App, more: Sequence[int]) -> None:
    """Raise when the app's front ends would be more than it may have, with these contents; what they are is kept."""
    most = room_of(deps)
    held = await connection.fetchval(_HELD, app.id, more)
    if held > most:
        raise BadArchiveError(
            f"The app's front ends would hold {held} bytes, more than the {most} that it may have. Delete deployments "
            f"that are no longer needed (DELETE /v1/{app.id}/frontend/deployments/{{id}}), leave large files to "
            "manage_storage, or have the operator raise BROLLY_SITE_STORAGE_MB."
        )


async def _bring(deps: Deps, key: str, file: _File) -> Packed:
    packed = Packed(b"", file.size, {})
    if is_worth_packing(file.size, is_compressible(file.content_type)):
        packed = await to_thread.run_sync(pack, file.source, limiter=_THREADS)
        data, size = _once(packed.data), len(packed.data)
    else:
        data, size = _chunks(file.source), file.size
    await deps.blob.write(key, data, content_type="application/octet-stream", size=size)
    return packed


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def _chunks(source: Path) -> AsyncIterator[bytes]:
    async with await anyio.open_file(source, "rb") as file:
        while chunk := await file.read(CHUNK):
            yield chunk


async def _finish(
    deps: Deps,
    app: App,
    deployment: Deployment,
    layout: Layout,
    stored: tuple[Sequence[_File], Mapping[bytes, int]],
    rules: Mapping[str, Any],
    rule_warnings: Sequence[str],
) -> Deployment:
    """The list of files, the new status and the switch, all in one transaction."""
    files, ids = stored
    async with deps.control.acquire() as connection, connection.transaction():
        state = await connection.fetchrow(
            "select status, turn from brolly.deployments where id = $1 and app_id = $2 for update",
            deployment.id,
            app.id,
        )
        if state is None:
            raise missing(deployment.id)
        if state["status"] not in ("UPLOADING", "BUILDING"):
            raise AppError(
                "STATE_INVALID_TRANSITION",
                f"The deployment was {state['status']} before it was finished.",
                remediation="Call create_frontend_deployment for a new one.",
            )
        await connection.execute("delete from brolly.deployment_files where deployment_id = $1", deployment.id)
        await connection.execute(
            "insert into brolly.deployment_files (deployment_id, path, blob_id, content_type) "
            "select $1, * from unnest($2::text[], $3::bigint[], $4::text[])",
            deployment.id,
            [file.path for file in files],
            [ids[file.sha256] for file in files],
            [file.content_type for file in files],
        )
        # Again, one after the other: of two at once both had room for themselves.
        await connection.execute("select 1 from brolly.apps where id = $1 for no key update", app.id)
        await _require_room(deps, connection, app, list(ids.values()))
        row = await connection.fetchrow(
            "update brolly.deployments set status = 'READY', error = null, completed_at = now(), updated_at = now(), "
            "lease_until = null, root = $2, rules = $3, warnings = $4, file_count = $5, total_bytes = $6 "
            f"where id = $1 returning {COLUMNS}",
            deployment.id,
            layout.root,
            json.dumps(rules),
            [*layout.warnings, *rule_warnings],
            len(files),
            sum(file.size for file in files),
        )
        await take_turn(connection, app.id, deployment.id, state["turn"])
    return deployment_of(row)
