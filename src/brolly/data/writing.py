"""The REST API's writes, as the caller's role, in one transaction each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from brolly.core.errors import AppError
from brolly.data import changes, query, service
from brolly.data.access import is_closed, refusal
from brolly.data.constraint import explain
from brolly.data.plan import Embedding, ReadPlan
from brolly.data.query_string import RowsQuery, refuse
from brolly.data.request import InsertRequest, shown
from brolly.data.values import InsertPlan, of_texts, plan_insert
from brolly.data.visit import Visit, by_id, discreet, no_row, opened, plan_rows, refuse_words, table_of
from brolly.pg.catalog import Snapshot, Table

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Changed:
    """How many rows were stored, changed or removed; ``body`` is a JSON array of them, or None where they
    are not asked for or may not be read. ``keys`` are the primary key's columns."""

    found: int
    body: bytes | None
    names: tuple[str, ...]
    keys: tuple[str, ...] = ()


def require_writing(at: Visit) -> None:
    """Refuse writes in read-only mode, and to keys with the scope read."""
    if at.deps.settings.read_only or at.who.read_only:
        raise AppError(
            "AUTH_FORBIDDEN",
            "This server is in read-only mode." if at.deps.settings.read_only else "This key has the scope read.",
            remediation="Use a key without the scope read on a server that is not read-only; select_rows works.",
        )


def _back(at: Visit, tables: Snapshot, asked: RowsQuery) -> ReadPlan:
    """What is answered of the rows that were written."""
    plan = plan_rows(at, tables, replace(asked, cursor=None))
    if plan.grouped:
        raise refuse("Aggregates do not go with this method.")
    return plan


async def run(connection: Any, statement: query.Statement, returning: bool) -> tuple[int, bytes | None]:
    """How many rows the statement wrote, and these as a JSON array."""
    if not returning:
        tag = await connection.execute(statement.text, *statement.args)
        return int(tag.rsplit(" ", 1)[-1]), None
    row = await connection.fetchrow(statement.text, *statement.args)
    return row["found"], row["body"]


async def create(at: Visit, asked: RowsQuery, rows: Rows, *, texts: bool = False) -> Changed:
    """Store the rows, all or none. ``texts``: each value is a text, as in CSV."""
    refuse_words(asked, "select", "on_conflict", "columns")
    require_writing(at)
    tables = await at.tables()
    table = table_of(at, tables, asked.request.table)
    if asked.request.filters or asked.problems:
        raise refuse("Filters do not go with POST.")
    back = replace(_back(at, tables, asked), limit=len(rows))
    plans = _plans(at, tables, table, [of_texts(table, row) for row in rows] if texts else rows)
    conflict = _conflict(table, asked)
    if is_closed(table, at.who):
        raise refusal(table, at.who, "INSERT")
    merge = asked.preferences.resolution == "merge-duplicates"
    try:
        found, bodies = await _store(at, plans, back if _wants_rows(asked) else None, conflict, merge)
    except AppError as error:
        # Answering a row needs the right to read it; a role may have the right to add it alone.
        if error.code != "AUTH_RLS_POLICY_VIOLATION" or conflict or asked.preferences.returning is not None:
            raise
        found, bodies = await _store(at, plans, None, (), False)
    return Changed(found, joined(bodies), back.names, table.primary_key)


def _wants_rows(asked: RowsQuery) -> bool:
    return asked.preferences.returning != "minimal"


def joined(bodies: Sequence[bytes | None]) -> bytes | None:
    """Several JSON arrays as one."""
    kept = [body for body in bodies if body is not None]
    return b"[" + b",".join(body[1:-1] for body in kept if body != b"[]") + b"]" if kept else None


def _plans(at: Visit, tables: Snapshot, table: Table, rows: Rows) -> tuple[InsertPlan, ...]:
    if not rows:
        raise refuse(f"There are no rows for {table.name} in the body.")
    try:
        return plan_insert(InsertRequest(table.name, tuple(rows)), tables)
    except AppError as error:
        raise (error if at.who.account_id else discreet(error)) from None


