"""What end users do, for the audit log."""

from __future__ import annotations

from dataclasses import replace

from brolly.core.audit_event import AuditEvent
from brolly.core.caller import Caller
from brolly.deps import Deps
from brolly.registry import App


async def note(
    deps: Deps, app: App, caller: Caller, event: str, user_id: str | None = None, *, error: str | None = None
) -> None:
    """Record ``auth.<event>`` of that user: done, or refused with the code ``error``."""
    actor = caller
    if user_id is not None and caller.kind == "anonymous" and error is None:
        actor = replace(caller, kind="user", user_id=user_id)
    await deps.record(
        AuditEvent(
            account_id=app.account_id,
            app_id=app.id,
            category="auth",
            event_type=f"auth.{event}",
            action=event,
            resource_type="auth_user",
            resource_id=user_id,
            caller=actor,
            event_data={"code": error} if error else {},
            success=error is None,
            error_message=error,
            durable=False,
        )
    )
