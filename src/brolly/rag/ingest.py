"""Documents come in: from a text, or from a stored file that the caller may read. They are read in the background."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from pydantic import Field, field_validator
from pydantic.json_schema import SkipJsonSchema

from brolly.core.errors import AppError
from brolly.core.progress import Step, follow
from brolly.core.tool import AppParams
from brolly.engines.documents.kinds import kind_by_name
from brolly.pg.pool import Connection
from brolly.pg.queue import enqueue
from brolly.pg.session import as_caller
from brolly.rag.access import Collection, Visit, find_collection, rag_of
from brolly.rag.chunk_table import vector_type
from brolly.rag.documents import COLUMNS, Document, document_of, missing_document, read_id

JOB = "rag_document"
LARGEST_FILE = 100 * 1024 * 1024
MOST_METADATA = 16_000
KINDS = "PDF, TXT, MD, CSV, HTML, DOCX, XLSX, PPTX"

_INSERT = (
    "insert into rag.documents (id, collection_id, user_id, filename, content_type, source_type, storage_object_id, "
    "source_text, size_bytes, content_hash, metadata) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11::jsonb)"
)
_REPLACE = (
    "update rag.documents set filename = $2, content_type = $3, source_type = $4, storage_object_id = $5, "
    "source_text = $6, size_bytes = $7, content_hash = $8, metadata = $9::jsonb, status = 'pending', "
    "revision = revision + 1, attempts = 0, claim = null, error_code = null, error_message = null, chunks_done = 0, "
    "chunks_total = null, updated_at = now() where id = $1 returning revision"
)
_READ = f"select {COLUMNS} from rag.documents where id = $1"
_SAME = (
    f"select {COLUMNS} from rag.documents where collection_id = $1 and content_hash = $2 and filename = $3 "
    "and metadata = $4::jsonb and user_id is not distinct from $5 and status <> 'failed' order by created_at limit 1"
)
# One document of a user's at a time: each is counted before the next one is.
_USER_LOCK = "select pg_advisory_xact_lock(hashtextextended('brolly-rag-user ' || $1, 0))"
_USED = (
    "select count(*) as documents, coalesce(sum(size_bytes) filter (where status <> 'failed'), 0)::bigint as bytes "
    "from rag.documents where user_id = $1"
)


class Ingest(AppParams):
    """Parameters of ingest_document."""

    collection: str = Field(min_length=1, max_length=100)
    text: str | None = None
    storage_object_id: str | None = Field(None, max_length=200)
    metadata: dict[str, Any] | None = None
    # Not told of in the list of tools, which has to stay short; the tool's page says it.
    filename: SkipJsonSchema[str | None] = Field(None, max_length=300)
    document_id: SkipJsonSchema[str | None] = Field(None, max_length=64)

    @field_validator("metadata")
    @classmethod
    def _metadata(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        text = json.dumps(value or {})
        if len(text) > MOST_METADATA:
            raise ValueError(f"at most {MOST_METADATA} characters as JSON")
        if "\\u0000" in text:
            raise ValueError("a text in it holds a zero byte")
        return value


@dataclass(frozen=True, slots=True)
class Source:
    """What is to be read. ``digest`` is the same for the same bytes."""

    filename: str
    content_type: str | None
    type: str
    object_id: UUID | None
    text: str | None
    size: int
    digest: str


async def ingest_document(at: Visit, params: Ingest) -> dict[str, Any]:
    """Take a document in. The same content is not taken in twice; with ``document_id`` it replaces that document's."""
    collection = await find_collection(at.deps, at.app, params.collection)
    source = await _source(at, params)
    metadata = json.dumps(params.metadata or {})
    await _require_entry(at, collection, params.metadata or {})
    async with rag_of(at.deps, at.app) as connection:
        if at.user_id is not None:
            await connection.execute(_USER_LOCK, at.user_id)
        if params.document_id is not None:
            document_id, revision = await _replaced(at, connection, collection, source, metadata, params.document_id)
        else:
            same = await connection.fetchrow(_SAME, collection.id, source.digest, source.filename, metadata, at.user_id)
            if same is not None:
                return _answer(collection, document_of(same), duplicate=True)
            document_id, revision = uuid4(), 1
            await connection.execute(_INSERT, document_id, collection.id, at.user_id, *_values(source), metadata)
        await _require_room(at, connection)
        # Before the row is there for others: should this process end between the two, a job that finds no row does
        # no harm, while a row without a job would wait for ever.
        payload = {"app_id": at.app.id, "document_id": str(document_id), "revision": revision}
        await enqueue(at.deps.control, JOB, payload)
        row = await connection.fetchrow(_READ, document_id)
    return _answer(collection, await _followed(at, document_of(row)))


async def _followed(at: Visit, document: Document) -> Document:
    """The document when it has been read, if somebody wants to hear of the progress; else as it is."""
    now = document

    async def look() -> Step:
        nonlocal now
        async with rag_of(at.deps, at.app) as connection:
            row = await connection.fetchrow(_READ, document.id)
        if row is None:
            return Step(True, "deleted")
        now = document_of(row)
        over = now.status not in ("pending", "processing")
        return Step(over, f"{now.filename}: {now.status}", now.chunks_done, now.chunks_total)

    await follow(look)
    return now


