"""Plans as SQL: names quoted, every value bound, the answer made into JSON inside Postgres.

Values are bound as text and cast to the column's type (``$1::text::uuid``): so Postgres's
own input rules hold, an index on the column is used, and the statement returns the same
types whatever the table looks like, which keeps prepared statements valid across changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from brolly.data.plan import (
    BPCHAR,
    EXACT,
    INT8,
    NUMERIC,
    TEXT,
    TIMESTAMPTZ,
    TSVECTOR,
    VARCHAR,
    Condition,
    InsertPlan,
    ReadPlan,
    Sort,
    comparison_type,
)
from brolly.pg.catalog import Column, Table
from brolly.pg.identifiers import quote

_COMPARE = {"eq": "=", "neq": "<>", "gt": ">", "gte": ">=", "lt": "<", "lte": "<=", "like": "like", "ilike": "ilike"}


@dataclass(frozen=True, slots=True)
class Statement:
    """SQL and the values for its ``$1``, ``$2``, …"""

    text: str
    args: tuple[Any, ...] = ()


class _Args(list[Any]):
    """The values bound so far."""

    def bind(self, value: Any) -> str:
        """Keep the value; its place in the text."""
        self.append(value)
        return f"${len(self)}"


def _table(table: Table) -> str:
    return f"public.{quote(table.name)}"


# A point in time outside these years has no four-digit form; it keeps Postgres's own.
_FIRST, _LAST = "timestamptz '0001-01-01 00:00:00+00'", "timestamptz '9999-12-31 23:59:59.999999+00'"


def _time_text(expression: str) -> str:
    utc = f"{expression} at time zone 'UTC'"
    return (
        f"case when {expression} between {_FIRST} and {_LAST} "
        f"""then to_char({utc}, 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') else ({utc})::text end"""
    )


def output(column: Column) -> str:
    """The column as it goes out. bigint and numeric become texts, since a JSON number may lose digits;
    timestamptz becomes UTC with milliseconds. All other types go out as ``row_to_json`` has them."""
    name = f"t.{quote(column.name)}"
    if column.base_oid in EXACT:
        return f"{name}::text"
    if column.base_oid == TIMESTAMPTZ:
        return _time_text(name)
    if column.element_oid in (INT8, NUMERIC):
        return f"{name}::text[]"
    if column.element_oid == TIMESTAMPTZ:
        return f"case when {name} is not null then array(select {_time_text('e')} from unnest({name}) e) end"
    return name


def _outputs(columns: tuple[Column, ...]) -> str:
    return ", ".join(f"{output(c)} as {quote(c.name)}" for c in columns)


def _cast(column: Column, place: str) -> str:
    """The bound text as a value to compare with the column."""
    return f"{place}::text" if column.base_oid in (TEXT, VARCHAR) else f"{place}::text::{comparison_type(column)}"


def _condition(condition: Condition, args: _Args) -> str:
    column, value = condition.column, condition.value
    name = f"t.{quote(column.name)}"
    if condition.operator == "is":
        sql = f"{name} is {value}"
    elif condition.operator == "in":
        element = "text" if column.base_oid in (TEXT, VARCHAR) else comparison_type(column)
        sql = f"{name} = any ({args.bind(list(value))}::text[]::{element}[])"
    elif condition.operator == "fts":
        vector = name if column.base_oid == TSVECTOR else f"to_tsvector('english', {name})"
        sql = f"{vector} @@ plainto_tsquery('english', {args.bind(value)}::text)"
    elif condition.operator in ("like", "ilike"):
        sql = f"{name} {_COMPARE[condition.operator]} {args.bind(value)}::text"
    else:
        sql = f"{name} {_COMPARE[condition.operator]} {_cast(column, args.bind(value))}"
    return f"not ({sql})" if condition.negated else sql


def _sort(sort: Sort) -> str:
    direction = " desc" if sort.descending else ""
    return f"t.{quote(sort.column.name)}{direction}" + (f" nulls {sort.nulls}" if sort.nulls else "")


