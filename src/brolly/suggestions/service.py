"""Taking suggestions, with what the caller did before."""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import Field, field_validator
from pydantic.json_schema import SkipJsonSchema

from brolly.core.caller import Caller
from brolly.core.errors import AppError
from brolly.core.times import iso
from brolly.core.tool import Params
from brolly.deps import Deps

TEXT_LIMIT = 10_000
CONTEXT_LIMIT = 20_000
HOURLY_LIMIT = 30


class Submit(Params):
    """Parameters of submit_suggestion."""

    category: Literal["bug_report", "feature_request", "improvement", "documentation"]
    description: str = Field(min_length=10, max_length=TEXT_LIMIT)
    # Advertised without its values, which the tool's page and the error for any other name: few calls have it.
    severity: SkipJsonSchema[Literal["low", "medium", "high", "critical"] | None] = None
    affected_tool: str | None = Field(None, max_length=100)
    proposed_solution: SkipJsonSchema[str | None] = Field(None, max_length=TEXT_LIMIT)
    source: SkipJsonSchema[Literal["agent", "human_prompted"]] = "agent"
    app_id: str | None = None
    agent_context: dict[str, Any] | None = None

    @field_validator("agent_context")
    @classmethod
    def _small(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        if value is not None and len(json.dumps(value)) > CONTEXT_LIMIT:
            raise ValueError(f"must not be longer than {CONTEXT_LIMIT} characters of JSON")
        return value


_RECENT = (
    "select event_data->>'tool' as tool, event_data->>'action' as action, success, event_data->>'code' as code, "
    "created_at from brolly.audit_log where account_id = $1 and actor_id = $2 "
    "and created_at > now() - interval '1 hour' order by created_at desc, id desc limit 20"
)

_INSERT = (
    "insert into brolly.suggestions (account_id, app_id, category, description, severity, affected_tool, "
    "proposed_solution, source, agent_context, recent_calls) "
    "values ($1, $2, $3, $4, $5, $6, $7, $8, $9::jsonb, $10::jsonb) returning id::text, status, created_at"
)


async def submit(deps: Deps, caller: Caller, params: Submit) -> dict[str, Any]:
    """Keep a suggestion with the caller's last 20 calls of the past hour. Neither those nor the context are echoed."""
    if params.app_id is not None:
        await deps.registry.get(caller, params.app_id)
    await _limit(deps, caller)
    recent = [_call(row) for row in await deps.control.fetch(_RECENT, caller.account_id, caller.key_id)]
    row = await deps.control.fetchrow(
        _INSERT,
        caller.account_id,
        params.app_id,
        params.category,
        params.description,
        params.severity,
        params.affected_tool,
        params.proposed_solution,
        params.source,
        None if params.agent_context is None else json.dumps(params.agent_context),
        json.dumps(recent),
    )
    kept = params.model_dump(exclude={"agent_context"}, exclude_none=True)
    return {"suggestion": {"id": row["id"], **kept, "status": row["status"], "created_at": iso(row["created_at"])}}


async def _limit(deps: Deps, caller: Caller) -> None:
    """An agent that loops must not fill the operator's table."""
    row = await deps.control.fetchrow(
        "select count(*) as sent, extract(epoch from min(created_at) + interval '1 hour' - now())::int as wait "
        "from brolly.suggestions where account_id = $1 and created_at > now() - interval '1 hour'",
        caller.account_id,
    )
    if row["sent"] >= HOURLY_LIMIT:
        raise AppError(
            "QUOTA_RATE_LIMIT",
            f"{HOURLY_LIMIT} suggestions were sent in the past hour.",
            remediation="Gather what is left in one submit_suggestion call after the seconds in details.retry_after.",
            details={"retry_after": max(row["wait"], 1)},
            retry_after=max(row["wait"], 1),
        )


def _call(row: Any) -> dict[str, Any]:
    return {**dict(row), "created_at": iso(row["created_at"])}
