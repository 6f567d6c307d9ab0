"""One document on its way: read, cut into chunks, made vectors of, and put in the place of what it had before.

Each step is kept: whoever goes on with a document after a process has ended, goes on where that one was. ``claim``
is the fence: a worker that was taken for dead and comes back finds another's, and stores nothing.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import anyio

from brolly.core.caller import Caller
from brolly.core.errors import AppError
from brolly.deps import Deps
from brolly.engines.documents.kinds import kind_by_name
from brolly.engines.documents.reader import MOST_CHARACTERS, extract
from brolly.engines.documents.text import Text
from brolly.pg.pool import Connection
from brolly.pg.queue import Again
from brolly.rag.access import COLUMNS, Collection, collection_of, rag_of
from brolly.rag.chunk import Chunk, chunks_of
from brolly.rag.chunk_table import vector_type
from brolly.rag.embedding import BATCH, Space, embed
from brolly.registry import App

log = logging.getLogger("brolly.rag")

MOST_ATTEMPTS = 5
FIRST_PAUSE = 2.0
MOST_CHUNKS = 20_000
SWAP_BATCH = 500
_PASSING = frozenset((
    "QUOTA_RATE_LIMIT", "MODEL_UNAVAILABLE", "MODEL_TIMEOUT", "MODEL_BROKEN_ANSWER", "EXTERNAL_NETWORK_ERROR",
    "EXTERNAL_DB_ERROR", "DATABASE_TIMEOUT", "RESOURCE_CONFLICT", "S3_ERROR",
))  # fmt: skip
"""What may be otherwise when it is tried again."""

_CLAIM = (
    "update rag.documents set status = 'processing', claim = $3, attempts = attempts + 1, updated_at = now() "
    "where id = $1 and revision = $2 and status in ('pending', 'processing') "
    "returning collection_id, user_id, filename, content_type, source_type, storage_object_id, source_text, attempts, "
    "chunks_total"
)
_STAGE = (
    "insert into rag.staged_chunks (document_id, revision, position, content, heading, page, start_offset, end_offset, "
    "tokens) select $1, $2, * "
    "from unnest($3::int[], $4::text[], $5::text[], $6::int[], $7::int[], $8::int[], $9::int[])"
)
_WAITING = (
    "select position, heading, content from rag.staged_chunks where document_id = $1 and revision = $2 "
    "and embedding is null order by position limit $3"
)
_LIMITS = (
    "select pg_catalog.set_config(name, '600000', true) from pg_catalog.pg_settings "
    "where name in ('statement_timeout', 'transaction_timeout')"
)


class LostError(Exception):
    """The document is gone, was replaced, or is another worker's now: there is nothing left to do."""


class MovedError(Exception):
    """The collection's vectors are another model's since this work began, and its own belong nowhere."""


@dataclass(frozen=True, slots=True)
class Work:
    """One document, claimed."""

    deps: Deps
    app: App
    collection: Collection
    id: UUID
    revision: int
    claim: UUID
    row: Mapping[str, Any]


async def read_document(deps: Deps, payload: Mapping[str, Any], tried: int) -> None:
    """Run the job of that payload. Raises ``Again`` where a later attempt may go better."""
    app = await deps.registry.find(payload["app_id"])
    if app is None or app.status == "deleting":
        return
    document_id, revision = UUID(payload["document_id"]), int(payload["revision"])
    work = await _claimed(deps, app, document_id, revision)
    if work is None:
        # Deleted or replaced, or not committed yet by who put the job in.
        if tried < 3:
            raise Again(0.2 * 5**tried)
        return
    try:
        await _read(work)
    except LostError:
        return
    except MovedError:
        await _put_back(work)
        raise Again(0.1) from None
    except anyio.get_cancelled_exc_class():
        # The server stops; that is no fault of the document's.
        with anyio.move_on_after(3, shield=True):
            await _put_back(work)
        raise
    except AppError as error:
        await _failed(work, error)
    except Exception:
        log.exception("document %s of app %s", document_id, app.id)
        await _failed(work, AppError("INTERNAL_ERROR", "Something went wrong in the server; its log says what."))


