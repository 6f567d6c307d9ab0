"""Reading and storing rows: the chain from request to answer, as a caller's role."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal, cast

from pydantic import Field

from brolly.core.caller import Caller
from brolly.core.errors import AppError
from brolly.core.tool import AppParams
from brolly.data import cursor, query, response
from brolly.data.access import is_closed, open_warnings, read_warnings, refusal
from brolly.data.constraint import bad_value, explain
from brolly.data.plan import Branch, Condition, Embedding, ReadPlan, Term, plan_read
from brolly.data.request import InsertRequest, is_storable, parse_read
from brolly.data.response import Page
from brolly.data.tables import require_writable
from brolly.data.values import InsertPlan, plan_insert
from brolly.deps import Deps
from brolly.pg.catalog import Table
from brolly.pg.errors import translate
from brolly.pg.session import as_caller
from brolly.registry import App

_MAX_OFFSET = 2**53


class SelectRows(AppParams):
    """Parameters of select_rows."""

    table: str
    filters: dict[str, Any] = Field(default_factory=dict[str, Any], max_length=100)
    select: str | None = Field(None, max_length=20_000)
    order: str | None = Field(None, max_length=5_000)
    limit: int = Field(20, ge=1, le=1000)
    offset: int = Field(0, ge=0, le=_MAX_OFFSET)
    as_role: Literal["anon", "user"] | None = None
    as_user: str | None = None


class InsertRow(AppParams):
    """Parameters of insert_row."""

    table: str
    data: dict[str, Any]
    as_role: Literal["anon", "user"] | None = None
    as_user: str | None = None


def _as(caller: Caller, params: SelectRows | InsertRow) -> Caller:
    as_user = params.as_user or None
    if as_user is not None and not is_storable(as_user):
        raise AppError("VALIDATION_INVALID_INPUT", "as_user holds a character that Postgres cannot store.")
    if params.as_role is not None:
        return caller.simulate(params.as_role, as_user)
    if as_user is not None:
        raise AppError("VALIDATION_INVALID_SCHEMA", "as_user goes with as_role user.")
    return caller


def admit(app: App, who: Caller) -> None:
    """Refuse anonymous callers where the app's access mode wants them signed in."""
    if who.kind == "anonymous" and app.access_mode == "authenticated":
        raise AppError(
            "AUTH_REQUIRED",
            f"The access mode of {app.id} is authenticated, so anonymous callers are refused.",
            remediation="Sign in; in select_rows use as_role user with as_user. manage_app with action "
            "update_access_mode opens the app.",
        )


async def read(deps: Deps, app: App, who: Caller, plan: ReadPlan, max_bytes: int) -> Page:
    """The page that the caller's role may see."""
    if is_closed(plan.table, who):
        return response.EMPTY
    statement = query.read(plan, max_bytes)
    columns: list[Any] = []
    try:
        async with as_caller(deps.pools.door(app), who, read_only=True) as connection:
            row = await connection.fetchrow(statement.text, *statement.args)
            if row["found"] and not row["shown"]:
                sizes = query.measure(plan)
                columns = await connection.fetch(sizes.text, *sizes.args)
    except AppError as error:
        if await was_closed(deps, app, who, plan.table, error):
            return response.EMPTY
        raise await explain_read(deps, app, who, plan, error) from error
    if columns:
        raise response.too_large(plan, [(c["name"], c["bytes"]) for c in columns])
    return Page(row["body"], row["shown"], row["found"])


async def was_closed(deps: Deps, app: App, who: Caller, table: Table, error: AppError) -> bool:
    """Whether the table lost its row-level security a moment ago, unknown to our catalog."""
    if who.kind != "anonymous" or error.code != "AUTH_RLS_POLICY_VIOLATION":
        return False
    deps.catalog.forget(app.id)
    now = (await deps.catalog.get(app)).relation(table.name)
    return now is not None and is_closed(now, who)


async def explain_read(deps: Deps, app: App, who: Caller, plan: ReadPlan, error: AppError) -> AppError:
    """What the error was about: which filter's value, or which policy."""
    if error.code == "AUTH_RLS_POLICY_VIOLATION":
        return refusal(_refusing(plan, who) or plan.table, who, "SELECT", error.message)
    if error.code in ("VALIDATION_TABLE_NOT_FOUND", "VALIDATION_COLUMN_NOT_FOUND"):
        deps.catalog.forget(app.id)  # changed by another process a moment ago
        return error
    if error.code != "VALIDATION_INVALID_INPUT":
        return error
    async with as_caller(deps.pools.door(app), who, read_only=True) as connection:
        found = await wrong_value(connection, plan)
    return found or about_user(explain(error, plan.table), who)


def _refusing(plan: ReadPlan, who: Caller) -> Table | None:
    """The first table of those that are read together which is closed to the caller."""
    if is_closed(plan.table, who):
        return plan.table
    for e in plan.outputs:
        if isinstance(e, Embedding):
            way = e.relation.junction
            found = way if way is not None and is_closed(way, who) else _refusing(e.plan, who)
            if found is not None:
                return found
    return None


