"""What was asked, judged by syntax alone: filters, column lists, order, page, rows to insert."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from brolly.core.errors import AppError

OPERATORS = ("eq", "neq", "gt", "gte", "lt", "lte", "like", "ilike", "is", "in", "fts")
IS_VALUES = ("null", "true", "false")
FILTER_FORM = (
    'Write each filter as column: "op.value" with op one of ' + " ".join(OPERATORS) + ', for example {"status": '
    '"eq.open"}; see the tool page of select_rows.'
)


@dataclass(frozen=True, slots=True)
class Filter:
    """One condition on a column, or on what lies at ``path`` in its JSON (``as_text``: as text, not as JSON).

    ``value`` is a text, for ``in`` a tuple of texts. ``quantifier`` compares with ``any`` or ``all`` of an
    array; ``language`` is that of the full-text operators.
    """

    column: str
    operator: str
    value: str | tuple[str, ...]
    negated: bool = False
    path: tuple[str, ...] = ()
    as_text: bool = False
    quantifier: Literal["any", "all"] | None = None
    language: str | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """Conditions of which all (``and``) or some (``or``) must hold."""

    operator: Literal["and", "or"]
    parts: tuple[Filter | Group, ...]
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Order:
    """One column of the order; ``nulls`` is None for Postgres's default (last when ascending)."""

    column: str
    descending: bool = False
    nulls: Literal["first", "last"] | None = None
    path: tuple[str, ...] = ()
    as_text: bool = False
    related: str | None = None
    """The embedded table whose column it is."""


@dataclass(frozen=True, slots=True)
class Item:
    """One thing to answer: a column, what lies at a path in its JSON, or an aggregate of it.

    ``column`` is ``*`` for every column, and empty for ``count()`` of the rows. ``cast`` applies
    to the value, ``result_cast`` to the aggregate of it.
    """

    column: str
    path: tuple[str, ...] = ()
    as_text: bool = False
    alias: str | None = None
    cast: str | None = None
    aggregate: str | None = None
    result_cast: str | None = None


@dataclass(frozen=True, slots=True)
class Embed:
    """Rows of a related table inside each row. ``request.table`` is what was written: a table, a foreign
    key or its column; ``hint`` chooses among several ways. ``inner`` drops rows that have none."""

    request: ReadRequest
    alias: str | None = None
    hint: str | None = None
    inner: bool = False
    spread: bool = False
    silent: bool = False
    """Not answered: there for its filters alone."""

    @property
    def name(self) -> str:
        """The key under which it is answered, and by which its filters are written."""
        return self.alias or self.request.table


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """Rows of one table. An empty ``select`` means every column."""

    table: str
    select: tuple[Item | Embed, ...] = ()
    filters: tuple[Filter | Group, ...] = ()
    order: tuple[Order, ...] = ()
    limit: int = 20
    offset: int = 0
    limited: bool = False
    """Whether the limit was asked for."""


@dataclass(frozen=True, slots=True)
class InsertRequest:
    """Rows for one table, in order."""

    table: str
    rows: tuple[Mapping[str, Any], ...]


class FilterSyntaxError(ValueError):
    """A piece that does not follow the grammar; the text says how it should look."""


def is_storable(text: str) -> bool:
    """Whether Postgres can hold the text: no zero byte, no half of a surrogate pair."""
    return "\0" not in text and not any("\ud800" <= c <= "\udfff" for c in text)


def shown(text: str, limit: int = 40) -> str:
    """The text as it may stand in an answer: not too long, and nothing that UTF-8 cannot carry."""
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= limit else text[:limit] + "…"


def parse_read(
    table: str,
    *,
    filters: Iterable[tuple[str, Any]] = (),
    select: str | None = None,
    order: str | None = None,
    limit: int = 20,
    offset: int = 0,
) -> ReadRequest:
    """The request for rows. ``filters`` are pairs, since one column may be filtered more than once."""
    return ReadRequest(
        table=table,
        select=tuple(map(Item, parse_select(select or ""))),
        filters=parse_filters(filters),
        order=parse_order(order or ""),
        limit=limit,
        offset=offset,
    )


