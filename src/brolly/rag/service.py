"""Collections: made, listed, described and deleted, each with the table of its chunks."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from uuid import uuid4

from pydantic import Field, WithJsonSchema
from pydantic.json_schema import SkipJsonSchema

from brolly.core.caller import Caller
from brolly.core.errors import AppError
from brolly.core.times import iso
from brolly.core.tool import AppParams
from brolly.deps import Deps
from brolly.pg.pool import Connection
from brolly.rag.access import Collection, Visit, find_collection, rag_of, read_collections, visit
from brolly.rag.chunk_table import MOST_DIMENSIONS, create_statements, drop_statement, table_name
from brolly.rag.embedding import space_of

NAME = r"^[a-z0-9_-]+$"
MOST_COLLECTIONS = 200
STATUSES = ("pending", "processing", "ready", "failed")

_INSERT = (
    "insert into rag.collections (id, name, description, access_mode, chunk_size, chunk_overlap, language, "
    "embedding_model, dimensions, chunk_table, created_by) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)"
)
# One change of an app's structure at a time, as for manage_schema and manage_rls.
_LOCK = "select pg_advisory_xact_lock(hashtextextended('brolly-structure', 0))"
_COUNTS = (
    "select status, count(*) as documents from rag.documents where collection_id = $1 "
    "and ($2::text is null or user_id = $2 or $3) group by status"
)
# What goes with a table: views over it and over these, keys of other tables, functions and policies that name it.
_DEPENDENTS = """
with recursive gone (class, id) as (
    select 'pg_class'::regclass::oid, to_regclass('public.' || quote_ident($1))::oid
    union
    select v.class, v.id from gone
    join pg_depend d on d.refclassid = gone.class and d.refobjid = gone.id
    left join pg_rewrite r on d.classid = 'pg_rewrite'::regclass and r.oid = d.objid
    cross join lateral (values (d.classid, d.objid), ('pg_class'::regclass::oid, r.ev_class)) v (class, id)
    where v.id is not null
)
select pg_describe_object(class, id, 0) as what from gone where
    exists (select from pg_class c where class = c.tableoid and c.oid = id and c.relkind in ('v', 'm'))
    or exists (select from pg_constraint c where class = c.tableoid and c.oid = id and c.contype = 'f'
               and c.conrelid <> to_regclass('public.' || quote_ident($1)))
    or exists (select from pg_policy p where class = p.tableoid and p.oid = id
               and p.polrelid <> to_regclass('public.' || quote_ident($1)))
    or class = 'pg_proc'::regclass
