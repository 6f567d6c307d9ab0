"""Variables that builds of an app see. Values are sealed, and no answer holds them."""

from __future__ import annotations

import re
from typing import Any

from brolly.core.caller import Caller
from brolly.core.errors import AppError
from brolly.core.times import iso
from brolly.core.tool import AppParams
from brolly.deps import Deps
from brolly.registry import App
from brolly.sealing import seal, unseal

MOST_NAMES = 100
LONGEST_VALUE = 32_768
PLATFORM_PREFIXES = ("BROLLY_", "BUTTERBASE_")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")


class SetEnv(AppParams):
    """Parameters of set_env."""

    vars: dict[str, Any]


def check_env(given: dict[str, Any]) -> dict[str, str]:
    """The variables; raises for names that are none or the platform's, and for values that are no text."""
    for name, value in given.items():
        why = ""
        if not _NAME.fullmatch(name):
            why = f"{name[:100]!r} is no name of a variable (letters, digits and _)"
        elif name.upper().startswith(PLATFORM_PREFIXES):
            why = f"{name} begins with a prefix that the platform keeps for itself"
        elif not isinstance(value, str) or len(value) > LONGEST_VALUE or "\0" in value:
            why = f"the value of {name} is no text of at most {LONGEST_VALUE} characters"
        if why:
            raise AppError(
                "VALIDATION_INVALID_SCHEMA",
                f"vars: {why}.",
                remediation="Send names with texts as values in manage_frontend set_env, such as VITE_TITLE.",
            )
    return given


async def set_env(deps: Deps, caller: Caller, params: SetEnv) -> dict[str, Any]:
    """Add variables, or give them other values."""
    app = await deps.registry.get(caller, params.app_id)
    given = check_env(params.vars)
    async with deps.control.acquire() as connection, connection.transaction():
        await connection.execute("select pg_advisory_xact_lock(hashtextextended($1, 0))", f"site-env:{app.id}")
        await connection.executemany(
            "insert into brolly.site_env (app_id, name, value) values ($1, $2, $3) "
            "on conflict (app_id, name) do update set value = excluded.value, updated_at = now()",
            [(app.id, name, seal(deps, app, f"site-env:{name}", value.encode())) for name, value in given.items()],
        )
        names = await connection.fetch("select name from brolly.site_env where app_id = $1 order by name", app.id)
        if len(names) > MOST_NAMES:
            raise AppError("VALIDATION_INVALID_SCHEMA", f"vars: an app has at most {MOST_NAMES} variables.")
    message = "Builds from source see them from now on; what is deployed keeps the values that it was built with."
    return {"message": message, "keys": [row["name"] for row in names]}


async def get_env(deps: Deps, caller: Caller, params: AppParams) -> dict[str, Any]:
    """The names, never the values."""
    app = await deps.registry.get(caller, params.app_id)
    rows = await deps.control.fetch(
        "select name, created_at, updated_at from brolly.site_env where app_id = $1 order by name", app.id
    )
    return {
        "envVars": [
            {"key": row["name"], "createdAt": iso(row["created_at"]), "updatedAt": iso(row["updated_at"])}
            for row in rows
        ]
    }


async def read_env(deps: Deps, app: App) -> dict[str, str]:
    """The variables with their values, for a build."""
    rows = await deps.control.fetch("select name, value from brolly.site_env where app_id = $1", app.id)
    return {row["name"]: unseal(deps, app, f"site-env:{row['name']}", row["value"]).decode() for row in rows}
