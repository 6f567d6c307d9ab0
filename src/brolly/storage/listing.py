"""Lists of files: newest first in pages, by folder as in a file manager, with filters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal
from uuid import UUID

import anyio
from pydantic import Field
from pydantic.json_schema import SkipJsonSchema

from brolly.core.errors import AppError
from brolly.core.page_cursor import read_cursor, write_cursor
from brolly.core.times import iso
from brolly.core.tool import AppParams
from brolly.pg.pool import Connection
from brolly.registry import App
from brolly.storage.access import COLUMNS, File, Visit, file_of, files_of
from brolly.storage.names import folder_name
from brolly.storage.reservations import settle, usage

MAX_FOLDERS = 1000
LOOKED_UP = 100
"""Pending files of one page that the store is asked about; the worker asks about the others."""
AT_ONCE = 8


class ListFiles(AppParams):
    """Parameters of list. With ``folder`` only what is directly in it, and the folders there."""

    # Taken, but not told of: the list of tools has to stay short, and the tool's page says it.
    limit: SkipJsonSchema[int] = Field(100, ge=1, le=1000)
    cursor: SkipJsonSchema[str | None] = None
    folder: SkipJsonSchema[str | None] = None
    prefix: SkipJsonSchema[str | None] = None
    user_id: SkipJsonSchema[str | None] = None
    content_type: SkipJsonSchema[str | None] = None
    status: SkipJsonSchema[Literal["pending", "ready"] | None] = None


def shown(app: App, file: File) -> dict[str, Any]:
    """A file as callers see it. The key is where the bytes are in the store; it is no URL."""
    return {
        "id": str(file.id),
        "object_id": str(file.id),
        "user_id": file.user_id,
        "key": file.key(app),
        "object_key": file.key(app),
        "folder": file.folder,
        "filename": file.filename,
        "content_type": file.content_type,
        "size_bytes": file.size_bytes,
        "public": file.public,
        "status": file.status,
        "etag": file.etag,
        "sha256": file.sha256,
        "created_at": iso(file.created_at),
        "uploaded_at": iso(file.uploaded_at),
    }


async def list_files(at: Visit, params: ListFiles) -> dict[str, Any]:
    """The caller's files: a user's own, for a service key everybody's."""
    at.require_sender()
    where, args = _conditions(at, params)
    rest = list(args)
    if params.cursor is not None:
        rest += read_cursor(
            params.cursor, remediation="Call manage_storage list without cursor, then with each next_cursor."
        )
        where = [*where, f"(created_at, id) < (${len(rest) - 1}, ${len(rest)})"]
    async with files_of(at.deps, at.app) as connection:
        rows = await connection.fetch(
            f"select {COLUMNS} from storage.objects where {' and '.join(where)} "
            f"order by created_at desc, id desc limit ${len(rest) + 1}",
            *rest,
            params.limit + 1,
        )
        folders = [] if params.folder is None or params.cursor else await _folders(connection, at, params.folder)
    files = [file_of(row) for row in rows[: params.limit]]
    answer: dict[str, Any] = {
        "untrusted": True,
        "objects": [shown(at.app, file) for file in await _settled(at, files)],
        "next_cursor": write_cursor(files[-1].created_at, files[-1].id) if len(rows) > params.limit else None,
    }
    if params.folder is not None:
        answer["folders"] = folders
    answer["_meta"] = {"resource_info": await usage(at)}
    if at.who.kind == "service" and (problems := await _problems(at)):
        answer["_meta"]["problems"] = problems
    return answer


def _conditions(at: Visit, params: ListFiles) -> tuple[list[str], list[Any]]:
    where, args = ["status <> 'deleting'"], list[Any]()

    def add(condition: str, value: Any) -> None:
        args.append(value)
        where.append(condition.replace("?", f"${len(args)}"))

    if at.who.kind == "user":
        add("user_id = ?", at.user_id)
    elif params.user_id is not None:
        add("user_id = ?", params.user_id)
    if params.folder is not None:
        add("folder = ?", folder_name(params.folder))
    if params.prefix is not None:
        add('starts_with(folder || filename, ? collate "C")', params.prefix.lstrip("/"))
    if params.content_type is not None:
        kind = params.content_type.lower()
        family = kind.endswith("/*")
        add("starts_with(lower(content_type), ?)" if family else "lower(content_type) = ?", kind.removesuffix("*"))
    if params.status is not None:
        add("status = ?", params.status)
    return where, args


async def _folders(connection: Connection, at: Visit, folder: str) -> list[str]:
    """The folders directly in this one that hold files of the caller's, in order: one index probe for each."""
    top = folder_name(folder)
    own = "and user_id = $3" if at.who.kind == "user" else "and $3::text is null"
    # Two slashes cannot follow each other in a folder, and 0 is the character after the slash.
    probe = (
        'select folder from storage.objects where folder collate "C" >= {after} and starts_with(folder, $1) '
        f"and folder <> $1 and status <> 'deleting' {own} order by folder collate \"C\" limit 1"
    )
    name = "$1 || split_part(substr({0}, length($1) + 1), '/', 1)"
    rows = await connection.fetch(
        f"with recursive found(name) as ((select {name.format('f.folder')} from ({probe.format(after='$1')}) f) "
        f"union all select {name.format('n.folder')} from found, lateral "
        f"({probe.format(after='(found.name || 0::text)')}) n) select name from found limit $2",
        top,
        MAX_FOLDERS,
        at.user_id,
    )
    return [f"{row['name']}/" for row in rows]


async def _settled(at: Visit, files: Sequence[File]) -> list[File]:
    """The page, with the pending files whose bytes have come meanwhile as ready."""
    found: dict[UUID, File | None] = {}
    room = anyio.CapacityLimiter(AT_ONCE)

    async def look(file: File) -> None:
        async with room:
            found[file.id] = await settle(at.deps, at.app, file) or file

    waiting = [file for file in files if file.status == "pending"][:LOOKED_UP]
    try:
        async with anyio.create_task_group() as group:
            for file in waiting:
                group.start_soon(look, file)
    except* AppError:
        # A store that is down must not hide what is known: these stay pending.
        pass
    return [found.get(file.id) or file for file in files]


async def _problems(at: Visit) -> dict[str, int]:
    """What the last sweep found, for the owner: a later one removes it."""
    async with files_of(at.deps, at.app) as connection:
        row = await connection.fetchrow(
            "select (select count(*) from storage.orphans) as bytes_without_file, "
            "(select count(*) from storage.objects where missing_since is not null) as files_without_bytes"
        )
    return {name: count for name, count in dict(row).items() if count}
