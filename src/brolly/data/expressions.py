"""Parts of statements: values to answer, conditions, order. Names quoted, every value bound.

Values are bound as text and cast to the column's type (``$1::text::uuid``): so Postgres's
own input rules hold, an index on the column is used, and the statement returns the same
types whatever the table looks like, which keeps prepared statements valid across changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from brolly.data.plan import (
    JSON,
    TEXT,
    TSVECTOR,
    VARCHAR,
    Branch,
    Condition,
    Embedding,
    Output,
    Presence,
    ReadPlan,
    Sort,
    Term,
    comparison_type,
)
from brolly.pg.catalog import Column, Table
from brolly.pg.identifiers import quote
from brolly.pg.presentation import shown_value, time_text

_COMPARE = {
    "eq": "=",
    "neq": "<>",
    "gt": ">",
    "gte": ">=",
    "lt": "<",
    "lte": "<=",
    "like": "like",
    "ilike": "ilike",
    "match": "~",
    "imatch": "~*",
    "isdistinct": "is distinct from",
    "cs": "@>",
    "cd": "<@",
    "ov": "&&",
    "sl": "<<",
    "sr": ">>",
    "nxr": "&<",
    "nxl": "&>",
    "adj": "-|-",
}
_PATTERNS = ("like", "ilike", "match", "imatch")
_QUERIES = {
    "fts": "plainto_tsquery",
    "rawfts": "to_tsquery",
    "plfts": "plainto_tsquery",
    "phfts": "phraseto_tsquery",
    "wfts": "websearch_to_tsquery",
}


class Args(list[Any]):
    """The values bound so far, and the aliases given so far."""

    def __init__(self) -> None:
        super().__init__()
        self._aliases = 0
        self._paths: dict[tuple[str, ...], str] = {}

    def bind(self, value: Any) -> str:
        """Keep the value; its place in the text."""
        self.append(value)
        return f"${len(self)}"

    def path(self, path: tuple[str, ...]) -> str:
        """The place of a path; the same one for the same path, as grouping wants it."""
        if path not in self._paths:
            self._paths[path] = self.bind(list(path))
        return self._paths[path]

    def alias(self) -> str:
        """A name for one more table."""
        self._aliases += 1
        return f"t{self._aliases}"


def table_name(table: Table) -> str:
    """The table as a statement names it."""
    return quote(table.name) if table.transient else f"public.{quote(table.name)}"


def _of_type(kind: str, expression: str) -> str:
    if kind in ("bigint", "numeric"):
        return f"{expression}::text"
    return time_text(expression) if kind == "timestamptz" else expression


def _place(alias: str, column: Column, path: tuple[str, ...], as_text: bool, args: Args) -> str:
    """The column, or a place in its JSON."""
    name = f"{alias}.{quote(column.name)}"
    if not path:
        return name
    found = f"({name} #>{'>' if as_text else ''} {args.path(path)}::text[])"
    return f"{found}::jsonb" if column.base_oid == JSON and not as_text else found


def raw(output: Output, alias: str, args: Args) -> str:
    """The value before it is given its form for the answer: what is grouped and ordered by."""
    if output.column is None:
        value = "*"
    else:
        value = _place(alias, output.column, output.path, output.as_text, args)
        value = f"({value})::{output.cast}" if output.cast else value
    if output.aggregate:
        value = f"{output.aggregate}({value})"
    return f"({value})::{output.result_cast}" if output.result_cast else value


_FLOATS = (700, 701)


def output(found: Output, alias: str, args: Args) -> str:
    """The value as it goes out."""
    value, column = raw(found, alias, args), found.column
    if found.result_cast:
        return _of_type(found.result_cast, value)
    if found.aggregate in ("sum", "avg"):
        return value if found.cast or (column and column.base_oid in _FLOATS) else f"{value}::text"
    if found.aggregate == "count" or column is None or found.path:
        return _of_type(found.cast or "", value) if found.aggregate != "count" else value
    return _of_type(found.cast, value) if found.cast else shown_value(column, value)


def outputs(plan: ReadPlan, alias: str, args: Args) -> str:
    """The answered values with their names."""
    return ", ".join(f"{value} as {quote(name)}" for name, value in _values(plan, alias, args))


def _values(plan: ReadPlan, alias: str, args: Args) -> Iterator[tuple[str, str]]:
    for found in plan.outputs:
        if isinstance(found, Output):
            yield found.name, output(found, alias, args)
        elif found.spread:
            yield from _spread(found, alias, args)
        elif not found.silent:
            yield found.name, _embedded(found, alias, args)


def _embedded(embedding: Embedding, alias: str, args: Args) -> str:
    rows = select(embedding.plan, args.alias(), args, (embedding, alias))
    if embedding.relation.many:
        return f"(select coalesce(json_agg(row_to_json(r.*)), '[]'::json) from ({rows}) r)"
    return f"(select row_to_json(r.*) from ({rows}) r)"


def _spread(embedding: Embedding, alias: str, args: Args) -> Iterator[tuple[str, str]]:
    """One value each: a lookup by key costs less than it would to take a row apart."""
    plan = embedding.plan
    for part in plan.outputs:
        one = replace(plan, outputs=(part,))
        for name in one.names:
            single = part if isinstance(part, Output) else replace(part, plan=_only(part.plan, name, part.spread))
            rows = select(replace(plan, outputs=(single,)), args.alias(), args, (embedding, alias))
            yield name, f"({rows})"


def _only(plan: ReadPlan, name: str, spread: bool) -> ReadPlan:
    """The plan, answering that name alone; whole where it is not spread."""
    if not spread:
        return plan
    kept = tuple(o for o in plan.outputs if name in replace(plan, outputs=(o,)).names)
    return replace(plan, outputs=kept)


def _join(embedding: Embedding, near: str, far: str, args: Args) -> str:
    """The condition that rows of the two tables belong together."""
    relation = embedding.relation
    if relation.junction is None:
        return " and ".join(f"{far}.{quote(there)} = {near}.{quote(here)}" for here, there in relation.pairs)
    between = args.alias()
    first = [f"{between}.{quote(there)} = {near}.{quote(here)}" for here, there in relation.pairs]
    second = [f"{far}.{quote(there)} = {between}.{quote(here)}" for here, there in relation.onward]
    joined = " and ".join([*first, *second])
    return f"exists (select 1 from {table_name(relation.junction)} {between} where {joined})"


def select(
    plan: ReadPlan, alias: str, args: Args, inside: tuple[Embedding, str] | None = None, *, more: str = ""
) -> str:
    """The plan's rows. ``inside`` is the embedding that they stand in and the alias of the outer table;
    ``more`` are further values to select."""
    chosen = outputs(plan, alias, args)
    parts = [f"select {chosen}{more} from {table_name(plan.table)} {alias}"]
    wanted = where(plan, alias, args, inside)
    if wanted:
        parts.append(f"where {wanted}")
    if plan.grouped:
        keys = [raw(o, alias, args) for o in plan.outputs if isinstance(o, Output) and not o.aggregate]
        if keys:
            parts.append(f"group by {', '.join(keys)}")
    if plan.sorts and not (inside and plan.grouped and not plan.sorts):
        parts.append(f"order by {', '.join(sort(s, alias, args) for s in plan.sorts)}")
    # Written out, since Postgres takes a limit that it does not know yet for a tenth of the rows, and would plan
    # each page anew. An offset may be any; none is the usual one.
    parts.append(f"limit {plan.limit:d}" + (f" offset {args.bind(plan.offset)}::int8" if plan.offset else ""))
    return " ".join(parts)


def where(plan: ReadPlan, alias: str, args: Args, inside: tuple[Embedding, str] | None = None) -> str:
    """The conditions on the rows, or nothing."""
    parts = [_join(inside[0], inside[1], alias, args)] if inside else []
    parts += [condition(c, alias, args) for c in plan.conditions]
    parts += [condition(Presence(e), alias, args) for e in plan.outputs if isinstance(e, Embedding) and e.inner]
    if plan.after is not None:
        parts.append(_after(plan.sorts, plan.after, alias, args))
    return " and ".join(parts)


def condition(term: Term, alias: str, args: Args) -> str:
    """The condition as SQL."""
    if isinstance(term, Branch):
        joined = f" {term.operator} ".join(condition(part, alias, args) for part in term.parts)
        sql = f"({joined})"
    elif isinstance(term, Presence):
        far, plan = args.alias(), term.embedding.plan
        wanted = where(plan, far, args, (term.embedding, alias))
        sql = f"exists (select 1 from {table_name(plan.table)} {far} where {wanted})"
    else:
        sql = _comparison(term, alias, args)
    return f"not ({sql})" if term.negated else sql


def bound_type(term: Condition) -> str:
    """The type to which the condition's value is cast."""
    if term.path:
        return "text" if term.as_text else "jsonb"
    if term.column.base_oid in (TEXT, VARCHAR) or term.operator in _PATTERNS:
        return "text"
    return comparison_type(term.column)


