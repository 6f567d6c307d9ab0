"""Database errors about values, told in the words of the table: which column, which rule, what to send."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

from brolly.core.errors import AppError
from brolly.pg.catalog import Column, Table


def explain(error: AppError, table: Table) -> AppError:
    """The same error, with the message and remediation that the table's definition allows.

    Values stay out of the message, which is logged; Postgres's own words go into details.
    """
    details: dict[str, Any] = dict(cast(Mapping[str, Any], error.details or {}))
    if details.get("table") not in (None, table.name):
        return error  # a trigger wrote to another table
    if error.code == "VALIDATION_INVALID_INPUT":
        return _unreadable(error, details)
    words = _EXPLAIN.get(error.code)
    said = words(table, details, str(details.get("constraint_details", ""))) if words else None
    if said is None:
        return error
    return AppError(error.code, said[0], remediation=said[1], details=details)


Words = tuple[str, str] | None


def _unique(table: Table, details: dict[str, Any], constraint: str) -> Words:
    keys = [*table.uniques, *([table.primary] if table.primary else [])]
    columns = next((k.columns for k in keys if k.name == constraint), None)
    if columns is None:
        index = next((i for i in table.indexes if i.name == constraint), None)
        columns = tuple(c for c in index.columns if c) if index else ()
    if not columns:
        return None
    details["columns"] = list(columns)
    named = ", ".join(columns)
    return (
        f"A row of {table.name} with this {named} exists already (constraint {constraint}).",
        f"Send another value for {named}, or find that row with select_rows on {table.name} and a filter on {named}.",
    )


def _foreign_key(table: Table, details: dict[str, Any], constraint: str) -> Words:
    key = next((k for k in table.foreign_keys if k.name == constraint), None)
    if key is None:
        return None
    details |= {"columns": list(key.columns), "references": {"table": key.table, "columns": list(key.target)}}
    named, target = ", ".join(key.columns), ", ".join(key.target)
    return (
        f"{named} refers to {key.table} ({target}), which has no such row.",
        f"Call select_rows on {key.table} for the rows that exist, or create it first with insert_row.",
    )


def _check(table: Table, details: dict[str, Any], constraint: str) -> Words:
    check = next((c for c in table.checks if c.name == constraint), None)
    if check is None:
        return None
    details["expression"] = check.expression
    return (
        f"The row breaks the rule {constraint} of {table.name}: {check.expression}.",
        "Send values that meet the expression; manage_schema get shows the columns.",
    )


def _not_null(table: Table, details: dict[str, Any], _constraint: str) -> Words:
    column = details.get("column")
    if column not in table.columns:
        return None
    required = [c.name for c in table.columns.values() if must_be_sent(c)]
    details["required"] = required
    return (
        f"{column} of {table.name} must have a value.",
        f"Repeat insert_row with {', '.join(required)}; or give {column} a default with manage_schema apply."
        if column in required
        else f"Repeat insert_row with a value for {column}, or without it for its default.",
    )


def must_be_sent(column: Column) -> bool:
    """Whether a row without this column is refused."""
    return not column.nullable and column.default is None and not column.identity and column.generated is None


_EXPLAIN: Mapping[str, Callable[[Table, dict[str, Any], str], Words]] = {
    "VALIDATION_UNIQUE_CONSTRAINT_VIOLATION": _unique,
    "VALIDATION_FOREIGN_KEY_VIOLATION": _foreign_key,
    "VALIDATION_CHECK_CONSTRAINT_VIOLATION": _check,
    "VALIDATION_NOT_NULL_VIOLATION": _not_null,
}


def _unreadable(error: AppError, details: dict[str, Any]) -> AppError:
    details["reason"] = error.message
    return AppError(error.code, "Postgres cannot read one of the values; details.reason says why.", details=details)


def bad_value(error: AppError, column: Column) -> AppError:
    """The error for a value that is none of the column's type."""
    details: dict[str, Any] = dict(cast(Mapping[str, Any], error.details or {}))
    details |= {"column": column.name, "type": column.type}
    details.setdefault("reason", error.message)
    return AppError(
        "VALIDATION_INVALID_INPUT",
        f"The value for {column.name} is not valid for its type {column.type}.",
        remediation=f"Send a value of type {column.type} for {column.name}; manage_schema get shows every column.",
        details=details,
    )
