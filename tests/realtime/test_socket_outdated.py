"""Subscriptions that their table does not bear any more end with a word, and nothing is lost."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest_asyncio

from brolly.deps import Deps
from tests.realtime.test_socket_changes import Shop, opened, subscribe


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def shop(deps: Deps) -> AsyncIterator[Shop]:
    async with opened(deps) as one:
        yield one


async def test_a_dropped_and_a_changed_table_leave_the_socket_alive(shop: Shop) -> None:
    schema = {
        "tables": {"brief": {"columns": {"id": {"type": "bigserial", "primaryKey": True}, "n": {"type": "text"}}}}
    }
    await shop.mcp("manage_schema", action="apply", app_id=shop.app.id, schema=schema)
    await shop.mcp("manage_realtime", action="configure", app_id=shop.app.id, tables=["brief"])
    async with shop.socket(shop.key) as one:
        await subscribe(one, "brief", filter="n=gt.a")
        await subscribe(one)
        await shop.mcp("insert_row", app_id=shop.app.id, table="brief", data={"n": "b"})
        await one.next("change")
        await shop.mcp(
            "manage_schema",
            action="apply",
            app_id=shop.app.id,
            schema={"tables": {}, "_drop": ["brief"]},
            confirm=True,
        )
        await shop.add(body="alive")
        assert (await one.next("change"))["record"]["body"] == "alive"
        assert (await one.ask("subscribe", "subscribed", table="brief"))["code"] == "VALIDATION_TABLE_NOT_FOUND"


async def test_a_filter_whose_column_changed_ends_with_a_word_and_nothing_is_lost(shop: Shop) -> None:
    columns = {"id": {"type": "bigserial", "primaryKey": True}, "n": {"type": "integer"}, "m": {"type": "text"}}

    async def apply(**more: Any) -> None:
        schema = {"tables": {"altered": {"columns": columns, **more}}}
        await shop.mcp("manage_schema", action="apply", app_id=shop.app.id, schema=schema, confirm=True)

    await apply()
    await shop.mcp("manage_realtime", action="configure", app_id=shop.app.id, tables=["altered"])
    async with shop.socket(shop.key) as one:
        for name, condition in (("hashed", "n=eq.5"), ("computed", "n=gt.4"), ("other", "m=eq.x")):
            await subscribe(one, "altered", id=name, filter=condition)
        columns["n"] = {"type": "text"}
        await apply(_alterType={"n": "n::text"})
        await shop.mcp("insert_row", app_id=shop.app.id, table="altered", data={"n": "5", "m": "x"})
        ended = [await one.next("error") for _ in range(2)]
        assert {error["details"]["id"] for error in ended} == {"hashed", "computed"}
        assert {error["code"] for error in ended} == {"VALIDATION_INVALID_SCHEMA"}
        assert "manage_schema get" in ended[0]["remediation"]
        assert (await one.next("change"))["subscriptions"] == ["other"]
        since = ended[0]["details"]["since"]
        await subscribe(one, "altered", id="hashed", filter="n=eq.5", since=since)
        missed = await one.next("change")
        assert (missed["subscriptions"], missed["record"]["n"]) == (["hashed"], "5")


async def test_a_filter_that_fails_for_a_row_ends_with_a_word_live_and_in_replay(shop: Shop) -> None:
    columns = {"id": {"type": "bigserial", "primaryKey": True}, "n": {"type": "integer"}, "m": {"type": "text"}}
    await shop.mcp(
        "manage_schema", action="apply", app_id=shop.app.id, schema={"tables": {"torn": {"columns": columns}}}
    )
    await shop.mcp("manage_realtime", action="configure", app_id=shop.app.id, tables=["torn"])
    connection = await asyncpg.connect(**shop.deps.databases.server.connect_args(database=shop.app.db_name))
    async with shop.socket(shop.key) as one:
        for name, more in (("computed", {"filter": "n=gt.4"}), ("other", {})):
            began = await subscribe(one, "torn", id=name, **more)
        # The row is recorded with a text where the table has a number by the time it is looked at.
        async with connection.transaction():
            await connection.execute("insert into torn (n, m) values (5, 'x')")
            await connection.execute("alter table torn alter m type integer using length(m)")
        await connection.close()
        ended = await one.next("error")
        assert (ended["code"], ended["details"]["id"]) == ("VALIDATION_INVALID_SCHEMA", "computed")
        assert ended["details"]["filter"] == "n=gt.4"
        await shop.mcp("insert_row", app_id=shop.app.id, table="torn", data={"n": 6})
        heard = await one.next("change")
        assert (heard["subscriptions"], heard["record"]["n"]) == (["other"], 6)
        for since in (ended["details"]["since"], began["since"]):
            await subscribe(one, "torn", id="again", filter="n=gt.4", since=since)
            again = await one.next("error", "replayed")
            assert (again["code"], again["details"]["since"]) == ("VALIDATION_INVALID_SCHEMA", since)
        await shop.mcp("insert_row", app_id=shop.app.id, table="torn", data={"n": 7})
        assert (await one.next("change"))["subscriptions"] == ["other"]
        await subscribe(one, "torn", id="again", filter="n=gt.4", since=heard["id"])
        assert (await one.next("change"))["subscriptions"] == ["again"]