def parse_filters(pairs: Iterable[tuple[str, Any]]) -> tuple[Filter, ...]:
    """The filters; one error names all that are wrong."""
    found: list[Filter] = []
    wrong: list[str] = []
    columns: dict[str, None] = {}
    for column, text in pairs:
        try:
            found.append(_filter(column, text))
        except FilterSyntaxError as error:
            wrong.append(f"{shown(column)}: {error}")
            columns[shown(column)] = None
    if wrong:
        raise AppError(
            "VALIDATION_INVALID_SCHEMA",
            f"The filter on {', '.join(list(columns)[:5])} cannot be read; details.invalidFilters says why.",
            remediation=FILTER_FORM,
            details={"invalidFilters": wrong, "operators": list(OPERATORS)},
        )
    return tuple(found)


def _filter(column: str, text: Any) -> Filter:
    if not isinstance(text, str):
        raise FilterSyntaxError(
            f'write it as text, "eq.{text}"' if isinstance(text, (int, float)) else 'write it as "op.value"'
        )
    if not is_storable(text):
        raise FilterSyntaxError("it holds a character that Postgres cannot store (zero byte or half a surrogate pair)")
    negated = text.startswith("not.")
    operator, dot, value = text.removeprefix("not.").partition(".")
    if not dot:
        raise FilterSyntaxError(f'{shown(text)} is not "op.value"; did you mean "eq.{shown(text)}"?')
    if operator not in OPERATORS:
        raise FilterSyntaxError(f"there is no operator {shown(operator)}")
    if operator == "is" and value not in IS_VALUES:
        raise FilterSyntaxError("is takes null, true or false")
    return Filter(column, operator, parse_list(value) if operator == "in" else value, negated)


_LIST_ITEM = re.compile(r'\s*(?:"((?:[^"\\]|\\.)*)"\s*|([^,"]*))(,|$)', re.DOTALL)


def parse_list(text: str) -> tuple[str, ...]:
    r"""The values of ``(a,"b,c",d)``. In quotes, ``\"`` and ``\\`` stand for the character; ``()`` holds none."""
    if not (text.startswith("(") and text.endswith(")") and len(text) > 1):
        raise FilterSyntaxError('in takes a list in parentheses, in.(a,b,"c,d")')
    inner = text[1:-1]
    if not inner.strip():
        return ()
    values: list[str] = []
    at = 0
    while True:
        item = _LIST_ITEM.match(inner, at)
        if item is None:
            raise FilterSyntaxError(
                f'the list cannot be read at value {len(values) + 1}; quote values that hold " or ,'
            )
        quoted, plain, end = item.groups()
        if quoted is None and not plain.strip():
            raise FilterSyntaxError(f'value {len(values) + 1} of the list is empty; write "" for an empty text')
        values.append(re.sub(r"\\(.)", r"\1", quoted, flags=re.DOTALL) if quoted is not None else plain.strip())
        if not end:
            return tuple(values)
        at = item.end()


def parse_select(text: str) -> tuple[str, ...]:
    """The column names; ``*`` and nothing mean all."""
    names = [name.strip() for name in text.split(",")] if text.strip() else []
    if "*" in names:
        return ()
    if "" in names:
        raise AppError(
            "VALIDATION_INVALID_SCHEMA",
            "select holds an empty name.",
            remediation='Call select_rows with select as a comma list of columns, for example "id,title".',
        )
    return tuple(dict.fromkeys(names))


_ORDER_WORDS = {"asc", "desc", "nullsfirst", "nullslast"}


def parse_order(text: str) -> tuple[Order, ...]:
    """The order, from ``col.desc.nullslast,other``."""
    return tuple(_order(part.strip()) for part in text.split(",")) if text.strip() else ()


def _order(part: str) -> Order:
    column, *words = part.split(".")
    directions = [w for w in words if w in ("asc", "desc")]
    nulls = [w for w in words if w in ("nullsfirst", "nullslast")]
    if not column or not _ORDER_WORDS.issuperset(words) or len(directions) > 1 or len(nulls) > 1:
        raise AppError(
            "VALIDATION_INVALID_SCHEMA",
            "order cannot be read.",
            remediation='Call select_rows with order as "col.asc" or "col.desc", optionally followed by .nullsfirst '
            "or .nullslast; several separated by commas.",
            details={"part": shown(part)},
        )
    where: Literal["first", "last"] | None = None
    if nulls:
        where = "first" if nulls[0] == "nullsfirst" else "last"
    return Order(column, directions == ["desc"], where)