async def _claimed(deps: Deps, app: App, document_id: UUID, revision: int) -> Work | None:
    claim = uuid4()
    async with rag_of(deps, app) as connection:
        row = await connection.fetchrow(_CLAIM, document_id, revision, claim)
        if row is None:
            return None
        found = await connection.fetchrow(f"select {COLUMNS} from rag.collections where id = $1", row["collection_id"])
    work = Work(deps, app, collection_of(found), document_id, revision, claim, row)
    if row["attempts"] > MOST_ATTEMPTS:
        # It may be what ends the process each time.
        error = AppError(
            "INTERNAL_ERROR", f"Reading it was tried {MOST_ATTEMPTS} times, and the server ended each time."
        )
        await _give_up(work, error)
        return None
    return work


async def _read(work: Work) -> None:
    if work.row["chunks_total"] is None:
        await _stage(work, await _chunks(work))
    await _embed_all(work)
    await _swap(work)


async def _chunks(work: Work) -> list[Chunk]:
    """The document's text, cut up."""
    text = await _text(work)
    size, overlap = work.collection.chunk_size, work.collection.chunk_overlap
    count = work.deps.local_model.spans_now

    def cut() -> list[Chunk]:
        return chunks_of(text, size, overlap, count)

    found = await anyio.to_thread.run_sync(cut, abandon_on_cancel=True)
    if len(found) > MOST_CHUNKS:
        raise AppError(
            "VALIDATION_INVALID_INPUT",
            f"The document makes {len(found):,} chunks; at most {MOST_CHUNKS:,} are kept.",
            remediation="Split it, or raise chunk_size: manage_rag_content create_collection sets it.",
        )
    return found


async def _text(work: Work) -> Text:
    row = work.row
    if row["source_type"] == "storage":
        caller = Caller("service", account_id=work.app.account_id)
        object_id = str(row["storage_object_id"])
        facts = await work.deps.capabilities["file_facts"](work.deps, work.app, caller, object_id)
        return await extract(work.deps.blob.read(facts["key"]), row["filename"], row["content_type"])
    said = row["source_text"] or ""
    kind = kind_by_name(row["filename"], None)
    if kind in ("md", "txt") and len(said) <= MOST_CHARACTERS:
        # Nothing is to be decoded, so that there is nothing to be kept in.
        return Text(said, "markdown" if kind == "md" else "plain", kind)
    return await extract(_once(said.encode()), row["filename"], None)


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def _stage(work: Work, chunks: Sequence[Chunk]) -> None:
    """Keep what is to be made vectors of."""
    columns = (
        list(range(len(chunks))), [c.content for c in chunks], [c.heading for c in chunks], [c.page for c in chunks],
        [c.start for c in chunks], [c.end for c in chunks], [c.tokens for c in chunks],
    )  # fmt: skip
    async with _own(work) as connection:
        # What an earlier worker may have left half done.
        await connection.execute("delete from rag.staged_chunks where document_id = $1", work.id)
        await connection.execute(_STAGE, work.id, work.revision, *columns)
        await connection.execute(
            "update rag.documents set chunks_total = $2, chunks_done = 0, updated_at = now() where id = $1",
            work.id,
            len(chunks),
        )


async def _embed_all(work: Work) -> None:
    space = Space(work.collection.embedding_model, work.collection.dimensions)
    while True:
        async with rag_of(work.deps, work.app) as connection:
            rows = await connection.fetch(_WAITING, work.id, work.revision, BATCH)
        if not rows:
            return
        texts = [f"{row['heading']}\n{row['content']}" if row["heading"] else row["content"] for row in rows]
        vectors = await embed(work.deps, work.app, space, texts)
        async with _own(work) as connection:
            await connection.executemany(
                "update rag.staged_chunks set embedding = $4::real[] where document_id = $1 and revision = $2 "
                "and position = $3",
                [(work.id, work.revision, row["position"], v) for row, v in zip(rows, vectors, strict=True)],
            )
            await connection.execute(
                "update rag.documents set chunks_done = chunks_done + $2, updated_at = now() where id = $1",
                work.id,
                len(rows),
            )


