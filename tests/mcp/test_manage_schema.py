"""manage_schema, by what is in the database afterwards."""

from __future__ import annotations

import hashlib
from typing import Any

import anyio
import pytest

from brolly.core.caller import Caller
from brolly.deps import Deps
from brolly.registry import App
from tests.conftest import ToolFailed, make_owner, mcp_session

ID = {"type": "uuid", "primaryKey": True, "default": "gen_random_uuid()"}
TODOS = {
    "columns": {
        "id": ID,
        "user_id": {"type": "uuid", "nullable": False},
        "title": {"type": "varchar(80)", "nullable": False, "default": "'draft'"},
        "done": {"type": "boolean", "default": False},
    },
    "indexes": {"todos_user": {"columns": ["user_id"]}},
    "checks": {"title_given": "title <> ''"},
}


class Manage:
    """``await schema(action, …)`` on the test's app, and SQL as the owner role."""

    def __init__(self, deps: Deps, app: App, mcp: Any) -> None:
        self.deps, self.app, self.mcp = deps, app, mcp

    async def __call__(self, action: str, **arguments: Any) -> Any:
        return await self.mcp("manage_schema", action=action, app_id=self.app.id, **arguments)

    async def apply(self, tables: dict[str, Any], **rest: Any) -> Any:
        top = {key: rest.pop(key) for key in ("_drop",) if key in rest}
        return await self("apply", schema={"tables": tables, **top}, **rest)

    async def sql(self, text: str, *args: Any) -> Any:
        async with self.deps.pools.owner(self.app) as conn:
            return await conn.fetch(text, *args)

    async def value(self, text: str) -> Any:
        async with self.deps.pools.owner(self.app) as conn:
            return await conn.fetchval(text)

    async def failure(self, action: str, **arguments: Any) -> dict[str, Any]:
        with pytest.raises(ToolFailed) as failed:
            await self(action, **arguments)
        return failed.value.error


@pytest.fixture
def schema(deps: Deps, app: App, mcp: Any) -> Manage:
    return Manage(deps, app, mcp)


async def test_an_empty_app(schema: Manage, app: App) -> None:
    found = await schema("get")
    assert found["app_id"] == app.id
    assert found["schema"] == {"tables": {}}
    assert found["api_base"] == found["api_url"] == f"http://brolly.test/v1/{app.id}"
    assert found["_meta"]["resource_info"] == {"table_count": 0, "tables": []}
    assert "warnings" not in found


async def test_apply_creates_what_the_document_says(schema: Manage) -> None:
    done = await schema.apply({"todos": TODOS})
    assert done["applied"] == 2
    assert [s.keys() for s in done["statements"]] == [{"sql", "description"}] * 2
    assert "manage_rls create_user_isolation table_name=todos user_column=user_id" in done["warnings"][0]
    row = (await schema.sql("insert into todos (user_id) values (gen_random_uuid()) returning *"))[0]
    assert (row["title"], row["done"]) == ("draft", False)
    found = (await schema("get"))["schema"]["tables"]["todos"]
    assert found["columns"] == {
        "id": {"type": "uuid", "primaryKey": True, "default": "gen_random_uuid()"},
        "user_id": {"type": "uuid", "nullable": False},
        "title": {"type": "varchar(80)", "nullable": False, "default": "'draft'::character varying"},
        "done": {"type": "boolean", "default": "false"},
    }
    assert found["indexes"] == {"todos_user": {"columns": ["user_id"]}}
    assert found["checks"] == {"title_given": "(title)::text <> ''::text"}


async def test_again_is_up_to_date(schema: Manage) -> None:
    await schema.apply({"todos": TODOS})
    again = await schema.apply({"todos": TODOS})
    assert (again["applied"], again["statements"], again["message"]) == (0, [], "Schema is up to date")
    assert len((await schema("list_migrations"))["migrations"]) == 1


async def test_dry_run_shows_and_changes_nothing(schema: Manage) -> None:
    shown = await schema("dry_run", schema={"tables": {"todos": TODOS}})
    assert (shown["dry_run"], shown["applied"]) == (True, 2)
    assert all(step.keys() == {"sql", "description", "destructive"} for step in shown["statements"])
    assert (await schema("get"))["schema"] == {"tables": {}}
    assert await schema.value("select count(*) from pg_class where relname like '\\_probe%'") == 0
    assert await schema.value("select count(*) from brolly.migrations") == 0


