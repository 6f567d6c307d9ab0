"""Who uses which app's collections, what they may see and change, and the way to the rows that say so."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from brolly.core.caller import Caller
from brolly.core.errors import AppError
from brolly.deps import Deps
from brolly.pg.databases import RAG_ROLE
from brolly.pg.identifiers import quote
from brolly.pg.pool import Connection
from brolly.pg.session import as_caller, as_platform
from brolly.registry import App

COLUMNS = (
    "id, name, description, access_mode, chunk_size, chunk_overlap, language, embedding_model, dimensions, "
    "chunk_table, created_by, created_at, updated_at"
)
SIGN_IN = "Sign in at POST /auth/{app_id}/login and send its access_token; manage_auth_users list shows who can."
LIST = "Call manage_rag_content with action list_collections for the collections that exist."


@dataclass(frozen=True, slots=True)
class Collection:
    """One row of ``rag.collections``. ``chunk_table`` is a table of schema public."""

    id: UUID
    name: str
    description: str | None
    access_mode: str
    chunk_size: int
    chunk_overlap: int
    language: str
    embedding_model: str
    dimensions: int
    chunk_table: str
    created_by: str | None
    created_at: datetime
    updated_at: datetime

    @property
    def chunks(self) -> str:
        """The chunks' table as it stands in SQL."""
        return f"public.{quote(self.chunk_table)}"


@dataclass(frozen=True, slots=True)
class Visit:
    """Who uses which app's collections."""

    deps: Deps
    app: App
    who: Caller

    @property
    def user_id(self) -> str | None:
        """Whose new documents are: the user's; nobody's when a service key brings them."""
        return self.who.user_id if self.who.kind == "user" else None

    @property
    def is_service(self) -> bool:
        """Whether a service key asks, for itself."""
        return self.who.kind == "service"

    def require_service(self, what: str) -> None:
        """Raise unless a service key asks."""
        if not self.is_service:
            raise AppError(
                "AUTH_FORBIDDEN",
                f"{what} takes a service key.",
                remediation="Call it with a service key, as manage_rag_content does; users bring and search documents.",
            )


async def visit(
    deps: Deps, caller: Caller, app_id: str, as_role: str | None = None, as_user: str | None = None
) -> Visit:
    """The app, and the role in which the caller uses it; a service key may act as another. Nobody anonymous."""
    return visit_of(deps, caller, await deps.registry.open(caller, app_id), as_role, as_user)


def visit_of(deps: Deps, caller: Caller, app: App, as_role: str | None = None, as_user: str | None = None) -> Visit:
    """As ``visit``, where the app is open to the caller already."""
    who = caller
    if as_role is not None or as_user is not None:
        if as_role not in ("anon", "user"):
            raise AppError(
                "VALIDATION_INVALID_SCHEMA",
                "X-Butterbase-As-Role takes anon or user; X-Butterbase-As-User goes with user.",
                remediation="Repeat with both headers for a user, or with neither; manage_auth_users list has the ids.",
            )
        who = caller.simulate(as_role, as_user)
    if who.kind == "anonymous":
        raise AppError("AUTH_REQUIRED", "Collections are for service keys and signed-in users.", remediation=SIGN_IN)
    return Visit(deps, app, who)


@asynccontextmanager
async def rag_of(deps: Deps, app: App) -> AsyncGenerator[Connection]:
    """A connection in a transaction that may read and write the app's schema ``rag`` and its chunks."""
    async with as_platform(deps.pools.door(app), RAG_ROLE) as connection:
        yield connection


def collection_of(row: Any) -> Collection:
    """The record of a row selected with ``COLUMNS``."""
    return Collection(**dict(row))


def missing_collection(name: str) -> AppError:
    """The answer for a collection that does not exist, and for one that this caller may not see."""
    return AppError(
        "RESOURCE_NOT_FOUND", f"There is no collection {name[:100]!a} for you in this app.", remediation=LIST
    )


async def find_collection(deps: Deps, app: App, name: str) -> Collection:
    """The collection of that name. Every signed-in user may know that it is there; what is in it is another matter."""
    async with rag_of(deps, app) as connection:
        row = await connection.fetchrow(f"select {COLUMNS} from rag.collections where name = $1", name)
    if row is None:
        raise missing_collection(name)
    return collection_of(row)


async def read_collections(deps: Deps, app: App) -> list[Collection]:
    """All of the app's, by name."""
    async with rag_of(deps, app) as connection:
        rows = await connection.fetch(f'select {COLUMNS} from rag.collections order by name collate "C"')
    return [collection_of(row) for row in rows]


async def searchable(at: Visit, collection: Collection, ids: Iterable[UUID]) -> set[UUID]:
    """Those of the documents of which the caller may read a chunk, as the policies of the chunks' table have it."""
    wanted = list(ids)
    if not wanted:
        return set()
    async with as_caller(at.deps.pools.door(at.app), at.who, read_only=True) as connection:
        rows = await connection.fetch(
            f"select id from unnest($1::uuid[]) d(id) where exists (select from {collection.chunks} c "
            "where c.document_id = d.id)",
            wanted,
        )
    return {row["id"] for row in rows}
