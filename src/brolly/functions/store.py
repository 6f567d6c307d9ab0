"""Functions as they are kept: in the app's schema ``functions``, read from memory while nothing changes."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from weakref import WeakKeyDictionary

from brolly.core.errors import AppError
from brolly.deps import Deps
from brolly.engines.deno import Program
from brolly.pg.databases import FUNCTIONS_ROLE
from brolly.pg.pool import Connection
from brolly.pg.session import as_platform
from brolly.registry import App, Registry
from brolly.sealing import unseal

APPS_KEPT = 500
PLATFORM_PREFIXES = ("BUTTERBASE_", "BROLLY_")

_FUNCTIONS = (
    "select f.id, f.name, f.description, f.code, f.timeout_ms, f.memory_limit_mb, f.env, f.options::text, "
    "f.deployed_at, coalesce(jsonb_agg(jsonb_build_object('type', t.type, 'config', t.config, 'enabled', t.enabled, "
    "'secret', encode(t.secret, 'hex')) order by t.type) filter (where t.type is not null), '[]')::text as triggers "
    "from functions.functions f left join functions.triggers t on t.function_id = f.id "
    "where f.deleted_at is null group by f.id"
)


@dataclass(frozen=True, slots=True)
class Trigger:
    """What starts a function. ``secret`` is encrypted."""

    type: str
    config: Mapping[str, Any]
    enabled: bool
    secret: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Function:
    """A deployed function. ``env`` is encrypted."""

    id: str
    name: str
    description: str | None
    code: str = field(repr=False)
    timeout_ms: int
    memory_limit_mb: int
    env: bytes | None = field(repr=False)
    options: Mapping[str, Any]
    deployed_at: datetime
    triggers: tuple[Trigger, ...]

    def trigger(self, kind: str) -> Trigger | None:
        """The enabled trigger of that type."""
        return next((t for t in self.triggers if t.type == kind and t.enabled), None)


@dataclass(frozen=True, slots=True)
class AppFunctions:
    """All functions of an app by name, and the variables that they share (encrypted)."""

    app: App
    functions: Mapping[str, Function]
    env: bytes | None = field(repr=False)
    programs: dict[str, Program] = field(default_factory=dict[str, Program], repr=False)
    """Those that were called, with their variables unsealed: known as long as nothing of the app changes."""


_KNOWN: WeakKeyDictionary[Registry, OrderedDict[str, AppFunctions]] = WeakKeyDictionary()


@asynccontextmanager
async def functions_of(deps: Deps, app: App, *, durable: bool = True) -> AsyncGenerator[Connection]:
    """A connection in a transaction that may read and write the app's schema ``functions``."""
    async with as_platform(deps.pools.door(app), FUNCTIONS_ROLE, durable=durable) as connection:
        yield connection


async def read_functions(deps: Deps, app: App) -> AppFunctions:
    """The app's functions. ``Registry.changed`` makes every replica read them again."""
    known = _KNOWN.setdefault(deps.registry, OrderedDict())
    # The registry makes a new record when anything about the app was announced as changed.
    if (found := known.get(app.id)) is not None and found.app is app:
        known.move_to_end(app.id)
        return found
    async with functions_of(deps, app) as connection:
        rows = await connection.fetch(_FUNCTIONS)
        env = await connection.fetchval("select env from functions.environment")
    read = AppFunctions(app, {row["name"]: _function(row) for row in rows}, env)
    known[app.id] = read
    while len(known) > APPS_KEPT:
        known.popitem(last=False)
    return read


def _function(row: Any) -> Function:
    values = dict(row)
    values["id"] = str(values["id"])
    values["options"] = json.loads(values["options"])
    values["triggers"] = tuple(
        Trigger(t["type"], t["config"], t["enabled"], bytes.fromhex(t["secret"]) if t["secret"] else None)
        for t in json.loads(values["triggers"])
    )
    return Function(**values)


async def find_function(deps: Deps, app: App, name: str) -> Function:
    """The function; raises ``RESOURCE_NOT_FOUND``."""
    found = (await read_functions(deps, app)).functions.get(name)
    if found is None:
        raise missing(name)
    return found


def missing(name: str) -> AppError:
    """The answer for a function that the app has not."""
    return AppError(
        "RESOURCE_NOT_FOUND",
        f"The app has no function {name[:100]!r}.",
        remediation="Call manage_function list for the names, or deploy_function to create it.",
    )


def read_env(deps: Deps, app: App, sealed: bytes | None, name: str) -> dict[str, str]:
    """The variables that were sealed under that name; none when there are none."""
    return {} if sealed is None else json.loads(unseal(deps, app, name, sealed))


def env_name(function: Function) -> str:
    """Under what a function's variables are sealed."""
    return f"function-env:{function.id}"


async def has_function(deps: Deps, app: App, name: str) -> bool:
    """Whether the app has that function (for the slice of sign-in)."""
    return name in (await read_functions(deps, app)).functions
