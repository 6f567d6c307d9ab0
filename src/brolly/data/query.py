"""Plans as statements: the answer is made into JSON inside Postgres."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from brolly.data.expressions import Args, bound_type, outputs, select, sort_type, sort_value, table_name, where
from brolly.data.plan import BPCHAR, Condition, Output, ReadPlan, Sort
from brolly.data.values import InsertPlan
from brolly.pg.catalog import Column, Table
from brolly.pg.identifiers import quote


@dataclass(frozen=True, slots=True)
class Statement:
    """SQL and the values for its ``$1``, ``$2``, …"""

    text: str
    args: tuple[Any, ...] = ()


def read(plan: ReadPlan, max_bytes: int) -> Statement:
    """One row: ``body`` (rows as JSON objects, separated by commas), ``shown`` (how many these are, as many as
    are asked for and fit) and ``found`` (how many there are, up to one more than asked for)."""
    args = Args()
    rows = select(replace(plan, limit=plan.limit + 1), "t", args)
    fits = f"n <= {args.bind(plan.limit)}::int8 and size <= {args.bind(max_bytes)}::int8"
    return Statement(
        f"select coalesce(string_agg(j, ',') filter (where {fits}), '') as body, "
        f"count(*) filter (where {fits}) as shown, count(*) as found "
        "from (select j, row_number() over () as n, sum(octet_length(j)) over (rows unbounded preceding) as size "
        f"from (select row_to_json(r.*)::text as j from ({rows}) r) s) p",
        tuple(args),
    )


def page(plan: ReadPlan, max_bytes: int, *, keys: bool, total: bool) -> Statement:
    """As ``read``, with ``body`` as the bytes of a JSON array.

    ``keys``: also ``last``, the sorts' values in the last row shown. ``total``: also how many rows
    the filters let through.
    """
    args, names = Args(), _keys(plan, keys)
    made = _made(plan, args, names)
    fits = f"n <= {plan.limit:d} and size <= {args.bind(max_bytes)}::int8"
    # No aggregate has an order of its own: Postgres would sort the rows by it for all of them.
    values = f"array_agg(to_json(array[{', '.join(names)}])::text) filter (where {fits})"
    last = f"({values})[count(*) filter (where {fits})]" if keys else "null::text"
    return Statement(
        f"select convert_to('[' || coalesce(string_agg(j, ',') filter (where {fits}), '') || ']', 'UTF8') as body, "
        f"count(*) filter (where {fits}) as shown, count(*) as found, "
        f"{last} as last, {_total(plan, args, total)} as total "
        "from (select s.*, row_number() over () as n, sum(octet_length(j)) over (rows unbounded preceding) as size "
        f"from ({made}) s) p",
        tuple(args),
    )


def short_page(plan: ReadPlan, max_bytes: int, *, keys: bool, total: bool) -> Statement:
    """As ``page`` at a lower cost, where every row is short; ``body`` is null where one is not.

    A row is short if as many of its length as may be shown fit together, so that nothing needs a running sum.
    """
    args, names = Args(), _keys(plan, keys)
    limit, most = plan.limit, max_bytes // max(plan.limit, 1)
    values = ", ".join(f"(array_agg({k}))[{limit:d}]" for k in names)
    last = f"to_json(array[{values}])::text" if keys else "null::text"
    short = f"octet_length(j) <= {args.bind(most)}::int8"
    made = _made(plan, args, names)
    return Statement(
        f"select case when coalesce(bool_and({short}), true) then convert_to('[' || coalesce(array_to_string("
        f"(array_agg(case when {short} then j end))[:{limit:d}], ','), '') || ']', 'UTF8') end as body, "
        f"least(count(*), {limit:d}) as shown, count(*) as found, {last} as last, {_total(plan, args, total)} as total "
        # Fenced off, so that each row is made once for all that looks at it.
        f"from ({made} offset 0) s",
        tuple(args),
    )


def _made(plan: ReadPlan, args: Args, keys: Sequence[str]) -> str:
    """The page's rows as JSON texts ``j``, each with the sorts' values as texts under the names ``keys``."""
    # One row more than asked for, to know whether there is one; none where none is asked for.
    more = replace(plan, limit=plan.limit + 1 if plan.limit else 0)
    if not keys:
        return f"select {row_object('r', plan)} as j from ({select(more, 't', args)}) r"
    values = "".join(f", {sort_value(s, 't', args)}::text as {k}" for s, k in zip(plan.sorts, keys, strict=True))
    rows = select(more, "t", args, more=values)
    fields = ", ".join(f"r.{quote(n)}" for n in plan.names)
    beside = ", ".join(f"r.{k}" for k in keys)
    return f"select {row_object('o', plan)} as j, {beside} from ({rows}) r, lateral (select {fields}) o"


def _keys(plan: ReadPlan, wanted: bool) -> list[str]:
    """Names for the sorts' values, which no answered value has."""
    free = (name for name in map("k{}".format, itertools.count()) if name not in plan.names)
    return list(itertools.islice(free, len(plan.sorts) if wanted else 0))


