"""One app with functions for each module: two people with notes of their own, and a function that runs any SQL."""

from __future__ import annotations

import json
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import httpx
import pytest

from brolly.apps import provision
from brolly.core.caller import Caller
from brolly.core.settings import child_environment
from brolly.deps import Deps
from brolly.engines.deno import Bounds, Engine, Limits
from brolly.registry import App
from tests.conftest import McpCall, hold_open, http_client, make_owner, mcp_session

PASSWORD = "Correct-horse-7"
SCHEMA = {
    "tables": {
        "notes": {
            "columns": {
                "id": {"type": "uuid", "primaryKey": True, "default": "gen_random_uuid()"},
                "user_id": {"type": "uuid", "default": "current_user_id()::uuid"},
                "body": {"type": "text"},
                "amount": {"type": "numeric"},
                "at": {"type": "timestamptz", "default": "now()"},
                "meta": {"type": "jsonb"},
                "tags": {"type": "text[]"},
            }
        }
    }
}
SQL = """
export async function handler(request: Request, ctx: any) {
  const { sql, params, as, twice } = await request.json();
  const db = as === "anon" ? ctx.db.asAnon() : as ? ctx.db.asUser(as) : ctx.db;
  try {
    const first = await db.query(sql, params ?? []);
    return Response.json(twice ? await db.query(twice) : first);
  } catch (error) {
    return Response.json({ code: error.code, message: error.message, remediation: error.remediation }, { status: 400 });
  }
}
"""


@dataclass
class Stage:
    """The app, its owner's tools, a client without credentials, and the tokens and ids of ann and bob."""

    deps: Deps
    app: App
    owner: Caller
    owner_key: str
    mcp: McpCall
    http: httpx.AsyncClient
    tokens: dict[str, str]
    ids: dict[str, str]

    async def deploy(self, name: str, code: str, auth: str = "none", **more: Any) -> Any:
        """Deploy with an http trigger unless ``triggers`` says otherwise."""
        more.setdefault("triggers", [{"type": "http", "config": {"auth": auth}}])
        return await self.mcp("deploy_function", app_id=self.app.id, name=name, code=code, **more)

    async def call(self, name: str, who: str | None = None, method: str = "POST", **more: Any) -> httpx.Response:
        """Call by HTTP as ann, bob, owner or nobody."""
        token = self.owner_key if who == "owner" else self.tokens[who] if who else None
        headers = {**more.pop("headers", {}), **({"Authorization": f"Bearer {token}"} if token else {})}
        return await self.http.request(method, f"/v1/{self.app.id}/fn/{name}", headers=headers, **more)

    async def sql(self, sql: str, *params: Any, who: str | None = "ann", **more: Any) -> Any:
        """What the function answers that runs any SQL."""
        response = await self.call("sql", who, content=json.dumps({"sql": sql, "params": list(params), **more}))
        return response.json()

    async def logs(self, name: str, **more: Any) -> list[dict[str, Any]]:
        """The function's log, newest first."""
        answer = await self.mcp("manage_function", action="get_logs", app_id=self.app.id, function_name=name, **more)
        return answer["logs"]


@pytest.fixture(scope="module")
async def stage(deps: Deps) -> AsyncIterator[Stage]:
    """The stage for one module's tests."""
    owner, key = await make_owner(deps)
    assert owner.account_id is not None
    app_id, _ = await provision.create(deps, owner.account_id, f"app-{uuid4()}", "self-hosted")
    app = await deps.registry.get(owner, app_id)
    mcp, close = await hold_open(mcp_session(deps, owner))
    await mcp("manage_schema", action="apply", app_id=app.id, schema=SCHEMA)
    await mcp("manage_rls", action="create_user_isolation", app_id=app.id, table_name="notes", user_column="user_id")
    async with http_client(deps) as http:
        tokens, ids = {}, {}
        for name in ("ann", "bob"):
            person = {"email": f"{name}@example.com", "password": PASSWORD}
            await http.post(f"/auth/{app.id}/signup", json=person)
            session = (await http.post(f"/auth/{app.id}/login", json=person)).json()
            tokens[name], ids[name] = session["access_token"], session["user"]["id"]
        made = Stage(deps, app, owner, key, mcp, http, tokens, ids)
        await made.deploy("sql", SQL)
        yield made
    await provision.delete(deps, app)
    await close()


@pytest.fixture(scope="module")
async def engine() -> AsyncIterator[Engine]:
    """An engine with small limits."""
    cache = Path(tempfile.mkdtemp(prefix="brolly-deno-"))
    made = Engine(
        Bounds(cache, environment=child_environment()),
        Limits(at_once=3, waiting=2, wait_seconds=5, memory_mb=600, blocked_seconds=1.5),
    )

    class Running:
        async def __aenter__(self) -> Engine:
            self.group = anyio.create_task_group()
            await self.group.__aenter__()
            await self.group.start(made.run)
            return made

        async def __aexit__(self, *_: Any) -> None:
            self.group.cancel_scope.cancel()
            await self.group.__aexit__(None, None, None)

    value, close = await hold_open(Running())
    yield value
    await close()