async def test_what_is_left_out_is_kept_and_said(schema: Manage) -> None:
    await schema.apply({"todos": TODOS, "notes": {"columns": {"id": ID}}})
    done = await schema.apply({"todos": {"columns": {"note": {"type": "text"}}}})
    assert done["kept"] == {
        "tables": ["notes"],
        "columns": {"todos": ["id", "user_id", "title", "done"]},
        "indexes": {"todos": ["todos_user"]},
        "checks": {"todos": ["title_given"]},
        "primaryKey": {"todos": ["id"]},
    }
    assert list((await schema("get"))["schema"]["tables"]["todos"]["columns"]) == [*TODOS["columns"], "note"]


async def test_a_drop_asks_with_numbers_then_drops(schema: Manage) -> None:
    await schema.apply(
        {"todos": TODOS, "notes": {"columns": {"id": ID, "todo": {"type": "uuid", "references": "todos.id"}}}}
    )
    await schema.sql("insert into todos (user_id) select gen_random_uuid() from generate_series(1, 3)")
    document = {"tables": {"notes": {"_dropColumns": ["todo"]}}, "_drop": ["todos"]}
    asked = await schema.failure("apply", schema=document)
    assert asked["code"] == "CONFIRMATION_REQUIRED"
    assert "table todos (3 rows)" in asked["message"]
    assert "notes" not in asked["message"], "nothing in that column, nothing to lose"
    assert await schema.value("select count(*) from todos") == 3
    done = await schema("apply", schema=document, confirm=True)
    assert [s["description"].split(" ")[0] for s in done["statements"]] == ["Drop"] * 3
    assert list((await schema("get"))["schema"]["tables"]) == ["notes"]


async def test_a_reference_to_a_dropped_table_is_listed(schema: Manage) -> None:
    await schema.apply(
        {"todos": TODOS, "notes": {"columns": {"id": ID, "todo": {"type": "uuid", "references": "todos.id"}}}}
    )
    shown = await schema("dry_run", schema={"_drop": ["todos"]})
    assert [(s["description"], s["destructive"]) for s in shown["statements"]] == [
        ("Drop the reference from notes (todo) to todos (id), which goes away", False),
        ("Drop table todos with all rows", True),
    ]


async def test_a_type_widens_by_itself(schema: Manage) -> None:
    await schema.apply(
        {"t": {"columns": {"n": {"type": "int", "default": 1}, "s": {"type": "varchar(5)"}, "k": {"type": "serial"}}}}
    )
    await schema.sql("insert into t (s) values ('abc')")
    await schema.apply(
        {"t": {"columns": {"n": {"type": "bigint", "default": 1}, "s": {"type": "text"}, "k": {"type": "bigserial"}}}}
    )
    await schema.sql("insert into t (n, s) values (5000000000, 'longer than five')")
    assert [tuple(r) for r in await schema.sql("select n, s, k from t order by k")] == [
        (1, "abc", 1),
        (5000000000, "longer than five", 2),
    ]
    assert await schema.value("select seqtypid::regtype::text from pg_sequence") == "bigint"


async def test_another_type_needs_an_expression(schema: Manage) -> None:
    await schema.apply({"t": {"columns": {"order": {"type": "text", "default": "'7'"}}}})
    await schema.sql("insert into t values ('12')")
    wanted: dict[str, Any] = {"columns": {"order": {"type": "integer", "default": 7}}}
    shown = await schema("dry_run", schema={"tables": {"t": wanted}})
    step = shown["statements"][0]
    assert step["destructive"]
    assert "does not widen" in step["blocked"]
    assert '"_alterType": {"order": "\\"order\\"::integer"} to table t' in step["unblock"]
    refused = await schema.failure("apply", schema={"tables": {"t": wanted}})
    assert refused["code"] == "STATE_PREREQUISITE_MISSING"
    assert "_alterType" in refused["remediation"]
    assert refused["details"][0]["description"] == "Change the type of t.order from text to integer"
    wanted["_alterType"] = {"order": '"order"::integer'}
    asked = await schema.failure("apply", schema={"tables": {"t": wanted}})
    assert "column t.order (1 values) is converted to integer" in asked["message"]
    await schema.apply({"t": wanted}, confirm=True)
    await schema.sql("insert into t default values")
    assert [r["order"] for r in await schema.sql('select "order" from t order by 1')] == [7, 12]
    assert (await schema.apply({"t": wanted}, confirm=True))["applied"] == 0


