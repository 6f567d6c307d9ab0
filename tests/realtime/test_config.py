"""manage_realtime: what is recorded, what is refused, and what is put back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anyio
import httpx
import pytest

from brolly.apps import provision
from brolly.core.caller import Caller
from brolly.core.errors import AppError
from brolly.deps import Deps
from brolly.pg.session import as_caller
from brolly.realtime import worker
from brolly.realtime.feed import Feed, Subscription
from brolly.registry import App
from tests.conftest import McpCall, ToolFailed, hold_open, http_client, make_owner, mcp_session

Shop = tuple[Caller, App, McpCall]
Recorded = Callable[..., Awaitable[list[tuple[str, str]]]]
KEY = {"id": {"type": "integer", "primaryKey": True}}


@pytest.fixture(scope="module")
async def client(deps: Deps) -> AsyncIterator[tuple[Shop, httpx.AsyncClient]]:
    """An app with the owner's tools and HTTP client."""
    owner, key = await make_owner(deps)
    app_id, _ = await provision.create(deps, str(owner.account_id), "recorded", "self-hosted")
    app = await deps.registry.get(owner, app_id)
    call, close = await hold_open(mcp_session(deps, owner))
    async with http_client(deps, key) as http:
        yield (owner, app, call), http
    await close()
    await provision.delete(deps, app)


async def apply(shop: Shop, **tables: Any) -> None:
    _, app, mcp = shop
    await mcp("manage_schema", action="apply", app_id=app.id, schema={"tables": tables}, confirm=True)


async def by_hand(deps: Deps, shop: Shop, *statements: str) -> None:
    async with deps.pools.owner(shop[1]) as conn:
        for statement in statements:
            await conn.execute(statement)


async def written(deps: Deps, feed: Feed, shop: Shop, *statements: str) -> list[tuple[str, str]]:
    """Table and operation of what these statements, by the service role, leave behind."""
    owner, app, _ = shop
    at = await feed.position(app)
    for statement in statements:
        async with as_caller(deps.pools.door(app), owner) as connection:
            await connection.execute(statement)
    changes = (await feed.replay(app, at, ["a", "b", "c", "pairs"])).changes
    return [(change.table, change.operation) for change in changes]


async def state(shop: Shop) -> dict[str, tuple[bool, str | None]]:
    """By table: whether it is recorded, and what is said about drift."""
    answer = await shop[2]("manage_realtime", action="get", app_id=shop[1].id)
    assert answer["websocket_url"] == f"ws://brolly.test/v1/{shop[1].id}/realtime"
    assert all(table["drift"] is not table["trigger_installed"] for table in answer["tables"])
    return {table["table_name"]: (table["trigger_installed"], table.get("reason")) for table in answer["tables"]}


ALL = [(table, op) for table in ("pairs",) for op in ("INSERT", "UPDATE", "DELETE")]


async def test_configure_over_http_and_what_it_refuses(deps: Deps, feed: Feed, client: Any) -> None:
    shop, http = client
    app = shop[1]
    pairs = {"columns": {"left": {"type": "integer"}, "right": {"type": "integer"}}, "primaryKey": ["left", "right"]}
    await apply(shop, pairs=pairs, bare={"columns": {"line": {"type": "text"}}})
    await by_hand(deps, shop, "create view seen with (security_invoker) as select * from pairs")
    await deps.catalog.changed(app)
    path = f"/v1/{app.id}/realtime"
    answer = await http.post(f"{path}/configure", json={"tables": ["pairs", "pairs"]})
    assert answer.json()["configured"] == [{"table": "pairs", "status": "enabled"}]
    assert "manage_rls enable" in answer.json()["warnings"][0]
    steps = ("insert into pairs values (1, 1)", 'update pairs set "right" = 2', "delete from pairs")
    assert await written(deps, feed, shop, *steps) == ALL
    # Nothing comes of a statement that finds no row.
    assert await written(deps, feed, shop, "delete from pairs", "insert into pairs select 1, 1 where false") == []

    for tables, status, code, detail in (
        (["pairs", "no", "_x"], 404, "VALIDATION_TABLE_NOT_FOUND", {"missing_tables": ["no", "_x"]}),
        (["bare"], 409, "STATE_PREREQUISITE_MISSING", {"tables_without_primary_key": ["bare"]}),
        (["seen"], 400, "VALIDATION_INVALID_SCHEMA", {"views": ["seen"]}),
    ):
        refused = await http.post(f"{path}/configure", json={"tables": tables})
        error = refused.json()["error"]
        assert (refused.status_code, error["code"]) == (status, code)
        assert detail.items() <= error["details"].items()
    for body in ({}, {"tables": []}):
        assert (await http.post(f"{path}/configure", json=body)).status_code == 400
    config = (await http.get(f"{path}/config")).json()
    assert [(t["table_name"], t["events"]) for t in config["tables"]] == [("pairs", ["INSERT", "UPDATE", "DELETE"])]
    assert config["active_connection"] is False

    async with http_client(deps) as nobody:
        assert (await nobody.post(f"{path}/configure", json={"tables": ["pairs"]})).status_code == 401
        assert (await nobody.get(f"{path}/config")).status_code == 401
    other, _ = await make_owner(deps)
    async with mcp_session(deps, other) as call:
        with pytest.raises(ToolFailed) as failed:
            await call("manage_realtime", action="configure", app_id=app.id, tables=["pairs"])
    assert failed.value.code == "RESOURCE_NOT_FOUND"

    assert (await http.delete(f"{path}/pairs")).json() == {"table": "pairs", "status": "disabled"}
    assert await written(deps, feed, shop, *steps) == []
    assert (await http.delete(f"{path}/pairs")).status_code == 404
    assert await state(shop) == {}


