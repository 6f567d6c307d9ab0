"""Whether a request is possible, given the app's tables: names, types, values."""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from brolly.core.errors import AppError
from brolly.data.request import Filter, InsertRequest, Order, ReadRequest, is_storable, shown
from brolly.pg.catalog import Column, Snapshot, Table

BOOL, INT8, TEXT, JSON, VARCHAR, BPCHAR, BIT = 16, 20, 25, 114, 1043, 1042, 1560
TIMESTAMPTZ, NUMERIC, TSVECTOR, JSONB = 1184, 1700, 3614, 3802
EXACT = (INT8, NUMERIC)
_EXACT_DIGITS = 15  # what a JSON number surely keeps on its way through a double


@dataclass(frozen=True, slots=True)
class Condition:
    """A filter on a column that exists, with an operator that its type has."""

    column: Column
    operator: str
    value: str | tuple[str, ...]
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Sort:
    """One column of the order."""

    column: Column
    descending: bool = False
    nulls: str | None = None


@dataclass(frozen=True, slots=True)
class ReadPlan:
    """A read that Postgres can do. ``sorts`` ends with the primary key, so that pages do not overlap."""

    table: Table
    columns: tuple[Column, ...]
    conditions: tuple[Condition, ...]
    sorts: tuple[Sort, ...]
    limit: int
    offset: int


@dataclass(frozen=True, slots=True)
class InsertPlan:
    """Rows that give values for the same columns, each encoded as a JSON object."""

    table: Table
    columns: tuple[Column, ...]
    rows: tuple[str, ...]


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The name that was probably meant; camelCase is compared as snake_case."""
    snake = "".join("_" + c.lower() if c.isupper() else c for c in name).lstrip("_")
    near = difflib.get_close_matches(snake, list(names), 1, 0.6)
    return near[0] if near else None


def find_table(snapshot: Snapshot, name: str) -> Table:
    """The table; an error names the nearest one."""
    table = snapshot.tables.get(name)
    if table is not None:
        return table
    if name.startswith("_"):
        raise AppError("VALIDATION_RESERVED_TABLE", "Tables whose names start with _ belong to the platform.")
    meant = nearest(name, snapshot.tables)
    hint = f" Did you mean {meant}?" if meant else "" if snapshot.tables else " This app has no tables yet."
    raise AppError(
        "VALIDATION_TABLE_NOT_FOUND",
        f"There is no table {shown(name, 63)!r}.{hint}",
        details={"tables": sorted(snapshot.tables)[:50]},
    )


def plan_read(request: ReadRequest, snapshot: Snapshot) -> ReadPlan:
    """Names and operators checked against the table."""
    table = find_table(snapshot, request.table)
    _check_columns(table, request)
    conditions = _conditions(table, request.filters)
    return ReadPlan(
        table=table,
        columns=tuple(table.columns[name] for name in request.select) or tuple(table.columns.values()),
        conditions=conditions,
        sorts=_sorts(table, request.order),
        limit=request.limit,
        offset=request.offset,
    )


def _check_columns(table: Table, request: ReadRequest) -> None:
    used = {"select": request.select, "order": [o.column for o in request.order]}
    used["filters"] = [f.column for f in request.filters]
    unknown = {where: [n for n in names if n not in table.columns] for where, names in used.items()}
    names = list(dict.fromkeys(n for found in unknown.values() for n in found))
    if names:
        raise _no_column(
            table, names, {"invalidFilters": [shown(n, 63) for n in unknown["filters"]]} if unknown["filters"] else {}
        )


def _no_column(table: Table, names: Sequence[str], more: Mapping[str, Any]) -> AppError:
    said: list[str] = []
    for name in names:
        meant = nearest(name, table.columns)
        said.append(f"{shown(name, 63)!r}" + (f" (did you mean {meant}?)" if meant else ""))
    return AppError(
        "VALIDATION_COLUMN_NOT_FOUND",
        f"{table.name} has no column {', '.join(said)}.",
        details={"unknown": [shown(n, 63) for n in names], "columns": list(table.columns), **more},
    )


def _conditions(table: Table, filters: Iterable[Filter]) -> tuple[Condition, ...]:
    found: list[Condition] = []
    wrong: list[str] = []
    for f in filters:
        column = table.columns[f.column]
        reason = _mismatch(column, f.operator, f.value)
        if reason:
            wrong.append(f"{f.column}: {reason}")
        found.append(Condition(column, f.operator, f.value, f.negated))
    if wrong:
        raise AppError(
            "VALIDATION_INVALID_SCHEMA",
            "; ".join(wrong) + ".",
            remediation="Use an operator that the column's type has; manage_schema get shows the types.",
            details={"invalidFilters": wrong, "table": table.name},
        )
    return tuple(found)


def _mismatch(column: Column, operator: str, value: str | tuple[str, ...]) -> str | None:
    """Why the operator does not go with the column's type."""
    if operator == "is":
        return None if value == "null" or column.base_oid == BOOL else f"is.{value} needs a boolean, not {column.type}"
    if operator == "fts" and column.base_oid == TSVECTOR:
        return None
    if operator in ("like", "ilike", "fts"):
        return None if column.category == "S" else f"{operator} needs a text column, not {column.type}"
    if column.base_oid == JSON:
        return "a column of type json has no comparison; use is.null, or make it jsonb"
    if operator == "in" and column.category == "A":
        return "in does not go with an array; use eq.{a,b}"
    return None


