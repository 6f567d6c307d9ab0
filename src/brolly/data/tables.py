"""Names that are not there: the error says which was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from brolly.core.errors import AppError
from brolly.data.request import shown
from brolly.pg.catalog import Snapshot, Table

_MAX_SAID, _MAX_NAME = 20, 63


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The name that was probably meant; camelCase is compared as snake_case."""
    if len(name.encode("utf-8", "replace")) > _MAX_NAME:
        return None  # Postgres has no name as long
    snake = "".join("_" + c.lower() if c.isupper() else c for c in name).lstrip("_")
    near = difflib.get_close_matches(snake, list(names), 1, 0.6)
    return near[0] if near else None


def find_table(snapshot: Snapshot, name: str) -> Table:
    """The table; an error names the nearest one."""
    table = snapshot.relation(name)
    if table is not None:
        return table
    if name.startswith("_"):
        raise AppError("VALIDATION_RESERVED_TABLE", "Tables whose names start with _ belong to the platform.")
    meant = nearest(name, [*snapshot.tables, *snapshot.views])
    hint = f" Did you mean {meant}?" if meant else "" if snapshot.tables else " This app has no tables yet."
    raise AppError(
        "VALIDATION_TABLE_NOT_FOUND",
        f"There is no table {shown(name, 63)!r}.{hint}",
        details={"tables": sorted((*snapshot.tables, *snapshot.views))[:50]},
    )


def require_writable(table: Table, command: str) -> None:
    """Refuse to write through a view whose rows are not those of one table."""
    view = table.view
    if view is None or {"INSERT": view.insertable, "UPDATE": view.updatable, "DELETE": view.deletable}[command]:
        return
    raise AppError(
        "VALIDATION_INVALID_SCHEMA",
        f"{table.name} is a view that takes no {command}: its rows are computed, or of more than one table.",
        remediation="Write to the tables that it reads; manage_schema get shows its query.",
    )


def no_column(table: Table, names: Sequence[str], more: Mapping[str, Any]) -> AppError:
    """The error for columns that the table does not have; it names the nearest ones."""
    said: list[str] = []
    names = names[:_MAX_SAID]  # a request may hold very many
    for name in names:
        meant = nearest(name, table.columns)
        said.append(f"{shown(name, 63)!r}" + (f" (did you mean {meant}?)" if meant else ""))
    return AppError(
        "VALIDATION_COLUMN_NOT_FOUND",
        f"{table.name} has no column {', '.join(said)}.",
        details={"unknown": [shown(n, 63) for n in names], "columns": list(table.columns), **more},
    )
