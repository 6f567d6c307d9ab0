"""Writing and reading the audit log."""

from __future__ import annotations

import json
import logging
from typing import Any, Literal

from pydantic import AwareDatetime, Field, field_validator
from pydantic.json_schema import SkipJsonSchema

from brolly.core.caller import Caller
from brolly.core.errors import AppError
from brolly.core.times import iso
from brolly.core.tool import AppParams, AuditEvent
from brolly.deps import Deps
from brolly.registry import not_found

log = logging.getLogger("brolly.audit")

PLATFORM = "_platform"
QUERY_EVENT = "audit.query"
_ACTORS = {"service": "api_key", "user": "app_user", "anonymous": "anonymous"}
_TEXT_LIMIT = 500
ACTIONS = ("read", "create", "update", "delete", "invoke", "enable", "disable")
_OF_USERS = (
    *("signup", "login", "refresh", "logout", "verify_email", "reset_password", "magic_link_login", "oauth_login"),
    *("verify_email_sent", "reset_password_sent", "magic_link_sent", "mfa", "mfa_enabled", "mfa_disabled"),
)
"""What end users do (category ``auth``), which is its own action."""

_INSERT = (
    # A read is not worth waiting for the disk; what changes something is on it before the answer goes out.
    "with mode as (select set_config('synchronous_commit', $1, true)) "
    "insert into brolly.audit_log (account_id, app_id, category, event_type, action, resource_type, resource_id, "
    "actor_type, actor_id, event_data, ip_address, user_agent, success, error_message, correlation_id) "
    "select $2, $3, $4, $5, $6, $7, $8, $9, $10, $11::jsonb, $12, $13, $14, $15, $16 from mode"
)


class QueryLogs(AppParams):
    """Parameters of query_audit_logs. ``from`` is inclusive, ``to`` exclusive."""

    category: Literal["auth", "admin", "function"] | None = None
    event_type: str | None = None
    action: str | None = None
    resource_type: str | None = None
    resource_id: str | None = None
    actor_id: str | None = None
    # The same filter as actor_id, so not told of.
    user_id: SkipJsonSchema[str | None] = None
    from_time: AwareDatetime | None = Field(None, alias="from")
    to_time: AwareDatetime | None = Field(None, alias="to")
    limit: int = Field(100, ge=1, le=500)
    offset: int = Field(0, ge=0)

    @field_validator("action")
    @classmethod
    def _known(cls, action: str | None) -> str | None:
        # Checked here, not in the type: the advertised schema would carry every name.
        if action is not None and action not in (*ACTIONS, *_OF_USERS):
            raise ValueError(f"must be one of: {', '.join(ACTIONS)}, or what users do, such as login")
        return action


async def record(deps: Deps, event: AuditEvent) -> None:
    """Write one row. A log that cannot be written does not undo what was done; it is logged instead."""
    caller = event.caller
    try:
        await deps.control.execute(
            _INSERT,
            "on" if event.durable else "off",
            event.account_id,
            _storable(event.app_id),
            event.category,
            event.event_type,
            event.action,
            event.resource_type,
            _storable(event.resource_id),
            _ACTORS[caller.kind],
            _storable(caller.user_id or caller.key_id),
            json.dumps({k: _storable(v) for k, v in event.event_data.items()}),
            caller.ip,
            caller.user_agent,
            event.success,
            _storable(event.error_message) or None,
            caller.request_id or None,
        )
    except AppError as error:
        log.error("audit row lost: %s %r: %s", event.event_type, event.app_id, error.message)


def _storable(value: Any) -> Any:
    """Texts without what Postgres cannot store, and short enough for an index."""
    if not isinstance(value, str):
        return value
    return value[:_TEXT_LIMIT].replace("\0", "\ufffd").encode("utf-8", "replace").decode()


async def query_logs(deps: Deps, caller: Caller, params: QueryLogs) -> dict[str, Any]:
    """Rows of one app (or of ``_platform``: keys and apps of the account), newest first."""
    account = caller.require_account() if params.app_id == PLATFORM else await _account_of(deps, caller, params.app_id)
    if params.actor_id and params.user_id and params.actor_id != params.user_id:
        raise AppError("VALIDATION_INVALID_SCHEMA", "actor_id and user_id are the same filter; send one of them.")
    where, args = _conditions(account, params)
    total = await deps.control.fetchval(f"select count(*) from brolly.audit_log where {where}", *args)
    rows = await deps.control.fetch(
        "select id, app_id, category, event_type, action, resource_type, resource_id, actor_type, actor_id, "
        "event_data::text, ip_address, user_agent, success, error_message, correlation_id, created_at "
        f"from brolly.audit_log where {where} order by created_at desc, id desc "
        f"limit ${len(args) + 1} offset ${len(args) + 2}",
        *args,
        params.limit,
        params.offset,
    )
    after = params.offset + len(rows)
    return {
        "logs": [_shown(row) for row in rows],
        "total": total,
        "limit": params.limit,
        "offset": params.offset,
        "nextOffset": after if after < total else None,
        "untrusted": True,
    }


async def _account_of(deps: Deps, caller: Caller, app_id: str) -> str:
    """The account whose rows of that app this caller may read; rows outlive the app."""
    app = await deps.registry.find(app_id)
    if app is not None and caller.may_see(app.id, app.account_id):
        return app.account_id
    # A refused call leaves a row too, so only what succeeded shows that the account had the app.
    had = "select 1 from brolly.audit_log where account_id = $1 and app_id = $2 and success limit 1"
    if app is None and not caller.app_scopes and await deps.control.fetchval(had, caller.account_id, app_id):
        return caller.require_account()
    raise not_found(app_id)


def _conditions(account: str, params: QueryLogs) -> tuple[str, list[Any]]:
    args: list[Any] = [account, params.app_id]
    parts = ["account_id = $1", "app_id = $2"]
    if params.event_type is None:
        # Each page that is read leaves a row, which would push the next page's rows on by one.
        parts.append(f"event_type <> '{QUERY_EVENT}'")
    filters = {
        "category =": params.category,
        "event_type =": params.event_type,
        "action =": params.action,
        "resource_type =": params.resource_type,
        "resource_id =": params.resource_id,
        "created_at >=": params.from_time,
        "created_at <": params.to_time,
    }
    if actor := params.actor_id or params.user_id:
        args.append(actor)
        parts.append(f"(actor_id = ${len(args)} or event_data ->> 'as_user' = ${len(args)})")
    for left, value in filters.items():
        if value is not None:
            args.append(value)
            parts.append(f"{left} ${len(args)}")
    return " and ".join(parts), args


def _shown(row: Any) -> dict[str, Any]:
    return {
        **dict(row),
        "id": str(row["id"]),
        "event_data": json.loads(row["event_data"]),
        "created_at": iso(row["created_at"]),
    }