async def test_a_value_that_does_not_convert_changes_nothing_and_is_not_quoted(schema: Manage) -> None:
    await schema.apply({"t": {"columns": {"a": {"type": "text"}, "b": {"type": "text"}}}})
    await schema.sql("insert into t values ('secret', 'x')")
    document = {
        "tables": {"t": {"columns": {"a": {"type": "int"}, "c": {"type": "int"}}, "_alterType": {"a": "a::int"}}}
    }
    failed = await schema.failure("apply", schema=document, confirm=True)
    assert failed["code"] == "SCHEMA_MIGRATION_FAILED"
    assert failed["details"] == {
        "pg_code": "22P02",
        "severity": "ERROR",
        "statement": "Change the type of t.a from text to integer",
    }
    assert "secret" not in str(failed)
    assert list((await schema("get"))["schema"]["tables"]["t"]["columns"]) == ["a", "b"]


async def test_a_required_column_on_rows_is_found_before_it_runs(schema: Manage) -> None:
    await schema.apply({"t": {"columns": {"id": ID}}})
    await schema.sql("insert into t select from generate_series(1, 4)")
    document = {"tables": {"t": {"columns": {"name": {"type": "text", "nullable": False}}}}}
    shown = await schema("dry_run", schema=document)
    assert "4 rows" in shown["statements"][0]["blocked"]
    failed = await schema.failure("apply", schema=document)
    assert failed["code"] == "SCHEMA_MIGRATION_FAILED"
    facts = {key: failed["details"][key] for key in ("pg_code", "severity", "column", "table", "existing_row_count")}
    assert facts == {"pg_code": "23502", "severity": "ERROR", "column": "name", "table": "t", "existing_row_count": 4}
    assert '"default"' in failed["remediation"]
    document["tables"]["t"]["columns"]["name"]["default"] = "'?'"
    await schema("apply", schema=document)
    assert await schema.value("select count(*) from t where name = '?'") == 4


async def test_required_later_counts_the_nulls(schema: Manage) -> None:
    await schema.apply({"t": {"columns": {"id": ID, "name": {"type": "text"}}}})
    await schema.sql("insert into t (name) values ('a'), (null)")
    failed = await schema.failure(
        "apply", schema={"tables": {"t": {"columns": {"name": {"type": "text", "nullable": False}}}}}
    )
    assert failed["details"]["existing_row_count"] == 1
    assert failed["details"]["column"] == "name"


@pytest.mark.parametrize(
    ("change", "state"),
    [
        ({"columns": {"n": {"type": "int", "unique": True}}}, "23505"),
        ({"checks": {"small": "n < 5"}}, "23514"),
        ({"columns": {"n": {"type": "int", "references": "other.id"}}}, "23503"),
        ({"indexes": {"once": {"columns": ["n"], "unique": True}}}, "23505"),
    ],
)
async def test_rows_that_break_a_new_rule(schema: Manage, change: dict[str, Any], state: str) -> None:
    await schema.apply(
        {"t": {"columns": {"n": {"type": "int"}}}, "other": {"columns": {"id": {"type": "int", "primaryKey": True}}}}
    )
    await schema.sql("insert into t values (777), (777)")
    before = await schema("get")
    failed = await schema.failure("apply", schema={"tables": {"t": change}})
    assert (failed["code"], failed["details"]["pg_code"]) == ("SCHEMA_MIGRATION_FAILED", state)
    assert "777" not in str(failed)
    assert await schema("get") == before


