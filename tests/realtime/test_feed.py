"""Every change once: whatever the order of the commits, and whatever happens to the connections."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anyio
import asyncpg
import pytest

from brolly.core.caller import Caller
from brolly.core.errors import AppError
from brolly.deps import Deps
from brolly.realtime import attention
from brolly.realtime.changes import Change, position_of
from brolly.realtime.feed import Feed, Subscription
from brolly.realtime.reading import read_changes
from brolly.realtime.worker import trim
from brolly.registry import App
from tests.conftest import McpCall

Shop = tuple[Caller, App, McpCall]
Connect = Callable[[], Awaitable[Any]]


@pytest.fixture(scope="module")
async def posts(shop: Shop) -> Shop:
    _, app, mcp = shop
    columns = {"id": {"type": "integer", "primaryKey": True}, "title": {"type": "text"}}
    await mcp("manage_schema", action="apply", app_id=app.id, schema={"tables": {"posts": {"columns": columns}}})
    await mcp("manage_realtime", action="configure", app_id=app.id, tables=["posts"])
    return shop


@pytest.fixture
async def connect(deps: Deps, posts: Shop) -> AsyncIterator[Connect]:
    """Opens connections to the app's database that are no business of the server's."""
    opened: list[Any] = []

    async def one() -> Any:
        opened.append(await asyncpg.connect(**deps.databases.server.connect_args(database=posts[1].db_name)))
        return opened[-1]

    yield one
    for connection in opened:
        await connection.close()


async def take(subscription: Subscription, count: int) -> list[Change]:
    found: list[Change] = []
    with anyio.fail_after(20):
        while len(found) < count:
            found += (await subscription.batches.receive()).changes
    return found


def titles(changes: list[Change]) -> list[str]:
    return [json.loads(change.image or "{}")["title"] for change in changes]


INSERT = "insert into posts select coalesce(max(id), 0) + $2, $1 from posts"


async def test_commits_in_another_order_than_the_numbers(deps: Deps, feed: Feed, posts: Shop, connect: Connect) -> None:
    _, app, _ = posts
    slow, fast = await connect(), await connect()
    async with feed.subscribe(app) as subscription:
        transaction = slow.transaction()
        await transaction.start()
        await slow.execute(INSERT, "numbered first", 1)
        await fast.execute(INSERT, "numbered second", 2)
        # An open transaction holds up nobody else's changes.
        (first,) = await take(subscription, 1)
        await transaction.commit()
        (second,) = await take(subscription, 1)
    assert titles([first, second]) == ["numbered second", "numbered first"]
    assert second.id < first.id
    # Who left after the first misses the second, though its number is lower; and gets nothing twice.
    replay = await feed.replay(app, position_of(first.token), ["posts"])
    assert titles(list(replay.changes)) == ["numbered first"]
    assert (await feed.replay(app, position_of(second.token), ["posts"])).changes == ()
    assert replay.position.covers(first)
    assert replay.position.covers(second)


async def test_an_update_of_many_rows_pairs_each_with_what_it_was(feed: Feed, posts: Shop, connect: Connect) -> None:
    _, app, _ = posts
    writer = await connect()
    await writer.execute("insert into posts select 5000 + n, n::text from generate_series(1, 300) n")
    at = await feed.position(app)
    # Every key changes, to another row's former one, and not in the order of the keys.
    await writer.execute(
        "update posts p set id = o.id + 300 from (select id from posts where id > 5000 order by md5(title)) o "
        "where o.id = p.id and p.id > 5000"
    )
    changes = (await feed.replay(app, at, ["posts"])).changes
    assert len(changes) == 300
    for change in changes:
        new, old = json.loads(change.image or ""), json.loads(change.old_image or "")
        assert new == {"id": old["id"] + 300, "title": old["title"]}


async def test_one_change_at_a_time_by_since(feed: Feed, posts: Shop, connect: Connect) -> None:
    _, app, _ = posts
    writer, other = await connect(), await connect()
    at = await feed.position(app)
    async with writer.transaction():
        await writer.execute(INSERT, "a", 1)
        await other.execute(INSERT, "b", 2)
        await writer.execute(INSERT, "c", 3)
    await other.execute("update posts set title = title || '!' where title in ('a', 'b', 'c')")
    seen: list[str] = []
    while True:
        replay = await feed.replay(app, at, ["posts"], limit=1)
        if not replay.changes:
            break
        seen += titles(list(replay.changes))
        # The token alone is what a client keeps.
        at = position_of(replay.changes[-1].token)
    assert seen == ["a", "b", "c", "a!", "b!", "c!"]


async def test_listeners_are_killed_and_nothing_is_lost_or_repeated(
    deps: Deps, feed: Feed, posts: Shop, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, app, _ = posts
    monkeypatch.setattr(attention, "_POLLED_SECONDS", 0.2)  # so that busy times begin and end
    chance = random.Random(7)
    expected: set[str] = set()
    admin = await connect()
    await admin.execute("create sequence if not exists numbers start 1000")
    connections = [await connect() for _ in range(6)]
    heard: list[Change] = []
    # Another server's feed: each hears everything, though one tells writers not to wake the other.
    second = Feed(deps)
    async with second.opened(), feed.subscribe(app) as subscription, second.subscribe(app) as other:
        async with anyio.create_task_group() as group:
            group.start_soon(kill, admin, app)
            for name, connection in enumerate(connections):
                group.start_soon(write, connection, name, chance, expected)
        heard += await take(subscription, len(expected))
        there = await take(other, len(expected))
        with anyio.move_on_after(0.3):
            heard += (await subscription.batches.receive()).changes
    assert sorted(titles(heard)) == sorted(titles(there)) == sorted(expected)
    # And from any of them on, exactly what came after it.
    for place in chance.sample(range(len(heard)), 25):
        replay = await feed.replay(app, position_of(heard[place].token), ["posts"], limit=10_000)
        assert sorted(c.id for c in replay.changes) == sorted(c.id for c in heard[place + 1 :]), place


async def write(connection: Any, name: int, chance: random.Random, expected: set[str]) -> None:
    """Transactions of some rows each, of which some are rolled back; they overlap with those of others."""
    for number in range(40):
        transaction = connection.transaction()
        await transaction.start()
        labels = [f"{name}/{number}/{part}" for part in range(chance.randint(1, 3))]
        for label in labels:
            await connection.execute("insert into posts select nextval('numbers'), $1", label)
        await anyio.sleep(chance.choice((0, 0, 0.001, 0.01, 0.05)))
        if chance.random() < 0.85:
            await transaction.commit()
            expected.update(labels)
        else:
            await transaction.rollback()
        await anyio.sleep(chance.choice((0, 0, 0.02, 0.1)))


async def kill(admin: Any, app: App) -> None:
    """End the feed's connections, again and again."""
    for _ in range(12):
        await anyio.sleep(0.12)
        await admin.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where usename = $1 and datname = $2",
            f"{app.id}_api",
            app.db_name,
        )


