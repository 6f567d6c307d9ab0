"""Answers of the row tools: JSON text around the JSON that Postgres made, within a size that a model can read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from brolly.core.errors import AppError
from brolly.data.plan import ReadPlan
from brolly.pg.catalog import Table

MAX_BYTES = 60_000
"""Most bytes of rows in one answer, some 20,000 tokens."""


@dataclass(frozen=True, slots=True)
class Page:
    """Rows as JSON objects separated by commas; how many these are, and whether more exist."""

    body: str
    shown: int
    found: int

    @property
    def more(self) -> bool:
        """Whether rows follow."""
        return self.found > self.shown


EMPTY = Page("", 0, 0)


def compact(value: Any) -> str:
    """The value as JSON without spaces."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def page_text(plan: ReadPlan, page: Page, warnings: Sequence[str]) -> str:
    """The envelope of select_rows. What the reader must know stands before the rows."""
    said = list(warnings)
    head: dict[str, Any] = {"untrusted": True}
    if page.more:
        offset = plan.offset + page.shown
        head["next"] = {"offset": offset, "hint": f"More rows: repeat the call with offset {offset}."}
        if page.shown < plan.limit:
            said.append(
                f"{page.shown} of {plan.limit} rows fill an answer ({MAX_BYTES} bytes). Use select to leave out "
                f"long columns ({', '.join(_longest(page.body))}), or go on with next."
            )
        if not plan.sorts:
            said.append(f"{plan.table.name} has no primary key, so pages may overlap; give order.")
    if said:
        head["warnings"] = said
    return f'{compact(head)[:-1]},"rows":[{page.body}]}}'


def _longest(body: str) -> list[str]:
    sizes: dict[str, int] = {}
    for row in json.loads(f"[{body}]"):
        for name, value in row.items():
            sizes[name] = sizes.get(name, 0) + len(str(value))
    return sorted(sizes, key=lambda name: -sizes[name])[:3]


def too_large(plan: ReadPlan, sizes: Sequence[tuple[str, int]]) -> AppError:
    """The error for a row that fills more than an answer by itself."""
    return AppError(
        "REQUEST_TOO_LARGE",
        f"The row at offset {plan.offset} is longer than an answer may be ({MAX_BYTES} bytes).",
        remediation="Call select_rows with select, leaving out the columns named in details"
        f" (or go on after this row with offset {plan.offset + 1}).",
        details={"columns": [{"name": name, "bytes": size} for name, size in sizes]},
    )


def stored_rows(table: Table, rows: Sequence[str]) -> tuple[str, list[str]]:
    """The stored rows as JSON objects separated by commas, with warnings. Where they are too long for an
    answer, their primary keys alone: the caller has the values."""
    if sum(map(len, rows)) <= MAX_BYTES:
        return ",".join(rows), []
    keys = [{name: json.loads(row)[name] for name in table.primary_key} for row in rows if table.primary_key]
    return ",".join(map(compact, keys)), [
        f"Stored whole, but too long to show ({MAX_BYTES} bytes): only primary keys are given."
    ]


def row_text(row: str | None, warnings: Sequence[str]) -> str:
    """The envelope of insert_row."""
    head: dict[str, Any] = {"untrusted": True}
    if warnings:
        head["warnings"] = list(warnings)
    return f'{compact(head)[:-1]},"row":{row or "null"}}}'


def seed_text(inserted: int, errors: Sequence[dict[str, Any]], rows: str, warnings: Sequence[str]) -> str:
    """The envelope of seed_database."""
    head: dict[str, Any] = {"untrusted": True, "inserted": inserted, "failed": len(errors), "errors": list(errors)}
    if warnings:
        head["warnings"] = list(warnings)
    return f'{compact(head)[:-1]},"rows":[{rows}]}}'
