"""Whether a read is possible, given the app's tables: names, types, relations."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from brolly.core.errors import AppError
from brolly.data.relations import Relation, find_relation
from brolly.data.request import Embed, Filter, Group, Item, Order, ReadRequest, shown
from brolly.data.tables import find_table, no_column
from brolly.pg.catalog import Column, Snapshot, Table

BOOL, INT8, TEXT, JSON, VARCHAR, BPCHAR, BIT = 16, 20, 25, 114, 1043, 1042, 1560
TIMESTAMPTZ, NUMERIC, UUID, TSVECTOR, JSONB = 1184, 1700, 2950, 3614, 3802
EXACT = (INT8, NUMERIC)
_MAX_NAME = 63  # bytes; Postgres cuts a longer one


@dataclass(frozen=True, slots=True)
class Condition:
    """A filter on a column that exists, or in its JSON, with an operator that its type has."""

    column: Column
    operator: str
    value: str | tuple[str, ...]
    negated: bool = False
    path: tuple[str, ...] = ()
    as_text: bool = False
    quantifier: Literal["any", "all"] | None = None
    language: str | None = None


@dataclass(frozen=True, slots=True)
class Presence:
    """Whether a row has related rows."""

    embedding: Embedding
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Branch:
    """Conditions of which all (``and``) or some (``or``) must hold."""

    operator: Literal["and", "or"]
    parts: tuple[Term, ...]
    negated: bool = False


Term = Condition | Presence | Branch


@dataclass(frozen=True, slots=True)
class Output:
    """One key of the answered rows; ``column`` is None for ``count()`` of the rows."""

    name: str
    column: Column | None
    path: tuple[str, ...] = ()
    as_text: bool = False
    cast: str | None = None
    aggregate: str | None = None
    result_cast: str | None = None

    @property
    def is_json(self) -> bool:
        """Whether it answers JSON as it is stored."""
        made = self.as_text or self.cast or self.aggregate
        return not made and self.column is not None and self.column.base_oid in (JSON, JSONB)


@dataclass(frozen=True, slots=True)
class Embedding:
    """Related rows under one key. ``silent`` means that they are only there to be filtered by."""

    name: str
    relation: Relation
    plan: ReadPlan
    inner: bool = False
    spread: bool = False
    silent: bool = False


@dataclass(frozen=True, slots=True)
class Sort:
    """One column of the order, a place in its JSON, or an answered value; with ``embedding`` of the related row."""

    column: Column | None
    descending: bool = False
    nulls: str | None = None
    path: tuple[str, ...] = ()
    as_text: bool = False
    output: Output | None = None
    embedding: Embedding | None = None


class JsonName(str):
    """The name of a key whose values are JSON: a text among them keeps its quotes where all is text, as in CSV."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class ReadPlan:
    """A read that Postgres can do. ``sorts`` ends with the primary key, so that pages do not overlap.

    ``after`` are the sorts' values in the last row of the page before. ``limited``: the limit was asked for.
    ``stripped``: keys whose value is null are left out.
    """

    table: Table
    outputs: tuple[Output | Embedding, ...]
    conditions: tuple[Term, ...]
    sorts: tuple[Sort, ...]
    limit: int
    offset: int
    after: tuple[str | None, ...] | None = None
    limited: bool = False
    stripped: bool = False

    @property
    def grouped(self) -> bool:
        """Whether it answers aggregates."""
        return any(isinstance(o, Output) and o.aggregate for o in self.outputs)

    @property
    def names(self) -> tuple[str, ...]:
        """The keys of the answered rows."""
        found: list[str] = []
        for o in self.outputs:
            if isinstance(o, Output):
                found.append(JsonName(o.name) if o.is_json else o.name)
            elif not (o.spread or o.silent):
                found.append(o.name)
            elif o.spread:
                found.extend(o.plan.names)
        return tuple(found)


def plan_read(request: ReadRequest, snapshot: Snapshot) -> ReadPlan:
    """Names and operators checked against the table, and against those that it embeds."""
    return _plan(find_table(snapshot, request.table), request, snapshot)


def plan_of(table: Table, request: ReadRequest, snapshot: Snapshot) -> ReadPlan:
    """As ``plan_read``, of that table."""
    return _plan(table, request, snapshot)


def _plan(table: Table, request: ReadRequest, snapshot: Snapshot) -> ReadPlan:
    request = replace(request, select=_counted(table, request.select))
    embeddings = {e: _embedding(table, e, snapshot) for e in request.select if isinstance(e, Embed)}
    named = {e.name: found for e, found in embeddings.items()}
    outputs = _outputs(table, request, embeddings)
    grouped = any(isinstance(o, Output) and o.aggregate for o in outputs)
    _check_columns(table, request, named, grouped)
    terms = _Terms(table, named)
    conditions = terms.all(request.filters)
    terms.raise_wrong()
    plan = ReadPlan(
        table=table,
        outputs=outputs,
        conditions=conditions,
        sorts=_group_sorts(outputs, request.order) if grouped else _sorts(table, request.order, named),
        limit=request.limit,
        offset=request.offset,
        limited=request.limited,
    )
    _check_names(plan)
    return plan


