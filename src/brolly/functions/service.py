"""Deploying functions, and what their owner asks about them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import uuid4

from pydantic import Field, field_validator
from pydantic.json_schema import SkipJsonSchema

from brolly.core.caller import Caller
from brolly.core.errors import AppError
from brolly.core.progress import report
from brolly.core.times import iso
from brolly.core.tool import AppParams
from brolly.deps import Deps
from brolly.engines.deno import Program
from brolly.functions.environment import check_names, env_of, merged
from brolly.functions.logs import flush
from brolly.functions.schedule import history, set_schedule
from brolly.functions.store import (
    Function,
    Trigger,
    env_name,
    find_function,
    functions_of,
    missing,
    read_env,
    read_functions,
)
from brolly.functions.triggers import HIDDEN, TriggerParams, chosen
from brolly.pg.pool import Connection
from brolly.registry import App
from brolly.sealing import seal

LONGEST_CODE = 900_000
MOST_FUNCTIONS = 200
NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]*$"

_STATISTICS = (
    "select i.function_id::text as id, max(i.started_at) as last, count(*) as calls, "
    "count(*) filter (where i.status >= 500) as failures, avg(i.duration_ms) as average, "
    "(array_agg(i.status order by i.id desc))[1] as status "
    "from functions.invocations i where i.started_at > now() - interval '24 hours' group by i.function_id"
)


class Deploy(AppParams):
    """Parameters of deploy_function."""

    name: str = Field(min_length=1, max_length=100, pattern=NAME)
    code: str = Field(min_length=1, max_length=LONGEST_CODE)
    description: SkipJsonSchema[str | None] = Field(None, max_length=1000)
    env_vars: dict[str, Any] | None = Field(None, alias="envVars")
    timeout_ms: int = Field(30_000, alias="timeoutMs", ge=100, le=300_000)
    memory_limit_mb: SkipJsonSchema[int] = Field(128, alias="memoryLimitMb", ge=64, le=1024)
    trigger: SkipJsonSchema[TriggerParams | None] = None
    triggers: list[TriggerParams] | None = Field(None, min_length=1)
    agent_tool: SkipJsonSchema[bool] = False
    agent_tool_description: SkipJsonSchema[str | None] = Field(None, max_length=500)
    agent_tool_mode: SkipJsonSchema[Literal["read_only", "read_write"]] = "read_only"
    agent_tool_exposed_to: SkipJsonSchema[Literal["developer_only", "end_user"]] = "developer_only"
    allow_service_key_impersonation: SkipJsonSchema[bool] = True

    @field_validator("code")
    @classmethod
    def _code(cls, value: str) -> str:
        if "\0" in value or "export" not in value:
            raise ValueError("expected a module that exports a handler: export async function handler(request, ctx)")
        return value

    def options(self) -> dict[str, Any]:
        """What is kept beside the code."""
        names = ("agent_tool", "agent_tool_description", "agent_tool_mode", "agent_tool_exposed_to")
        kept = {name: getattr(self, name) for name in names}
        return {**kept, "allow_service_key_impersonation": self.allow_service_key_impersonation}


class FunctionRef(AppParams):
    """Parameters of what concerns one function."""

    function_name: str


class UpdateSettings(FunctionRef):
    """Parameters of update_settings."""

    allow_service_key_impersonation: bool


def url_of(deps: Deps, app: App, name: str) -> str:
    """Where the function answers."""
    return f"{deps.settings.base_url}/v1/{app.id}/fn/{name}"


def program_of(deps: Deps, app: App, function: Function, env: Mapping[str, str]) -> Program:
    """The function as Deno runs it."""
    about = {"id": app.id, "name": app.name, "region": app.region, "subdomain": app.subdomain}
    about["api_url"] = deps.settings.base_url
    timeout = function.timeout_ms / 1000
    return Program(app.id, function.name, function.code, env, about, timeout, function.memory_limit_mb)


async def deploy(deps: Deps, caller: Caller, params: Deploy) -> dict[str, Any]:
    """Create or replace a function. What does not compile, or cannot be loaded, changes nothing."""
    app = await deps.registry.get(caller, params.app_id)
    triggers = chosen(params.trigger, params.triggers)
    check_names(params.env_vars or {})
    known = (await read_functions(deps, app)).functions
    before = known.get(params.name)
    if before is None and len(known) >= MOST_FUNCTIONS:
        raise AppError(
            "VALIDATION_INVALID_SCHEMA",
            f"The app has {MOST_FUNCTIONS} functions, which are the most.",
            remediation="Remove one with manage_function delete.",
        )
    _check_event(params.name, triggers, known)
    await _compile(deps, params)
    await deps.databases.create_function_logins(app.id)
    function_id = before.id if before is not None else str(uuid4())
    own = merged(read_env(deps, app, before.env, env_name(before)), {}) if before is not None else {}
    if params.env_vars is not None:
        own = merged({}, params.env_vars)
    fresh = Function(
        function_id, params.name, params.description, params.code, params.timeout_ms, params.memory_limit_mb,
        seal(deps, app, f"function-env:{function_id}", json.dumps(own).encode()), params.options(),
        datetime.now(UTC), (),
    )  # fmt: skip
    program = program_of(deps, app, fresh, await env_of(deps, app, fresh))
    await deps.deno.load(program)
    stored = await _store(deps, app, fresh, triggers, before)
    await deps.registry.changed(app.id)
    return {
        "id": stored.id,
        "function_id": stored.id,
        "name": stored.name,
        "url": url_of(deps, app, stored.name) if any(t.type == "http" for t in triggers) else None,
        "status": "active",
        "triggers": [{"type": t.type, "enabled": t.enabled} for t in triggers],
        "deployedAt": iso(stored.deployed_at),
        "created": before is None,
        "cacheInvalidation": {"success": True, "attempts": 1},
    }


def _check_event(name: str, triggers: Sequence[TriggerParams], known: Mapping[str, Function]) -> None:
    """One function answers an event, so that its sender gets one answer."""
    event = next((t.config["event"] for t in triggers if t.type == "websocket" and t.enabled), None)
    if event is None:
        return
    for other in known.values():
        trigger = other.trigger("websocket")
        if other.name != name and trigger is not None and trigger.config.get("event") == event:
            raise AppError(
                "RESOURCE_CONFLICT",
                f"The function {other.name} has the event {event!r} already.",
                remediation="Choose another event, or remove that function with manage_function delete first.",
            )


async def _compile(deps: Deps, params: Deploy) -> None:
    await report("Checking types, which takes longer the first time", 1, 2)
    found = await deps.deno.check(params.name, params.code)
    if not found:
        return
    shown = [{"line": d.line, "column": d.column, "message": d.message, "code": d.code or None} for d in found]
    first = found[0]
    where = f"{params.name}.ts:{first.line}:{first.column}: " if first.line else ""
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    raise AppError(
        "VALIDATION_INVALID_SCHEMA",
        f"The function does not compile: {where}{first.message}{more}",
        remediation="Correct the lines in details and repeat deploy_function; a first line // @ts-nocheck leaves "
        "types unchecked.",
        details={"file": f"{params.name}.ts", "diagnostics": shown},
    )


async def _store(
    deps: Deps, app: App, fresh: Function, triggers: Sequence[TriggerParams], before: Function | None
) -> Function:
    async with functions_of(deps, app) as connection:
        row = await connection.fetchrow(
            "insert into functions.functions (id, name, description, code, timeout_ms, memory_limit_mb, env, options) "
            "values ($1, $2, $3, $4, $5, $6, $7, $8::jsonb) on conflict (name) where deleted_at is null do update set "
            "description = excluded.description, code = excluded.code, timeout_ms = excluded.timeout_ms, "
            "memory_limit_mb = excluded.memory_limit_mb, env = excluded.env, options = excluded.options, "
            "deployed_at = now() where functions.id = excluded.id returning id::text, deployed_at",
            fresh.id, fresh.name, fresh.description, fresh.code, fresh.timeout_ms, fresh.memory_limit_mb,
            fresh.env, json.dumps(dict(fresh.options)),
        )  # fmt: skip
        if row is None:
            raise AppError(
                "RESOURCE_CONFLICT",
                f"{fresh.name} was deployed by somebody else at the same time.",
                remediation="Look at it with manage_function get, then repeat deploy_function.",
            )
        await connection.execute("delete from functions.triggers where function_id = $1", row["id"])
        for trigger in triggers:
            await _store_trigger(deps, app, connection, fresh, trigger, before)
    await set_schedule(deps, app, fresh.name, triggers)
    return Function(
        row["id"], fresh.name, fresh.description, fresh.code, fresh.timeout_ms, fresh.memory_limit_mb, fresh.env,
        fresh.options, row["deployed_at"], (),
    )  # fmt: skip


async def _store_trigger(
    deps: Deps, app: App, connection: Connection, fresh: Function, trigger: TriggerParams, before: Function | None
) -> None:
    config = dict(trigger.config)
    secret: bytes | None = None
    if (text := config.pop("secret", None)) is not None:
        former = next((t.secret for t in before.triggers if t.type == trigger.type), None) if before else None
        keep = text == HIDDEN and former is not None
        secret = former if keep else seal(deps, app, f"trigger-secret:{fresh.id}", text.encode())
    await connection.execute(
        "insert into functions.triggers (function_id, type, config, secret, enabled) "
        "values ($1, $2, $3::jsonb, $4, $5)",
        fresh.id,
        trigger.type,
        json.dumps(config),
        secret,
        trigger.enabled,
    )


async def list_functions(deps: Deps, caller: Caller, params: AppParams) -> dict[str, Any]:
    """The app's functions, with what the last day showed."""
    app = await deps.registry.get(caller, params.app_id)
    functions = (await read_functions(deps, app)).functions
    statistics = await _statistics(deps, app)
    return {"functions": [_shown(deps, app, f, statistics.get(f.id)) for _, f in sorted(functions.items())]}


