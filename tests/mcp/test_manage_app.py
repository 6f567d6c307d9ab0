"""manage_app and init_app, by their effect."""

from __future__ import annotations

from typing import Any

import pytest

from brolly.deps import Deps
from tests.conftest import ToolFailed


async def test_the_same_name_gives_the_same_app(mcp: Any) -> None:
    first = await mcp("init_app", name="My Blog")
    again = await mcp("init_app", name="My Blog")
    assert (first["created"], again["created"]) == (True, False)
    assert first["app_id"] == again["app_id"]
    assert first["name"] == "my-blog"


async def test_delete_asks_then_drops_the_database(deps: Deps, mcp: Any) -> None:
    app_id = (await mcp("init_app", name="doomed"))["app_id"]
    with pytest.raises(ToolFailed) as refused:
        await mcp("manage_app", action="delete", app_id=app_id)
    assert refused.value.code == "CONFIRMATION_REQUIRED"
    assert await deps.control.fetchval("select count(*) from pg_database where datname = $1", app_id) == 1
    await mcp("manage_app", action="delete", app_id=app_id, confirm=True)
    assert await deps.control.fetchval("select count(*) from pg_database where datname = $1", app_id) == 0
    assert await deps.control.fetchval("select count(*) from pg_roles where rolname ^@ $1", app_id) == 0
