"""What a person agreed to is what is done: rows that came meanwhile are not lost with the rest."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from brolly.core.caller import Caller
from brolly.core.errors import AppError
from brolly.deps import Deps
from brolly.registry import App
from brolly.schema import service

TABLE = {"tables": {"t": {"columns": {"id": {"type": "integer", "primaryKey": True}, "user_id": {"type": "uuid"}}}}}
DROP = {"tables": {}, "_drop": ["t"]}


@pytest.mark.parametrize("secured", [False, True])
async def test_more_than_was_agreed_to_is_asked_again(
    deps: Deps, mcp: Any, app: App, owner: Caller, secured: bool
) -> None:
    await mcp("manage_schema", action="apply", app_id=app.id, schema=TABLE)
    if secured:
        await mcp("manage_rls", action="create_user_isolation", app_id=app.id, table_name="t", user_column="user_id")
    apply = service.Apply.model_validate({"app_id": app.id, "schema": DROP})
    asked = await service.what_apply_loses(deps, owner, apply)
    assert asked is None, "an empty table is nothing to ask about"
    await mcp("seed_database", app_id=app.id, table="t", rows=[{"id": n} for n in range(3)])
    with pytest.raises(AppError) as refused:
        await service.apply_schema(deps, replace(owner, agreed=asked or ""), apply)
    assert refused.value.code == "CONFIRMATION_REQUIRED"
    assert "table t (3 rows)" in refused.value.message
    agreed = await service.what_apply_loses(deps, owner, apply)
    assert agreed is not None
    await mcp("insert_row", app_id=app.id, table="t", data={"id": 9})
    with pytest.raises(AppError) as again:
        await service.apply_schema(deps, replace(owner, agreed=agreed), apply)
    assert "table t (4 rows)" in again.value.message
    assert len((await mcp("select_rows", app_id=app.id, table="t"))["rows"]) == 4
    agreed = await service.what_apply_loses(deps, owner, apply)
    await service.apply_schema(deps, replace(owner, agreed=agreed), apply)
    assert (await mcp("manage_schema", action="get", app_id=app.id))["schema"]["tables"] == {}


async def test_a_table_that_stays_is_protected_as_before(deps: Deps, mcp: Any, app: App, owner: Caller) -> None:
    await mcp("manage_schema", action="apply", app_id=app.id, schema=TABLE)
    await mcp("manage_rls", action="enable", app_id=app.id, table_name="t")
    await mcp("seed_database", app_id=app.id, table="t", rows=[{"id": 1, "user_id": None}])
    changed = {"tables": {"t": {"columns": {"id": {"type": "integer"}}, "_dropColumns": ["user_id"]}}}
    await mcp("manage_schema", action="apply", app_id=app.id, schema=changed, confirm=True)
    async with deps.pools.reader(app) as connection:
        row = await connection.fetchrow(
            "select relrowsecurity and relforcerowsecurity as bound from pg_class where oid = 'public.t'::regclass"
        )
    assert row["bound"] is True
