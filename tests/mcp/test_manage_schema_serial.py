"""A column that starts to count, counts on from what is there."""

from __future__ import annotations

from typing import Any

import pytest

from brolly.registry import App

USER = "11111111-1111-4111-8111-111111111111"


@pytest.mark.parametrize("secured", [False, True])
async def test_a_count_starts_after_the_largest_value(mcp: Any, app: App, secured: bool) -> None:
    columns: dict[str, Any] = {"n": {"type": "integer"}, "user_id": {"type": "uuid"}}

    async def schema(**column: Any) -> Any:
        tables = {"t": {"columns": columns | {"n": column}}}
        return await mcp("manage_schema", action="apply", app_id=app.id, schema={"tables": tables})

    await schema(type="integer")
    if secured:
        # The tables' owner is then bound as well, and would see no rows.
        await mcp("manage_rls", action="create_user_isolation", app_id=app.id, table_name="t", user_column="user_id")
    await mcp("seed_database", app_id=app.id, table="t", rows=[{"n": 7}, {"n": 41}])
    await schema(type="serial")
    row = await mcp("insert_row", app_id=app.id, table="t", data={"user_id": USER})
    assert "'n': 42" in str(row)
    await schema(type="integer")
    row = await mcp("insert_row", app_id=app.id, table="t", data={"n": None, "user_id": USER})
    assert "'n': None" in str(row)