async def wrong_value(connection: Any, plan: ReadPlan) -> AppError | None:
    """The error for the filter, or the cursor, whose value is none of its type."""
    for sort, value in zip(plan.sorts, plan.after or (), strict=False):
        if value is not None and await try_value(connection, query.probe_sort(sort, value)):
            return cursor.wrong()
    for condition in conditions_of(plan.conditions):
        probe = query.probe_condition(condition)
        found = probe and await try_value(connection, probe)
        if found:
            return bad_value(found, condition.column)
    for embedding in plan.outputs:
        inside = await wrong_value(connection, embedding.plan) if isinstance(embedding, Embedding) else None
        if inside:
            return inside
    return None


def conditions_of(terms: Iterable[Term]) -> Iterator[Condition]:
    """The conditions that compare a value, groups opened."""
    for term in terms:
        if isinstance(term, Condition):
            yield term
        elif isinstance(term, Branch):
            yield from conditions_of(term.parts)


def about_user(error: AppError, who: Caller) -> AppError:
    if who.kind == "user":
        error.remediation = (
            "If a policy casts current_user_id(), as_user must be a value of that type, such as a uuid; "
            "manage_rls with action list shows the policies."
        )
    return error


async def try_value(connection: Any, statement: query.Statement) -> AppError | None:
    """Run the statement for its error alone."""
    try:
        async with connection.transaction():
            await connection.execute(statement.text, *statement.args)
    except Exception as error:
        ours = translate(error)
        if ours is None or ours.code != "VALIDATION_INVALID_INPUT":
            raise
        return ours
    return None


def _pairs(filters: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """An array holds several conditions on its column."""
    for column, given in filters.items():
        if isinstance(given, list) and given:
            for one in cast(list[Any], given):
                yield column, one
        else:
            yield column, given


async def select_rows(deps: Deps, caller: Caller, params: SelectRows) -> str:
    """A page of rows, as service or as the role that is asked for."""
    app = await deps.registry.serving(caller, params.app_id)
    who = _as(caller, params)
    admit(app, who)
    request = parse_read(
        params.table,
        filters=_pairs(params.filters),
        select=params.select,
        order=params.order,
        limit=params.limit,
        offset=params.offset,
    )
    plan = plan_read(request, await deps.catalog.get(app))
    page = await read(deps, app, who, plan, response.MAX_BYTES)
    table = (await deps.catalog.get(app)).relation(params.table) or plan.table
    return response.page_text(plan, page, read_warnings(table, who))


async def store(connection: Any, plans: tuple[InsertPlan, ...]) -> list[str]:
    """Store the plans' rows; as they are then, in order."""
    stored: list[str] = []
    for plan in plans:
        statement = query.insert(plan)
        stored += [row["row"] for row in await connection.fetch(statement.text, *statement.args)]
    return stored


async def explain_insert(connection: Any, who: Caller, plan: InsertPlan, error: AppError) -> AppError:
    """What the error was about, in the words of the table."""
    if error.code == "AUTH_RLS_POLICY_VIOLATION":
        return refusal(plan.table, who, "INSERT", error.message)
    if error.code == "VALIDATION_INVALID_INPUT":
        for column in plan.columns:
            found = await try_value(connection, query.probe_column(plan, column))
            if found:
                return bad_value(found, column)
        return about_user(explain(error, plan.table), who)
    return explain(error, plan.table)


async def insert(deps: Deps, app: App, who: Caller, plan: InsertPlan) -> str | None:
    """Store one row; as the caller's role may read it back, or None where it may not read it."""
    require_writable(plan.table, "INSERT")
    if is_closed(plan.table, who):
        raise refusal(plan.table, who, "INSERT")
    try:
        async with as_caller(deps.pools.door(app), who) as connection:
            return (await store(connection, (plan,)))[0]
    except AppError as error:
        if error.code != "AUTH_RLS_POLICY_VIOLATION":
            raise await _explained(deps, app, who, plan, error) from error
    return await _insert_unseen(deps, app, who, plan)


async def _insert_unseen(deps: Deps, app: App, who: Caller, plan: InsertPlan) -> None:
    """Returning a row needs the right to read it; a role may have the right to add it alone."""
    statement = query.insert(plan, returning=False)
    try:
        async with as_caller(deps.pools.door(app), who) as connection:
            await connection.execute(statement.text, *statement.args)
    except AppError as error:
        raise await _explained(deps, app, who, plan, error) from error


async def _explained(deps: Deps, app: App, who: Caller, plan: InsertPlan, error: AppError) -> AppError:
    async with as_caller(deps.pools.door(app), who, read_only=True) as connection:
        return await explain_insert(connection, who, plan, error)


async def insert_row(deps: Deps, caller: Caller, params: InsertRow) -> str:
    """Store one row, as service or as the role that is asked for."""
    app = await deps.registry.serving(caller, params.app_id)
    who = _as(caller, params)
    admit(app, who)
    (plan,) = plan_insert(InsertRequest(params.table, (params.data,)), await deps.catalog.get(app))
    row = await insert(deps, app, who, plan)
    warnings = open_warnings(plan.table, who)
    if row is None:
        return response.row_text(None, [*warnings, *_unseen(plan.table, who)])
    shown, long = response.stored_rows(plan.table, [row])
    return response.row_text(shown, [*warnings, *long])


def _unseen(table: Table, who: Caller) -> list[str]:
    return ["The row is stored, but this role may not read it back.", *read_warnings(table, who)]
