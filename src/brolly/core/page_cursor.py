"""Where a page of a list that goes from the newest on ended: the last row's time and id."""

from __future__ import annotations

import base64
import json
from datetime import datetime
from uuid import UUID

from brolly.core.errors import AppError


def write_cursor(at: datetime, last: UUID | str) -> str:
    """The cursor behind that row."""
    text = json.dumps([at.isoformat(), str(last)])
    return base64.urlsafe_b64encode(text.encode()).decode()


def read_cursor(cursor: str, *, remediation: str) -> tuple[datetime, UUID]:
    """The row behind which the page begins."""
    try:
        at, last = json.loads(base64.urlsafe_b64decode(cursor.encode()))
        return datetime.fromisoformat(at), UUID(last)
    except (ValueError, TypeError, AttributeError):
        raise AppError(
            "VALIDATION_INVALID_TYPE", "cursor is not one that list gave.", remediation=remediation
        ) from None
