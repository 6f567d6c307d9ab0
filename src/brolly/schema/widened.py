"""What a described column loses because the document leaves it out: told, since it is easily not meant."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from brolly.pg.catalog import Snapshot, Table
from brolly.schema.description import describe_column
from brolly.schema.document import Column, Document
from brolly.schema.document import Table as TableSpec


def widened(document: Document, snapshot: Snapshot) -> list[str]:
    """A warning for each column that existed and is described without what it has."""
    found: list[str] = []
    for name, spec in document.tables.items():
        now = snapshot.tables.get(name)
        for column, wanted in spec.columns.items() if now else ():
            if now is None or column not in now.columns:
                continue
            lost = dict(_lost(now, spec, column, wanted))
            if lost:
                shown = json.dumps(lost, ensure_ascii=False)[1:-1]
                found.append(
                    f"{name}.{column} loses what the document leaves out: {shown}. "
                    f"To keep it, send that with the column; to take it away without this warning, {_without(lost)}."
                )
    return found


def _lost(now: Table, spec: TableSpec, name: str, wanted: Column) -> Iterator[tuple[str, Any]]:
    had = describe_column(now, now.columns[name])
    said = wanted.model_fields_set
    column = now.columns[name]
    fixed = column.generated is not None or bool(column.identity)
    keyed = name in (now.primary_key if spec.key is None else spec.key)
    if "nullable" in had and "nullable" not in said and not (keyed or fixed or wanted.type.serial):
        yield "nullable", False
    if "default" in had and "default" not in said and not wanted.type.serial:
        yield "default", had["default"]
    if "unique" in had and "unique" not in said and not keyed:
        yield "unique", True
    if "references" in had and "references" not in said:
        yield "references", had["references"]


def _without(lost: dict[str, Any]) -> str:
    plain = {"nullable": True, "default": None, "unique": False, "references": None}
    return "send " + json.dumps({key: plain[key] for key in lost})[1:-1]