def _sorts(table: Table, order: Sequence[Order]) -> tuple[Sort, ...]:
    for o in order:
        if table.columns[o.column].base_oid == JSON:
            raise AppError("VALIDATION_INVALID_TYPE", f"{o.column} has type json, which has no order.")
    sorts = [Sort(table.columns[o.column], o.descending, o.nulls) for o in order]
    named = {o.column for o in order}
    return (*sorts, *(Sort(table.columns[name]) for name in table.primary_key if name not in named))


_MODIFIER = re.compile(r"\(\d+(?:,-?\d+)?\)")
_BARE = {"character": "bpchar", "bit": '"bit"'}


def comparison_type(column: Column) -> str:
    """The type to which a filter's value is cast: without length or scale, which would cut or round it."""
    if '"' in column.type:
        return column.type
    bare = _MODIFIER.sub("", column.type)
    element, brackets = (bare[:-2], "[]") if bare.endswith("[]") else (bare, "")
    return _BARE.get(element, element) + brackets


def plan_insert(request: InsertRequest, snapshot: Snapshot) -> tuple[InsertPlan, ...]:
    """The rows as plans, in order; neighbours that name the same columns share one."""
    table = find_table(snapshot, request.table)
    return merge(_plan_row(table, row) for row in request.rows)


def merge(plans: Iterable[InsertPlan]) -> tuple[InsertPlan, ...]:
    """Neighbours that name the same columns become one plan."""
    merged: list[tuple[InsertPlan, list[str]]] = []
    for plan in plans:
        if merged and merged[-1][0].columns == plan.columns:
            merged[-1][1].extend(plan.rows)
        else:
            merged.append((plan, list(plan.rows)))
    return tuple(InsertPlan(first.table, first.columns, tuple(rows)) for first, rows in merged)


def _plan_row(table: Table, row: Mapping[str, Any]) -> InsertPlan:
    unknown = [name for name in row if name not in table.columns]
    if unknown:
        raise _no_column(table, unknown, {})
    if not row:
        raise AppError(
            "VALIDATION_INVALID_SCHEMA",
            f"There are no values for {table.name}.",
            remediation="Send at least one column; manage_schema get shows them.",
            details={"columns": [c.name for c in table.columns.values() if c.writable]},
        )
    for name, value in row.items():
        _check_value(table.columns[name], value)
    return InsertPlan(table, tuple(c for c in table.columns.values() if c.name in row), (_encode(row),))


def _check_value(column: Column, value: Any) -> None:
    if not column.writable:
        raise AppError(
            "VALIDATION_INVALID_SCHEMA",
            f"{column.name} is computed by the database and takes no value.",
            remediation=f"Leave {column.name} out of the call of insert_row.",
            details={"column": column.name},
        )
    if isinstance(value, (dict, list)) and (column.category == "S" or (isinstance(value, dict) and _is_scalar(column))):
        kind = "object" if isinstance(value, dict) else "array"
        raise AppError(
            "VALIDATION_INVALID_TYPE",
            f"{column.name} has type {column.type}, which takes no JSON {kind}.",
            remediation=f"Send a plain value for {column.name}, or make the column jsonb with manage_schema apply.",
            details={"column": column.name, "type": column.type},
        )
    if column.base_oid in EXACT and isinstance(value, float) and _may_be_rounded(value):
        raise _bad_value(column, "a number with so many digits is rounded on its way; send it as a text")
    _check_parts(column, value)


def _is_scalar(column: Column) -> bool:
    return column.base_oid not in (JSON, JSONB) and column.category not in ("C", "U")


def _may_be_rounded(value: float) -> bool:
    digits = repr(value).lower().split("e")[0].lstrip("-").replace(".", "").strip("0")
    return len(digits) > _EXACT_DIGITS


def _check_parts(column: Column, value: Any) -> None:
    """Refuse what JSON or Postgres has no form for, however deep it lies."""
    stack: list[Any] = [value]
    while stack:
        part = stack.pop()
        if isinstance(part, str) and not is_storable(part):
            raise _bad_value(column, "it holds a character that Postgres cannot store (zero byte or half a surrogate)")
        if isinstance(part, float) and not math.isfinite(part):
            raise _bad_value(column, 'JSON has no such number; send "NaN" or "Infinity" as a text')
        if isinstance(part, dict):
            entries = cast(dict[str, Any], part)
            stack.extend(entries.keys())
            stack.extend(entries.values())
        elif isinstance(part, list):
            stack.extend(cast(list[Any], part))


def _bad_value(column: Column, reason: str) -> AppError:
    return AppError(
        "VALIDATION_INVALID_INPUT",
        f"The value of {column.name} ({column.type}) cannot be stored: {reason}.",
        remediation=f"Send another value for {column.name} with insert_row.",
        details={"column": column.name, "type": column.type},
    )


def _encode(row: Mapping[str, Any]) -> str:
    try:
        return json.dumps(dict(row), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (RecursionError, ValueError):
        raise AppError(
            "VALIDATION_INVALID_INPUT", "The row is nested too deeply, or holds a number that is too long."
        ) from None