def _comparison(term: Condition, alias: str, args: Args) -> str:
    name = _place(alias, term.column, term.path, term.as_text, args)
    operator, value, kind = term.operator, term.value, bound_type(term)
    if operator == "is":
        return f"{name} is {value}"
    if operator == "in":
        return f"{name} = any ({args.bind(list(value))}::text[]::{kind}[])"
    if operator in _QUERIES:
        language = f"{args.bind(term.language)}::text::regconfig" if term.language else "'english'"
        vector = name if term.column.base_oid == TSVECTOR and not term.path else f"to_tsvector({language}, {name})"
        return f"{vector} @@ {_QUERIES[operator]}({language}, {args.bind(value)}::text)"
    if term.quantifier:
        return f"{name} {_COMPARE[operator]} {term.quantifier} ({args.bind(value)}::text::{kind}[])"
    place = f"{args.bind(value)}::text"
    return f"{name} {_COMPARE[operator]} {place if kind == 'text' else f'{place}::{kind}'}"


def sort_value(sort: Sort, alias: str, args: Args) -> str:
    """What is ordered by."""
    if sort.output is not None:
        return raw(sort.output, alias, args)
    assert sort.column is not None  # noqa: S101 - one of the two is there
    if sort.embedding is not None:
        far, plan = args.alias(), sort.embedding.plan
        value = _place(far, sort.column, sort.path, sort.as_text, args)
        wanted = where(plan, far, args, (sort.embedding, alias))
        return f"(select {value} from {table_name(plan.table)} {far} where {wanted} limit 1)"
    return _place(alias, sort.column, sort.path, sort.as_text, args)


