"""What manage_schema says: before it asks, when something is lost unsaid, and when a document has the wrong form."""

from __future__ import annotations

from typing import Any

import pytest

from brolly.deps import Deps
from brolly.registry import App
from tests.conftest import ToolFailed

TODOS: dict[str, Any] = {
    "columns": {
        "id": {"type": "serial", "primaryKey": True},
        "user_id": {"type": "uuid"},
        "title": {"type": "text", "nullable": False, "default": "'draft'", "unique": True},
    }
}


class Schema:
    """``await schema(document, …)`` applies; ``failure`` answers the error."""

    def __init__(self, deps: Deps, app: App, mcp: Any) -> None:
        self.deps, self.app, self.mcp = deps, app, mcp

    async def __call__(self, document: Any, action: str = "apply", **rest: Any) -> Any:
        return await self.mcp("manage_schema", action=action, app_id=self.app.id, schema=document, **rest)

    async def failure(self, document: Any, **rest: Any) -> dict[str, Any]:
        with pytest.raises(ToolFailed) as failed:
            await self(document, **rest)
        return failed.value.error

    async def rls(self, action: str, **arguments: Any) -> Any:
        return await self.mcp("manage_rls", action=action, app_id=self.app.id, **arguments)

    async def sql(self, text: str) -> list[Any]:
        async with self.deps.pools.owner(self.app) as conn:
            return await conn.fetch(text)


@pytest.fixture
async def schema(deps: Deps, app: App, mcp: Any) -> Schema:
    made = Schema(deps, app, mcp)
    await made({"tables": {"todos": TODOS}})
    await made.sql("insert into todos (user_id, title) values (gen_random_uuid(), 'a'), (gen_random_uuid(), 'b')")
    return made


def todos(**rest: Any) -> dict[str, Any]:
    return {"tables": {"todos": rest}}


async def test_nobody_is_asked_about_a_change_that_a_policy_stops(schema: Schema) -> None:
    await schema.rls("create_user_isolation", table_name="todos", user_column="user_id")
    error = await schema.failure(todos(_dropColumns=["user_id"]))
    assert (error["code"], error["details"]["pg_code"]) == ("SCHEMA_MIGRATION_FAILED", "2BP01")
    (policy,) = error["details"]["policies"]
    assert policy == {"table_name": "todos", "policy_name": "todos_user_isolation"}
    assert "manage_rls delete with each table_name and policy_name in details.policies" in error["remediation"]
    # The call that it names is the remedy: now the question comes, and the rehearsal has left nothing.
    await schema.rls("delete", **policy)
    error = await schema.failure(todos(_dropColumns=["user_id"]))
    assert error["code"] == "CONFIRMATION_REQUIRED"
    assert "user_id (2 values)" in error["message"]
    rows = (await schema.mcp("select_rows", app_id=schema.app.id, table="todos"))["rows"]
    assert len([row for row in rows if row["user_id"]]) == 2
    assert len(await schema.sql("select from brolly.migrations where name like 'schema%'")) == 1
    await schema(todos(_dropColumns=["user_id"]), confirm=True)


async def test_nor_about_a_conversion_that_a_value_stops(schema: Schema) -> None:
    convert = todos(columns={"title": {"type": "integer"}}, _alterType={"title": "title::integer"})
    assert (await schema.failure(convert))["details"]["pg_code"] == "22P02"
    await schema.sql("update todos set title = id")
    assert (await schema.failure(convert))["code"] == "CONFIRMATION_REQUIRED"


async def test_a_conversion_under_a_policy_names_the_call(schema: Schema) -> None:
    await schema.sql("update todos set title = id")
    await schema.rls("create_policy", table_name="todos", policy_name="given", using_expression="title <> ''")
    convert = todos(columns={"title": {"type": "integer"}}, _alterType={"title": "title::integer"})
    error = await schema.failure(convert)
    assert error["code"] == "SCHEMA_MIGRATION_FAILED"
    assert error["details"]["policies"] == [{"table_name": "todos", "policy_name": "given"}]
    assert "details.policies" in error["remediation"]


async def test_nor_about_a_change_that_rows_stand_in_the_way_of(schema: Schema) -> None:
    blocked = todos(_dropColumns=["user_id"], columns={"due": {"type": "date", "nullable": False}})
    error = await schema.failure(blocked)
    assert (error["code"], error["details"]["existing_row_count"]) == ("SCHEMA_MIGRATION_FAILED", 2)


async def test_the_details_of_a_failure_do_not_repeat_its_text(schema: Schema) -> None:
    names = ["a", "b", "c", "d"]
    one = await schema.failure(todos(columns={"a": {"type": "date", "nullable": False}}))
    assert one["details"].keys() == {"pg_code", "severity", "table", "column", "existing_row_count", "statement"}
    error = await schema.failure(todos(columns={n: {"type": "date", "nullable": False} for n in names}))
    assert "and 1 more, see details" in error["message"]
    assert [b["column"] for b in error["details"]["blocked"]] == names
    assert ["reason" in b for b in error["details"]["blocked"]] == [False, False, False, True]


