"""A collection gets the vectors of another model: made in the background beside the present ones, then put in their
place at one moment.

Each step is kept in a column of the chunks' own table, so that whoever goes on after a process has ended, goes on
where that one was, and policies, views and names stay as they are. ``token`` is the fence: a worker whose request was
replaced by a newer one finds another's, and stores nothing. Until the moment of the change the present vectors are
searched; documents that come in meanwhile get both.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any
from uuid import UUID, uuid4

from pydantic import Field
from pydantic.json_schema import SkipJsonSchema

from brolly.core.errors import AppError
from brolly.core.progress import Step, follow
from brolly.core.tool import AppParams
from brolly.deps import Deps
from brolly.pg.identifiers import derived_name, quote
from brolly.pg.queue import Again, enqueue
from brolly.rag.access import COLUMNS, Collection, Visit, collection_of, find_collection, rag_of
from brolly.rag.chunk_table import MOST_DIMENSIONS, vector_operators, vector_type
from brolly.rag.embedding import BATCH, Space, as_text, embed, space_of
from brolly.registry import App

log = logging.getLogger("brolly.rag")

JOB = "rag_reembed"
MOST_ATTEMPTS = 20
_NEXT = "embedding_next"
_NONE = UUID(int=0)
_LOCK = "select pg_advisory_xact_lock(hashtextextended('brolly-structure', 0))"
_LIMITS = (
    "select pg_catalog.set_config(name, value, true) from (values ('statement_timeout', '3600000'), "
    "('transaction_timeout', '3600000'), ('lock_timeout', '20000')) wanted (name, value) "
    "where exists (select from pg_catalog.pg_settings s where s.name = wanted.name)"
)
_BEGIN = (
    "insert into rag.reembeds (collection_id, model, dimensions, token, total) "
    "values ($1, $2, $3, $4, (select coalesce(sum(chunk_count), 0) from rag.documents where collection_id = $1)) "
    "on conflict (collection_id) do update set model = excluded.model, dimensions = excluded.dimensions, "
    "token = excluded.token, total = excluded.total, done = 0, error_message = null, started_at = now()"
)
_STANDING = "select done, total, error_message from rag.reembeds where collection_id = $1 and token = $2"


class Reembed(AppParams):
    """Parameters of reembed."""

    name: str = Field(min_length=1, max_length=100)
    embedding_model: SkipJsonSchema[str | None] = Field(None, max_length=200)


class _ReplacedError(Exception):
    """A newer request took this one's place, or the collection is gone."""


async def reembed(at: Visit, params: Reembed) -> dict[str, Any]:
    """Have the vectors of another model made; without a name, of the app's default."""
    at.require_service("Changing a collection's vectors")
    collection = await find_collection(at.deps, at.app, params.name)
    space = await space_of(at.deps, at.app, params.embedding_model)
    if not 1 <= space.dimensions <= MOST_DIMENSIONS:
        raise AppError(
            "VALIDATION_INVALID_INPUT",
            f"{space.model} makes vectors of {space.dimensions} numbers; at most {MOST_DIMENSIONS} can be indexed.",
            remediation="Repeat manage_rag_content reembed with another embedding_model.",
        )
    told = {"collection": collection.name, "from": collection.embedding_model, "to": space.model}
    if (space.model, space.dimensions) == (collection.embedding_model, collection.dimensions):
        return {**told, "status": "unchanged"}
    token = uuid4()
    # First the fence: from here on no earlier job stores anything.
    async with rag_of(at.deps, at.app) as connection:
        await connection.execute(_BEGIN, collection.id, space.model, space.dimensions, token)
    async with at.deps.pools.owner(at.app) as connection, connection.transaction():
        await connection.execute(_LOCK)
        await connection.execute(f"alter table {collection.chunks} drop column if exists {_NEXT}")
        await connection.execute(f"alter table {collection.chunks} add column {_NEXT} {vector_type(space.dimensions)}")
    payload = {"app_id": at.app.id, "collection_id": str(collection.id), "token": str(token)}
    await enqueue(at.deps.control, JOB, payload)
    await at.deps.catalog.changed(at.app)
    return {**told, "status": await _followed(at, collection, token)}


async def _followed(at: Visit, collection: Collection, token: UUID) -> str:
    """``done`` once the vectors are in place, if somebody wants to hear of the progress; else ``pending``."""
    status = "pending"

    async def look() -> Step:
        nonlocal status
        async with rag_of(at.deps, at.app) as connection:
            row = await connection.fetchrow(_STANDING, collection.id, token)
        if row is None:
            status = "done"
            return Step(True, status)
        return Step(False, row["error_message"] or "Making vectors", row["done"], row["total"])

    await follow(look)
    return status


async def run_reembed(deps: Deps, payload: Mapping[str, Any], tried: int) -> None:
    """Run the job of that payload. Raises ``Again`` where a later attempt may go better."""
    app = await deps.registry.find(payload["app_id"])
    if app is None or app.status == "deleting":
        return
    work = _Work(deps, app, UUID(payload["collection_id"]), UUID(payload["token"]))
    try:
        await work.run()
    except _ReplacedError:
        return
    except Exception as error:
        if not isinstance(error, AppError):
            log.exception("reembedding collection %s of app %s", work.id, app.id)
        await work.note(error.message if isinstance(error, AppError) else "Something went wrong in the server.")
        if tried >= MOST_ATTEMPTS:
            return
        after = error.retry_after if isinstance(error, AppError) else None
        raise Again(max(min(2.0**tried, 300.0), float(after or 0))) from None


