"""A file's way in: room is reserved, the bytes go straight to the store, the file becomes ready.

Who sends bytes to an S3 does not pass here, so nobody tells when they are there. Therefore every look at
a pending file asks the store, the worker does before it gives up on one, and clients may say so.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from brolly.blob.store import Stat
from brolly.core.errors import AppError
from brolly.deps import Deps
from brolly.pg.pool import Connection
from brolly.registry import App
from brolly.storage import schedule
from brolly.storage.access import COLUMNS, File, Visit, file_of, files_of
from brolly.storage.config import MB, config_of
from brolly.storage.names import declared_type, essence, file_name, folder_name, is_allowed
from brolly.storage.removal import remove

log = logging.getLogger("brolly.storage")

LINK_SECONDS = 900
GRACE_SECONDS = 3600
"""What an upload that began before its link ran out has left to end."""

_RESERVE = (
    # One statement: the row of usage is locked and judged as it then is, whoever else reserves at this moment.
    "with room as (update storage.usage set bytes = bytes + $6, files = files + 1 where bytes + $6 <= $8 "
    "and ($11::bigint is null or $6 + (select coalesce(sum(size_bytes), 0) from storage.objects where user_id = $1) "
    "<= $11) returning bytes, files) "
    "insert into storage.objects (id, user_id, folder, filename, content_type, size_bytes, public, sha256, expires_at) "
    "select coalesce($9, gen_random_uuid()), $1, $2, $3, $4, $6, $5, $10, now() + make_interval(secs => $7) from room "
    f"returning {COLUMNS}, (select bytes from room) as room_bytes, (select files from room) as room_files"
)
# Sums of a user's files are only as new as the statement that reads them, so it begins when its turn has come.
_TURN = "select from storage.usage for update"
_SETTLE = (
    "with was as (select id, size_bytes from storage.objects where id = $1 and status = 'pending' for update), "
    "counted as (update storage.usage u set bytes = u.bytes + $2 - was.size_bytes from was) "
    "update storage.objects o set status = 'ready', size_bytes = $2, etag = $3, "
    "uploaded_at = now(), updated_at = now(), expires_at = null, "
    "announced_at = case when $4 then null else now() end from was where o.id = was.id "
    "returning o.id, o.user_id, o.folder, o.filename, o.content_type, o.size_bytes, o.etag, o.sha256, o.public, "
    "o.status, o.created_at, o.expires_at, o.uploaded_at, o.updated_at"
)


@dataclass(frozen=True, slots=True)
class Wish:
    """A file that somebody wants to send. Checked when it is made: see ``wish``."""

    filename: str
    folder: str
    content_type: str
    size_bytes: int
    public: bool = False
    sha256: str | None = None
    id: UUID | None = None


def wish(
    app: App,
    filename: str,
    content_type: str,
    size_bytes: int,
    folder: str = "",
    public: bool = False,
    sha256: str | None = None,
) -> Wish:
    """The wish, by the app's rules. Raises for what they do not allow, before anything is reserved."""
    rules = config_of(app)
    made = Wish(file_name(filename), folder_name(folder), declared_type(content_type), size_bytes, public, sha256)
    if size_bytes > rules.file_bytes:
        raise AppError(
            "QUOTA_FILE_SIZE_EXCEEDED",
            f"The file has {size_bytes} bytes; this app allows {rules.file_bytes // MB} MB a file.",
            details={"size_bytes": size_bytes, "limit_bytes": rules.file_bytes},
        )
    if not is_allowed(made.content_type, rules.types):
        raise AppError(
            "VALIDATION_INVALID_TYPE",
            f"This app takes no files of type {essence(made.content_type)}.",
            remediation="Send a file of an allowed type, or change allowedContentTypes with manage_storage "
            "update_config.",
            details={"allowed": list(rules.types)},
        )
    return made


async def reserve(at: Visit, wanted: Wish, seconds: int = LINK_SECONDS) -> tuple[File, dict[str, Any]]:
    """A pending file with its room in the quota, and what is used then; it disappears when no bytes come in that time.

    Raises ``QUOTA_STORAGE_EXCEEDED``; any number of reservations at the same moment never exceed a quota.
    """
    at.require_sender()
    rules = config_of(at.app)
    own = rules.user_bytes if at.user_id is not None else None
    # First: a process that dies after the reservation must not leave one that nobody will look at.
    await schedule.due(at.deps, at.app.id, seconds + GRACE_SECONDS)
    async with files_of(at.deps, at.app) as connection:
        if own is not None:
            await connection.execute(_TURN)
        row = await connection.fetchrow(
            _RESERVE,
            at.user_id,
            wanted.folder,
            wanted.filename,
            wanted.content_type,
            wanted.public,
            wanted.size_bytes,
            float(seconds),
            rules.limit_bytes,
            wanted.id,
            wanted.sha256,
            own,
        )
        if row is None:
            raise await _full(connection, at, wanted)
    values = dict(row)
    room = _room(values.pop("room_bytes"), values.pop("room_files"), rules.limit_bytes)
    return file_of(values), room


