"""Whether rows can be stored, given the app's tables: names and values."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from brolly.core.errors import AppError
from brolly.data.plan import EXACT, JSON, JSONB
from brolly.data.request import InsertRequest, is_storable
from brolly.data.tables import find_table, no_column
from brolly.pg.catalog import Column, Snapshot, Table

_EXACT_DIGITS = 15  # what a JSON number surely keeps on its way through a double


@dataclass(frozen=True, slots=True)
class InsertPlan:
    """Rows that give values for the same columns, each encoded as a JSON object."""

    table: Table
    columns: tuple[Column, ...]
    rows: tuple[str, ...]


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
        raise no_column(table, unknown, {})
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


def of_texts(table: Table, row: Mapping[str, Any]) -> dict[str, Any]:
    """A row whose values are all texts, such as CSV has them: JSON where the column takes JSON or an array,
    and an empty text is null where the column takes no text."""
    return {name: _of_text(table.columns.get(name), value) for name, value in row.items()}


def _of_text(column: Column | None, text: str | None) -> Any:
    if column is None or text is None or column.category == "S":
        return text
    if text == "":
        return None
    if column.base_oid not in (JSON, JSONB) and column.category != "A":
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise _bad_value(column, "it is not JSON") from None


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