class _Work:
    """One collection on its way into another space."""

    def __init__(self, deps: Deps, app: App, collection_id: UUID, token: UUID) -> None:
        self._deps, self._app, self.id, self._token = deps, app, collection_id, token

    async def run(self) -> None:
        """Make what is missing, until nothing is; then change over."""
        while True:
            collection, space = await self._state()
            await self._fill(collection, space)
            await self._build_index(collection, space)
            if await self._change_over(collection, space):
                await self._deps.catalog.changed(self._app)
                return

    async def note(self, message: str) -> None:
        """Say what went wrong where the collection is described."""
        async with rag_of(self._deps, self._app) as connection:
            await connection.execute(
                "update rag.reembeds set error_message = $3 where collection_id = $1 and token = $2",
                self.id,
                self._token,
                message,
            )

    async def _state(self) -> tuple[Collection, Space]:
        async with rag_of(self._deps, self._app) as connection:
            row = await connection.fetchrow(
                "select model, dimensions from rag.reembeds where collection_id = $1 and token = $2",
                self.id,
                self._token,
            )
            found = await connection.fetchrow(f"select {COLUMNS} from rag.collections where id = $1", self.id)
        if row is None or found is None:
            raise _ReplacedError
        return collection_of(found), Space(row["model"], row["dimensions"])

    async def _fill(self, collection: Collection, space: Space) -> None:
        last = _NONE
        while True:
            async with rag_of(self._deps, self._app) as connection:
                rows = await connection.fetch(
                    f"select id, heading, content from {collection.chunks} where {_NEXT} is null and id > $1 "
                    f"order by id limit {BATCH}",
                    last,
                )
            if not rows:
                return
            last = rows[-1]["id"]
            texts = [f"{row['heading']}\n{row['content']}" if row["heading"] else row["content"] for row in rows]
            vectors = await embed(self._deps, self._app, space, texts)
            async with rag_of(self._deps, self._app) as connection:
                held = await connection.fetchval(
                    "update rag.reembeds set done = done + $3, error_message = null where collection_id = $1 "
                    "and token = $2 returning true",
                    self.id,
                    self._token,
                    len(rows),
                )
                if not held:
                    raise _ReplacedError
                await connection.execute(
                    f"update {collection.chunks} c set {_NEXT} = v.vector::{vector_type(space.dimensions)} "
                    "from unnest($1::uuid[], $2::text[]) v (id, vector) where c.id = v.id",
                    [row["id"] for row in rows],
                    [as_text(vector) for vector in vectors],
                )

    async def _build_index(self, collection: Collection, space: Space) -> None:
        """Before the change, so that searches wait for nothing; documents that come in wait meanwhile."""
        name = quote(derived_name(collection.chunk_table, f"_next_{self._token.hex[:8]}_idx"))
        async with self._deps.pools.owner(self._app) as connection, connection.transaction():
            await connection.execute(_LIMITS)
            await connection.execute(
                f"create index if not exists {name} on {collection.chunks} using hnsw "
                f"({_NEXT} {vector_operators(space.dimensions)})"
            )

    async def _change_over(self, collection: Collection, space: Space) -> bool:
        """Let the new vectors take the place of the old ones; False where a chunk came in that has none yet."""
        chunks = collection.chunks
        old = quote(derived_name(collection.chunk_table, "_embedding_idx"))
        new = quote(derived_name(collection.chunk_table, f"_next_{self._token.hex[:8]}_idx"))
        try:
            async with self._deps.pools.owner(self._app) as connection, connection.transaction():
                await connection.execute(_LIMITS)
                await connection.execute(_LOCK)
                # The row first: who stores chunks holds it while it does, and sees the new model afterwards.
                await connection.execute(
                    "update rag.collections set embedding_model = $2, dimensions = $3, updated_at = now() "
                    "where id = $1",
                    self.id,
                    space.model,
                    space.dimensions,
                )
                gone = await connection.fetchval(
                    "delete from rag.reembeds where collection_id = $1 and token = $2 returning true",
                    self.id,
                    self._token,
                )
                if not gone:
                    raise _ReplacedError
                # Fails where a vector is missing, whichever rows the policies show.
                await connection.execute(f"alter table {chunks} alter column {_NEXT} set not null")
                await connection.execute(f"alter table {chunks} drop column embedding")
                await connection.execute(f"alter table {chunks} rename column {_NEXT} to embedding")
                await connection.execute(f"drop index if exists public.{old}")
                await connection.execute(f"alter index public.{new} rename to {old}")
                # Documents on their way have vectors of the former model.
                await connection.execute(
                    "update rag.staged_chunks set embedding = null where document_id in "
                    "(select id from rag.documents where collection_id = $1)",
                    self.id,
                )
        except AppError as error:
            if error.code == "VALIDATION_NOT_NULL_VIOLATION":
                return False
            raise
        return True
