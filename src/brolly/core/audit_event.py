"""What the audit log is told about one call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from brolly.core.caller import Caller


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """What happened, for the audit log. Never holds secrets or row values."""

    account_id: str | None
    app_id: str
    category: str
    event_type: str
    action: str
    resource_type: str
    resource_id: str | None
    caller: Caller
    event_data: Mapping[str, Any]
    success: bool
    error_message: str | None
    durable: bool


def kept(value: Any) -> str | None:
    """What a caller named, fit for keeping: short, and without what Postgres cannot store."""
    if value is None:
        return None
    return "".join(c if c.isprintable() else "?" for c in str(value)[:200])


def acted_as(params: Any) -> dict[str, str]:
    """Whom a service key acted as in this call, if anybody."""
    found = {name: kept(getattr(params, name, None)) for name in ("as_role", "as_user")}
    return {name: value for name, value in found.items() if value}