async def _require_room(at: Visit, connection: Connection) -> None:
    """Raise where a user has more than one may have, with what has just been put in."""
    if at.user_id is None:
        return
    settings = at.deps.settings
    used = await connection.fetchrow(_USED, at.user_id)
    assert used is not None  # noqa: S101 - it counts
    if used["documents"] > settings.rag_user_documents or used["bytes"] > settings.rag_user_mb * 1_048_576:
        raise AppError(
            "QUOTA_STORAGE_EXCEEDED",
            f"One user may have {settings.rag_user_documents:,} documents of {settings.rag_user_mb:,} MB together.",
            remediation="Delete some with manage_rag_content delete_document, or let the operator raise "
            "BROLLY_RAG_USER_DOCUMENTS or BROLLY_RAG_USER_MB.",
            details={"documents": used["documents"], "bytes": used["bytes"]},
        )


def _values(source: Source) -> tuple[Any, ...]:
    return (
        source.filename, source.content_type, source.type, source.object_id, source.text, source.size, source.digest,
    )  # fmt: skip


def _answer(collection: Collection, document: Document, *, duplicate: bool = False) -> dict[str, Any]:
    identity = str(document.id)
    told = {
        "document_id": identity,
        "documentId": identity,
        "status": document.status,
        "collection": collection.name,
    }
    if document.status == "failed":
        told["error_message"] = document.error_message or ""
    return {**told, "duplicate": True} if duplicate else told


async def _replaced(
    at: Visit, connection: Connection, collection: Collection, source: Source, metadata: str, document_id: str
) -> tuple[UUID, int]:
    """The document's id and its new revision. What it had before is searched until the new content is ready."""
    wanted = read_id(document_id)
    row = await connection.fetchrow(
        "select user_id from rag.documents where id = $1 and collection_id = $2 for update", wanted, collection.id
    )
    if row is None or (not at.is_service and row["user_id"] != at.user_id):
        raise missing_document(document_id)
    revision = await connection.fetchval(_REPLACE, wanted, *_values(source), metadata)
    await connection.execute("delete from rag.staged_chunks where document_id = $1", wanted)
    return wanted, revision


async def _source(at: Visit, params: Ingest) -> Source:
    if (params.text is None) == (params.storage_object_id is None):
        raise AppError(
            "VALIDATION_MISSING_FIELD" if params.text is None else "VALIDATION_INVALID_SCHEMA",
            "A document is read either from text or from storage_object_id: give one of them.",
            remediation="Repeat manage_rag_content ingest_document with text, or with the id of a file that "
            "manage_storage upload_url made room for.",
        )
    source = _of_text(params) if params.text is not None else await _of_file(at, params)
    if source.size > LARGEST_FILE:
        raise AppError(
            "QUOTA_FILE_SIZE_EXCEEDED",
            f"The document has {source.size:,} bytes; at most {LARGEST_FILE:,} are read.",
            remediation="Split it, and give each part to manage_rag_content ingest_document.",
            details={"limit_bytes": LARGEST_FILE},
        )
    if kind_by_name(source.filename, source.content_type) is None:
        raise AppError(
            "VALIDATION_INVALID_TYPE",
            f"{source.filename} ({source.content_type or 'no type'}) is not of a kind that is read: {KINDS}.",
            remediation="Convert it to one of these and repeat manage_rag_content ingest_document; filename may say "
            "what a file without a telling name is.",
        )
    return source


def _of_text(params: Ingest) -> Source:
    text = params.text or ""
    if "\0" in text or not text.strip():
        raise AppError(
            "VALIDATION_INVALID_INPUT",
            "The text is empty, or holds zero bytes.",
            remediation="Repeat manage_rag_content ingest_document with the document's words as text.",
        )
    data = text.encode("utf-8", "replace")
    digest = hashlib.sha256(data).hexdigest()
    return Source(params.filename or "text.md", None, "text", None, data.decode(), len(data), digest)


async def _of_file(at: Visit, params: Ingest) -> Source:
    """The file, if the caller may read it: 404 else, as everywhere."""
    facts = await at.deps.capabilities["file_facts"](at.deps, at.app, at.who, params.storage_object_id)
    digest = f"{facts['etag']}:{facts['size_bytes']}"
    return Source(
        params.filename or facts["filename"],
        facts["content_type"],
        "storage",
        facts["id"],
        None,
        facts["size_bytes"],
        digest,
    )


async def _require_entry(at: Visit, collection: Collection, metadata: dict[str, Any]) -> None:
    """Raise unless the caller may add documents: a service key, users what is their own, in ``custom`` by policy."""
    if at.is_service or collection.access_mode == "private":
        return
    if collection.access_mode == "shared":
        raise AppError(
            "AUTH_FORBIDDEN",
            f"{collection.name} is shared: every user reads it, and service keys alone add to it.",
            remediation="Add it with manage_rag_content ingest_document, or let users add to a private or custom "
            "collection.",
        )
    await _try_chunk(at, collection, metadata)


async def _try_chunk(at: Visit, collection: Collection, metadata: dict[str, Any]) -> None:
    """Try to store a chunk as the caller: raises what the policies of the chunks' table say against it."""
    kind = vector_type(collection.dimensions)
    try:
        async with as_caller(at.deps.pools.door(at.app), at.who) as connection:
            await connection.execute(
                f"insert into {collection.chunks} (document_id, user_id, position, content, start_offset, end_offset, "
                "tokens, metadata, embedding) values (gen_random_uuid(), $1, 0, '', 0, 0, 0, $2::jsonb, "
                f"array_fill(0.5::real, array[$3::integer])::{kind})",
                at.user_id,
                json.dumps(metadata),
                collection.dimensions,
            )
    except AppError as error:
        # The policies come first; what they let pass belongs to no document, and is never stored.
        if error.code != "VALIDATION_FOREIGN_KEY_VIOLATION":
            raise