def _counted(table: Table, select: tuple[Item | Embed, ...]) -> tuple[Item | Embed, ...]:
    """``count`` alone, where no column is called so, is how many rows there are."""
    match select:
        case (Item(column="count", path=(), aggregate=None) as item,) if "count" not in table.columns:
            return (Item("", alias=item.alias, aggregate="count", result_cast=item.cast),)
        case _:
            return select


def _embedding(table: Table, embed: Embed, snapshot: Snapshot) -> Embedding:
    relation = find_relation(snapshot, table, embed)
    if embed.spread and relation.many:
        raise _refused(f"...{shown(embed.name)} spreads the columns of one row, and there may be many.")
    plan = _plan(relation.table, embed.request, snapshot)
    return Embedding(embed.name, relation, plan, embed.inner, embed.spread, embed.silent)


def _refused(message: str) -> AppError:
    return AppError(
        "VALIDATION_INVALID_SCHEMA",
        message,
        remediation="Correct select; butterbase_docs with topic rest has examples.",
    )


def _outputs(table: Table, request: ReadRequest, embeddings: dict[Embed, Embedding]) -> tuple[Output | Embedding, ...]:
    found: list[Output | Embedding] = []
    for item in request.select:
        if isinstance(item, Embed):
            found.append(embeddings[item])
        elif item.column == "*":
            found += [Output(c.name, c) for c in table.columns.values()]
        elif not item.column or item.column in table.columns:
            found.append(_output(table, item))
    if all(isinstance(o, Embedding) and o.silent for o in found):
        found += [Output(c.name, c) for c in table.columns.values()]
    return tuple(o for i, o in enumerate(found) if isinstance(o, Embedding) or o not in found[:i])


def _output(table: Table, item: Item) -> Output:
    column = table.columns.get(item.column)
    _check_path(column, item.path)
    last = next((step for step in reversed(item.path) if not step.lstrip("-").isdigit()), item.column)
    name = item.alias or item.aggregate or last
    _check_aggregate(column, item)
    return Output(name, column, item.path, item.as_text, item.cast, item.aggregate, item.result_cast)


def _check_aggregate(column: Column | None, item: Item) -> None:
    if item.aggregate not in ("sum", "avg") or item.path or item.cast or column is None:
        return
    if column.category not in ("N", "T"):
        raise _refused(f"{item.aggregate}() needs numbers; {column.name} has type {column.type}.")


def _check_path(column: Column | None, path: tuple[str, ...]) -> None:
    if path and column is not None and column.base_oid not in (JSON, JSONB):
        raise _refused(f"{column.name} has type {column.type}; -> goes with json and jsonb.")


def _check_names(plan: ReadPlan) -> None:
    names = plan.names
    if plan.grouped and any(isinstance(o, Embedding) for o in plan.outputs):
        raise _refused("Aggregates of a table do not go with tables embedded in it; aggregate inside the embedding.")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise _refused(f"select answers {', '.join(map(shown, twice))} twice; rename one with alias:column.")
    if any(len(name.encode()) > _MAX_NAME for name in names):
        raise _refused(f"A name in select is longer than {_MAX_NAME} bytes.")


def _filters(terms: Iterable[Filter | Group]) -> Iterator[Filter]:
    for term in terms:
        if isinstance(term, Filter):
            yield term
        else:
            yield from _filters(term.parts)


def _check_columns(table: Table, request: ReadRequest, embedded: dict[str, Embedding], grouped: bool) -> None:
    used = {"select": [i.column for i in request.select if isinstance(i, Item) and i.column not in ("", "*")]}
    used["order"] = [] if grouped else [o.column for o in request.order if o.related is None]
    used["filters"] = [f.column for f in _filters(request.filters) if f.column not in embedded]
    unknown = {where: [n for n in names if n not in table.columns] for where, names in used.items()}
    names = list(dict.fromkeys(n for found in unknown.values() for n in found))
    if names:
        wrong = {"invalidFilters": [shown(n, 63) for n in unknown["filters"]]} if unknown["filters"] else {}
        raise no_column(table, names, wrong)


class _Terms:
    """Filters as conditions; what is wrong with them is gathered, so that one error names it all."""

    def __init__(self, table: Table, embedded: dict[str, Embedding]) -> None:
        self.table, self.embedded, self.wrong = table, embedded, list[str]()

    def all(self, terms: Iterable[Filter | Group]) -> tuple[Term, ...]:
        return tuple(self._term(term) for term in terms)

    def _term(self, term: Filter | Group) -> Term:
        if isinstance(term, Group):
            return Branch(term.operator, self.all(term.parts), term.negated)
        if term.column not in self.table.columns:
            return self._presence(term)
        column = self.table.columns[term.column]
        reason = _mismatch(column, term)
        if reason:
            self.wrong.append(f"{term.column}: {reason}")
        return Condition(
            column, term.operator, term.value, term.negated, term.path, term.as_text, term.quantifier, term.language
        )

    def _presence(self, term: Filter) -> Presence:
        if term.operator != "is" or term.value != "null" or term.path:
            self.wrong.append(f"{term.column}: an embedded table takes is.null and not.is.null")
        return Presence(self.embedded[term.column], not term.negated)

    def raise_wrong(self) -> None:
        if self.wrong:
            raise AppError(
                "VALIDATION_INVALID_SCHEMA",
                "; ".join(self.wrong) + ".",
                remediation="Use an operator that the column's type has; manage_schema get shows the types.",
                details={"invalidFilters": self.wrong, "table": self.table.name},
            )


