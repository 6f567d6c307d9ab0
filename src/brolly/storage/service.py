"""What is done with files: room for one and a link to send it, a link to get it, rename, copy, delete."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, TypeVar
from uuid import UUID

from pydantic import Field
from pydantic.json_schema import SkipJsonSchema

from brolly.core.caller import Caller
from brolly.core.errors import AppError
from brolly.core.times import iso
from brolly.core.tool import AppParams
from brolly.deps import Deps
from brolly.registry import App
from brolly.storage.access import COLUMNS, File, Visit, file_of, files_of, find, find_own, missing, read_id, visit
from brolly.storage.images import LONGEST_SIDE, Change, Fit, Format, variant
from brolly.storage.listing import shown
from brolly.storage.names import file_name, folder_name
from brolly.storage.removal import remove
from brolly.storage.reservations import LINK_SECONDS, reserve, settle, wish

P = TypeVar("P", bound=AppParams)
Core = Callable[[Visit, P], Awaitable[dict[str, Any]]]

DOWNLOAD_SECONDS = 3600
LARGEST_PUT = 5 * 2**30
"""What an S3 takes in one PUT; larger files come in parts."""
MAX_DELETED = 1000


class UploadUrl(AppParams):
    """Parameters of upload_url."""

    filename: str = Field(min_length=1, max_length=1000)
    content_type: str
    size_bytes: int = Field(gt=0, le=2**60)
    public: bool = False
    # Taken, but not told of: the list of tools has to stay short, and the tool's page says it.
    folder: SkipJsonSchema[str] = ""
    sha256: SkipJsonSchema[str | None] = Field(None, pattern=r"^[0-9a-f]{64}$")


class ObjectRef(AppParams):
    """Parameters of what concerns one file."""

    object_id: str = Field(max_length=200)


class DownloadUrl(ObjectRef):
    """Parameters of download_url. ``download``: saved as a file, also what a browser could show.

    The rest asks for a picture in another size or format.
    """

    download: SkipJsonSchema[bool] = False
    expires_in: SkipJsonSchema[int] = Field(DOWNLOAD_SECONDS, ge=1, le=7 * 24 * 3600)
    width: SkipJsonSchema[int] = Field(default=0, ge=1, le=LONGEST_SIDE)
    height: SkipJsonSchema[int] = Field(default=0, ge=1, le=LONGEST_SIDE)
    fit: SkipJsonSchema[Fit] = "cover"
    format: SkipJsonSchema[Format | Literal[""]] = ""
    quality: SkipJsonSchema[int] = Field(default=80, ge=1, le=100)

    def change(self) -> Change | None:
        """The picture that is asked for, if it is not the file as it is."""
        if not self.model_fields_set & {"width", "height", "format", "quality"}:
            return None
        return Change(self.width, self.height, self.fit, self.format, self.quality)


class UpdateFile(ObjectRef):
    """Parameters of update; what is left out stays."""

    filename: str | None = None
    folder: str | None = None
    public: bool | None = None


class DeleteFiles(AppParams):
    """Parameters of delete_many."""

    object_ids: list[str] = Field(min_length=1, max_length=MAX_DELETED)


def for_key(core: Core[P]) -> Callable[[Deps, Caller, P], Awaitable[dict[str, Any]]]:
    """The action as a service key runs it."""

    async def run(deps: Deps, caller: Caller, params: P) -> dict[str, Any]:
        return await core(await visit(deps, caller, params.app_id), params)

    return run


async def create_upload(at: Visit, params: UploadUrl) -> dict[str, Any]:
    """Reserve a file and sign a link for its bytes. Without them it disappears when its time is over."""
    wanted = wish(
        at.app, params.filename, params.content_type, params.size_bytes, params.folder, params.public, params.sha256
    )
    if wanted.size_bytes > LARGEST_PUT:
        raise AppError(
            "QUOTA_FILE_SIZE_EXCEEDED",
            f"One PUT takes {LARGEST_PUT} bytes at most.",
            remediation="Send larger files in parts, as butterbase_docs explains under storage.",
            details={"limit_bytes": LARGEST_PUT},
        )
    file, room = await reserve(at, wanted)
    digest = bytes.fromhex(params.sha256) if params.sha256 else None
    try:
        link = at.deps.blob.presign_put(
            file.key(at.app),
            content_type=file.content_type,
            size=file.size_bytes,
            expires_s=LINK_SECONDS,
            sha256=digest,
        )
    except AppError:
        await remove(at.deps, at.app, [file.id])
        raise
    expires_at = file.expires_at or link.expires_at
    return {
        "upload_url": link.url,
        "uploadUrl": link.url,
        "method": link.method,
        "headers": dict(link.headers),
        "object_id": str(file.id),
        "objectId": str(file.id),
        "objectKey": file.key(at.app),
        "expires_at": iso(expires_at),
        "expiresIn": LINK_SECONDS,
        "_meta": {"resource_info": room},
    }


async def present(at: Visit, object_id: str) -> File:
    """The file, with its bytes there; raises as for one that does not exist while none have come."""
    file = await find(at, object_id)
    # With an S3 nobody tells when bytes have come: whoever asks first finds out.
    ready = await settle(at.deps, at.app, file)
    if ready is None and not at.may_change(file):
        raise missing(object_id)
    if ready is None:
        raise AppError(
            "RESOURCE_NOT_FOUND",
            f"The file {file.id} was reserved, but its bytes have not come.",
            remediation="PUT them to the upload_url of manage_storage upload_url first, with the same Content-Type.",
        )
    return ready


async def create_download(at: Visit, params: DownloadUrl) -> dict[str, Any]:
    """Sign a link to a file's bytes, for whoever may see it."""
    file = await present(at, params.object_id)
    change = params.change()
    if change is None:
        url = download_link(at.deps, at.app, file, params.expires_in, save=params.download)
        facts: dict[str, Any] = {
            "filename": file.filename,
            "content_type": file.content_type,
            "size_bytes": file.size_bytes,
        }
    else:
        made = await variant(at, file, change)
        facts = {"filename": made.filename, "content_type": made.content_type}
        inline = not params.download
        url = at.deps.blob.presign_get(made.key, expires_s=params.expires_in, inline=inline, **facts)
    return {
        "download_url": url,
        "downloadUrl": url,
        **facts,
        "expiresIn": params.expires_in,
        "expires_at": iso(datetime.now(UTC) + timedelta(seconds=params.expires_in)),
    }


