"""Who uses an app's rows over REST, in which role, and what they asked for as a plan."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from brolly.core.caller import Caller
from brolly.core.errors import AppError
from brolly.data import cursor, service
from brolly.data.budget import fit
from brolly.data.plan import UUID, Condition, ReadPlan, plan_of, plan_read
from brolly.data.query_string import RowsQuery, invalid_filters, refuse
from brolly.data.request import is_storable, shown
from brolly.data.tables import find_table
from brolly.deps import Deps
from brolly.pg.catalog import Column, Snapshot, Table
from brolly.pg.pipeline import Result
from brolly.pg.session import as_caller, run_as_caller
from brolly.registry import App


@dataclass(frozen=True, slots=True)
class Visit:
    """Who uses which app's data."""

    deps: Deps
    app: App
    who: Caller

    async def tables(self) -> Snapshot:
        """The app's tables."""
        return await self.deps.catalog.get(self.app)


async def visit(deps: Deps, caller: Caller, app_id: str, as_role: str | None, as_user: str | None) -> Visit:
    """The app, and the role in which the caller uses it."""
    app = await deps.registry.open(caller, app_id)
    if as_role is None and as_user is not None:
        raise refuse("X-Butterbase-As-User goes with X-Butterbase-As-Role: user.")
    if as_role is None:
        return Visit(deps, app, caller)
    if as_role not in ("anon", "user"):
        raise refuse("X-Butterbase-As-Role takes anon or user.")
    if as_user is not None and not is_storable(as_user):
        raise refuse("X-Butterbase-As-User holds a character that Postgres cannot store.")
    who = caller.simulate(as_role, as_user)
    service.admit(app, who)
    return Visit(deps, app, who)


# What a statement made from a plan that looked right may still turn out to be: the error is the request's.
_UNFIT = frozenset((
    "42883", "42846", "42804", "42725", "42704", "42P10", "42P18", "42803", "21000", "0A000",
))  # fmt: skip


@asynccontextmanager
async def opened(at: Visit, *, read_only: bool = False) -> AsyncGenerator[Any]:
    """A connection in the caller's role."""
    try:
        async with as_caller(at.deps.pools.door(at.app), at.who, read_only=read_only) as connection:
            yield connection
    except AppError:
        raise
    except Exception as error:
        if (ours := _unfit(error)) is None:
            raise
        raise ours from error


async def run(at: Visit, text: str, args: Sequence[Any], *, read_only: bool = False) -> Result:
    """One statement in the caller's role, alone in its transaction."""
    try:
        return await run_as_caller(at.deps.pools.door(at.app), at.who, text, args, read_only=read_only)
    except AppError:
        raise
    except Exception as error:
        if (ours := _unfit(error)) is None:
            raise
        raise ours from error


def _unfit(error: Exception) -> AppError | None:
    state = str(getattr(error, "sqlstate", None) or "")
    if state not in _UNFIT and state[:2] != "54":
        return None
    return refuse(f"The database cannot do that: {shown(str(error.args[0]), 300)}.", pg_code=state)


def discreet(error: AppError) -> AppError:
    """The error without the names of tables and columns that were not asked for."""
    details = dict(error.details or {})
    if error.code not in ("VALIDATION_TABLE_NOT_FOUND", "VALIDATION_COLUMN_NOT_FOUND") and "related" not in details:
        return error
    message = re.sub(r" (\(did you mean .*?\?\)|Did you mean .*\?)", "", error.message)
    kept = {k: v for k, v in details.items() if k in ("unknown", "invalidFilters")}
    return AppError(error.code, message, details=kept or None)


def plan_rows(at: Visit, tables: Snapshot, asked: RowsQuery, table: Table | None = None) -> ReadPlan:
    """The plan, of ``table`` where the name is not that of one; one error names all filters that are wrong."""
    wrong = list(asked.problems)
    try:
        plan = plan_of(table, asked.request, tables) if table else plan_read(asked.request, tables)
    except AppError as error:
        error = error if at.who.account_id else discreet(error)
        found = dict(error.details or {}).get("invalidFilters")
        if found is None:
            raise error from None
        unknown = error.code == "VALIDATION_COLUMN_NOT_FOUND"
        said = [f"{name}: there is no such column" for name in found] if unknown else found
        raise invalid_filters([*wrong, *said]) from None
    if wrong:
        raise invalid_filters(wrong)
    plan = replace(fit(plan), stripped=asked.preferences.stripped)
    if asked.cursor is None:
        return plan
    if plan.offset:
        raise refuse("cursor and offset both say where the page begins; send one of them.")
    return replace(plan, after=cursor.read(plan, asked.cursor))


def table_of(at: Visit, tables: Snapshot, name: str) -> Table:
    """The table that is named."""
    try:
        return find_table(tables, name)
    except AppError as error:
        raise (error if at.who.account_id else discreet(error)) from None


def refuse_words(asked: RowsQuery, *allowed: str) -> None:
    """Refuse parameters that mean nothing here."""
    stray = sorted(asked.given - {*allowed})
    if stray:
        raise refuse(f"{', '.join(stray)} does not go with this method.")


_UUID = re.compile(r"\{?[0-9a-f]{4}(?:-?[0-9a-f]{4}){7}\}?", re.IGNORECASE)


def key_column(table: Table) -> Column:
    """The column by whose value a row is named."""
    if len(table.primary_key) != 1:
        raise refuse(f"{table.name} has no primary key of one column; use filters.", primary_key=table.primary_key)
    return table.columns[table.primary_key[0]]


def check_id(column: Column, row_id: str) -> None:
    """Refuse what cannot be the value of that primary key."""
    if not is_storable(row_id) or (column.base_oid == UUID and not _UUID.fullmatch(row_id)):
        raise AppError(
            "VALIDATION_INVALID_TYPE",
            f"The id is no value of {column.name}, which has type {column.type}.",
            details={"column": column.name, "type": column.type},
        )


def by_id(table: Table, plan: ReadPlan, row_id: str) -> ReadPlan:
    """The plan for the row with that primary key."""
    column = key_column(table)
    check_id(column, row_id)
    return replace(plan, conditions=(*plan.conditions, Condition(column, "eq", row_id)))


def no_row(table: Table) -> AppError:
    """The answer for a row that is not there, and for one that the caller may not see."""
    return AppError(
        "RESOURCE_NOT_FOUND",
        f"There is no such row in {table.name}.",
        remediation=f"Call select_rows on {table.name} for the rows that exist; with as_role for those of a role.",
    )