_RANGES = ("sl", "sr", "nxr", "nxl", "adj")
_TEXTUAL = ("like", "ilike", "match", "imatch", "fts", "rawfts", "plfts", "phfts", "wfts")


def _mismatch(column: Column, term: Filter) -> str | None:
    """Why the operator does not go with the column's type."""
    if term.path:
        return _path_mismatch(column, term)
    operator, value = term.operator, term.value
    if operator == "is":
        return None if value == "null" or column.base_oid == BOOL else f"is.{value} needs a boolean, not {column.type}"
    if operator.endswith("fts") and column.base_oid == TSVECTOR:
        return None
    if operator in _TEXTUAL:
        return None if column.category == "S" else f"{operator} needs a text column, not {column.type}"
    if column.base_oid == JSON:
        return "a column of type json has no comparison; use is.null, or make it jsonb"
    if operator == "in" and column.category == "A":
        return "in does not go with an array; use eq.{a,b}"
    if operator in ("cs", "cd", "ov"):
        return _contains_mismatch(column, operator)
    if operator in _RANGES and column.category != "R":
        return f"{operator} needs a range, not {column.type}"
    return None


def _path_mismatch(column: Column, term: Filter) -> str | None:
    if column.base_oid not in (JSON, JSONB):
        return f"-> goes with json and jsonb, not with {column.type}"
    if term.operator == "is" and term.value != "null":
        return f"is.{term.value} needs a boolean; use eq.{term.value}"
    if term.operator in _TEXTUAL and not term.as_text:
        return f"{term.operator} needs a text; write ->> before the last key"
    if term.operator in _RANGES or (term.operator in ("cs", "cd", "ov") and (term.as_text or term.operator == "ov")):
        return f"{term.operator} does not go with this part of a JSON value"
    return None


def _contains_mismatch(column: Column, operator: str) -> str | None:
    if column.category in ("A", "R", "I", "G") or (column.base_oid == JSONB and operator != "ov"):
        return None
    return f"{operator} needs an array{'' if operator == 'ov' else ', jsonb'} or range, not {column.type}"


def _sorts(table: Table, order: Sequence[Order], embedded: dict[str, Embedding]) -> tuple[Sort, ...]:
    sorts: list[Sort] = []
    for o in order:
        embedding = None if o.related is None else _single(o.related, embedded)
        there = table if embedding is None else embedding.relation.table
        if o.column not in there.columns:
            raise no_column(there, [o.column], {})
        column = there.columns[o.column]
        _check_path(column, o.path)
        if column.base_oid == JSON and not o.path:
            raise AppError("VALIDATION_INVALID_TYPE", f"{o.column} has type json, which has no order.")
        sorts.append(Sort(column, o.descending, o.nulls, o.path, o.as_text, embedding=embedding))
    named = {o.column for o in order if not o.path and o.related is None}
    return (*sorts, *(Sort(table.columns[name]) for name in table.primary_key if name not in named))


def _single(name: str, embedded: dict[str, Embedding]) -> Embedding:
    """The embedded table of that name, of which each row has one row at most."""
    found = embedded.get(name)
    if found is None:
        raise _refused(f"order names {shown(name)}, which select does not embed.")
    if found.relation.many:
        raise _refused(f"A row may have many rows of {shown(name)}, so that they give it no place in the order.")
    return found


def _group_sorts(outputs: Sequence[Output | Embedding], order: Sequence[Order]) -> tuple[Sort, ...]:
    """Rows that stand for many have no order but by what is answered."""
    answered = {o.name: o for o in outputs if isinstance(o, Output)}
    for o in order:
        if o.column not in answered or o.path or o.related is not None:
            raise _refused(f"With aggregates, order takes the names that select answers, not {shown(o.column)}.")
    return tuple(Sort(None, o.descending, o.nulls, output=answered[o.column]) for o in order)


_MODIFIER = re.compile(r"\(\d+(?:,-?\d+)?\)")
# cidr has no operators of its own, but inet's.
_BARE = {"character": "bpchar", "bit": '"bit"', "cidr": "inet"}


def comparison_type(column: Column) -> str:
    """The type to which a filter's value is cast: without length or scale, which would cut or round it."""
    if '"' in column.type:
        return column.type
    bare = _MODIFIER.sub("", column.type)
    element, brackets = (bare[:-2], "[]") if bare.endswith("[]") else (bare, "")
    return _BARE.get(element, element) + brackets
