"""An app's own functions and views over HTTP: arguments, results, roles, errors."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from brolly.apps import provision
from brolly.deps import Deps
from brolly.pg.session import as_caller
from brolly.registry import App
from tests.conftest import hold_open, http_client, make_owner, mcp_session

TABLES: dict[str, Any] = {
    "authors": {"columns": {"id": {"type": "integer", "primaryKey": True}, "name": {"type": "text"}}},
    "posts": {
        "columns": {
            "id": {"type": "integer", "primaryKey": True},
            "title": {"type": "text"},
            "author": {"type": "integer", "references": "authors.id"},
            "big": {"type": "bigint"},
            "owner": {"type": "text"},
        }
    },
    "comments": {
        "columns": {
            "id": {"type": "integer", "primaryKey": True},
            "post": {"type": "integer", "references": "posts.id"},
        }
    },
}
EVERYBODY = ["anon", "user"]
SET = {"returns": "setof posts", "volatility": "stable"}
RAISE = "begin raise exception 'no %', what using {}; end"
FUNCTIONS: dict[str, Any] = {
    "search": {
        **SET,
        "arguments": {"q": "text", "max": {"type": "integer", "default": 20}},
        "body": "select * from posts where title like '%' || q || '%' order by id desc limit max",
        "expose": EVERYBODY,
    },
    "hidden": {**SET, "body": "select * from posts"},
    "users_only": {"returns": "text", "body": "select current_user_id()", "volatility": "stable", "expose": ["user"]},
    "add": {
        "arguments": {"a": "integer", "b": {"type": "integer", "default": 2}},
        "returns": "bigint",
        "body": "select (a + b)::bigint",
        "volatility": "immutable",
        "expose": EVERYBODY,
    },
    "put": {
        "arguments": {"id": "integer", "title": "text"},
        "returns": "void",
        "body": "insert into posts (id, title, owner) values (id, title, current_user_id())",
        "expose": EVERYBODY,
    },
    "first": {
        "returns": "posts",
        "body": "select * from posts order by id limit 1",
        "volatility": "stable",
        "expose": EVERYBODY,
    },
    "none": {"returns": "posts", "body": "select * from posts where false", "expose": EVERYBODY},
    "numbers": {
        "returns": "setof integer",
        "body": "select generate_series(1, 3)",
        "volatility": "immutable",
        "expose": EVERYBODY,
    },
    "stats": {
        "arguments": {"tags": {"type": "text[]", "default": "'{}'"}, "doc": {"type": "jsonb", "default": "'{}'"}},
        "returns": "table(tag text, n bigint, whole jsonb)",
        "language": "plpgsql",
        "body": "begin return query select t, count(*), stats.doc from unnest(tags) t group by t; end",
        "volatility": "stable",
        "expose": EVERYBODY,
    },
    "fail": {
        "arguments": {"what": "text"},
        "returns": "void",
        "language": "plpgsql",
        "body": RAISE.format("hint = 'ask', detail = 'because'"),
        "expose": EVERYBODY,
    },
    "teapot": {
        "arguments": {"what": "text"},
        "returns": "void",
        "language": "plpgsql",
        "body": RAISE.format("errcode = 'PT418'"),
        "expose": EVERYBODY,
    },
    "writes": {
        "returns": "integer",
        "body": "delete from posts returning 1",
        "expose": EVERYBODY,
    },
    "forever": {
        "returns": "integer",
        "language": "plpgsql",
        "body": "begin loop end loop; end",
        "expose": EVERYBODY,
    },
}
FUNCTIONS["long"] = {
    "arguments": {"n": "integer"},
    "returns": "text",
    "body": "select repeat('x', n)",
    "volatility": "immutable",
    "expose": EVERYBODY,
}
FUNCTIONS["long_values"] = {**FUNCTIONS["long"], "returns": "setof text"}
FUNCTIONS["long_row"] = {**FUNCTIONS["long"], "returns": "posts", "body": "select 1, repeat('x', n), 1, 1::bigint, 'x'"}
FUNCTIONS["merges"] = {
    "returns": "integer",
    "language": "plpgsql",
    "body": "begin merge into posts p using (select 0 as id) n on p.id = n.id when matched then do nothing "
    "when not matched then insert (id) values (0); return 1; end",
    "expose": EVERYBODY,
}
FUNCTIONS["quietly"] = {"returns": "integer", "body": "select merges()", "volatility": "stable", "expose": EVERYBODY}
VIEWS = {
    "titled": {"query": "select p.id, p.title as name, p.author, p.big, p.owner from posts p where title is not null"},
    "counted": {"query": "select author, count(*) as n from posts group by author"},
}


class Rpc:
    def __init__(self, deps: Deps, app: App, key: str) -> None:
        self.deps, self.app, self.key = deps, app, key

    async def send(self, method: str, path: str, role: str | None = None, **more: Any) -> httpx.Response:
        headers = dict(more.pop("headers", {}))
        if role == "user":
            headers |= {"X-Butterbase-As-Role": "user", "X-Butterbase-As-User": "ann"}
        async with http_client(self.deps, None if role == "public" else self.key) as client:
            return await client.request(method, f"/v1/{self.app.id}/{path}", headers=headers, **more)

    async def call(self, name: str, role: str | None = None, /, **arguments: Any) -> httpx.Response:
        return await self.send("POST", f"rpc/{name}", role, json=arguments)


@pytest.fixture(scope="module")
async def rpc(deps: Deps) -> AsyncIterator[Rpc]:
    owner, key = await make_owner(deps)
    assert owner.account_id is not None
    app_id, _ = await provision.create(deps, owner.account_id, "rpc", "self-hosted")
    app = await deps.registry.get(owner, app_id)
    mcp, close = await hold_open(mcp_session(deps, owner))
    document = {"tables": TABLES, "functions": FUNCTIONS, "views": VIEWS}
    await mcp("manage_schema", action="apply", app_id=app_id, schema=document)
    for table in ("posts", "authors", "comments"):
        await mcp("manage_rls", action="enable", app_id=app_id, table_name=table)
    mine = {"action": "create_policy", "app_id": app_id, "table_name": "posts"}
    await mcp("manage_rls", **mine, policy_name="p1", command="SELECT", role="anon", using_expression="owner = 'all'")
    await mcp(
        "manage_rls", **mine, policy_name="p2", command="ALL", role="user", using_expression="owner = current_user_id()"
    )
    async with as_caller(deps.pools.door(app), owner) as conn:
        await conn.execute(
            "insert into authors values (1, 'Ann');"
            "insert into posts values (1, 'one', 1, 9007199254740993, 'all'), (2, 'two', 1, 2, 'ann'), "
            "(3, 'one more', null, 3, 'bob'); insert into comments values (1, 1), (2, 1)"
        )
    yield Rpc(deps, app, key)
    await close()
    await provision.delete(deps, app)


async def test_rows_with_the_grammar_of_tables(rpc: Rpc) -> None:
    found = (await rpc.call("search", q="one")).json()
    assert [row["id"] for row in found] == [3, 1]  # in the function's own order
    assert found[1]["big"] == "9007199254740993"
    got = await rpc.send("GET", "rpc/search?q=o&id=lt.3&order=id&select=title,authors(name)")
    assert got.json() == [{"title": "one", "authors": {"name": "Ann"}}, {"title": "two", "authors": {"name": "Ann"}}]
    got = await rpc.send("GET", "rpc/search?q=o&limit=2", headers={"Prefer": "count=exact"})
    assert got.headers["content-range"] == "0-1/3"
    assert "offset=2" in got.headers["link"]
    got = await rpc.send("POST", "rpc/search?select=id,comments(id)&id=eq.1", json={"q": "one", "max": 5})
    assert got.json() == [{"id": 1, "comments": [{"id": 1}, {"id": 2}]}]
    got = await rpc.send("GET", "rpc/search?q=one&select=count()")
    assert got.json() == [{"count": 2}]


async def test_results_of_other_forms(rpc: Rpc) -> None:
    assert (await rpc.call("add", a=1)).text == '"3"'
    assert (await rpc.send("GET", "rpc/add?a=40&b=2")).json() == "42"
    assert (await rpc.call("first")).json()["id"] == 1
    assert (await rpc.call("none")).text == "null"
    assert (await rpc.send("GET", "rpc/numbers")).json() == [1, 2, 3]
    got = await rpc.call("stats", tags=["x", "y", "x"], doc={"a": [1]})
    assert sorted(got.json(), key=lambda r: r["tag"])[0] == {"tag": "x", "n": "2", "whole": {"a": [1]}}
    got = await rpc.send("GET", "rpc/stats", params={"tags": '["x"]', "doc": '{"a": 1}', "select": "whole->a"})
    assert got.json() == [{"a": 1}]


async def test_each_role_sees_its_own(rpc: Rpc) -> None:
    assert [r["id"] for r in (await rpc.call("search", "public", q="o")).json()] == [1]
    assert [r["id"] for r in (await rpc.call("search", "user", q="o")).json()] == [2]
    assert (await rpc.call("users_only", "user")).json() == "ann"
    assert (await rpc.call("first", "user")).json()["id"] == 2
    for name in ("users_only", "hidden", "nothing"):
        got = await rpc.call(name, "public")
        assert got.status_code == 404
        assert "expose" not in got.text
    told = await rpc.call("hidden", "user")
    assert (told.status_code, told.json()["error"]["code"]) == (404, "RESOURCE_NOT_FOUND")
    assert "expose" in told.json()["error"]["remediation"]
    assert len((await rpc.call("hidden")).json()) == 3


async def test_what_a_function_writes_is_the_callers(rpc: Rpc) -> None:
    refused = await rpc.call("put", "public", id=8, title="x")
    assert refused.status_code == 403, refused.text
    assert (await rpc.call("put", "user", id=9, title="mine")).status_code == 204
    assert (await rpc.send("GET", "posts?id=gt.7&select=id,owner")).json() == [{"id": 9, "owner": "ann"}]
    assert (await rpc.send("GET", "rpc/put?id=10&title=x")).status_code == 405
    assert (await rpc.call("writes", "user")).json() == 1
    assert sorted(r["id"] for r in (await rpc.send("GET", "posts")).json()) == [1, 3]
    async with as_caller(rpc.deps.pools.door(rpc.app), (await make_owner(rpc.deps))[0]) as conn:
        await conn.execute("insert into posts values (2, 'two', 1, 2, 'ann')")


async def test_wrong_arguments(rpc: Rpc) -> None:
    got = await rpc.call("search", query="x")
    assert got.status_code == 400
    assert got.json()["error"]["details"]["arguments"] == {"q": "text", "max": "integer default 20"}
    public = await rpc.call("search", "public", query="x")
    assert public.status_code == 400
    assert "max" not in public.text
    for arguments in ({"q": "x", "max": "many"}, {"q": "x", "max": 1.5}, {"q": "x", "max": {"a": 1}}):
        got = await rpc.call("search", **arguments)
        assert (got.status_code, "max" in got.json()["error"]["message"]) == (400, True), got.text
    for body in ("[]", "1", "{", '"x"'):
        assert (await rpc.send("POST", "rpc/search", content=body)).status_code == 400
    assert (await rpc.send("GET", "rpc/add?a=1&b=2&c=eq.1")).status_code == 400
    assert (await rpc.send("GET", "rpc/search?q=o&nope=eq.1")).status_code == 400
    assert (await rpc.send("GET", "rpc/search?q=')%3B drop table posts--")).json() == []


async def test_what_a_function_raises(rpc: Rpc) -> None:
    got = await rpc.call("fail", "public", what="luck")
    assert (got.status_code, got.json()["error"]["code"]) == (400, "FUNCTION_RAISED")
    assert got.json()["error"]["message"] == "no luck"
    assert got.json()["error"]["details"] == {"pg_code": "P0001", "hint": "ask", "detail": "because"}
    assert (await rpc.call("teapot", "public", what="tea")).status_code == 418


@pytest.mark.parametrize("name", ["long", "long_values", "long_row"])
async def test_an_answer_has_a_bound(rpc: Rpc, name: str) -> None:
    got = await rpc.call(name, "public", n=17 * 1024 * 1024)
    assert (got.status_code, got.json()["error"]["code"]) == (413, "REQUEST_TOO_LARGE")
    assert "xxx" in (await rpc.call(name, "public", n=3)).text


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_what_promises_to_change_nothing_changes_nothing(rpc: Rpc, method: str) -> None:
    got = await rpc.send(method, "rpc/quietly")
    assert (got.status_code, "read-only" in got.text) == (400, True), got.text
    assert (await rpc.send("GET", "posts?id=eq.0")).json() == []


async def test_several_of_one_name(rpc: Rpc) -> None:
    async with rpc.deps.pools.owner(rpc.app) as conn:
        await conn.execute(
            "create function twice(a int) returns int language sql as 'select a';"
            "create function twice(a text) returns text language sql as 'select a';"
            "create function twice(b int, c int) returns int language sql as 'select b + c';"
            "create function over_all() returns setof posts language sql security definer as 'select * from posts'"
        )
    await rpc.deps.catalog.changed(rpc.app)
    assert (await rpc.call("twice", b=1, c=2)).json() == 3
    got = await rpc.call("twice", a=1)
    assert (got.status_code, "several" in got.text) == (400, True)
    # One that runs with its owner's rights passes every policy: for the service role alone.
    assert (await rpc.call("over_all", "public")).status_code == 404
    assert (await rpc.call("over_all", "user")).status_code == 404
    assert (await rpc.call("over_all")).status_code == 200


async def test_an_endless_function_is_ended(rpc: Rpc) -> None:
    async with rpc.deps.control.acquire() as conn:
        await conn.execute(f"alter role {rpc.app.id}_api set statement_timeout = '300ms'")
    await rpc.deps.pools.forget(rpc.app.id)
    got = await rpc.call("forever", "public")
    assert (got.status_code, got.json()["error"]["code"]) == (504, "DATABASE_TIMEOUT")
    async with rpc.deps.control.acquire() as conn:
        await conn.execute(f"alter role {rpc.app.id}_api set statement_timeout = '30s'")
    await rpc.deps.pools.forget(rpc.app.id)


async def test_views_are_read_as_tables_are(rpc: Rpc) -> None:
    got = await rpc.send("GET", "titled?order=name&limit=2&select=id,name,authors(name)")
    assert [r["id"] for r in got.json()] == [1, 3]
    assert got.json()[0]["authors"] == {"name": "Ann"}
    cursor = got.headers["x-next-cursor"]
    rest = await rpc.send("GET", f"titled?order=name&limit=2&select=id,name,authors(name)&cursor={cursor}")
    assert [r["id"] for r in rest.json()] == [2]
    assert (await rpc.send("GET", "titled/1?select=name,comments(id)")).json() == {
        "name": "one",
        "comments": [{"id": 1}, {"id": 2}],
    }
    got = await rpc.send("GET", "authors?select=name,titled(name)&titled.order=id.desc")
    assert got.json() == [{"name": "Ann", "titled": [{"name": "two"}, {"name": "one"}]}]
    assert (await rpc.send("GET", "comments?select=titled(name)&id=eq.1")).json() == [{"titled": {"name": "one"}}]
    assert (await rpc.send("GET", "counted?n=gt.1&select=n,authors(name)")).json() == [
        {"n": "2", "authors": {"name": "Ann"}}
    ]
    assert [r["id"] for r in (await rpc.send("GET", "titled", "public")).json()] == [1]
    assert [r["id"] for r in (await rpc.send("GET", "titled", "user")).json()] == [2]
    assert (await rpc.send("GET", "counted", "user")).json() == [{"author": 1, "n": "1"}]


async def test_simple_views_take_rows_and_others_say_why_not(rpc: Rpc) -> None:
    made = await rpc.send("POST", "titled", "user", json={"id": 20, "name": "via", "owner": "ann"})
    assert made.status_code == 201, made.text
    assert (await rpc.send("POST", "titled", "user", json={"id": 21, "owner": "bob"})).status_code == 403
    assert (await rpc.send("PATCH", "titled/20", "user", json={"name": "new"})).json()["name"] == "new"
    assert (await rpc.send("DELETE", "titled/20", "user")).status_code == 200
    for method, body in (("POST", {"author": 1}), ("PATCH", {"author": 1}), ("DELETE", None)):
        got = await rpc.send(method, "counted?author=eq.1" if method != "POST" else "counted", json=body)
        assert (got.status_code, "view" in json.dumps(got.json())) == (400, True), got.text


async def test_a_view_with_its_owners_rights_is_closed_to_all_but_the_service(rpc: Rpc) -> None:
    async with rpc.deps.pools.owner(rpc.app) as conn:
        await conn.execute(
            "create view trap as select * from posts; grant select on trap to public;"
            "create view over_trap with (security_invoker = true) as select * from trap;"
            "grant select on over_trap to public"
        )
    await rpc.deps.catalog.changed(rpc.app)
    for role in ("public", "user"):
        for name in ("trap", "over_trap"):
            assert (await rpc.send("GET", name, role)).json() == []
            assert (await rpc.send("GET", f"{name}/1", role)).status_code == 404
            assert (await rpc.send("POST", name, role, json={"id": 30})).status_code == 403
        # Nor by way of a related table, nor as the end of an embedding.
        assert (await rpc.send("GET", "authors?select=id,trap(id)", role)).status_code == 400
    assert (await rpc.send("GET", "over_trap")).status_code == 200
