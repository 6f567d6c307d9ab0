"""rag_query: what a collection has to say about a question, for whoever may read it."""

from __future__ import annotations

import time
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field
from pydantic.json_schema import SkipJsonSchema

from brolly.core.caller import Caller
from brolly.core.errors import AppError
from brolly.core.tool import READ, Action, AppParams, Tool
from brolly.deps import Deps
from brolly.pg.session import as_caller
from brolly.rag.access import COLUMNS, Collection, Visit, collection_of, missing_collection, rag_of, visit
from brolly.rag.embedding import Space, as_text, embed
from brolly.rag.fusion import EXACT_UP_TO, OWN_EXACT_UP_TO, Search, Way, read_query, statement
from brolly.rag.hit import Hit, hit_of
from brolly.rag.rerank import RERANKED, reranked
from brolly.rag.routes import body, route
from brolly.rag.synthesis import synthesized

QUERY_LIMIT = 10_000
MOST = 50
_TRIES = 3
_KEPT_VECTORS = 1_000
_KEPT_SECONDS = 600.0

_STATE = (
    f"select {COLUMNS}, coalesce(ready.documents, 0) as documents, coalesce(ready.chunks, 0) as chunks, "
    "coalesce(ready.own, 0) as own from rag.collections c left join lateral (select count(*) as documents, "
    "sum(d.chunk_count)::bigint as chunks, sum(d.chunk_count) filter (where d.user_id = $2)::bigint as own "
    "from rag.documents d where d.collection_id = c.id and (d.status = 'ready' or d.chunk_count > 0)) ready on true "
    "where c.name = $1"
)
_AFTER = (
    "select d.id, d.filename, d.content_type from rag.documents d join rag.collections c on c.id = d.collection_id "
    "where d.id = any($1::uuid[]) and c.id = $2 and (c.chunk_table, c.embedding_model, c.dimensions) = ($3, $4, $5)"
)
_SAME = "select true from rag.collections where id = $1 and (chunk_table, embedding_model, dimensions) = ($2, $3, $4)"


class RagQuery(AppParams):
    """Parameters of rag_query."""

    collection: str = Field(min_length=1, max_length=100)
    query: str = Field(min_length=1, max_length=QUERY_LIMIT)
    filter: dict[str, Any] | None = None
    synthesize: bool = False
    # Told of on the tool's page alone: the list of tools has to stay short.
    top_k: SkipJsonSchema[int] = Field(5, ge=1, le=MOST)
    threshold: SkipJsonSchema[float] = Field(0, ge=0, le=1)
    model: SkipJsonSchema[str | None] = Field(None, max_length=200)
    rerank: SkipJsonSchema[bool] = False
    search: SkipJsonSchema[Way] = "hybrid"
    as_role: SkipJsonSchema[Literal["user"] | None] = None
    as_user: SkipJsonSchema[str | None] = Field(None, max_length=200)


class _Moved(Exception):  # noqa: N818 - not a failure
    """The collection got other vectors while it was searched."""


async def rag_query(deps: Deps, caller: Caller, params: RagQuery) -> dict[str, Any]:
    """The tool's action: as a service key, or as the user whom it names."""
    return await search_collection(await visit(deps, caller, params.app_id, params.as_role, params.as_user), params)


async def search_collection(at: Visit, params: RagQuery) -> dict[str, Any]:
    """The chunks that fit best; with ``synthesize`` an answer made of them."""
    if not params.query.strip() or "\0" in params.query:
        raise AppError(
            "VALIDATION_INVALID_SCHEMA",
            "query holds no words, or a character that texts cannot hold.",
            remediation="Repeat rag_query with a question or some words as query.",
        )
    found = await _find(at, params)
    answer: dict[str, Any] = {"untrusted": True}
    warnings: list[str] = []
    if params.rerank:
        found, failure = await reranked(at, params.query, found, params.model)
        answer["reranked"] = failure is None
        warnings += [failure] if failure else []
    found = found[: params.top_k]
    if params.synthesize:
        answer |= await synthesized(at, params.query, found, params.model)
    answer["chunks"] = [chunk.shown(number) for number, chunk in enumerate(found, 1)]
    if warnings:
        answer["warnings"] = warnings
    return answer


async def _find(at: Visit, params: RagQuery) -> list[Hit]:
    for _ in range(_TRIES):
        try:
            return await _find_once(at, params)
        except _Moved:
            continue
    raise AppError(
        "RESOURCE_CONFLICT",
        f"The collection {params.collection} got other vectors while it was searched.",
        remediation="Repeat rag_query; manage_rag_content get_collection shows its embedding_model.",
    )