async def _statistics(deps: Deps, app: App) -> dict[str, Any]:
    await flush(deps)
    async with functions_of(deps, app) as connection:
        return {row["id"]: row for row in await connection.fetch(_STATISTICS)}


def _shown(deps: Deps, app: App, function: Function, seen: Any) -> dict[str, Any]:
    calls = seen["calls"] if seen else 0
    rate = seen["failures"] / calls if calls else 0.0
    return {
        "id": function.id,
        "name": function.name,
        "description": function.description,
        "triggers": [_shown_trigger(t) for t in function.triggers],
        "url": url_of(deps, app, function.name) if function.trigger("http") else None,
        "status": "error" if rate > 0.1 else "active",
        "deployedAt": iso(function.deployed_at),
        "lastInvoked": iso(seen["last"]) if seen else None,
        "lastStatus": seen["status"] if seen else None,
        "invocationCount": calls,
        "errorRate": round(rate, 4),
        "avgDuration": round(seen["average"], 1) if seen else None,
        **function.options,
    }


def _shown_trigger(trigger: Trigger) -> dict[str, Any]:
    hidden = {"secret": HIDDEN} if trigger.secret is not None else {}
    return {"type": trigger.type, "config": {**trigger.config, **hidden}, "enabled": trigger.enabled}