def download_link(deps: Deps, app: App, file: File, seconds: int = DOWNLOAD_SECONDS, *, save: bool = False) -> str:
    """The signed link; shown in the page only if it is of a type that cannot run anything, else saved."""
    return deps.blob.presign_get(
        file.key(app), expires_s=seconds, filename=file.filename, content_type=file.content_type, inline=not save
    )


async def get_file(at: Visit, params: ObjectRef) -> dict[str, Any]:
    """What is known of a file."""
    file = await find(at, params.object_id)
    if not at.may_change(file):
        file = await present(at, params.object_id)
    return {"untrusted": True, **shown(at.app, await settle(at.deps, at.app, file) or file)}


async def complete_upload(at: Visit, params: ObjectRef) -> dict[str, Any]:
    """Say that the bytes were sent, so that the file is ready at once. Needless, but sooner with an S3."""
    await find_own(at, params.object_id)
    return {"untrusted": True, **shown(at.app, await present(at, params.object_id))}


async def update_file(at: Visit, params: UpdateFile) -> dict[str, Any]:
    """Rename a file, move it to another folder, make it public or not. Its id and bytes stay."""
    file = await find_own(at, params.object_id)
    if params.filename is None and params.folder is None and params.public is None:
        raise AppError("VALIDATION_MISSING_FIELD", "Nothing to change: filename, folder and public are all missing.")
    async with files_of(at.deps, at.app) as connection:
        row = await connection.fetchrow(
            "update storage.objects set filename = coalesce($2, filename), folder = coalesce($3, folder), "
            "public = coalesce($4, public), updated_at = now() where id = $1 and status <> 'deleting' "
            f"returning {COLUMNS}",
            file.id,
            None if params.filename is None else file_name(params.filename),
            None if params.folder is None else folder_name(params.folder),
            params.public,
        )
    if row is None:
        raise missing(params.object_id)
    return {"untrusted": True, **shown(at.app, file_of(row))}


