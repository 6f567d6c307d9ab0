"""Documents: listed, described, deleted. Users know their own, and those that they may search."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import Field
from pydantic.json_schema import SkipJsonSchema

from brolly.core.caller import Caller
from brolly.core.errors import AppError
from brolly.core.times import iso
from brolly.core.tool import AppParams
from brolly.deps import Deps
from brolly.rag.access import Collection, Visit, find_collection, rag_of, searchable, visit

COLUMNS = (
    "id, user_id, filename, content_type, source_type, storage_object_id, size_bytes, metadata::text, status, "
    "error_code, error_message, revision, attempts, chunks_done, chunks_total, chunk_count, token_count, created_at, "
    "processed_at"
)
MOST_LISTED = 1000
_LIST = "Call manage_rag_content with action list_documents for the documents that exist."


@dataclass(frozen=True, slots=True)
class Document:
    """One row of ``rag.documents``."""

    id: UUID
    user_id: str | None
    filename: str
    content_type: str | None
    source_type: str
    storage_object_id: UUID | None
    size_bytes: int
    metadata: str
    status: str
    error_code: str | None
    error_message: str | None
    revision: int
    attempts: int
    chunks_done: int
    chunks_total: int | None
    chunk_count: int
    token_count: int
    created_at: datetime
    processed_at: datetime | None


class ListDocuments(AppParams):
    """Parameters of list_documents."""

    collection: str = Field(min_length=1, max_length=100)
    limit: SkipJsonSchema[int] = Field(MOST_LISTED, ge=1, le=MOST_LISTED)
    offset: SkipJsonSchema[int] = Field(0, ge=0)


class DocumentRef(AppParams):
    """Parameters of what concerns one document."""

    collection: str = Field(min_length=1, max_length=100)
    document_id: str = Field(max_length=64)


def document_of(row: Any) -> Document:
    """The record of a row selected with ``COLUMNS``."""
    return Document(**dict(row))


def missing_document(document_id: str) -> AppError:
    """The answer for a document that does not exist, and for one that this caller may not see."""
    return AppError(
        "RESOURCE_NOT_FOUND",
        f"There is no document {document_id[:64]!a} for you in this collection.",
        remediation=_LIST,
    )


def read_id(document_id: str) -> UUID:
    """The id; what is none names no document."""
    try:
        return UUID(document_id)
    except ValueError:
        raise missing_document(document_id) from None


def shown(document: Document) -> dict[str, Any]:
    """A document as callers see it; how far it has come while it is being read."""
    told = {
        "id": str(document.id),
        "filename": document.filename,
        "content_type": document.content_type,
        "source_type": document.source_type,
        "storage_object_id": str(document.storage_object_id) if document.storage_object_id else None,
        "size_bytes": document.size_bytes,
        "status": document.status,
        "error_code": document.error_code,
        "error_message": document.error_message,
        "chunk_count": document.chunk_count,
        "token_count": document.token_count,
        "metadata": json.loads(document.metadata),
        "created_at": iso(document.created_at),
        "processed_at": iso(document.processed_at) if document.processed_at else None,
    }
    if document.status in ("pending", "processing"):
        told["progress"] = {
            "chunks_done": document.chunks_done,
            "chunks_total": document.chunks_total,
            "attempts": document.attempts,
        }
    return told


async def visible(at: Visit, collection: Collection, documents: list[Document]) -> list[Document]:
    """Those that the caller may know of: a service key all, a user the own and what may be searched."""
    if at.is_service or collection.access_mode == "shared":
        return documents
    others = [each.id for each in documents if each.user_id != at.user_id]
    known = await searchable(at, collection, others) if collection.access_mode == "custom" else set[UUID]()
    return [each for each in documents if each.user_id == at.user_id or each.id in known]


async def list_documents(at: Visit, params: ListDocuments) -> list[dict[str, Any]]:
    """Documents of a collection, newest first."""
    collection = await find_collection(at.deps, at.app, params.collection)
    own_alone = not at.is_service and collection.access_mode == "private"
    async with rag_of(at.deps, at.app) as connection:
        rows = await connection.fetch(
            f"select {COLUMNS} from rag.documents where collection_id = $1 and (not $2 or user_id = $3) "
            "order by created_at desc, id desc limit $4 offset $5",
            collection.id,
            own_alone,
            at.user_id,
            params.limit,
            params.offset,
        )
    found = await visible(at, collection, [document_of(row) for row in rows])
    return [shown(each) for each in found]


async def find_document(at: Visit, collection: Collection, document_id: str) -> Document:
    """The document, for whoever may know of it; 404 for everybody else."""
    wanted = read_id(document_id)
    async with rag_of(at.deps, at.app) as connection:
        row = await connection.fetchrow(
            f"select {COLUMNS} from rag.documents where id = $1 and collection_id = $2", wanted, collection.id
        )
    found = await visible(at, collection, [document_of(row)]) if row is not None else []
    if not found:
        raise missing_document(document_id)
    return found[0]


async def get_document(at: Visit, params: DocumentRef) -> dict[str, Any]:
    """One document: what it is, how far it has come, and why it failed."""
    collection = await find_collection(at.deps, at.app, params.collection)
    document = await find_document(at, collection, params.document_id)
    told = shown(document)
    told |= {"collection_name": collection.name, "processedAt": told["processed_at"]}
    if document.error_message:
        told["errorMessage"] = document.error_message
    return {"untrusted": True, **told}


async def delete_document(at: Visit, params: DocumentRef) -> dict[str, Any]:
    """Remove a document with its chunks, for good; also one that is being read."""
    collection = await find_collection(at.deps, at.app, params.collection)
    document = await find_document(at, collection, params.document_id)
    if not at.is_service and document.user_id != at.user_id:
        raise missing_document(params.document_id)
    async with rag_of(at.deps, at.app) as connection:
        await connection.execute("delete from rag.documents where id = $1", document.id)
    return {"message": f"The document {document.id} is deleted.", "document_id": str(document.id)}


async def what_delete_loses(deps: Deps, caller: Caller, params: DocumentRef) -> str | None:
    """The question before a document is deleted."""
    at = await visit(deps, caller, params.app_id)
    collection = await find_collection(deps, at.app, params.collection)
    document = await find_document(at, collection, params.document_id)
    return (
        f"Delete the document {document.filename} with {document.chunk_count:,} chunks from {collection.name} for "
        "good? A stored file that it was read from stays."
    )