async def get_function(deps: Deps, caller: Caller, params: FunctionRef) -> dict[str, Any]:
    """One function with its code and the names of its variables."""
    app = await deps.registry.get(caller, params.app_id)
    function = await find_function(deps, app, params.function_name)
    seen = (await _statistics(deps, app)).get(function.id)
    return {
        **_shown(deps, app, function, seen),
        "code": function.code,
        "timeoutMs": function.timeout_ms,
        "memoryLimitMb": function.memory_limit_mb,
        "errorCount": seen["failures"] if seen else 0,
        "cron": await history(deps, app, function.name) if function.trigger("cron") else None,
        "envKeys": sorted(read_env(deps, app, function.env, env_name(function))),
    }


async def delete_function(deps: Deps, caller: Caller, params: FunctionRef) -> dict[str, Any]:
    """Remove a function; its logs stay for their time. Calls that run end by themselves."""
    app = await deps.registry.get(caller, params.app_id)
    async with functions_of(deps, app) as connection:
        await connection.execute(
            "update functions.functions set deleted_at = now(), env = null where name = $1 and deleted_at is null",
            params.function_name,
        )
    await set_schedule(deps, app, params.function_name, ())
    await deps.registry.changed(app.id)
    return {"message": "The function is gone.", "app_id": app.id, "function_name": params.function_name}


async def what_delete_loses(deps: Deps, caller: Caller, params: FunctionRef) -> str | None:
    """What goes with a function."""
    app = await deps.registry.get(caller, params.app_id)
    function = (await read_functions(deps, app)).functions.get(params.function_name)
    if function is None:
        return None
    starts = ", ".join(t.type for t in function.triggers)
    return f"the function {function.name} with its code and variables, started by: {starts}"


async def update_settings(deps: Deps, caller: Caller, params: UpdateSettings) -> dict[str, Any]:
    """Change what is kept beside the code."""
    app = await deps.registry.get(caller, params.app_id)
    async with functions_of(deps, app) as connection:
        found = await connection.fetchval(
            "update functions.functions set options = options || jsonb_build_object("
            "'allow_service_key_impersonation', $2::boolean) where name = $1 and deleted_at is null returning true",
            params.function_name,
            params.allow_service_key_impersonation,
        )
    if not found:
        raise missing(params.function_name)
    await deps.registry.changed(app.id)
    return {
        "function": params.function_name,
        "allow_service_key_impersonation": params.allow_service_key_impersonation,
    }