async def test_keys_that_others_refer_to_are_not_lost(schema: Manage) -> None:
    tables: dict[str, Any] = {
        "a": {"columns": {"id": {"type": "int", "primaryKey": True}, "code": {"type": "text", "unique": True}}},
        "b": {
            "columns": {"code": {"type": "text", "references": "a.code"}, "a": {"type": "int", "references": "a.id"}}
        },
    }
    await schema.apply(tables)
    loose = {"a": {"columns": {"code": {"type": "text"}}}}
    refused = await schema.failure("apply", schema={"tables": loose})
    assert refused["code"] == "STATE_PREREQUISITE_MISSING"
    assert "b (code) refer to a (code)" in refused["message"]
    # The key moves, and what refers to the old one is rebuilt on the unique column that it becomes.
    tables["a"]["primaryKey"] = ["id", "code"]
    tables["a"]["columns"]["id"] = {"type": "int", "unique": True}
    await schema.apply(tables)
    found = (await schema("get"))["schema"]["tables"]
    assert found["a"]["primaryKey"] == ["id", "code"]
    assert found["b"]["columns"]["a"]["references"] == "a.id"


async def test_tables_that_refer_to_each_other(schema: Manage) -> None:
    tables = {
        "a": {"columns": {"id": {"type": "int", "primaryKey": True}, "b": {"type": "int", "references": "b.id"}}},
        "b": {"columns": {"id": {"type": "int", "primaryKey": True}, "a": {"type": "int", "references": "a.id"}}},
        "tree": {
            "columns": {"id": {"type": "int", "primaryKey": True}, "up": {"type": "int", "references": "tree.id"}}
        },
    }
    await schema.apply(tables)
    assert (await schema.apply(tables))["applied"] == 0
    ours = "contype = 'f' and connamespace = 'public'::regnamespace"
    assert await schema.value(f"select count(*) from pg_constraint where {ours}") == 3
    await schema("apply", schema={"_drop": list(tables)})
    assert (await schema("get"))["schema"] == {"tables": {}}


async def test_an_index_with_another_definition_is_replaced(schema: Manage) -> None:
    columns = {"a": {"type": "text"}, "b": {"type": "jsonb"}}
    await schema.apply({"t": {"columns": columns, "indexes": {"i": {"columns": ["a"]}}}})
    wanted = {"i": {"columns": ["b"], "method": "gin", "opclass": "jsonb_path_ops"}}
    done = await schema.apply({"t": {"indexes": wanted}})
    assert "replaced by another definition" in done["statements"][0]["description"]
    assert (await schema("get"))["schema"]["tables"]["t"]["indexes"] == wanted
    await schema.apply({"t": {"_dropIndexes": ["i", "never_was"]}})
    assert "indexes" not in (await schema("get"))["schema"]["tables"]["t"]


async def test_checks_are_replaced_and_removed_by_null(schema: Manage) -> None:
    await schema.apply({"t": {"columns": {"n": {"type": "int"}}, "checks": {"ok": "n > 0", "odd": "n % 2 = 1"}}})
    await schema.apply({"t": {"checks": {"ok": "n > -5", "odd": None}}})
    await schema.sql("insert into t values (-4)")
    assert (await schema("get"))["schema"]["tables"]["t"]["checks"] == {"ok": "n > '-5'::integer"}


async def test_vectors(schema: Manage) -> None:
    table = {
        "columns": {"id": ID, "embedding": {"type": "vector(3)"}},
        "indexes": {"near": {"columns": ["embedding"], "method": "hnsw", "opclass": "vector_cosine_ops"}},
    }
    await schema.apply({"docs": table})
    assert (await schema.apply({"docs": table}))["applied"] == 0
    found = (await schema("get"))["schema"]["tables"]["docs"]
    assert found["columns"]["embedding"] == {"type": "vector(3)"}
    assert found["indexes"] == table["indexes"]