def _page(plan: ReadPlan, args: _Args, extra: int) -> str:
    """The page's rows, ``extra`` more than asked for."""
    where = " and ".join(_condition(c, args) for c in plan.conditions)
    order = ", ".join(map(_sort, plan.sorts))
    return (
        f"select {_outputs(plan.columns)} from {_table(plan.table)} t"
        + (f" where {where}" if where else "")
        + (f" order by {order}" if order else "")
        + f" limit {args.bind(plan.limit + extra)}::int8 offset {args.bind(plan.offset)}::int8"
    )


def read(plan: ReadPlan, max_bytes: int) -> Statement:
    """One row: ``body`` (rows as JSON objects, separated by commas), ``shown`` (how many these are, as many as
    are asked for and fit) and ``found`` (how many there are, up to one more than asked for)."""
    args = _Args()
    page = _page(plan, args, 1)
    fits = f"n <= {args.bind(plan.limit)}::int8 and size <= {args.bind(max_bytes)}::int8"
    return Statement(
        f"select coalesce(string_agg(j, ',') filter (where {fits}), '') as body, "
        f"count(*) filter (where {fits}) as shown, count(*) as found "
        "from (select j, row_number() over () as n, sum(octet_length(j)) over (rows unbounded preceding) as size "
        f"from (select row_to_json(r.*)::text as j from ({page}) r) s) p",
        tuple(args),
    )


def measure(plan: ReadPlan) -> Statement:
    """The sizes of the columns of the page's first row, largest first: ``name``, ``bytes``."""
    args = _Args()
    page = _page(ReadPlan(plan.table, plan.columns, plan.conditions, plan.sorts, 1, plan.offset), args, 0)
    return Statement(
        "select e.key as name, octet_length(e.value::text) as bytes "
        f"from (select row_to_json(r.*) as j from ({page}) r) s, json_each(s.j) e order by 2 desc limit 3",
        tuple(args),
    )


def _incoming(plan: InsertPlan) -> str:
    """The bound JSON as rows of the columns' own types: arrays, json, vectors and exact numbers arrive whole."""
    fields = ", ".join(f"{quote(c.name)} {c.type}" for c in plan.columns)
    names = ", ".join(f"v.{quote(c.name)}" for c in plan.columns)
    into = ", ".join(quote(c.name) for c in plan.columns)
    rows = f"json_to_recordset($1::text::json) v({fields})"
    return f"insert into {_table(plan.table)} as t ({into}) select {names} from {rows}"


def insert(plan: InsertPlan, *, returning: bool = True) -> Statement:
    """The stored rows, one JSON text each, in order; nothing when not ``returning``."""
    payload = f"[{','.join(plan.rows)}]"
    if not returning:
        return Statement(_incoming(plan), (payload,))
    back = _outputs(tuple(plan.table.columns.values()))
    return Statement(
        f"with r as ({_incoming(plan)} returning {back}) select row_to_json(r.*)::text as row from r", (payload,)
    )


def probe_condition(condition: Condition) -> Statement | None:
    """A statement that fails if the filter's value is no value of the column's type; None where it always is."""
    if condition.operator in ("is", "fts", "like", "ilike") or condition.column.base_oid in (TEXT, VARCHAR, BPCHAR):
        return None
    kind = comparison_type(condition.column)
    if condition.operator == "in":
        return Statement(f"select ($1::text[]::{kind}[]) is null", (list(condition.value),))
    return Statement(f"select ($1::text::{kind}) is null", (condition.value,))


def probe_column(plan: InsertPlan, column: Column) -> Statement:
    """A statement that fails if a row's value for the column is no value of its type."""
    payload = f"[{','.join(plan.rows)}]"
    return Statement(
        f"select count(v.*) from json_to_recordset($1::text::json) v({quote(column.name)} {column.type})", (payload,)
    )