async def test_no_caller_reaches_what_is_recorded(deps: Deps, client: Any) -> None:
    (owner, app, _), _ = client
    for statement in (
        "select * from realtime.changes",
        "insert into realtime.changes (table_name, operation) values ('a', 'INSERT')",
        "update realtime.attention set watched_until = 'infinity'",
        "delete from realtime.tables",
        "select realtime.wake()",
    ):
        for caller in (owner, owner.simulate("user", "u"), owner.simulate("anon", None)):
            with pytest.raises(AppError) as refused:
                async with as_caller(deps.pools.door(app), caller) as connection:
                    await connection.execute(statement)
            assert refused.value.code == "AUTH_RLS_POLICY_VIOLATION", statement


async def test_what_was_taken_away_is_put_back(deps: Deps, feed: Feed, client: Any) -> None:
    shop, _ = client
    _, app, mcp = shop
    await apply(shop, a={"columns": KEY}, b={"columns": KEY})
    await mcp("manage_realtime", action="configure", app_id=app.id, tables=["a", "b"])

    async def works(*tables: str) -> None:
        assert await state(shop) == dict.fromkeys(tables, (True, None))
        for table in tables:
            steps = (f"insert into {table} values (1)", f"update {table} set id = 2", f"delete from {table}")
            heard = await written(deps, feed, shop, *steps)
            assert heard == [(table, op) for op in ("INSERT", "UPDATE", "DELETE")]

    await works("a", "b")
    # Dropped or switched off by hand: get tells, configure mends.
    await by_hand(deps, shop, "drop trigger trg_realtime_a_update on a", "alter table b disable trigger user")
    assert await state(shop) == dict.fromkeys("ab", (False, "Its triggers are missing or switched off."))
    await mcp("manage_realtime", action="configure", app_id=app.id, tables=["a", "b"])
    await works("a", "b")
    # Dropped, and made anew by a document: recorded from its first row on.
    await mcp("manage_schema", action="apply", app_id=app.id, schema={"_drop": ["a"]}, confirm=True)
    assert (await state(shop))["a"] == (False, "The table is gone.")
    await apply(shop, a={"columns": KEY})
    await works("a", "b")
    # Renamed, made anew by hand, without a key: the server looks after it by itself.
    await by_hand(
        deps, shop, "alter table b rename to c", "drop table a", "create table a (id int primary key)",
    )  # fmt: skip
    assert (await state(shop))["b"] == (False, "The table is called c now.")
    await worker.tend(deps, app.id)
    await works("a", "c")
    await by_hand(deps, shop, "alter table c drop constraint b_pkey")
    assert (await state(shop))["c"] == (True, "It has no primary key any more; its changes are recorded all the same.")
    # A table that nobody asked for keeps no triggers: here the old one, under another name.
    await by_hand(deps, shop, "alter table a rename to old", "create table a (id int primary key)")
    await mcp("manage_realtime", action="configure", app_id=app.id, tables=["a"])
    assert await written(deps, feed, shop, "insert into old values (1)", "insert into a values (1)") == [
        ("a", "INSERT")
    ]


async def test_apps_are_tended_when_it_is_time(deps: Deps, client: Any) -> None:
    (_, app, _), _ = client
    due = "select due_at > now() + interval '50 s' from brolly.realtime_work where app_id = $1"
    await deps.control.execute("update brolly.realtime_work set due_at = now() where app_id = $1", app.id)
    await worker.tend_due(deps)
    assert await deps.control.fetchval(due, app.id)


async def test_a_feed_outlives_its_table_and_ends_in_a_pause_and_with_its_app(
    deps: Deps, feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("brolly.realtime.feed.LOOK_SECONDS", 0.5)
    owner, _ = await make_owner(deps)
    app_id, _ = await provision.create(deps, str(owner.account_id), "ends", "self-hosted")
    app = await deps.registry.get(owner, app_id)

    async def ends(subscription: Subscription) -> None:
        with anyio.fail_after(20), pytest.raises(anyio.EndOfStream):
            await subscription.batches.receive()
        assert not feed.active(app_id)

    async with mcp_session(deps, owner) as mcp:
        await apply((owner, app, mcp), a={"columns": KEY})
        await mcp("manage_realtime", action="configure", app_id=app_id, tables=["a"])
        async with feed.subscribe(app) as subscription:
            assert feed.active(app_id)
            await mcp("manage_schema", action="apply", app_id=app_id, schema={"_drop": ["a"]}, confirm=True)
            await apply((owner, app, mcp), a={"columns": KEY})
            await mcp("insert_row", app_id=app_id, table="a", data={"id": 1})
            with anyio.fail_after(10):
                assert len((await subscription.batches.receive()).changes) == 1
            await mcp("manage_app", action="pause", app_id=app_id, paused=True)
            await ends(subscription)
        await mcp("manage_app", action="pause", app_id=app_id, paused=False)
        async with feed.subscribe(app) as subscription:
            await provision.delete(deps, app)
            await ends(subscription)