async def test_what_was_kept_for_its_time_is_trimmed_and_said(
    deps: Deps, feed: Feed, posts: Shop, connect: Connect
) -> None:
    _, app, _ = posts
    writer, slow = await connect(), await connect()
    before = await feed.position(app)
    transaction = slow.transaction()
    await transaction.start()
    await slow.execute(INSERT, "slow", 1)
    await writer.execute(INSERT, "old", 2)
    await trim(deps, app)
    await writer.execute("update realtime.marks set taken_at = taken_at - interval '301 s'")
    await transaction.commit()
    after = await feed.position(app)
    await trim(deps, app)
    # Only now could "slow" be seen, so it is there for its time, though it was written when "old" was.
    assert [row["title"] for row in await writer.fetch("select image->>'title' as title from realtime.changes")] == [
        "slow"
    ]
    assert (await feed.replay(app, after, ["posts"])).changes == ()
    with pytest.raises(AppError) as expired:
        await feed.replay(app, before, ["posts"])
    assert expired.value.code == "REALTIME_SINCE_EXPIRED"
    assert (await read_changes(deps, app, before, 10)).lost


@pytest.mark.parametrize("token", ["", "1", "1-", "x-1", "1-2-3-4", "1-2,", "1-2,x", "-1-2", "9" * 30 + "-1"])
def test_a_token_that_is_none(token: str) -> None:
    with pytest.raises(AppError) as wrong:
        position_of(token)
    assert wrong.value.code == "VALIDATION_INVALID_SCHEMA"


async def test_a_token_from_the_future_is_of_another_database(feed: Feed, posts: Shop) -> None:
    with pytest.raises(AppError) as expired:
        await feed.replay(posts[1], position_of("1-99999999999"), ["posts"])
    assert expired.value.code == "REALTIME_SINCE_EXPIRED"
