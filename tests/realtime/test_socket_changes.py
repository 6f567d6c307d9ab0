"""Changes over sockets: what arrives, by which filter, for whose eyes, and again after an absence."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from uuid import uuid4

import httpx
import pytest
import pytest_asyncio

from brolly.apps import provision
from brolly.auth.signing import sign
from brolly.deps import Deps
from brolly.realtime import replay, room
from brolly.realtime.worker import trim
from brolly.registry import App
from tests.conftest import McpCall, hold_open, http_client, make_owner, mcp_session
from tests.realtime.sockets import Client, admitted, serving

ANN, BOB = "aaaaaaaa-0000-4000-8000-00000000000a", "bbbbbbbb-0000-4000-8000-00000000000b"
SCHEMA = {
    "tables": {
        "notes": {
            "columns": {
                "id": {"type": "bigserial", "primaryKey": True},
                "owner": {"type": "uuid"},
                "body": {"type": "text"},
                "size": {"type": "integer"},
                "price": {"type": "numeric"},
                "tags": {"type": "text[]"},
                "done": {"type": "boolean", "default": "false"},
                "data": {"type": "jsonb"},
            }
        },
        "silent": {"columns": {"id": {"type": "bigserial", "primaryKey": True}}},
    }
}


class Shop:
    """An app with recorded notes that belong to users, and a server over it."""

    def __init__(self, deps: Deps, app: App, key: str, mcp: McpCall, url: str, http: httpx.AsyncClient) -> None:
        self.deps, self.app, self.key, self.mcp, self.url, self.http = deps, app, key, mcp, url, http

    async def token(self, user: str) -> str:
        return await sign(self.deps, self.app, {"sub": user, "app_id": self.app.id, "role": "authenticated"}, 900)

    def socket(self, token: str | None) -> Any:
        return admitted(self.url, self.app.id, token)

    async def add(self, **row: Any) -> dict[str, Any]:
        response = await self.http.post(f"/v1/{self.app.id}/notes", json={"owner": ANN, **row})
        assert response.status_code == 201, response.text
        return response.json()

    async def change(self, query: str, **row: Any) -> None:
        response = await self.http.patch(f"/v1/{self.app.id}/notes?{query}", json=row)
        assert response.is_success, response.text

    async def remove(self, query: str) -> None:
        response = await self.http.delete(f"/v1/{self.app.id}/notes?{query}")
        assert response.is_success, response.text


@asynccontextmanager
async def opened(deps: Deps) -> AsyncIterator[Shop]:
    owner, key = await make_owner(deps)
    assert owner.account_id is not None
    app_id, _ = await provision.create(deps, owner.account_id, f"app-{uuid4()}", "self-hosted")
    app = await deps.registry.get(owner, app_id)
    call, close = await hold_open(mcp_session(deps, owner))
    await call("manage_schema", action="apply", app_id=app_id, schema=SCHEMA)
    await call("manage_rls", action="create_user_isolation", app_id=app_id, table_name="notes", user_column="owner")
    await call("manage_realtime", action="configure", app_id=app_id, tables=["notes"])
    async with serving(deps) as url, http_client(deps, key) as http:
        yield Shop(deps, app, key, call, url, http)
    await close()
    await provision.delete(deps, app)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def shop(deps: Deps) -> AsyncIterator[Shop]:
    async with opened(deps) as one:
        yield one


async def subscribe(one: Client, table: str = "notes", **more: Any) -> dict[str, Any]:
    answer = await one.ask("subscribe", "subscribed", table=table, **more)
    assert answer["type"] == "subscribed", answer
    return answer


def brief(changes: list[dict[str, Any]]) -> list[tuple[str, Any]]:
    return [(c["op"], (c["record"] or c["old_record"])["body"]) for c in changes]


async def test_each_hears_of_the_rows_that_they_may_read(shop: Shop) -> None:
    async with (
        shop.socket(shop.key) as service,
        shop.socket(await shop.token(ANN)) as ann,
        shop.socket(await shop.token(BOB)) as bob,
        shop.socket(None) as nobody,
    ):
        for one in (service, ann, bob, nobody):
            assert (await subscribe(one))["events"] == ["DELETE", "INSERT", "UPDATE"]
        row = await shop.add(body="hers", size=1, price="1.50", data={"a": [1]})
        await shop.change(f"id=eq.{row['id']}", body="hers still")
        # Out of her sight, and into his.
        await shop.change(f"id=eq.{row['id']}", owner=BOB, body="his")
        await shop.remove(f"id=eq.{row['id']}")
        for one in (service, ann):
            first = await one.next("change")
            assert (first["op"], first["table"], first["old_record"]) == ("INSERT", "notes", None)
            # As a read shows it.
            assert first["record"] == row
            assert first["timestamp"]
        second = await ann.next("change")
        assert (second["record"]["body"], second["old_record"]["body"]) == ("hers still", "hers")
        assert brief(await service.changes(3)) == [("UPDATE", "hers still"), ("UPDATE", "his"), ("DELETE", "his")]
        moved, gone = await bob.changes(2)
        assert (moved["op"], moved["record"]["body"], moved["old_record"]) == ("UPDATE", "his", None)
        assert (gone["op"], gone["record"], gone["old_record"]["body"]) == ("DELETE", None, "his")
        for one in (ann, nobody):
            await one.silent()


FILTERS = [
    ({"size": 3}, ["c"]),
    ({"size": "3"}, ["c"]),
    ({"size": 3, "done": False}, ["c"]),
    ({"data": None}, ["b", "c"]),
    ({"price": 1.5}, ["a"]),
    ("size=gt.1", ["b", "c"]),
    ("size=gte.2&body=neq.c", ["b"]),
    ("or=(size.eq.1,body.like.c*)", ["a", "c"]),
    ("tags=cs.{x}", ["a"]),
    ("tags=ov.{x,y}", ["a", "b"]),
    ("data->>k=eq.v", ["a"]),
    ("data=not.is.null", ["a"]),
    ("body=in.(a,c)", ["a", "c"]),
    ("body=ilike(any).{A,B}", ["a", "b"]),
    ("body=imatch.^[AB]$", ["a", "b"]),
    ("body=fts.c", ["c"]),
    ("not.and=(size.eq.1,body.eq.a)", ["b", "c"]),
    ("price=lt.2", ["a"]),
]


async def test_filters_mean_what_they_mean_to_the_rest_api(shop: Shop) -> None:
    rows = [
        {"body": "a", "size": 1, "price": "1.50", "tags": ["x"], "data": {"k": "v"}},
        {"body": "b", "size": 2, "price": "2", "tags": ["y", "z"]},
        {"body": "c", "size": 3},
    ]
    async with shop.socket(await shop.token(ANN)) as one:
        for number, (given, _) in enumerate(FILTERS):
            assert (await subscribe(one, id=str(number), filter=given))["filter"] == given
        stored = [await shop.add(**row) for row in rows]
        heard = {c["record"]["body"]: set(c["subscriptions"]) for c in await one.changes(3)}
        for number, (given, bodies) in enumerate(FILTERS):
            assert [body for body, ids in heard.items() if str(number) in ids] == bodies, given
            if isinstance(given, str):
                ids = ",".join(row["id"] for row in stored)
                read = await shop.http.get(f"/v1/{shop.app.id}/notes?{given}&id=in.({ids})&select=body&order=id")
                assert [row["body"] for row in read.json()] == bodies, given
        await one.silent()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"colour": 1}, "notes has no column 'colour'"),
        ({"size": "many"}, "The value for size is not valid"),
        ("size=many", "size:"),
        ("size=eq.many", "The value for size is not valid"),
        ("body=match.(", "The value for body is not valid"),
        ("size=like.1*", "size: like needs a text"),
        ("select=id&size=eq.1", "A filter has conditions alone"),
        ("limit=1", "A filter has conditions alone"),
        ({"body": "\x00"}, "The filter holds a character"),
        ("x" * 5000, "The filter is longer"),
        (7, 'Bad "filter" field'),
    ],
)
async def test_a_filter_that_makes_no_sense_is_refused_and_nothing_is_subscribed(
    shop: Shop, given: Any, said: str
) -> None:
    async with shop.socket(shop.key) as one:
        error = await one.ask("subscribe", "subscribed", table="notes", filter=given)
        assert error["type"] == "error"
        assert error["message"].startswith(said)
        await shop.add(body="unheard")
        await one.silent()


async def test_the_last_subscription_without_a_name_counts_and_named_ones_stand_beside(shop: Shop) -> None:
    async with shop.socket(shop.key) as one:
        await subscribe(one, filter={"body": "first"})
        await subscribe(one, filter={"body": "second"})
        await subscribe(one, id="gone", events=["delete"])
        await shop.add(body="first")
        row = await shop.add(body="second")
        change = await one.next("change")
        assert (change["record"]["body"], "subscriptions" in change) == ("second", False)
        await shop.remove(f"id=eq.{row['id']}")
        assert (await one.next("change"))["subscriptions"] == [None, "gone"]
        assert (await one.ask("unsubscribe", "unsubscribed", table="notes"))["table"] == "notes"
        row = await shop.add(body="second")
        await one.silent()
        await shop.remove(f"id=eq.{row['id']}")
        assert (await one.next("change"))["subscriptions"] == ["gone"]
        await one.ask("unsubscribe", "unsubscribed", table="notes", id="gone")
        await shop.remove("body=eq.first")
        await one.silent()


async def test_a_table_that_is_not_recorded_is_told(shop: Shop) -> None:
    async with shop.socket(shop.key) as one:
        await subscribe(one, "silent")
        warning = await one.next("warning")
        assert (warning["code"], warning["table"]) == ("TABLE_NOT_REALTIME_ENABLED", "silent")
        assert "manage_realtime" in warning["remediation"]


async def test_who_comes_back_gets_what_was_missed_and_nothing_twice(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "GRACE_SECONDS", 0.0)
    token = await shop.token(ANN)
    async with shop.socket(token) as one:
        since = (await subscribe(one))["since"]
        await shop.add(body="0")
        since = (await one.next("change"))["id"]
    # While she is away, and while she comes back.
    for number in range(1, 4):
        await shop.add(body=str(number), size=number)
    await shop.add(body="his", owner=BOB)
    async with shop.socket(token) as one, asyncio.TaskGroup() as group:
        group.create_task(add_some(shop, 4, 30))
        await asyncio.sleep(0.02)
        await subscribe(one, since=since)
        assert [c["record"]["body"] for c in await one.changes(29)] == [str(n) for n in range(1, 30)]
        caught_up = await one.next("replayed")
        await one.silent()
        # It is served with the others by and by, and goes on as before.
        for number in range(30, 60):
            await shop.add(body=str(number))
            await asyncio.sleep(0.05)
        assert [c["record"]["body"] for c in await one.changes(30)] == [str(n) for n in range(30, 60)]
        await one.silent()
    async with shop.socket(token) as one:
        await subscribe(one, since=caught_up["since"], filter={"body": "59"}, events=["INSERT"])
        assert (await one.next("change"))["record"]["body"] == "59"
        assert (await one.next("replayed"))["count"] == 1
        await one.silent()


async def add_some(shop: Shop, first: int, end: int) -> None:
    for number in range(first, end):
        await shop.add(body=str(number))


async def test_since_that_is_none_or_too_old_is_told(shop: Shop) -> None:
    async with shop.socket(shop.key) as one:
        error = await one.ask("subscribe", "subscribed", table="notes", since="yesterday")
        assert error["message"] == "since is not the id of a change."
        since = (await subscribe(one))["since"]
        await shop.add(body="trimmed")
        await one.next("change")
        forgetful = replace(shop.deps, settings=replace(shop.deps.settings, realtime_retention=0))
        for _ in range(3):
            await trim(forgetful, shop.app)
        await shop.add(body="trimmed as well")
        # So the server itself has missed something, and says so to all.
        assert (await one.closed())[0] == 1011
    async with shop.socket(shop.key) as one:
        await one.send("subscribe", table="notes", since=since, ref="old")
        assert (await one.next("subscribed"))["ref"] == "old"
        error = await one.next("error")
        assert (error["code"], error["ref"]) == ("REALTIME_SINCE_EXPIRED", "old")
        # What comes now arrives all the same.
        await one.next("replayed")
        await shop.add(body="after the gap")
        assert (await one.next("change"))["record"]["body"] == "after the gap"


async def test_a_slow_reader_is_let_go_and_the_others_hear_all(shop: Shop) -> None:
    text = "x" * 60_000
    async with shop.socket(shop.key) as good, shop.socket(shop.key) as slow:
        await subscribe(good)
        await subscribe(slow)
        # Nothing more is read from its socket.
        slow.connection.transport.pause_reading()
        drain = asyncio.create_task(good.changes(120))
        for _ in range(12):
            rows = [{"owner": ANN, "body": text} for _ in range(10)]
            response = await shop.http.post(f"/v1/{shop.app.id}/notes?select=id", json=rows)
            assert response.is_success, response.text
        assert len(await drain) == 120
        await good.silent()
        slow.connection.transport.resume_reading()
        code, reason = await slow.closed()
    assert (code, reason) == (4008, "read too slowly; connect again and subscribe with since")
    last = [m for m in slow.heard if m["type"] == "change"][-1]["id"]
    heard = sum(m["type"] == "change" for m in slow.heard)
    assert heard < 120
    async with shop.socket(shop.key) as again:
        await subscribe(again, since=last)
        assert (await again.next("replayed"))["count"] == 120 - heard


async def test_rights_count_at_the_moment_of_delivery(shop: Shop) -> None:
    async with shop.socket(await shop.token(ANN)) as ann, shop.socket(shop.key) as service:
        await subscribe(ann)
        await subscribe(service)
        listed = await shop.mcp("manage_rls", action="list", app_id=shop.app.id)
        for policy in listed["policies"]:
            if policy["tablename"] == "notes" and "bypass" not in policy["policyname"]:
                named = {"table_name": "notes", "policy_name": policy["policyname"]}
                await shop.mcp("manage_rls", action="delete", app_id=shop.app.id, **named, confirm=True)
        await shop.add(body="closed")
        await service.next("change")
        await ann.silent()
        await shop.mcp(
            "manage_rls", action="create_user_isolation", app_id=shop.app.id, table_name="notes", user_column="owner"
        )
        await shop.add(body="open")
        assert (await ann.next("change"))["record"]["body"] == "open"


def test_a_position_has_all_of_an_earlier_one() -> None:
    from brolly.realtime.changes import position_of

    for later, earlier, expected in (
        ("5-10", "3-10", True),
        ("5-12", "3-10", True),
        ("5-9", "3-10", False),
        ("5-12,8", "3-10", False),
        ("5-12,8", "3-10,8", True),
        ("5-12,11", "3-10", True),
    ):
        assert replay.has_all(position_of(later), position_of(earlier)) is expected
