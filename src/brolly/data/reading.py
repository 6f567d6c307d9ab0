"""The REST API's reads, as the caller's role."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

from brolly.core.errors import AppError
from brolly.data import cursor, query, service
from brolly.data.access import is_closed
from brolly.data.plan import ReadPlan
from brolly.data.query_string import Preferences, RowsQuery
from brolly.data.visit import Visit, by_id, no_row, opened, plan_rows, refuse_words, table_of

MAX_BYTES = 16 * 1024 * 1024
"""Most bytes of rows in one page; what does not fit is the next page's."""
MAX_VALUES = 10_000
"""Most values of a function that answers plain ones, which have no pages."""


@dataclass(frozen=True, slots=True)
class RowsPage:
    """Rows as a JSON array. ``next`` is the cursor of the next page, ``more`` whether there is one."""

    body: bytes
    shown: int
    more: bool
    offset: int
    names: tuple[str, ...]
    total: int | None = None
    next: str | None = None


async def read_page(at: Visit, asked: RowsQuery) -> RowsPage:
    """The page that the caller's role may see."""
    refuse_words(asked, "select", "order", "limit", "offset", "cursor")
    plan = plan_rows(at, await at.tables(), asked)
    counting = _counting(at, asked.preferences)
    if is_closed(plan.table, at.who):
        return _empty(plan, counting)
    keys = cursor.has_cursor(plan)
    statement = query.page(plan, MAX_BYTES, keys=keys, total=counting == "exact")
    try:
        async with opened(at, read_only=True) as connection:
            row = await connection.fetchrow(statement.text, *statement.args)
            total = row["total"]
            if counting == "planned":
                rough = query.planned(plan)
                told = json.loads(await connection.fetchval(rough.text, *rough.args))
                total = int(told[0]["Plan"]["Plan Rows"])
    except AppError as error:
        if await service.was_closed(at.deps, at.app, at.who, plan.table, error):
            return _empty(plan, counting)
        raise await service.explain_read(at.deps, at.app, at.who, plan, error) from error
    if row["found"] and not row["shown"] and plan.limit:
        raise too_large(plan)
    more = row["found"] > row["shown"] and plan.limit > 0
    after = cursor.write(plan, json.loads(row["last"])) if more and keys and row["last"] else None
    return RowsPage(row["body"], row["shown"], more, plan.offset, plan.names, total, after)


def too_large(plan: ReadPlan) -> AppError:
    """The error for one row that is longer than a page may be."""
    return AppError(
        "REQUEST_TOO_LARGE",
        f"A row of {plan.table.name} with all that was asked for is longer than an answer may be ({MAX_BYTES} bytes).",
        remediation="Leave out long columns with select, or embed fewer rows; select_rows names the columns.",
    )


def _empty(plan: ReadPlan, counting: str | None) -> RowsPage:
    return RowsPage(b"[]", 0, False, plan.offset, plan.names, 0 if counting else None)


def _counting(at: Visit, preferences: Preferences) -> str | None:
    """How rows are counted. What Postgres expects is learnt from all rows, so it is told only who may see all."""
    if preferences.count is None:
        return None
    return "planned" if preferences.count != "exact" and at.who.kind == "service" else "exact"


async def read_one(at: Visit, asked: RowsQuery, row_id: str) -> RowsPage:
    """The row with that primary key, alone in its page."""
    refuse_words(asked, "select")
    tables = await at.tables()
    table = table_of(at, tables, asked.request.table)
    plan = by_id(table, plan_rows(at, tables, asked), row_id)
    if is_closed(table, at.who):
        raise no_row(table)
    statement = query.page(replace(plan, limit=1), MAX_BYTES, keys=False, total=False)
    try:
        async with opened(at, read_only=True) as connection:
            row = await connection.fetchrow(statement.text, *statement.args)
    except AppError as error:
        raise await service.explain_read(at.deps, at.app, at.who, plan, error) from error
    if not row["shown"]:
        raise too_large(plan) if row["found"] else no_row(table)
    return RowsPage(row["body"], 1, False, 0, plan.names)