async def copy_file(at: Visit, params: UpdateFile) -> dict[str, Any]:
    """Copy a file that the caller may see; the copy is the caller's own."""
    at.require_sender()
    source = await present(at, params.object_id)
    wanted = wish(
        at.app,
        source.filename if params.filename is None else params.filename,
        source.content_type,
        source.size_bytes,
        source.folder if params.folder is None else params.folder,
        params.public is True,
        source.sha256,
    )
    copy, _ = await reserve(at, wanted)
    try:
        stat = await at.deps.blob.copy(source.key(at.app), copy.key(at.app))
        ready = await settle(at.deps, at.app, copy, stat)
    except AppError:
        await remove(at.deps, at.app, [copy.id])
        raise
    if ready is None:
        raise missing(params.object_id)
    return {"untrusted": True, **shown(at.app, ready)}


async def delete_file(at: Visit, params: ObjectRef) -> dict[str, Any]:
    """Delete a file for good. Repeated after the store was down, it finishes."""
    found = await _own(at, [params.object_id])
    if not found:
        raise missing(params.object_id)
    await remove(at.deps, at.app, [file.id for file in found])
    return {"deleted": True, "object_id": str(found[0].id)}


async def delete_files(at: Visit, params: DeleteFiles) -> dict[str, Any]:
    """Delete many files; those that do not exist, or are not the caller's, are told apart by nothing."""
    found = await _own(at, params.object_ids)
    await remove(at.deps, at.app, [file.id for file in found])
    gone = {str(file.id) for file in found}
    return {
        "deleted": len(gone),
        "object_ids": [each for each in dict.fromkeys(params.object_ids) if each.lower() in gone],
        "missing": [each for each in dict.fromkeys(params.object_ids) if each.lower() not in gone],
    }


async def _own(at: Visit, object_ids: list[str]) -> list[File]:
    """Those that exist and are the caller's to delete; half deleted ones too, so that deleting bears repetition."""
    ids = list[UUID]()
    for each in object_ids:
        try:
            ids.append(read_id(each))
        except AppError:
            continue
    async with files_of(at.deps, at.app) as connection:
        rows = await connection.fetch(f"select {COLUMNS} from storage.objects where id = any($1)", ids)
    return [file for file in map(file_of, rows) if at.may_change(file)]


async def what_delete_loses(deps: Deps, caller: Caller, params: ObjectRef) -> str | None:
    """The question before a file is deleted."""
    file = await find(await visit(deps, caller, params.app_id), params.object_id)
    return (
        f"Delete the file {file.folder}{file.filename} ({file.size_bytes:,} bytes) for good? "
        "Rows that hold its id keep it, and links to it end."
    )


async def upload_link(deps: Deps, app: App, caller: Caller, **wanted: Any) -> dict[str, Any]:
    """The capability of that name: as upload_url, for another feature, in the caller's place."""
    return await create_upload(Visit(deps, app, caller), UploadUrl(app_id=app.id, **wanted))


async def download_link_for(deps: Deps, app: App, caller: Caller, object_id: str) -> dict[str, Any]:
    """The capability ``download_link``: as download_url, for another feature, in the caller's place."""
    return await create_download(
        Visit(deps, app, caller), DownloadUrl(app_id=app.id, object_id=object_id, expires_in=DOWNLOAD_SECONDS)
    )


async def count_files(deps: Deps, app: App) -> tuple[int, int]:
    """The capability of that name: how many files an app has, and their bytes."""
    async with files_of(deps, app) as connection:
        row = await connection.fetchrow("select files, bytes from storage.usage")
    return row["files"], row["bytes"]


async def file_facts(deps: Deps, app: App, caller: Caller, object_id: str) -> dict[str, Any]:
    """The capability of that name: what is known of a file that this caller may read, and where its bytes are."""
    file = await present(Visit(deps, app, caller), object_id)
    facts = {name: getattr(file, name) for name in ("id", "filename", "content_type", "size_bytes", "etag")}
    return {**facts, "key": file.key(app)}