async def _swap(work: Work) -> None:
    """Let the new chunks take the place of the old ones, at one moment."""
    kind = vector_type(work.collection.dimensions)
    table = work.collection.chunks
    insert = (
        f"insert into {table} (document_id, user_id, position, content, heading, page, start_offset, end_offset, "
        "tokens, metadata, embedding) select s.document_id, d.user_id, s.position, s.content, s.heading, s.page, "
        f"s.start_offset, s.end_offset, s.tokens, d.metadata, s.embedding::{kind} "
        "from rag.staged_chunks s join rag.documents d on d.id = s.document_id "
        "where s.document_id = $1 and s.revision = $2 and s.position >= $3 and s.position < $4"
    )
    async with _own(work) as connection:
        await connection.execute(_LIMITS)
        await connection.execute(f"delete from {table} where document_id = $1", work.id)
        total = await connection.fetchval("select chunks_total from rag.documents where id = $1", work.id)
        for first in range(0, total, SWAP_BATCH):
            await connection.execute(insert, work.id, work.revision, first, first + SWAP_BATCH)
        tokens = await connection.fetchval(
            "with gone as (delete from rag.staged_chunks where document_id = $1 returning tokens) "
            "select coalesce(sum(tokens), 0)::bigint from gone",
            work.id,
        )
        await connection.execute(
            "update rag.documents set status = 'ready', claim = null, source_text = null, error_code = null, "
            "error_message = null, chunk_count = $2, token_count = $3, processed_at = now(), updated_at = now() "
            "where id = $1",
            work.id,
            total,
            tokens,
        )


@asynccontextmanager
async def _own(work: Work) -> AsyncGenerator[Connection]:
    """A transaction in which the document is this worker's; raises ``LostError`` if it is not any more."""
    async with rag_of(work.deps, work.app) as connection:
        row = await connection.fetchrow(
            "select (c.embedding_model, c.dimensions) = ($3, $4) as same from rag.documents d "
            "join rag.collections c on c.id = d.collection_id where d.id = $1 and d.claim = $2 "
            "for update of d for share of c",
            work.id,
            work.claim,
            work.collection.embedding_model,
            work.collection.dimensions,
        )
        if row is None:
            raise LostError
        if not row["same"]:
            raise MovedError
        yield connection


async def _put_back(work: Work) -> None:
    async with rag_of(work.deps, work.app) as connection:
        await connection.execute(
            "update rag.documents set status = 'pending', claim = null, attempts = attempts - 1, updated_at = now() "
            "where id = $1 and claim = $2",
            work.id,
            work.claim,
        )


async def _failed(work: Work, error: AppError) -> None:
    """Try again later, where that may help; else the document says why it failed."""
    attempts = work.row["attempts"]
    if error.code not in _PASSING or attempts >= MOST_ATTEMPTS:
        await _give_up(work, error)
        return
    await _mark(work, "pending", error)
    raise Again(max(FIRST_PAUSE * 2.0 ** (attempts - 1), float(error.retry_after or 0)))


async def _give_up(work: Work, error: AppError) -> None:
    log.info("document %s of app %s failed: %s", work.id, work.app.id, error.message)
    await _mark(work, "failed", error)


async def _mark(work: Work, status: str, error: AppError) -> None:
    async with rag_of(work.deps, work.app) as connection:
        held = await connection.fetchval(
            "update rag.documents set status = $3, error_code = $4, error_message = $5, claim = null, "
            "source_text = case when $3 = 'failed' then null else source_text end, "
            "processed_at = case when $3 = 'failed' then now() end, updated_at = now() "
            "where id = $1 and claim = $2 returning true",
            work.id,
            work.claim,
            status,
            error.code,
            f"{error.message} {error.remediation}" if error.remediation not in error.message else error.message,
        )
        if held and status == "failed":
            await connection.execute("delete from rag.staged_chunks where document_id = $1", work.id)
