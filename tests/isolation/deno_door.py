"""A serverless function as a way in: plain statements through ``ctx.db``, for whoever calls it over HTTP."""

from __future__ import annotations

import json
from typing import Any, ClassVar

import httpx

from tests.conftest import http_client, make_owner
from tests.isolation.callers import Who
from tests.isolation.doors import DOORS, REFUSED, TABLE, Row, SqlDoor

CODE = """
export async function handler(request: Request, ctx: any) {
  const { sql, args } = await request.json();
  try { return Response.json((await ctx.db.query(sql, args)).rows); }
  catch (error) { return Response.json({ code: error.code, message: error.message }, { status: 400 }); }
}
"""


class DenoDoor(SqlDoor):
    """``/v1/{app}/fn/things``, which runs what it is sent; users by the key of the app that acts as them."""

    # An app's own process is started for it, so no more than what shows that the caller is the caller.
    verbs = frozenset(("read", "delete"))

    _keys: ClassVar[dict[str, str]] = {}
    """By app, once its function is deployed."""

    async def _run(self, who: Who, sql: str, *args: Any) -> list[Any] | None:
        app = self.around.app
        if app.id not in self._keys:
            _, self._keys[app.id] = await make_owner(self.around.deps, (f"app:{app.id}",), app.account_id)
            trigger = {"type": "http", "config": {"auth": "none"}}
            await self.around.mcp("deploy_function", app_id=app.id, name=TABLE, code=CODE, triggers=[trigger])
        headers = {"X-Butterbase-As-User": str(who.id)} if who.is_user else {}
        async with http_client(
            self.around.deps, self._keys[app.id] if who.is_user or who.is_service else None
        ) as client:
            answer = await client.post(
                f"/v1/{app.id}/fn/{TABLE}", content=json.dumps({"sql": sql, "args": args}), headers=headers
            )
        return self._rows(answer)

    def _rows(self, answer: httpx.Response) -> list[Row] | None:
        if answer.is_success:
            return answer.json()
        assert answer.json()["code"] == REFUSED, answer.text
        return None


DOORS["deno"] = DenoDoor
