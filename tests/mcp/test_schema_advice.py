"""Every piece of advice holds the call that makes it go away."""

from __future__ import annotations

from brolly.deps import Deps
from brolly.registry import App
from tests.conftest import McpCall


async def test_each_fix_removes_its_advice(mcp: McpCall, app: App, deps: Deps) -> None:
    async with deps.pools.owner(app) as conn:
        await conn.execute(
            "create table a (id int primary key, body text); create table keyless (x int);"
            "create table mine (id serial primary key, user_id uuid, body text);"
            "create index on mine (user_id);"
            "insert into mine (body) select 'x' from generate_series(1, 20000); analyze mine;"
            "create table b (id int primary key, a int references a, user_id text);"
            "create index one on b (user_id, a); create index two on b (user_id, a);"
            "create view v as select * from a;"
            "create index idle on a (body);"
            "insert into a select n, repeat('x', 40) || n from generate_series(1, 20000) n;"
            "create function f() returns int language sql security definer as 'select 1'"
        )
        await conn.execute("do $$ begin for i in 1..100 loop perform from a limit 1; end loop; end $$")
        await conn.execute("select pg_stat_force_next_flush()")
    await deps.catalog.changed(app)
    where = {"app_id": app.id, "table_name": "a"}
    await mcp("manage_rls", action="create_user_isolation", app_id=app.id, table_name="mine", user_column="user_id")
    policy = {"command": "INSERT", "role": "anon", "with_check_expression": "true"}
    await mcp("manage_rls", action="create_policy", policy_name="open", **where, **policy)
    got = (await mcp("manage_schema", action="get", app_id=app.id, advise=True))["advice"]
    kinds = {entry["kind"] for entry in got}
    expected = {"rls_off", "open_writes", "no_primary_key", "no_index", "double_index", "owner_view"}
    assert kinds == expected | {"definer_function", "unused_index", "per_row_call"}
    for entry in got:
        assert set(entry) == {"level", "kind", "table", "message", "fix"}
        await mcp(entry["fix"]["tool"], **entry["fix"]["arguments"])
        left = (await mcp("manage_schema", action="get", app_id=app.id, advise=True))["advice"]
        assert entry not in left
    assert (await mcp("manage_schema", action="get", app_id=app.id, advise=True))["advice"] == []