order by what
"""


class CreateCollection(AppParams):
    """Parameters of create_collection."""

    name: str = Field(min_length=1, max_length=100, pattern=NAME)
    access_mode: Annotated[Literal["private", "shared", "custom"], WithJsonSchema({"type": "string"})] = "private"
    # Not told of in the list of tools, which has to stay short; the tool's page says it.
    description: SkipJsonSchema[str | None] = Field(None, max_length=500)
    chunk_size: SkipJsonSchema[int] = Field(512, ge=100, le=4000)
    chunk_overlap: SkipJsonSchema[int] = Field(50, ge=0, le=500)
    language: SkipJsonSchema[str] = Field("english", pattern=r"^[a-z_]{1,40}$")
    embedding_model: SkipJsonSchema[str | None] = Field(None, max_length=200)


class CollectionRef(AppParams):
    """Parameters of what concerns one collection."""

    name: str = Field(min_length=1, max_length=100)


def shown(collection: Collection) -> dict[str, Any]:
    """A collection as callers see it, in the spellings of both sources."""
    return {
        "id": str(collection.id),
        "name": collection.name,
        "description": collection.description,
        "access_mode": collection.access_mode,
        "embedding_model": collection.embedding_model,
        "embedding_dimensions": collection.dimensions,
        "chunk_size": collection.chunk_size,
        "chunk_overlap": collection.chunk_overlap,
        "language": collection.language,
        "table": collection.chunk_table,
        "created_by": collection.created_by,
        "created_at": iso(collection.created_at),
    }


async def create_collection(at: Visit, params: CreateCollection) -> dict[str, Any]:
    """Make a collection and the table of its chunks, both or neither."""
    at.require_service("Making a collection")
    if params.chunk_overlap * 2 > params.chunk_size:
        raise AppError(
            "VALIDATION_INVALID_SCHEMA",
            f"chunk_overlap {params.chunk_overlap} is more than half of chunk_size {params.chunk_size}.",
            remediation="Repeat manage_rag_content create_collection with a chunk_overlap of a tenth of chunk_size.",
        )
    await _check_language(at, params.language)
    space = await space_of(at.deps, at.app, params.embedding_model)
    if not 1 <= space.dimensions <= MOST_DIMENSIONS:
        raise AppError(
            "VALIDATION_INVALID_INPUT",
            f"{space.model} makes vectors of {space.dimensions} numbers; at most {MOST_DIMENSIONS} can be indexed.",
            remediation="Repeat manage_rag_content create_collection with another embedding_model.",
        )
    identity = uuid4()
    async with at.deps.pools.owner(at.app) as connection, connection.transaction():
        await connection.execute(_LOCK)
        table = await _free_table(connection, params.name)
        row = (
            identity, params.name, params.description, params.access_mode, params.chunk_size, params.chunk_overlap,
            params.language, space.model, space.dimensions, table, at.who.key_id,
        )  # fmt: skip
        try:
            await connection.execute(_INSERT, *row)
        except Exception as error:
            if getattr(error, "sqlstate", "") == "23505":
                raise _taken(params.name) from None
            raise
        if await connection.fetchval("select count(id) from rag.collections") > MOST_COLLECTIONS:
            raise AppError(
                "QUOTA_TABLE_LIMIT",
                f"An app may have {MOST_COLLECTIONS} collections; each is a table.",
                remediation="Delete one with manage_rag_content delete_collection, or tell documents by metadata.",
            )
        for statement in create_statements(table, space.dimensions, params.language, params.access_mode):
            await connection.execute(statement)
    await at.deps.catalog.changed(at.app)
    return shown(await find_collection(at.deps, at.app, params.name))


def _taken(name: str) -> AppError:
    return AppError(
        "VALIDATION_DUPLICATE_NAME",
        f"There is a collection {name} already.",
        remediation="Use it, or choose another name; manage_rag_content list_collections shows all.",
    )


async def _free_table(connection: Connection, name: str) -> str:
    """``rag_<name>``, unless the app has something of that name."""
    wanted = table_name(name)
    taken = await connection.fetchval("select to_regclass(format('public.%I', $1::text)) is not null", wanted)
    return table_name(name, taken=True) if taken else wanted


async def _check_language(at: Visit, language: str) -> None:
    async with at.deps.pools.reader(at.app) as connection:
        rows = await connection.fetch(
            "select cfgname from pg_catalog.pg_ts_config where cfgnamespace = 'pg_catalog'::regnamespace order by 1"
        )
    known = [row["cfgname"] for row in rows]
    if language not in known:
        raise AppError(
            "VALIDATION_INVALID_INPUT",
            f"{language} is not a language that full-text search knows.",
            remediation="Repeat manage_rag_content create_collection with language one of: " + ", ".join(known) + ".",
        )


async def list_collections(at: Visit, params: AppParams) -> list[dict[str, Any]]:
    """All collections of the app, by name."""
    return [shown(each) for each in await read_collections(at.deps, at.app)]


async def get_collection(at: Visit, params: CollectionRef) -> dict[str, Any]:
    """One collection, with how many documents have come how far: for users, of those that are theirs to know."""
    collection = await find_collection(at.deps, at.app, params.name)
    counts = await count_documents(at, collection)
    async with rag_of(at.deps, at.app) as connection:
        row = await connection.fetchrow(
            "select model, done, total, error_message from rag.reembeds where collection_id = $1", collection.id
        )
    return {
        **shown(collection),
        **({"reembedding": dict(row)} if row else {}),
        "accessMode": collection.access_mode,
        "chunkSize": collection.chunk_size,
        "chunkOverlap": collection.chunk_overlap,
        "createdAt": iso(collection.created_at),
        "documentCount": counts,
        "document_counts": {"total": sum(counts.values()), **counts},
    }


async def count_documents(at: Visit, collection: Collection) -> dict[str, int]:
    """How many documents have which status; in ``custom``, of a user's the own ones alone."""
    everything = at.is_service or collection.access_mode == "shared"
    async with rag_of(at.deps, at.app) as connection:
        rows = await connection.fetch(_COUNTS, collection.id, at.user_id, everything)
    counts = {row["status"]: row["documents"] for row in rows}
    return {status: counts.get(status, 0) for status in STATUSES}


async def delete_collection(at: Visit, params: CollectionRef) -> dict[str, Any]:
    """Remove a collection with its documents and chunks, for good."""
    at.require_service("Deleting a collection")
    collection = await find_collection(at.deps, at.app, params.name)
    async with at.deps.pools.owner(at.app) as connection, connection.transaction():
        await connection.execute(_LOCK)
        dropped = [row["what"] for row in await connection.fetch(_DEPENDENTS, collection.chunk_table)]
        await connection.execute(drop_statement(collection.chunk_table))
        await connection.execute("delete from rag.collections where id = $1", collection.id)
    await at.deps.catalog.changed(at.app)
    return {"message": f"The collection {collection.name} is deleted.", "name": collection.name, "dropped": dropped}


async def what_delete_loses(deps: Deps, caller: Caller, params: CollectionRef) -> str | None:
    """The question before a collection is deleted."""
    at = await visit(deps, caller, params.app_id)
    collection = await find_collection(deps, at.app, params.name)
    async with rag_of(deps, at.app) as connection:
        row = await connection.fetchrow(
            "select count(*) as documents, coalesce(sum(chunk_count), 0)::bigint as chunks from rag.documents "
            "where collection_id = $1",
            collection.id,
        )
    async with deps.pools.reader(at.app) as connection:
        hanging = [each["what"] for each in await connection.fetch(_DEPENDENTS, collection.chunk_table)]
    more = f"; so does what is made of it: {', '.join(hanging)}" if hanging else ""
    return (
        f"Delete the collection {collection.name} with {row['documents']:,} documents and {row['chunks']:,} chunks "
        f"for good? Its table {collection.chunk_table} and the policies on it go as well{more}."
    )
