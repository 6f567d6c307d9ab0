"""Foreign keys are checked against every row, also where row-level security binds the tables' owner."""

from __future__ import annotations

from typing import Any

import pytest

from brolly.deps import Deps
from brolly.registry import App
from tests.conftest import ToolFailed

ALICE = "a11ce000-0000-4000-8000-000000000001"


def document(references: str | None) -> dict[str, Any]:
    column: dict[str, Any] = {"type": "integer"} | ({"references": references} if references else {})
    return {
        "tables": {
            "authors": {"columns": {"id": {"type": "integer", "primaryKey": True}, "user_id": {"type": "uuid"}}},
            "posts": {
                "columns": {
                    "id": {"type": "integer", "primaryKey": True},
                    "user_id": {"type": "uuid"},
                    "author_id": column,
                }
            },
        }
    }


@pytest.fixture
async def secured(mcp: Any, app: App) -> None:
    await mcp("manage_schema", action="apply", app_id=app.id, schema=document(None))
    for table in ("authors", "posts"):
        await mcp("manage_rls", action="create_user_isolation", app_id=app.id, table_name=table, user_column="user_id")
    await mcp("seed_database", app_id=app.id, table="authors", rows=[{"id": 1, "user_id": ALICE}])


@pytest.mark.usefixtures("secured")
async def test_a_reference_that_holds_is_accepted(deps: Deps, mcp: Any, app: App) -> None:
    await mcp("seed_database", app_id=app.id, table="posts", rows=[{"id": 1, "user_id": ALICE, "author_id": 1}])
    await mcp("manage_schema", action="apply", app_id=app.id, schema=document("authors.id"))
    async with deps.pools.reader(app) as connection:
        rows = await connection.fetch(
            "select relname::text as name from pg_class where relforcerowsecurity and relrowsecurity order by 1"
        )
    assert [row["name"] for row in rows] == ["authors", "posts"]
    with pytest.raises(ToolFailed) as refused:
        await mcp("insert_row", app_id=app.id, table="posts", data={"id": 2, "author_id": 7})
    assert refused.value.code == "VALIDATION_FOREIGN_KEY_VIOLATION"


@pytest.mark.usefixtures("secured")
async def test_a_reference_that_is_broken_is_refused(deps: Deps, mcp: Any, app: App) -> None:
    await mcp("seed_database", app_id=app.id, table="posts", rows=[{"id": 1, "user_id": ALICE, "author_id": 99}])
    with pytest.raises(ToolFailed) as refused:
        await mcp("manage_schema", action="apply", app_id=app.id, schema=document("authors.id"))
    assert refused.value.code == "SCHEMA_MIGRATION_FAILED"
    assert refused.value.error["details"]["pg_code"] == "23503"
    async with deps.pools.reader(app) as connection:
        assert await connection.fetchval("select count(*) from pg_class where relforcerowsecurity") == 2
        assert await connection.fetchval("select count(*) from pg_constraint where conname = 'fk_posts_author_id'") == 0
