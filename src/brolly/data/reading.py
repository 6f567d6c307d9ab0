"""The REST API's reads, as the caller's role."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

from brolly.core.errors import AppError
from brolly.data import cursor, query, service
from brolly.data.access import is_closed
from brolly.data.budget import fit, lowered
from brolly.data.plan import Condition, ReadPlan
from brolly.data.query import Statement
from brolly.data.query_string import Preferences, RowsQuery
from brolly.data.visit import (
    Visit,
    by_id,
    check_id,
    key_column,
    no_row,
    opened,
    plan_rows,
    refuse_words,
    run,
    table_of,
)

MAX_BYTES = 16 * 1024 * 1024
"""Most bytes of rows in one page; what does not fit is the next page's."""
MAX_VALUES = 10_000
"""Most values of a function that answers plain ones, which have no pages."""


@dataclass(frozen=True, slots=True)
class RowsPage:
    """Rows as a JSON array. ``next`` is the cursor of the next page, ``more`` whether there is one; ``limits`` are
    those of embedded arrays that were set below the usual one.
    """

    body: bytes
    shown: int
    more: bool
    offset: int
    names: tuple[str, ...]
    total: int | None = None
    next: str | None = None
    limits: str = ""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A read that needs no more thought: what was asked, its plan, its statement. The same for all callers
    of a kind, and valid for as long as the table is the one that it was made from.

    ``slot`` is the place among the statement's values that takes the row's id, where a single row is read.
    """

    asked: RowsQuery
    plan: ReadPlan
    statement: Statement
    names: tuple[str, ...]
    keys: bool = False
    counting: str | None = None
    slot: int | None = None
    limits: str = ""


async def prepare_page(at: Visit, asked: RowsQuery) -> Prepared:
    """What reads a page."""
    refuse_words(asked, "select", "order", "limit", "offset", "cursor")
    plan = plan_rows(at, await at.tables(), asked)
    counting = _counting(at, asked.preferences)
    keys = cursor.has_cursor(plan)
    statement = query.short_page(plan, MAX_BYTES, keys=keys, total=counting == "exact")
    return Prepared(asked, plan, statement, plan.names, keys, counting, limits=lowered(plan))


async def read_page(at: Visit, prepared: Prepared) -> RowsPage:
    """The page that the caller's role may see."""
    plan, statement = prepared.plan, prepared.statement
    if is_closed(plan.table, at.who):
        return _empty(plan, prepared.counting)
    try:
        row = (await run(at, statement.text, statement.args, read_only=True)).rows[0]
        if row["body"] is None:
            # A row is long, so what fits has to be counted.
            statement = query.page(plan, MAX_BYTES, keys=prepared.keys, total=prepared.counting == "exact")
            row = (await run(at, statement.text, statement.args, read_only=True)).rows[0]
        total = await _estimate(at, plan) if prepared.counting == "planned" else row["total"]
    except AppError as error:
        if await service.was_closed(at.deps, at.app, at.who, plan.table, error):
            return _empty(plan, prepared.counting)
        raise await service.explain_read(at.deps, at.app, at.who, plan, error) from error
    if row["found"] and not row["shown"] and plan.limit:
        raise too_large(plan)
    more = row["found"] > row["shown"] and plan.limit > 0
    after = cursor.write(plan, json.loads(row["last"])) if more and prepared.keys and row["last"] else None
    return RowsPage(row["body"], row["shown"], more, plan.offset, prepared.names, total, after, prepared.limits)


async def _estimate(at: Visit, plan: ReadPlan) -> int:
    rough = query.planned(plan)
    async with opened(at, read_only=True) as connection:
        told = json.loads(await connection.fetchval(rough.text, *rough.args))
    return int(told[0]["Plan"]["Plan Rows"])


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


_ID = " ".join(("the", "id"))
"""Stands for the row's id in a statement that is prepared; known by being this very object."""


async def prepare_one(at: Visit, asked: RowsQuery) -> Prepared:
    """What reads the row of some primary key, alone in its page."""
    refuse_words(asked, "select")
    tables = await at.tables()
    table = table_of(at, tables, asked.request.table)
    plan = fit(replace(plan_rows(at, tables, asked), limit=1))
    single = replace(plan, conditions=(*plan.conditions, Condition(key_column(table), "eq", _ID)), limit=1)
    statement = query.short_page(single, MAX_BYTES, keys=False, total=False)
    slot = next(index for index, value in enumerate(statement.args) if value is _ID)
    return Prepared(asked, plan, statement, plan.names, slot=slot, limits=lowered(plan))


async def read_one(at: Visit, prepared: Prepared, row_id: str) -> RowsPage:
    """The row with that primary key."""
    plan, statement, slot = prepared.plan, prepared.statement, prepared.slot
    check_id(key_column(plan.table), row_id)
    if is_closed(plan.table, at.who):
        raise no_row(plan.table)
    args = [row_id if index == slot else value for index, value in enumerate(statement.args)]
    try:
        row = (await run(at, statement.text, args, read_only=True)).rows[0]
    except AppError as error:
        raise await service.explain_read(at.deps, at.app, at.who, by_id(plan.table, plan, row_id), error) from error
    if not row["found"]:
        raise no_row(plan.table)
    if row["body"] is None:
        raise too_large(plan)
    return RowsPage(row["body"], 1, False, 0, prepared.names, limits=prepared.limits)
