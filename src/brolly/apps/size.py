"""How much an app holds, for the question before it is deleted."""

from __future__ import annotations

from brolly.core.caller import Caller
from brolly.core.errors import AppError
from brolly.deps import Deps
from brolly.pg.catalog import Table
from brolly.pg.identifiers import quote
from brolly.pg.session import as_caller
from brolly.pg.snapshot import read_snapshot
from brolly.registry import App

COUNT_LIMIT = 10_000


async def size_of(deps: Deps, app: App, caller: Caller) -> str:
    """The app's tables, rows, files and bytes: ``2 tables, 61 rows (8021 kB), 3 files (20,480 bytes)``."""
    async with deps.pools.reader(app) as connection:
        tables = list((await read_snapshot(connection)).tables.values())
    stored = await deps.control.fetchval("select pg_size_pretty(pg_database_size($1::name))", app.db_name)
    return (
        f"{_many(len(tables), 'table')}, {await _rows(deps, app, caller, tables)} ({stored}){await _files(deps, app)}"
    )


async def _files(deps: Deps, app: App) -> str:
    """Its files, if it has any."""
    files, size = await deps.capabilities["count_files"](deps, app)
    return f", {_many(files, 'file')} ({_many(size, 'byte')})" if files else ""


async def _rows(deps: Deps, app: App, caller: Caller, tables: list[Table]) -> str:
    known = sum(t.estimated_rows for t in tables if t.estimated_rows)
    counts = await _counts(deps, app, caller, [t for t in tables if not t.estimated_rows])
    if counts is None:
        return f"{_many(known, 'row')} or more" if known else "an unknown number of rows"
    total = known + sum(min(count, COUNT_LIMIT) for count in counts)
    if any(count > COUNT_LIMIT for count in counts):
        return f"more than {_many(total, 'row')}"
    return f"about {_many(total, 'row')}" if known else _many(total, "row")


async def _counts(deps: Deps, app: App, caller: Caller, tables: list[Table]) -> list[int] | None:
    """The rows of the tables that Postgres has no estimate for yet, as far as that is cheap; None if it is not."""
    if not tables:
        return []
    each = ", ".join(
        f"(select count(*) from (select from public.{quote(table.name)} limit {COUNT_LIMIT + 1}) t)" for table in tables
    )
    try:
        async with as_caller(deps.pools.door(app), caller, read_only=True) as connection:
            return await connection.fetchval(f"select array[{each}]")
    except AppError:
        # A lock or a lack of rights must not stand in the way of the question.
        return None


def _many(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")