async def _full(connection: Connection, at: Visit, wanted: Wish) -> AppError:
    """Which quota it was."""
    rules = config_of(at.app)
    row = await connection.fetchrow(
        "select bytes, (select coalesce(sum(size_bytes), 0)::bigint from storage.objects where user_id = $1) as own "
        "from storage.usage",
        at.user_id,
    )
    whose, used, limit = "The app's", row["bytes"], rules.limit_bytes
    if used + wanted.size_bytes <= limit and rules.user_bytes is not None:
        whose, used, limit = "Your", row["own"], rules.user_bytes
    return AppError(
        "QUOTA_STORAGE_EXCEEDED",
        f"{whose} files hold {used} of {limit} bytes; {wanted.size_bytes} more do not fit.",
        details={"used_bytes": used, "limit_bytes": limit, "size_bytes": wanted.size_bytes},
    )


async def usage(at: Visit) -> dict[str, Any]:
    """What the app's files hold together, as the published clients read it."""
    async with files_of(at.deps, at.app) as connection:
        row = await connection.fetchrow("select bytes, files from storage.usage")
    return _room(row["bytes"], row["files"], config_of(at.app).limit_bytes)


def _room(used: int, files: int, limit: int) -> dict[str, Any]:
    return {
        "storage_used_bytes": used,
        "storage_limit_bytes": limit,
        "storage_used_percent": round(100 * used / limit, 2),
        "files_count": files,
    }


async def settle(deps: Deps, app: App, file: File, stat: Stat | None = None) -> File | None:
    """The file as it is when its bytes are there, else None. What is not as declared is removed.

    ``stat`` is what the store has, where it is known already.
    """
    if file.status != "pending":
        return file
    stat = stat or await deps.blob.head(file.key(app))
    if stat is None:
        return None
    if stat.size > file.size_bytes or not stat.size or essence(stat.content_type) != essence(file.content_type):
        # Our stores refuse it themselves; another S3 may not.
        log.warning("upload %s of app %s is not as declared: %s bytes, removed", file.id, app.id, stat.size)
        await remove(deps, app, [file.id])
        return None
    async with files_of(deps, app) as connection:
        listens = "object_uploaded" in deps.capabilities
        row = await connection.fetchrow(_SETTLE, file.id, stat.size, stat.etag, listens)
        if row is None:
            # Somebody else settled it, or it was deleted meanwhile.
            row = await connection.fetchrow(
                f"select {COLUMNS} from storage.objects where id = $1 and status = 'ready'", file.id
            )
            return file_of(row) if row else None
    ready = file_of(row)
    await announce(deps, app, ready)
    return ready


async def arrived(deps: Deps, key: str, stat: Stat) -> bool:
    """Bytes came through this server, whole: their file is ready. False when there is none for them any more."""
    app_id, _, name = key.partition("/")
    app = await deps.registry.find(app_id)
    if app is None or app.status != "ready":
        return False
    async with files_of(deps, app) as connection:
        # A link may be used again while it is good; the bytes are then replaced, as in any S3.
        row = await connection.fetchrow(
            "update storage.objects set etag = case when status = 'ready' then $2 else etag end "
            f"where id = $1 and status <> 'deleting' returning {COLUMNS}",
            UUID(name),
            stat.etag,
        )
    return row is not None and await settle(deps, app, file_of(row), stat) is not None


async def announce(deps: Deps, app: App, file: File) -> None:
    """Tell the slice that listens (capability ``object_uploaded``); the worker repeats what did not reach it."""
    tell = deps.capabilities.get("object_uploaded")
    if tell is None:
        return
    try:
        await tell(deps, app, described(app, file))
    except AppError as error:
        log.warning("file %s of app %s could not be announced: %s", file.id, app.id, error.message)
        await schedule.due(deps, app.id, 60)
        return
    async with files_of(deps, app) as connection:
        await connection.execute("update storage.objects set announced_at = now() where id = $1", file.id)


def described(app: App, file: File) -> dict[str, Any]:
    """A file as it is told to another feature."""
    return {
        "object_id": str(file.id),
        "key": file.key(app),
        "user_id": file.user_id,
        "folder": file.folder,
        "filename": file.filename,
        "content_type": file.content_type,
        "size_bytes": file.size_bytes,
        "public": file.public,
    }
