"""What a function sees in ``ctx.env``: the app's variables, its own, and the platform's."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from pydantic.json_schema import SkipJsonSchema

from brolly.core.caller import Caller
from brolly.core.errors import AppError
from brolly.core.times import iso
from brolly.core.tool import AppParams
from brolly.deps import Deps
from brolly.functions.store import (
    PLATFORM_PREFIXES,
    Function,
    env_name,
    find_function,
    functions_of,
    read_env,
    read_functions,
)
from brolly.registry import App
from brolly.sealing import seal

APP_ENV = "app-env"
MOST_NAMES = 100
LONGEST_VALUE = 32_768
_NAME = re.compile(r"^[A-Za-z_][A-Za-z0-9_]{0,127}$")


class UpdateEnv(AppParams):
    """Parameters of update_env: values to set, null to delete; what is left out stays."""

    function_name: str
    env: dict[str, Any]


class UpdateAppEnv(AppParams):
    """Parameters of the app's own variables, which all its functions see."""

    env: dict[str, str | None]


def check_names(env: Mapping[str, Any]) -> None:
    """Raises for names that are the platform's or no names, and for values that are no text."""
    for name, value in env.items():
        if name.upper().startswith(PLATFORM_PREFIXES):
            raise _refused(f"{name[:100]} begins with a prefix that the platform keeps for itself")
        if not _NAME.match(name):
            raise _refused(f"{name[:100]!r} is no name of a variable (letters, digits and _)")
        if value is not None and not isinstance(value, str):
            raise _refused(f"the value of {name} is no text")
        if isinstance(value, str) and (len(value) > LONGEST_VALUE or "\0" in value):
            raise _refused(f"the value of {name} is longer than {LONGEST_VALUE} characters, or holds a zero byte")
    if len(env) > MOST_NAMES:
        raise _refused(f"there are {len(env)} variables, {MOST_NAMES} are the most")


def _refused(why: str) -> AppError:
    return AppError(
        "VALIDATION_INVALID_SCHEMA",
        f"env: {why}.",
        remediation="Send names of letters, digits and _ with texts as values in manage_function update_env.",
    )


def merged(before: Mapping[str, str], changes: Mapping[str, Any]) -> dict[str, str]:
    """The variables with the changes; null deletes."""
    after = {**before, **changes}
    after = {name: value for name, value in after.items() if value is not None}
    check_names(after)
    return after


def platform_env(deps: Deps, app: App) -> dict[str, str]:
    """What every function is told about its surroundings."""
    return {
        "BUTTERBASE_APP_ID": app.id,
        "BUTTERBASE_API_URL": deps.settings.base_url,
        "BUTTERBASE_APP_NAME": app.name,
        "BUTTERBASE_REGION": app.region,
        "BUTTERBASE_SUBDOMAIN": app.subdomain,
    }


async def env_of(deps: Deps, app: App, function: Function) -> dict[str, str]:
    """What the function sees: the platform's names cannot be taken by others."""
    shared = (await read_functions(deps, app)).env
    return {
        **read_env(deps, app, shared, APP_ENV),
        **read_env(deps, app, function.env, env_name(function)),
        **platform_env(deps, app),
    }


async def update_env(deps: Deps, caller: Caller, params: UpdateEnv) -> dict[str, Any]:
    """Set and delete variables of a function; its next call sees them."""
    app = await deps.registry.get(caller, params.app_id)
    check_names(params.env)
    function = await find_function(deps, app, params.function_name)
    async with functions_of(deps, app) as connection:
        sealed = await connection.fetchval(
            "select env from functions.functions where id = $1 and deleted_at is null for update", function.id
        )
        after = merged(read_env(deps, app, sealed, env_name(function)), params.env)
        data = seal(deps, app, env_name(function), json.dumps(after).encode())
        await connection.execute("update functions.functions set env = $2 where id = $1", function.id, data)
    await deps.registry.changed(app.id)
    return {
        "message": "The function's next call sees the variables.",
        "function": function.name,
        "updatedKeys": sorted(params.env),
        "cache_invalidation": {"success": True},
    }


class AppEnv(AppParams):
    """Parameters of reading the app's own variables."""

    include: SkipJsonSchema[None] = None


async def get_app_env(deps: Deps, caller: Caller, params: AppEnv) -> dict[str, Any]:
    """The names of the app's variables; never their values."""
    app = await deps.registry.get(caller, params.app_id)
    async with functions_of(deps, app) as connection:
        row = await connection.fetchrow("select env, updated_at from functions.environment")
    return _shown(deps, app, row["env"] if row else None, row["updated_at"] if row else None)


async def update_app_env(deps: Deps, caller: Caller, params: UpdateAppEnv) -> dict[str, Any]:
    """Set and delete variables that all functions of the app see."""
    app = await deps.registry.get(caller, params.app_id)
    check_names(params.env)
    async with functions_of(deps, app) as connection:
        await connection.execute("select pg_advisory_xact_lock(hashtextextended('functions.environment', 0))")
        sealed = await connection.fetchval("select env from functions.environment")
        data = seal(deps, app, APP_ENV, json.dumps(merged(read_env(deps, app, sealed, APP_ENV), params.env)).encode())
        row = await connection.fetchrow(
            "insert into functions.environment (env) values ($1) on conflict (single) "
            "do update set env = excluded.env, updated_at = now() returning updated_at",
            data,
        )
    await deps.registry.changed(app.id)
    return _shown(deps, app, data, row["updated_at"])


def _shown(deps: Deps, app: App, sealed: bytes | None, updated_at: datetime | None) -> dict[str, Any]:
    return {"keys": sorted(read_env(deps, app, sealed, APP_ENV)), "updatedAt": iso(updated_at)}
