"""Views and functions in the schema document: made, compared, replaced, kept, refused."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from brolly.deps import Deps
from brolly.registry import App
from tests.conftest import McpCall, ToolFailed

TABLES: dict[str, Any] = {
    "authors": {"columns": {"id": {"type": "serial", "primaryKey": True}, "name": {"type": "text"}}},
    "posts": {
        "columns": {
            "id": {"type": "serial", "primaryKey": True},
            "title": {"type": "text"},
            "author": {"type": "integer", "references": "authors.id"},
            "active": {"type": "boolean", "default": True},
        }
    },
}
VIEWS: dict[str, Any] = {
    "z_active": {"query": "select id, title, author -- what shows\nfrom posts where active"},
    "a_titles": {"query": "select title, shout(title) as loud from z_active"},
}
FUNCTIONS: dict[str, Any] = {
    "search_posts": {
        "arguments": {"q": "text", "max": {"type": "integer", "default": 20}},
        "returns": "setof posts",
        "body": "select * from posts where title ilike '%' || q || '%' order by id limit max",
        "volatility": "stable",
        "expose": ["anon", "user"],
    },
    "shout": {"arguments": {"t": "text"}, "returns": "text", "body": "select upper(t)", "volatility": "immutable"},
    "of_view": {"returns": "setof z_active", "body": "select * from z_active"},
    "totals": {
        "returns": "table(author integer, n bigint, big numeric(10,2))",
        "language": "plpgsql",
        "body": "begin return query select p.author, count(*), 1.5::numeric from posts p group by 1; end",
    },
    "note": {"arguments": {"at": {"type": "timestamptz", "default": "now()"}}, "returns": "void", "body": "select 1"},
}
DOCUMENT: dict[str, Any] = {"tables": TABLES, "views": VIEWS, "functions": FUNCTIONS}
Apply = Any


@pytest.fixture
async def change(mcp: McpCall, app: App) -> Apply:
    async def call(document: dict[str, Any], action: str = "apply") -> Any:
        return await mcp("manage_schema", action=action, app_id=app.id, schema=document)

    return call


async def refused(call: Any, *words: str) -> dict[str, Any]:
    with pytest.raises(ToolFailed) as failure:
        await call
    for word in words:
        assert word in failure.value.error["message"], failure.value.error["message"]
    return failure.value.error


async def test_made_in_the_order_of_use_and_then_at_rest(change: Apply, mcp: McpCall, app: App, deps: Deps) -> None:
    preview = await change(DOCUMENT, "dry_run")
    assert not any("blocked" in step for step in preview["statements"])
    assert "warnings" in preview
    assert "functions" not in (await mcp("manage_schema", action="get", app_id=app.id))["schema"]
    done = await change(DOCUMENT)
    assert done["applied"] == preview["applied"]
    assert (await change(DOCUMENT))["applied"] == 0
    got = (await mcp("manage_schema", action="get", app_id=app.id))["schema"]
    assert (await change(got))["applied"] == 0
    assert got["functions"]["search_posts"]["expose"] == ["anon", "user"]
    assert got["functions"]["search_posts"]["arguments"] == {"q": "text", "max": {"type": "integer", "default": "20"}}
    assert "expose" not in got["functions"]["shout"]
    async with deps.pools.owner(app) as conn:
        rights = await conn.fetch(
            "select p.proname, r.rolname from pg_proc p, pg_roles r where p.proname in ('search_posts', 'shout') and "
            "r.rolname like 'butterbase%' and has_function_privilege(r.oid, p.oid, 'execute')"
        )
        options = await conn.fetch("select reloptions from pg_class where relname in ('z_active', 'a_titles')")
    assert {(r[0], r[1]) for r in rights} == {
        ("search_posts", "butterbase_anon"),
        ("search_posts", "butterbase_user"),
        ("search_posts", "butterbase_service"),
        ("shout", "butterbase_service"),
    }
    assert all(r["reloptions"] == ["security_invoker=true"] for r in options)
    kept = (await change({"tables": {}}))["kept"]
    assert kept["views"] == ["a_titles", "z_active"]
    assert kept["functions"] == sorted(FUNCTIONS)


async def test_what_stands_on_a_replaced_one_comes_back(change: Apply, app: App, deps: Deps) -> None:
    await change(DOCUMENT)
    wider = {"views": {"z_active": {"query": "select id, title, author, active from posts"}}}
    done = await change(wider)
    said = [step["description"] for step in done["statements"]]
    assert {"Put back view a_titles", "Put back function of_view"} <= set(said)
    async with deps.pools.owner(app) as conn:
        assert await conn.fetchval("select count(*) from of_view()") == 0
        assert await conn.fetchval("select count(*) from a_titles") == 0
        # The recorded way back leads back.
        down = await conn.fetchval("select sql_down from brolly.migrations order by id desc limit 1")
        await conn.execute(down)
        await conn.execute("select title, loud from a_titles")
        assert "active" not in str(await conn.fetchval("select pg_get_viewdef('z_active'::regclass)")).split("FROM")[0]
    await deps.catalog.changed(app)
    assert (await change({**DOCUMENT, "tables": {}}))["applied"] == 0


async def test_a_signature_may_change_and_exposure_alone_too(change: Apply) -> None:
    await change({"tables": TABLES, "functions": {"search_posts": FUNCTIONS["search_posts"]}})
    other = {**FUNCTIONS["search_posts"], "arguments": {"q": "text"}, "body": "select * from posts where title = q"}
    done = await change({"functions": {"search_posts": other}})
    assert [s["description"].split(" ")[0] for s in done["statements"]] == ["Drop", "Create", "Let"]
    done = await change({"functions": {"search_posts": {**other, "expose": ["user"]}}})
    assert len(done["statements"]) == 1
    assert "revoke all" in done["statements"][0]["sql"]


async def test_a_function_named_as_one_of_postgres_does_not_stand_in_for_it(
    deps: Deps, app: App, change: Apply
) -> None:
    async with deps.pools.owner(app) as conn:
        await conn.execute("create function json_agg(json) returns json language sql as 'select null::json'")
        await conn.execute("create function json_agg(text) returns json language sql as 'select null::json'")
    await change({"tables": TABLES, "_dropFunctions": ["json_agg"]}, "dry_run")


async def test_what_a_view_reads_is_not_dropped_from_under_it(change: Apply) -> None:
    await change(DOCUMENT)
    column = {"tables": {"posts": {"_dropColumns": ["active"]}}}
    preview = await change(column, "dry_run")
    (step,) = [s for s in preview["statements"] if "blocked" in s]
    assert "z_active" in step["blocked"]
    assert "_dropViews" in step["unblock"]
    error = await refused(change(column), "z_active")
    assert error["code"] == "STATE_PREREQUISITE_MISSING"
    await refused(change({"tables": {}, "_drop": ["posts"]}), "search_posts", "z_active")
    done = await change({**column, "views": {"z_active": {"query": "select id, title, author from posts"}}})
    assert any("Drop column" in s["description"] for s in done["statements"])
    done = await change({"_dropViews": ["a_titles", "z_active"], "_dropFunctions": ["of_view", "gone"]})
    assert [s["description"] for s in done["statements"]] == [
        "Drop function of_view",
        "Drop view a_titles",
        "Drop view z_active",
    ] or len(done["statements"]) == 3


async def test_errors_name_place_and_line(change: Apply) -> None:
    await change({"tables": TABLES})
    for action in ("dry_run", "apply"):
        error = await refused(change({"views": {"v": {"query": "select id,\n  titel from posts"}}}, action), "titel")
        assert error["details"]["problems"][0]["path"] == "views.v.query"
        assert "line 2, character 3" in error["message"]
        body = "begin\n  retrun 1;\nend"
        wrong = {"f": {"returns": "integer", "language": "plpgsql", "body": body}}
        error = await refused(change({"functions": wrong}, action), "line 2")
        assert error["details"]["problems"][0]["path"] == "functions.f.body"
        wrong = {"f": {"returns": "integer", "body": "select nothing from posts"}}
        await refused(change({"functions": wrong}, action), "functions.f.body", "nothing", "character 8")
    assert (await change({"tables": {}}))["applied"] == 0


QUERIES = [
    ("select 1; drop table posts", "semicolon"),
    ("select 1 as a;;", "semicolon"),
    ("delete from posts returning *", "must be a query"),
    ("with x as (delete from posts returning *) select * from x", "data-modifying"),
    ("select set_config('role', 'butterbase_service', true)", "set_config"),
    ("select datname from pg_database", "pg_database"),
    ("select * from pg_roles", "pg_roles"),
    ("select rolname from pg_catalog.pg_authid", "pg_authid"),
    ("select * from brolly.migrations", "migrations"),
    ("select * from auth.users", "auth"),
    ("select pg_read_file('/etc/passwd')", "pg_read_file"),
    ("select pg_sleep(100)", "pg_sleep"),
    ("select lo_import('/etc/passwd')", "lo_import"),
    ("select query_to_xml('select 1', true, true, '')", "query_to_xml"),
    ("select 'x' U&'\\0041'", "escapes"),
    ("select 1 /* open", "comment"),
]


@pytest.mark.parametrize(("query", "word"), QUERIES)
async def test_a_view_reaches_nothing_but_the_app(shared: Apply, query: str, word: str) -> None:
    await refused(shared({"views": {"v": {"query": query}}}), word)


BODIES = [
    ("plpgsql", "begin perform set_config('role', 'butterbase_service', true); end", "set_config"),
    ("plpgsql", "begin perform pg_catalog . \"set_config\" ('request.jwt.claim.sub', 'x', true); end", "set_config"),
    ("plpgsql", "begin for i in 1..set_config('request.jwt.claim.sub', '7', true) loop end loop; end", "set_config"),
    ("sql", "select SET_CONFIG('request.jwt.claims', '{}', true)", "set_config"),
    ("plpgsql", "begin set role butterbase_service; end", "set is not allowed"),
    ("plpgsql", "begin if true then SET LOCAL request.jwt.claims = ''; end if; end", "set is not allowed"),
    ("plpgsql", "<<a>> begin reset role; end", "reset is not allowed"),
    ("sql", "set local role butterbase_service; select 1", "set is not allowed"),
    ("sql", "/* x */ reset\nrole", "reset is not allowed"),
    ("plpgsql", "begin execute 'set role butterbase_service'; end", "execute"),
    ("plpgsql", "declare c refcursor; begin open c for execute 'select 1'; end", "execute"),
    ("sql", "do $$ begin end $$", "do is not allowed"),
    ("sql", "copy posts to program 'id'", "copy is not allowed"),
    ("sql", "select dblink('x', 'y')", "dblink"),
    ("sql", "select lo_import('/etc/passwd')", "lo_import"),
    ("sql", "select pg_read_file('/etc/passwd')", "pg_read_file"),
    ("sql", "select datname from pg_database", "pg_database"),
    ("sql", "select pg_sleep(1000)", "pg_sleep"),
    ("sql", "create table x (a int)", "create is not allowed"),
    ("sql", "select 'a'\n'b'", "continues another"),
]


@pytest.fixture(scope="module")
async def shared(deps: Deps) -> AsyncIterator[Apply]:
    from brolly.apps import provision
    from tests.conftest import hold_open, make_owner, mcp_session

    owner, _ = await make_owner(deps)
    assert owner.account_id is not None
    app_id, _ = await provision.create(deps, owner.account_id, "routines", "self-hosted")
    mcp, close = await hold_open(mcp_session(deps, owner))

    async def call(document: dict[str, Any], action: str = "apply") -> Any:
        return await mcp("manage_schema", action=action, app_id=app_id, schema=document)

    await call({"tables": TABLES})
    yield call
    assert (await call({"tables": {}}, "dry_run"))["applied"] == 0
    await close()
    await provision.delete(deps, await deps.registry.get(owner, app_id))


@pytest.mark.parametrize(("language", "body", "word"), BODIES)
async def test_a_body_neither_changes_who_acts_nor_looks_out(
    shared: Apply, language: str, body: str, word: str
) -> None:
    await refused(shared({"functions": {"f": {"returns": "void", "language": language, "body": body}}}), word)


@pytest.mark.parametrize(
    ("entry", "word"),
    [
        ({"returns": "void", "body": "select 1", "security": "definer"}, "security definer is not offered"),
        ({"returns": "trigger", "body": "select 1"}, "trigger"),
        ({"returns": "integer", "body": "select 1", "language": "plpython3u"}, "plpgsql"),
        ({"returns": "integer", "body": "select 1", "args": {}}, "use arguments"),
        ({"returns": "integr(2)", "body": "select 1"}, "did you mean"),
        ({"returns": "integer", "body": "select 1", "expose": ["everybody"]}, "anon"),
        (
            {"returns": "integer", "body": "select 1", "arguments": {"a": {"type": "int", "default": 1}, "b": "int"}},
            "b",
        ),
        ({"returns": "nowhere", "body": "select 1"}, "nowhere"),
        ({"returns": "integer"}, "body is missing"),
    ],
)
async def test_a_function_is_described_as_it_can_be(shared: Apply, entry: dict[str, Any], word: str) -> None:
    await refused(shared({"functions": {"f": entry}}), word)


async def test_names(shared: Apply) -> None:
    await refused(shared({"views": {"posts": {"query": "select 1 as a"}}}), "posts")
    await refused(shared({"views": {"_v": {"query": "select 1 as a"}}}), "belong to the platform")
    await refused(shared({"functions": {"current_user_id": FUNCTIONS["shout"]}}), "platform's")
    await refused(shared({"functions": {"to_json": FUNCTIONS["shout"]}}), "stand in for")
    await refused(shared({"views": {"v": "select 1 as a"}, "_dropViews": ["v"]}), "keep one of them")