def _conflict(table: Table, asked: RowsQuery) -> tuple[str, ...]:
    if asked.preferences.resolution is None:
        if asked.on_conflict:
            raise refuse("on_conflict goes with Prefer: resolution=merge-duplicates or ignore-duplicates.")
        return ()
    columns = asked.on_conflict or table.primary_key
    keys = [k.columns for k in (*table.uniques, *([table.primary] if table.primary else []))]
    keys += [i.columns for i in table.indexes if i.unique and i.plain and None not in i.columns]
    if not any(set(key) == set(columns) for key in keys):
        raise refuse("on_conflict takes the columns of a primary key or unique constraint.")
    return columns


async def _store(
    at: Visit, plans: Sequence[InsertPlan], back: ReadPlan | None, conflict: tuple[str, ...], merge: bool
) -> tuple[int, list[bytes | None]]:
    found, bodies, plan = 0, list[bytes | None](), plans[0]
    try:
        async with opened(at) as connection:
            for plan in plans:
                statement = changes.store(plan, back, conflict, merge)
                count, body = await run(connection, statement, back is not None)
                found += count
                bodies.append(body)
    except AppError as error:
        async with opened(at, read_only=True) as connection:
            raise await service.explain_insert(connection, at.who, plan, error) from error
    return found, bodies


def _narrows(plan: ReadPlan) -> bool:
    """Whether a filter leaves out rows, be it a filter on rows that each must have."""
    inner = [o.plan for o in plan.outputs if isinstance(o, Embedding) and o.inner]
    return bool(plan.conditions) or any(map(_narrows, inner))


def _chosen(table: Table, asked: RowsQuery, back: ReadPlan, row_id: str | None) -> ReadPlan:
    """The rows to write: by primary key, or by filters, of which there must be one."""
    if asked.ignored:
        raise refuse(
            f"{', '.join(map(shown, asked.ignored))} is empty; a filter that is written by must say something."
        )
    if row_id is not None:
        return by_id(table, back, row_id)
    if not _narrows(back):
        raise refuse(
            f"Without a filter this would reach every row of {table.name}. Name the rows, for example ?id=eq.1."
        )
    return back


async def change(at: Visit, asked: RowsQuery, values: Mapping[str, Any], row_id: str | None = None) -> Changed:
    """Give the chosen rows these values."""
    refuse_words(asked, "select", "columns")
    require_writing(at)
    tables = await at.tables()
    table = table_of(at, tables, asked.request.table)
    back = _back(at, tables, asked)
    chosen = _chosen(table, asked, back, row_id)
    (plan,) = _plans(at, tables, table, (values,))
    if is_closed(table, at.who):
        raise refusal(table, at.who, "UPDATE")
    statement = changes.update(plan, chosen, back if _wants_rows(asked) else None)
    return await _write(at, statement, chosen, "UPDATE", plan, _wants_rows(asked), row_id is not None)


async def remove(at: Visit, asked: RowsQuery, row_id: str | None = None) -> Changed:
    """Remove the chosen rows."""
    refuse_words(asked, "select")
    require_writing(at)
    tables = await at.tables()
    table = table_of(at, tables, asked.request.table)
    back = _back(at, tables, asked)
    chosen = _chosen(table, asked, back, row_id)
    if is_closed(table, at.who):
        raise refusal(table, at.who, "DELETE")
    returning = asked.preferences.returning == "representation"
    statement = changes.delete(chosen, back if returning else None)
    return await _write(at, statement, chosen, "DELETE", None, returning, row_id is not None)


async def _write(
    at: Visit,
    statement: query.Statement,
    chosen: ReadPlan,
    command: str,
    plan: InsertPlan | None,
    returning: bool,
    single: bool,
) -> Changed:
    try:
        async with opened(at) as connection:
            found, body = await run(connection, statement, returning)
    except AppError as error:
        async with opened(at, read_only=True) as connection:
            raise await explained(connection, at, chosen, command, plan, error) from error
    if single and not found:
        raise no_row(chosen.table)
    return Changed(found, body, chosen.names, chosen.table.primary_key)


async def explained(
    connection: Any, at: Visit, chosen: ReadPlan, command: str, plan: InsertPlan | None, error: AppError
) -> AppError:
    """What the error of a change was about."""
    if error.code == "AUTH_RLS_POLICY_VIOLATION":
        return refusal(chosen.table, at.who, command, error.message)
    if error.code == "VALIDATION_INVALID_INPUT":
        found = await service.wrong_value(connection, chosen)
        if found:
            return found
    if plan is not None:
        return await service.explain_insert(connection, at.who, plan, error)
    return explain(error, chosen.table)