def _total(plan: ReadPlan, args: Args, wanted: bool) -> str:
    return f"({_count(plan, args)})" if wanted else "null::int8"


def row_object(alias: str, plan: ReadPlan) -> str:
    """The row of that alias as the text of a JSON object."""
    made = f"row_to_json({alias}.*)"
    return f"json_strip_nulls({made})::text" if plan.stripped else f"{made}::text"


def _count(plan: ReadPlan, args: Args) -> str:
    alias = args.alias()
    whole = replace(plan, after=None)
    if plan.grouped:
        return f"select count(*) from ({select(replace(whole, sorts=(), limit=2**62, offset=0), alias, args)}) g"
    wanted = where(whole, alias, args)
    return f"select count(*) from {table_name(plan.table)} {alias}" + (f" where {wanted}" if wanted else "")


def planned(plan: ReadPlan) -> Statement:
    """A statement whose first plan node tells how many rows Postgres expects."""
    args = Args()
    wanted = where(replace(plan, after=None), "t", args)
    text = f"explain (format json) select 1 from {table_name(plan.table)} t" + (f" where {wanted}" if wanted else "")
    return Statement(text, tuple(args))


def measure(plan: ReadPlan) -> Statement:
    """The sizes of the columns of the page's first row, largest first: ``name``, ``bytes``."""
    args = Args()
    rows = select(replace(plan, limit=1), "t", args)
    return Statement(
        "select e.key as name, octet_length(e.value::text) as bytes "
        f"from (select row_to_json(r.*) as j from ({rows}) r) s, json_each(s.j) e order by 2 desc limit 3",
        tuple(args),
    )


def _incoming(plan: InsertPlan) -> str:
    """The bound JSON as rows of the columns' own types: arrays, json, vectors and exact numbers arrive whole."""
    fields = ", ".join(f"{quote(c.name)} {c.type}" for c in plan.columns)
    names = ", ".join(f"v.{quote(c.name)}" for c in plan.columns)
    into = ", ".join(quote(c.name) for c in plan.columns)
    rows = f"json_to_recordset($1::text::json) v({fields})"
    return f"insert into {table_name(plan.table)} as t ({into}) select {names} from {rows}"


def every_column(table: Table) -> ReadPlan:
    """A plan that answers whole rows."""
    return ReadPlan(table, tuple(Output(c.name, c) for c in table.columns.values()), (), (), 1, 0)


def insert(plan: InsertPlan, *, returning: bool = True) -> Statement:
    """The stored rows, one JSON text each, in order; nothing when not ``returning``."""
    payload = f"[{','.join(plan.rows)}]"
    if not returning:
        return Statement(_incoming(plan), (payload,))
    back = outputs(every_column(plan.table), "t", Args())
    return Statement(
        f"with r as ({_incoming(plan)} returning {back}) select row_to_json(r.*)::text as row from r", (payload,)
    )


def probe_condition(condition: Condition) -> Statement | None:
    """A statement that fails if the filter's value is no value of the column's type; None where it always is."""
    kind = bound_type(condition)
    if condition.operator in ("is", "fts", "rawfts", "plfts", "phfts", "wfts") or kind == "text":
        return None
    if condition.column.base_oid == BPCHAR and not condition.quantifier:
        return None
    if condition.operator == "in":
        return Statement(f"select ($1::text[]::{kind}[]) is null", (list(condition.value),))
    array = "[]" if condition.quantifier else ""
    return Statement(f"select ($1::text::{kind}{array}) is null", (condition.value,))


def probe_sort(sort: Sort, value: str) -> Statement:
    """A statement that fails if the cursor's text is no value of the order's type."""
    return Statement(f"select ($1::text::{sort_type(sort)}) is null", (value,))


def probe_column(plan: InsertPlan, column: Column) -> Statement:
    """A statement that fails if a row's value for the column is no value of its type."""
    payload = f"[{','.join(plan.rows)}]"
    return Statement(
        f"select count(v.*) from json_to_recordset($1::text::json) v({quote(column.name)} {column.type})", (payload,)
    )
