"""Where a page ended, as a text that is sent back for the next one.

It holds the order's values in the last row shown, so that the next page begins after that row,
whatever was stored or removed meanwhile. It grants nothing: it becomes one more condition
on rows that the caller may read. So it is checked, not signed.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from typing import Any, cast

from brolly.core.errors import AppError
from brolly.data.plan import ReadPlan
from brolly.data.request import is_storable

_MAX_LENGTH = 8000


def has_cursor(plan: ReadPlan) -> bool:
    """Whether the order tells every two rows apart."""
    key = plan.table.primary_key
    plain = {s.column.name for s in plan.sorts if s.column and not s.path and s.embedding is None}
    return bool(key) and not plan.grouped and plain.issuperset(key)


def _form(plan: ReadPlan) -> str:
    """The order, shortened: a cursor goes with the order that it was made for."""
    parts = [
        (s.column and s.column.name, s.path, s.as_text, s.descending, s.nulls, s.embedding and s.embedding.name)
        for s in plan.sorts
    ]
    return hashlib.sha256(repr((plan.table.name, parts)).encode()).hexdigest()[:16]


def write(plan: ReadPlan, last: Sequence[str | None]) -> str | None:
    """The cursor after the row with these values; None when it would be too long to be sent."""
    text = json.dumps([_form(plan), *last], ensure_ascii=False, separators=(",", ":"))
    made = base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")
    return made if len(made) <= _MAX_LENGTH else None


def read(plan: ReadPlan, cursor: str) -> tuple[str | None, ...]:
    """The values that the cursor holds."""
    if not has_cursor(plan):
        raise AppError(
            "VALIDATION_INVALID_SCHEMA",
            f"Pages of {plan.table.name} have no cursor here: there is no primary key to tell rows apart.",
            remediation="Use limit and offset, or add a primary key with manage_schema apply.",
        )
    try:
        if len(cursor) > _MAX_LENGTH:
            raise ValueError
        made: Any = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (ValueError, RecursionError):
        raise wrong() from None
    if not isinstance(made, list):
        raise wrong()
    form, *values = cast("list[Any]", made) or [None]
    if form != _form(plan) or len(values) != len(plan.sorts):
        raise wrong()
    if not all(v is None or (isinstance(v, str) and is_storable(v)) for v in values):
        raise wrong()
    return tuple(values)


def wrong() -> AppError:
    """The error for a cursor that is not one of ours, or belongs to another order."""
    return AppError(
        "VALIDATION_INVALID_INPUT",
        "The cursor was not made for this table and order.",
        remediation="Send X-Next-Cursor of the page before, with the same order; or begin without a cursor. "
        "butterbase_docs with topic rest has an example.",
    )
