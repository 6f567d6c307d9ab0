"""What the audit log is told about one call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from brolly.core.caller import Caller
from brolly.core.errors import AppError


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


PLATFORM = "_platform"
"""The app id under which is filed what belongs to no app."""

Said = str | Callable[[Any, Any], Any]
"""A name for the log, or what makes it of the parameters (None when they were refused) and the result."""


def said(name: Said, params: Any, result: Any) -> Any:
    """The name itself, or as it follows from this call."""
    return name if isinstance(name, str) else name(params, result)


def app_named(unchecked: Any) -> str:
    """The app that arguments or a result name, before anything else is known of them."""
    named = cast(Mapping[str, Any], unchecked).get("app_id") if isinstance(unchecked, Mapping) else None
    return named if isinstance(named, str) and named.startswith("app_") and len(named) <= 64 else PLATFORM


def refusal(
    caller: Caller, tool: str, arguments: Mapping[str, Any], error: AppError, category: str = "admin"
) -> AuditEvent:
    """The event of a call that reached no action: unknown tool, unknown action or none."""
    action = arguments.get("action")
    data: dict[str, Any] = {"tool": kept(tool), "duration_ms": 0.0, "code": error.code}
    if isinstance(action, str):
        data["action"] = kept(action)
    return AuditEvent(
        account_id=caller.account_id,
        app_id=app_named(arguments),
        category=category,
        event_type="tool.refused",
        action="invoke",
        resource_type="tool",
        resource_id=kept(tool),
        caller=caller,
        event_data=data,
        success=False,
        error_message=error.message,
        durable=False,
    )


def kept(value: Any) -> str | None:
    """What a caller named, fit for keeping: short, and without what Postgres cannot store."""
    if value is None:
        return None
    return "".join(c if c.isprintable() else "?" for c in str(value)[:200])


def acted_as(params: Any) -> dict[str, str]:
    """Whom a service key acted as in this call, if anybody."""
    found = {name: kept(getattr(params, name, None)) for name in ("as_role", "as_user")}
    return {name: value for name, value in found.items() if value}