async def test_migrations_are_recorded_newest_first_with_a_way_back(schema: Manage, owner: Caller) -> None:
    await schema.apply({"todos": TODOS}, name="first todos")
    second = await schema.apply({"todos": {"columns": {"note": {"type": "text"}}}})
    listed = await schema("list_migrations")
    assert [m["id"] for m in listed["migrations"]] == [second["migration_id"], second["migration_id"] - 1]
    assert listed["migrations"][1]["description"] == "first todos"
    assert listed["migrations"][0]["description"].startswith("schema_2")
    assert not set(listed["migrations"][0]["description"]) & set(":.")
    assert listed["migrations"][0]["applied_sql"] == 'alter table "todos" add column "note" text;'
    assert listed["template_migrations"][-1]["filename"] == "0001_kernel_init.sql"
    row = (await schema.sql("select * from brolly.migrations order by id desc limit 1"))[0]
    assert row["checksum"] == hashlib.sha256(row["sql_up"].encode()).hexdigest()
    assert row["applied_by"] == owner.key_id
    assert row["sql_down"] == 'alter table "todos" drop column "note";'
    page = await schema("list_migrations", limit=1)
    assert (len(page["migrations"]), page["next_offset"]) == (1, 1)


async def test_two_at_once_are_one_after_the_other(schema: Manage) -> None:
    results: list[int] = []

    async def apply() -> None:
        results.append((await schema.apply({"todos": TODOS}))["applied"])

    async with anyio.create_task_group() as group:
        for _ in range(4):
            group.start_soon(apply)
    assert sorted(results) == [0, 0, 0, 2]


async def test_the_other_tools_see_a_change_at_once(schema: Manage, mcp: Any) -> None:
    await schema.apply({"t": {"columns": {"id": ID, "a": {"type": "int"}}}})
    await mcp("insert_row", app_id=schema.app.id, table="t", data={"a": 1})
    await schema.apply({"t": {"columns": {"b": {"type": "text", "default": "'x'"}}}})
    rows = await mcp("select_rows", app_id=schema.app.id, table="t")
    assert "'b': 'x'" in str(rows)


async def test_a_policy_that_needs_a_column_holds_it(schema: Manage, mcp: Any) -> None:
    await schema.apply({"todos": TODOS})
    await mcp(
        "manage_rls", action="create_user_isolation", app_id=schema.app.id, table_name="todos", user_column="user_id"
    )
    assert "warnings" not in await schema("get")
    failed = await schema.failure("apply", schema={"tables": {"todos": {"_dropColumns": ["user_id"]}}}, confirm=True)
    assert failed["code"] == "SCHEMA_MIGRATION_FAILED"
    assert failed["details"]["pg_code"] == "2BP01"
    assert failed["details"]["policies"] == [{"table_name": "todos", "policy_name": "todos_user_isolation"}]
    assert "manage_rls delete" in failed["remediation"]


async def test_rows_are_counted_under_row_level_security_too(schema: Manage, mcp: Any) -> None:
    await schema.apply({"todos": TODOS})
    await mcp(
        "manage_rls", action="create_user_isolation", app_id=schema.app.id, table_name="todos", user_column="user_id"
    )
    user = "00000000-0000-0000-0000-000000000001"
    await mcp("insert_row", app_id=schema.app.id, table="todos", data={"user_id": user})
    failed = await schema.failure(
        "apply", schema={"tables": {"todos": {"columns": {"x": {"type": "int", "nullable": False}}}}}
    )
    assert failed["details"]["existing_row_count"] == 1
    asked = await schema.failure("apply", schema={"_drop": ["todos"]})
    assert "table todos (1 rows)" in asked["message"]


async def test_another_account_sees_no_app(deps: Deps, app: App) -> None:
    stranger, _ = await make_owner(deps)
    async with mcp_session(deps, stranger) as call:
        for action, extra in [
            ("get", {}),
            ("dry_run", {"schema": {}}),
            ("apply", {"schema": {}}),
            ("list_migrations", {}),
        ]:
            with pytest.raises(ToolFailed) as failed:
                await call("manage_schema", action=action, app_id=app.id, **extra)
            assert failed.value.code == "RESOURCE_NOT_FOUND"


async def test_a_key_that_reads_may_look_and_preview(deps: Deps, owner: Caller, app: App) -> None:
    reader, _ = await make_owner(deps, ("read",), owner.account_id)
    async with mcp_session(deps, reader) as call:
        await call("manage_schema", action="get", app_id=app.id)
        shown = await call("manage_schema", action="dry_run", app_id=app.id, schema={"tables": {"todos": TODOS}})
        assert shown["applied"] == 2
        with pytest.raises(ToolFailed):
            await call("manage_schema", action="apply", app_id=app.id, schema={"tables": {"todos": TODOS}})
