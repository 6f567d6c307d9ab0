"""Filters over rows that lie in no table, such as a recorded change: the grammar, types and operators of the REST API.

Postgres compares, with the very expressions of a read, so that a filter lets through what a read would show.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import parse_qsl

from brolly.core.caller import Caller, anonymous
from brolly.core.errors import AppError
from brolly.data import query
from brolly.data.constraint import bad_value
from brolly.data.expressions import Args, bound_type, table_name, where
from brolly.data.plan import BOOL, INT8, TEXT, UUID, VARCHAR, Condition, ReadPlan, plan_read
from brolly.data.query_string import invalid_filters, parse_query, refuse
from brolly.data.request import Filter, ReadRequest, is_storable
from brolly.data.service import conditions_of, try_value
from brolly.deps import Deps
from brolly.pg.catalog import Table
from brolly.pg.session import as_caller
from brolly.registry import App

LONGEST_FILTER = 4000
_EXACT = (BOOL, INT8, 21, 23, UUID, TEXT, VARCHAR)
"""Types of which equal values have one form as JSON."""
_READABLE = (
    "select c.name, has_column_privilege($1, $2::text::regclass, c.name, 'select') as readable, "
    # Texts that are equal without being the same exist under some collations.
    "coalesce((select collisdeterministic from pg_collation where oid = a.attcollation), true) as plain "
    "from unnest($3::text[]) c(name) join pg_attribute a on a.attrelid = $2::text::regclass and a.attname = c.name"
)


@dataclass(frozen=True, slots=True)
class RowFilter:
    """A filter that is possible for the table. Those of the same meaning are equal, as far as can be seen at once.

    ``equal`` is its meaning where it only asks for equal values whose JSON is one and the same for equal values:
    column and JSON text; else None.
    """

    text: str
    plan: ReadPlan
    equal: tuple[tuple[str, str], ...] | None = None

    @property
    def _meaning(self) -> tuple[Any, ...]:
        return (self.plan.table.name, self.text if self.equal is None else self.equal)

    def goes_with(self, table: Table) -> bool:
        """Whether the table still has all columns of the filter, of the types that it was made for."""
        columns = [condition.column for condition in conditions_of(self.plan.conditions)]
        return all((now := table.columns.get(c.name)) is not None and now.type == c.type for c in columns)

    def __hash__(self) -> int:
        return hash(self._meaning)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RowFilter) and self._meaning == other._meaning


async def row_filter(deps: Deps, app: App, who: Caller, table: str, given: str | Mapping[str, Any]) -> RowFilter:
    """The filter: a query string as the REST API takes it, or columns with the values that they must equal.

    Raises when it cannot be read, does not go with the table, holds a value that is none of its column's type, or
    names a column that the caller may not read.
    """
    request = ReadRequest(table, (), filters=_filters(table, given))
    plan = plan_read(request, await deps.catalog.get(app))
    text = given if isinstance(given, str) else json.dumps(given, sort_keys=True, separators=(",", ":"))
    if not plan.conditions:
        raise refuse("The filter has no condition.")
    conditions = list(conditions_of(plan.conditions))
    names = list({c.column.name: None for c in conditions})
    # Nothing here asks for a right on the table, so what is looked at first is whether there is one.
    async with as_caller(deps.pools.door(app), anonymous(), read_only=True) as connection:
        rows = await connection.fetch(_READABLE, who.role, table_name(plan.table), names)
        hidden = [row["name"] for row in rows if not row["readable"]]
        if hidden or len(rows) < len(names):
            said = f"You may not read {', '.join(hidden or names)} of {plan.table.name}, so you cannot filter by it."
            raise AppError("AUTH_RLS_POLICY_VIOLATION", said)
        await _try(connection, conditions)
        equal = await _equal(connection, plan, {row["name"] for row in rows if row["plain"]})
    return RowFilter(text, plan, equal)


def _filters(table: str, given: str | Mapping[str, Any]) -> tuple[Any, ...]:
    if isinstance(given, str):
        if len(given) > LONGEST_FILTER:
            raise refuse(f"The filter is longer than {LONGEST_FILTER} characters.")
        asked = parse_query(table, parse_qsl(given, keep_blank_values=True, encoding="utf-8"))
        if asked.problems:
            raise invalid_filters(asked.problems)
        if asked.given or asked.ignored:
            raise refuse(f"A filter has conditions alone, not {', '.join([*sorted(asked.given), *asked.ignored])}.")
        return asked.request.filters
    return tuple(_equality(column, value) for column, value in given.items())


def _equality(column: str, value: Any) -> Filter:
    if value is None:
        return Filter(column, "is", "null")
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if not is_storable(text) or not is_storable(column):
        raise refuse("The filter holds a character that Postgres cannot store.")
    return Filter(column, "eq", text)


async def _try(connection: Any, conditions: Sequence[Condition]) -> None:
    for condition in conditions:
        probe = query.probe_condition(condition)
        if probe is not None and (error := await try_value(connection, probe)):
            raise bad_value(error, condition.column)
        if condition.operator in ("match", "imatch"):
            probe = query.Statement("select '' ~ all ($1::text[])", (_texts(condition),))
            if error := await try_value(connection, probe):
                raise bad_value(error, condition.column)


def _texts(condition: Condition) -> list[str]:
    if condition.quantifier:
        return [part.strip('"') for part in cast(str, condition.value).strip("{}").split(",")]
    return [cast(str, condition.value)]


async def _equal(connection: Any, plan: ReadPlan, plain: set[str]) -> tuple[tuple[str, str], ...] | None:
    found: list[tuple[str, str]] = []
    for term in plan.conditions:
        match term:
            case Condition(operator="eq", negated=False, path=(), quantifier=None, column=column) if (
                column.type_oid in _EXACT and column.name in plain
            ):
                made = await connection.fetchval(f"select to_jsonb($1::text::{bound_type(term)})::text", term.value)
                found.append((column.name, made))
            case _:
                return None
    return tuple(sorted(found))


async def match_rows(
    deps: Deps, app: App, filters: Sequence[RowFilter], images: Sequence[str]
) -> list[list[bool] | None]:
    """For each filter, of one table all, whether it lets each row through. ``images`` are JSON objects.

    None stands for a filter that cannot be computed for all of the rows, as after a change of the table.
    """
    if not filters or not images:
        return [[False] * len(images) for _ in filters]
    rows = f"[{','.join(images)}]"
    try:
        async with as_caller(deps.pools.door(app), anonymous(), read_only=True) as connection:
            statement = _statement(filters, rows)
            found = await connection.fetch(statement.text, *statement.args)
    except AppError as error:
        if error.status >= 500 and error.code != "DATABASE_TIMEOUT":
            raise
        if len(filters) == 1:
            return [None]
        # One that fails must not silence the others.
        return [one for each in filters for one in await match_rows(deps, app, [each], images)]
    return [[row["fits"][i] for row in found] for i in range(len(filters))]


def _statement(filters: Sequence[RowFilter], rows: str) -> query.Statement:
    args = Args()
    place = args.bind(rows)
    table: Table = filters[0].plan.table
    fits = ", ".join(f"({sql}) is true" for sql in _conditions(filters, args))
    return query.Statement(
        f"select array[{fits}] as fits from jsonb_array_elements({place}::text::jsonb) with ordinality e(image, n), "
        f"lateral jsonb_populate_record(null::{table_name(table)}, e.image) t order by e.n",
        tuple(args),
    )


def _conditions(filters: Sequence[RowFilter], args: Args) -> Iterator[str]:
    for each in filters:
        yield where(each.plan, "t", args)
