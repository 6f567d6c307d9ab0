"""Calls of an app's own functions: which one is meant, its arguments, and its result through the chain of reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from brolly.core.errors import AppError
from brolly.data import query, reading, service
from brolly.data.budget import lowered
from brolly.data.expressions import Args, output
from brolly.data.plan import Output, ReadPlan
from brolly.data.query_string import RowsQuery, refuse
from brolly.data.reading import MAX_BYTES, RowsPage
from brolly.data.request import InsertRequest, shown
from brolly.data.values import InsertPlan, of_texts, plan_insert
from brolly.data.visit import Visit, opened, plan_rows, refuse_words
from brolly.data.writing import require_writing
from brolly.pg.catalog import Function, Snapshot, Table
from brolly.pg.identifiers import quote

_KINDS = {"butterbase_anon": "anonymous callers", "butterbase_user": "signed-in users"}


@dataclass(frozen=True, slots=True)
class Call:
    """A function that the caller may call, with the values for it as a JSON object of theirs."""

    function: Function
    arguments: InsertPlan

    @property
    def sql(self) -> str:
        """The call, with the arguments in ``v``; only those that are given, so that defaults hold."""
        given = ", ".join(f"{quote(c.name)} => v.{quote(c.name)}" for c in self.arguments.columns)
        return f"public.{quote(self.function.name)}({given})"

    def source(self, place: str) -> str:
        """What the arguments are read from."""
        if not self.arguments.columns:
            # One row all the same, and the place must have a use.
            return f"(select {place}::text) v"
        fields = ", ".join(f"{quote(c.name)} {c.type}" for c in self.arguments.columns)
        return f"json_to_record({place}::text::json) v({fields})"


async def functions_of(at: Visit, name: str) -> tuple[Function, ...]:
    """Those of that name that the caller may call; whoever may call none is not told that there is one."""
    found = (await at.tables()).functions.get(name, ())
    allowed = tuple(f for f in found if at.who.role in f.roles and f.plain and (not f.definer or _all_powerful(at)))
    if allowed:
        return allowed
    message, hint = (
        f"There is no function {shown(name, 63)!r}.",
        "Call manage_schema with action get for those there are.",
    )
    if found and at.who.account_id is not None:
        message = f"{name} may not be called over HTTP."
        if any(f.plain and not f.definer for f in found):
            message = f"{name} is not exposed to {_KINDS.get(at.who.role, at.who.role)}."
        hint = 'Add the role to the function\'s "expose" and call manage_schema with action apply.'
    raise AppError("RESOURCE_NOT_FOUND", message, remediation=hint if at.who.account_id else None)


def _all_powerful(at: Visit) -> bool:
    return at.who.kind == "service"


def choose(at: Visit, found: tuple[Function, ...], given: Mapping[str, Any], *, texts: bool) -> Call:
    """The one function that takes these arguments. ``texts``: they come from a query string."""
    fits = [f for f in found if _fits(f, given)]
    if len(fits) > 1:
        raise refuse(
            f"{found[0].name} is several functions, of which more than one takes these arguments.",
            **_told(at, found),
        )
    if not fits:
        raise _unfit(at, found, given)
    (function,) = fits
    columns = {a.name: a.value for a in function.arguments}
    taker = Table(function.name, columns)
    row = of_texts(taker, {n: str(v) for n, v in given.items()}) if texts else given
    if not row:
        return Call(function, InsertPlan(taker, (), ("{}",)))
    (arguments,) = plan_insert(InsertRequest(function.name, (row,)), Snapshot({function.name: taker}))
    return Call(function, arguments)


def _fits(function: Function, given: Mapping[str, Any]) -> bool:
    names = {a.name for a in function.arguments}
    needed = {a.name for a in function.arguments if a.default is None}
    return needed <= given.keys() <= names


def _told(at: Visit, found: tuple[Function, ...]) -> dict[str, Any]:
    if at.who.account_id is None:
        return {}
    said = [{a.name: a.value.type + (f" default {a.default}" if a.default else "") for a in f.arguments} for f in found]
    return {"arguments": said[0] if len(said) == 1 else said}


def _unfit(at: Visit, found: tuple[Function, ...], given: Mapping[str, Any]) -> AppError:
    names = {a.name for f in found for a in f.arguments}
    unknown = [shown(n, 63) for n in given if n not in names][:20]
    said = f"{found[0].name} does not take these arguments."
    if unknown:
        said = f"{found[0].name} has no argument {', '.join(unknown)}."
    elif len(found) == 1 and at.who.account_id is not None:
        missing = [a.name for a in found[0].arguments if a.default is None and a.name not in given]
        said = f"{found[0].name} needs {', '.join(missing)}."
    return refuse(said, **_told(at, found))


def _rows_of(function: Function, tables: Snapshot) -> Table | None:
    """The rows that it answers, as a table of that name; None where it answers no rows.

    They come in the order that the function gives them, and one may come twice: so there is no key.
    """
    if function.relation is not None:
        relation = tables.relation(function.relation)
        if relation is None:
            raise refuse(f"{function.name} answers rows of {function.relation}, which is not there.")
        return replace(relation, transient=True, primary=None)
    return Table(function.name, function.columns, transient=True) if function.columns else None


@dataclass(frozen=True, slots=True)
class Answer:
    """A page of rows; or ``body``, one JSON value; or neither, from a function that answers nothing."""

    page: RowsPage | None = None
    body: bytes | None = None


async def perform(at: Visit, call: Call, asked: RowsQuery, *, read_only: bool) -> Answer:
    """Call the function as the caller's role. Over GET it may not write, nor where it promises to change nothing:
    Postgres would let it call another that does.
    """
    if call.function.volatility != "volatile":
        read_only = True
    elif not read_only:
        require_writing(at)
    tables = await at.tables()
    rows = _rows_of(call.function, tables)
    try:
        if rows is not None:
            return await _perform_rows(at, call, asked, plan_rows(at, tables, asked, rows), read_only=read_only)
        refuse_words(asked)
        if asked.request.filters or asked.problems:
            raise refuse(f"{call.function.name} answers no rows that could be filtered.")
        return await _perform_value(at, call, read_only=read_only)
    except AppError as error:
        raise await _explained(at, call, error) from error


async def _perform_rows(at: Visit, call: Call, asked: RowsQuery, plan: ReadPlan, *, read_only: bool) -> Answer:
    refuse_words(asked, "select", "order", "limit", "offset")
    counting = asked.preferences.count is not None
    limited = plan if call.function.many else replace(plan, limit=1)
    statement = query.page(limited, MAX_BYTES, keys=False, total=counting)
    place = f"${len(statement.args) + 1}"
    # One that changes nothing may be opened up into the query, filters and all.
    there = "" if call.function.many else " where not (r is null)"
    kept = "materialized " if call.function.volatility == "volatile" else ""
    rows = (
        f"with {quote(plan.table.name)} as {kept}"
        f"(select r.* from {call.source(place)}, lateral {call.sql} r{there}) {statement.text}"
    )
    async with opened(at, read_only=read_only) as connection:
        row = await connection.fetchrow(rows, *statement.args, call.arguments.rows[0])
    if row["found"] and not row["shown"] and limited.limit:
        raise reading.too_large(plan)
    if not call.function.many:
        return Answer(body=row["body"][1:-1] or b"null")
    more = row["found"] > row["shown"] and plan.limit > 0
    return Answer(
        RowsPage(row["body"], row["shown"], more, plan.offset, plan.names, row["total"], limits=lowered(plan))
    )


async def _perform_value(at: Visit, call: Call, *, read_only: bool) -> Answer:
    source = call.source("$1")
    args = (call.arguments.rows[0],)
    column = call.function.value
    async with opened(at, read_only=read_only) as connection:
        if column is None:
            await connection.fetch(f"select {call.sql} from {source}", *args)
            return Answer()
        value = output(Output(column.name, column), "t", Args())
        taken = f"select {call.sql} as {quote(column.name)} from {source}"
        if call.function.many:
            rows = f"select r as {quote(column.name)} from {source}, lateral {call.sql} r limit {reading.MAX_VALUES}"
            taken = f"select coalesce(json_agg({value}), '[]') as j from ({rows}) t"
            value = "t.j"
        # Weighed there: what a function makes of a caller's number may be longer than this process has memory.
        text = (
            "select case when octet_length(b) <= $2 then b end "
            f"from (select coalesce(to_json({value})::text, 'null') as b from ({taken}) t) m"
        )
        body = await connection.fetchval(text, *args, MAX_BYTES)
    if body is None:
        raise _too_large(call)
    return Answer(body=body.encode())


def _too_large(call: Call) -> AppError:
    return AppError(
        "REQUEST_TOO_LARGE",
        f"What {call.function.name} answers is longer than an answer may be ({MAX_BYTES} bytes).",
        remediation="Have it answer less, or rows in pages (returns setof a table); manage_schema get shows it.",
    )


async def _explained(at: Visit, call: Call, error: AppError) -> AppError:
    """What the error was about: a value among the arguments, or what the function does."""
    if error.code in ("VALIDATION_TABLE_NOT_FOUND", "VALIDATION_COLUMN_NOT_FOUND", "VALIDATION_INVALID_SCHEMA"):
        if "pg_code" in dict(error.details or {}):
            at.deps.catalog.forget(at.app.id)  # perhaps changed by another process a moment ago
        return error
    if error.code == "AUTH_RLS_POLICY_VIOLATION" and at.who.account_id is None:
        return AppError(error.code, f"{call.function.name} does something that you may not do.")
    if error.code == "VALIDATION_INVALID_INPUT" and call.arguments.columns:
        async with opened(at, read_only=True) as connection:
            return await service.explain_insert(connection, at.who, call.arguments, error)
    return error