@pytest.mark.parametrize(
    ("column", "lost", "kept"),
    [
        ({"type": "text"}, ['"nullable": false', '"default": "\'draft\'::text"', '"unique": true'], []),
        ({"type": "text", "nullable": False, "unique": True}, ['"default"'], ['"nullable"', '"unique"']),
        ({"type": "varchar", "unique": True, "default": "'x'"}, ['"nullable": false'], ['"default"', '"unique"']),
    ],
)
async def test_what_a_column_loses_unsaid_is_told(
    schema: Schema, column: dict[str, Any], lost: list[str], kept: list[str]
) -> None:
    document = todos(columns={"title": column})
    for action in ("dry_run", "apply"):
        warning = (await schema(document, action))["warnings"][0]
        assert warning.startswith("todos.title loses what the document leaves out")
        assert all(part in warning for part in lost), warning
        assert not any(part in warning for part in kept), warning
    assert "loses" not in str(await schema(document))


async def test_a_reference_that_is_left_out_is_told(schema: Schema) -> None:
    reference = {"table": "todos", "column": "id", "onDelete": "CASCADE"}
    await schema({"tables": {"notes": {"columns": {"todo": {"type": "integer", "references": reference}}}}})
    done = await schema({"tables": {"notes": {"columns": {"todo": {"type": "integer"}}}}})
    assert '"references": {"table": "todos", "column": "id", "onDelete": "CASCADE"}' in done["warnings"][0]


async def test_what_is_taken_away_by_word_or_kept_is_not_told(schema: Schema) -> None:
    described = (await schema.mcp("manage_schema", action="get", app_id=schema.app.id))["schema"]
    assert "loses" not in str(await schema(described))
    plain = {"type": "text", "nullable": True, "default": None, "unique": False}
    done = await schema(todos(columns={"title": plain}))
    assert done["applied"] == 3
    assert "loses" not in str(done)


@pytest.mark.parametrize(
    ("document", "path", "said"),
    [
        ({"tables": ["todos"]}, "tables", 'such as {"todos": {"columns": {"id": {"type": "serial"}}}}'),
        ({"tables": {"t": ["id"]}}, "tables.t", 'such as {"columns": {"id": {"type": "serial"}}}'),
        (todos(columns=["id"]), "tables.todos.columns", 'such as {"id": {"type": "serial"}}'),
        (todos(columns={"n": "uuid"}), "tables.todos.columns.n", 'such as {"type": "uuid"}'),
        (todos(columns={"n": 5}), "tables.todos.columns.n", 'such as {"type": "serial"}'),
        (todos(indexes=[{"columns": ["id"]}]), "tables.todos.indexes", 'such as {"i": {"columns": ["c"]}}'),
        (todos(indexes={"i": ["title"]}), "tables.todos.indexes.i", 'such as {"columns": ["title"]}'),
        (todos(indexes={"i": "title"}), "tables.todos.indexes.i", 'such as {"columns": ["c"]}'),
        (todos(columns={"title": None}), "tables.todos.columns.title", 'to remove it: "_dropColumns": ["title"]'),
        (todos(indexes={"i": None}), "tables.todos.indexes.i", 'to remove it: "_dropIndexes": ["i"]'),
        ({"tables": {"todos": None}}, "tables.todos", 'to remove it: "_drop": ["todos"] beside "tables"'),
        (todos(id="uuid"), "tables.todos.id", 'columns go under "columns": {"id": {"type": "uuid"}}'),
        (todos(n={"type": "text"}), "tables.todos.n", 'columns go under "columns": {"n": {"type": "text"}}'),
        (
            todos(columns={"by": {"type": "uuid", "default": "current_user_id()"}}),
            "tables.todos.columns.by.default",
            "write current_user_id()::uuid",
        ),
    ],
)
async def test_a_mistake_of_form_comes_with_the_form(schema: Schema, document: Any, path: str, said: str) -> None:
    error = await schema.failure(document)
    assert error["code"] == "VALIDATION_INVALID_SCHEMA"
    problem = next(p for p in error["details"]["problems"] if p["path"] == path)
    assert said in problem["message"], problem


async def test_the_callers_id_is_a_default_for_a_uuid(schema: Schema) -> None:
    await schema(todos(columns={"by": {"type": "uuid", "default": "current_user_id()::uuid"}}))
    row = {"title": "c"}
    alice = {"as_role": "user", "as_user": "aaaaaaaa-0000-4000-8000-00000000000a"}
    await schema.mcp("insert_row", app_id=schema.app.id, table="todos", data=row, **alice)
    assert [str(r[0]) for r in await schema.sql("select by from todos where title = 'c'")] == [alice["as_user"]]


async def test_a_question_ends_with_its_own_mark(schema: Schema) -> None:
    error = await schema.failure(todos(_dropColumn=["title"]))
    assert error["message"].endswith("did you mean _dropColumns?")


async def test_a_table_that_decides_what_users_reach_is_not_to_be_isolated(schema: Schema) -> None:
    columns = {"team": {"type": "integer"}, "user_id": {"type": "uuid"}}
    done = await schema({"tables": {"team_members": {"columns": columns, "primaryKey": ["team", "user_id"]}}})
    (warning,) = done["warnings"]
    assert "create_user_isolation table_name=todos user_column=user_id" in warning
    assert "create_user_isolation table_name=team_members" not in warning
    assert (
        "create_policy table_name=team_members policy_name=team_members_read command=SELECT role=user "
        'using_expression="user_id = current_user_id()::uuid"' in warning
    )
    assert "or anybody can join" in warning