async def _find_once(at: Visit, params: RagQuery) -> list[Hit]:
    collection, visible, own_alone = await _open(at, params.collection)
    exact = visible <= (OWN_EXACT_UP_TO if own_alone else EXACT_UP_TO)
    asked = read_query(params.query)
    vector = await _vector(at, collection, asked.meaning)
    search = Search(
        collection=collection,
        asked=asked,
        vector=vector,
        filters=params.filter,
        way=params.search,
        top_k=max(params.top_k, RERANKED) if params.rerank else params.top_k,
        threshold=params.threshold,
        visible=visible,
        exact=exact,
        indexed=at.is_service or collection.access_mode == "shared",
    )
    text, values = statement(search)
    try:
        async with as_caller(at.deps.pools.door(at.app), at.who, read_only=True) as connection:
            if not exact:
                # Policies and filters drop what the graph finds: it goes on until there is enough.
                await connection.execute(
                    "select set_config('hnsw.iterative_scan', 'relaxed_order', true), "
                    "set_config('hnsw.ef_search', '100', true)"
                )
            rows = await connection.fetch(text, *values)
    except AppError:
        if not await _is_same(at, collection):
            raise _Moved from None
        raise
    return await _with_names(at, collection, rows)


async def _open(at: Visit, name: str) -> tuple[Collection, int, bool]:
    """The collection, how many chunks the caller may see at most, and whether these are their own alone.

    Raises where no document is ready.
    """
    async with rag_of(at.deps, at.app) as connection:
        row = await connection.fetchrow(_STATE, name, at.user_id)
    if row is None:
        raise missing_collection(name)
    held = dict(row)
    documents, chunks, own = (held.pop(key) for key in ("documents", "chunks", "own"))
    collection = collection_of(held)
    if not documents:
        raise AppError("COLLECTION_EMPTY", f"No document of the collection {name} is ready to be searched.")
    own_alone = not at.is_service and collection.access_mode == "private"
    return collection, own if own_alone else chunks, own_alone


async def _is_same(at: Visit, collection: Collection) -> bool:
    async with rag_of(at.deps, at.app) as connection:
        return bool(await connection.fetchval(_SAME, collection.id, *_space_of(collection)))


def _space_of(collection: Collection) -> tuple[str, str, int]:
    return collection.chunk_table, collection.embedding_model, collection.dimensions


async def _with_names(at: Visit, collection: Collection, rows: Sequence[Any]) -> list[Hit]:
    """With the documents' names; and the vectors searched are proved to be those that the question was turned into."""
    wanted = list({row["document_id"] for row in rows})
    async with rag_of(at.deps, at.app) as connection:
        documents = await connection.fetch(_AFTER, wanted, collection.id, *_space_of(collection))
        if not documents and not await connection.fetchval(_SAME, collection.id, *_space_of(collection)):
            raise _Moved
    names = {each["id"]: each["filename"] for each in documents}
    # A document that was deleted meanwhile is not shown.
    return [hit_of(row, names[row["document_id"]]) for row in rows if row["document_id"] in names]


_vectors: OrderedDict[tuple[str, str, int, str], tuple[float, array[float]]] = OrderedDict()


async def _vector(at: Visit, collection: Collection, text: str) -> str | None:
    """The question's vector as Postgres reads it, remembered for ten minutes; None where it says nothing."""
    key = (at.app.id, collection.embedding_model, collection.dimensions, text)
    known = _vectors.get(key)
    if known is None or known[0] < time.monotonic():
        space = Space(collection.embedding_model, collection.dimensions)
        numbers = array("f", (await embed(at.deps, at.app, space, [text or " "]))[0])
        known = _vectors[key] = time.monotonic() + _KEPT_SECONDS, numbers
        while len(_vectors) > _KEPT_VECTORS:
            _vectors.popitem(last=False)
    _vectors.move_to_end(key)
    return as_text(known[1]) if any(known[1]) else None


RAG_QUERY = Tool(
    "rag_query",
    "Ask documents",
    "Asks a collection.",
    {"": Action(rag_query, RagQuery, effect=READ, event="rag.query", target="collection")},
    resource="rag",
)


def _both_spellings(result: dict[str, Any]) -> Any:
    """For programs that read ``content`` where others read ``text``."""
    chunks = [{**chunk, "content": chunk["text"]} for chunk in result["chunks"]]
    return body()({**result, "chunks": chunks})


tools: Sequence[Tool] = (RAG_QUERY,)
routes: Sequence[Any] = (
    route(
        "POST",
        "collections/{collection}/query",
        RAG_QUERY,
        "",
        search_collection,
        _both_spellings,
        {"topK": "top_k"},
    ),
)
