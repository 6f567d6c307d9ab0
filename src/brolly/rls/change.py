"""One change of a table's protection: alone in the app, in one transaction, recorded with the way back."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio

from brolly.core.errors import AppError
from brolly.deps import Deps
from brolly.pg.catalog import Column, Snapshot, Table
from brolly.pg.expression import refusal_of
from brolly.pg.pool import Connection
from brolly.pg.snapshot import read_snapshot
from brolly.registry import App
from brolly.rls.protection import Protection, read_protection, statements

# The same lock as changes of the schema take: one change of structure at a time per app.
_LOCK = "select pg_advisory_xact_lock(hashtextextended('brolly-structure', 0))"
_SETTINGS = "select set_config('search_path', 'public, pg_temp', true), set_config('statement_timeout', '60s', true)"
_RECORD = "insert into brolly.migrations (name, applied_by, sql_up, sql_down, checksum) values ($1, 'mcp', $2, $3, $4)"


def _near(name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, names, 1, 0.5)
    return f" Did you mean {near[0]}?" if near else ""


def known_table(snapshot: Snapshot, name: str) -> Table:
    """The app's table of that name; raises with the nearest name."""
    if name.startswith("_"):
        raise AppError("VALIDATION_RESERVED_TABLE", f"{name} belongs to the platform; its access is not yours to set.")
    table = snapshot.tables.get(name)
    if table is None:
        names = list(snapshot.tables)
        raise AppError(
            "VALIDATION_TABLE_NOT_FOUND",
            f"There is no table {name!r}.{_near(name, names)}",
            details={"table": name, "tables": names},
        )
    return table


def known_column(table: Table, name: str, parameter: str) -> Column:
    """The table's column of that name; raises with the nearest name."""
    column = table.columns.get(name)
    if column is None:
        names = list(table.columns)
        raise AppError(
            "VALIDATION_COLUMN_NOT_FOUND",
            f"{parameter}: {table.name} has no column {name!r}.{_near(name, names)}",
            details={"table": table.name, "column": name, "columns": names},
        )
    return column


@dataclass(slots=True)
class Change:
    """A change under way. ``before`` is the protection as found, ``after`` as left (None: not touched yet)."""

    conn: Connection
    snapshot: Snapshot
    table: Table
    before: Protection
    after: Protection | None = None
    sql: str = ""

    async def make(self, wanted: Protection) -> None:
        """Bring the table to that protection."""
        made = statements(self.before, wanted)
        for sql in made:
            if refused := await refusal_of(self.conn, sql):
                raise AppError("RLS_INVALID_EXPRESSION", f"{refused.message}.", details={"pg_code": refused.state})
        self.sql = ";\n".join(made) + ";" if made else ""
        self.after = await read_protection(self.conn, self.table.name, self.table.oid)

    async def record(self, label: str) -> None:
        """Keep what was done and the way back, unless everything is as it was."""
        if self.after is None or self.after == self.before:
            return
        down = ";\n".join(statements(self.after, self.before)) + ";"
        await self.conn.execute(_RECORD, label, self.sql, down, hashlib.sha256(self.sql.encode()).hexdigest())


@asynccontextmanager
async def changing(deps: Deps, app: App, table_name: str, label: str) -> AsyncGenerator[Change]:
    """The table, held for a change that is recorded under ``label`` and announced when the block ends well."""
    change: Change | None = None
    try:
        async with deps.pools.owner(app) as conn, conn.transaction():
            await conn.execute(_SETTINGS)
            await conn.execute(_LOCK)
            # Only now do the facts stand still.
            snapshot = await read_snapshot(conn)
            table = known_table(snapshot, table_name)
            change = Change(conn, snapshot, table, await read_protection(conn, table.name, table.oid))
            yield change
            await change.record(label)
    finally:
        if change is not None and change.sql:
            # Whoever is cancelled while the commit is under way cannot know how it ended.
            with anyio.CancelScope(shield=True):
                await deps.catalog.changed(app)