def sort(found: Sort, alias: str, args: Args) -> str:
    """One part of the order."""
    direction = " desc" if found.descending else ""
    return sort_value(found, alias, args) + direction + (f" nulls {found.nulls}" if found.nulls else "")


def sort_type(found: Sort) -> str:
    """The type to which a cursor's text is cast."""
    if found.path:
        return "text" if found.as_text else "jsonb"
    assert found.column is not None  # noqa: S101 - a cursor never goes with aggregates
    return "text" if found.column.base_oid in (TEXT, VARCHAR) else comparison_type(found.column)


def _after(sorts: tuple[Sort, ...], after: tuple[str | None, ...], alias: str, args: Args) -> str:
    """The rows that come after the one with these values. Equal ones are told apart by the next value;
    an index is used where all columns run the same way and hold no nulls."""
    names = [sort_value(s, alias, args) for s in sorts]
    places = [None if v is None else f"{args.bind(v)}::text::{sort_type(s)}" for s, v in zip(sorts, after, strict=True)]
    plain = all(
        p is not None and s.column is not None and not s.column.nullable and s.embedding is None
        for s, p in zip(sorts, places, strict=True)
    )
    if plain and len({s.descending for s in sorts}) == 1:
        operator = "<" if sorts[0].descending else ">"
        return f"({', '.join(names)}) {operator} ({', '.join(str(p) for p in places)})"
    ways: list[str] = []
    equal: list[str] = []
    for found, name, place in zip(sorts, names, places, strict=True):
        beyond = _beyond(found, name, place)
        if beyond:
            ways.append("(" + " and ".join([*equal, beyond]) + ")")
        equal.append(f"{name} is null" if place is None else f"{name} = {place}")
    return f"({' or '.join(ways)})" if ways else "false"


def _beyond(found: Sort, name: str, place: str | None) -> str:
    nulls_last = found.nulls == "last" or (found.nulls is None and not found.descending)
    if place is None:
        return "" if nulls_last else f"{name} is not null"
    further = f"{name} {'<' if found.descending else '>'} {place}"
    return f"({further} or {name} is null)" if nulls_last else further
