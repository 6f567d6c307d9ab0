"""Each hears exactly what a SELECT would have shown: in every situation of the isolation suite, and at its edges."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from brolly.apps import provision
from brolly.core.caller import Caller
from brolly.deps import Deps
from brolly.pg.session import as_caller
from brolly.realtime.changes import Change, Identity, Sight, identity_of
from brolly.realtime.feed import feed_of
from brolly.realtime.visibility import visible
from brolly.registry import App
from tests.conftest import McpCall, hold_open, make_owner, mcp_session
from tests.isolation.callers import ANYBODY, SERVICE, Who
from tests.isolation.doors import COLUMNS, TABLE, Row
from tests.isolation.situations import SITUATIONS, Situation
from tests.isolation.test_isolation import build


async def changes_of(deps: Deps, app: App, owner: Caller, table: str, *statements: str) -> list[Change]:
    """What the statements, each in a transaction of the service role's, leave in the feed."""
    feed = feed_of(deps)
    before = await feed.position(app)
    for statement in statements:
        async with as_caller(deps.pools.door(app), owner) as connection:
            await connection.execute(statement)
    return list((await feed.replay(app, before, [table])).changes)


def rows_of(situation: Situation) -> Iterator[Row]:
    a, b = (who.id for who in situation.people)
    number = 0
    for owner in (a, b, None):
        for team in (1, 2):
            for flag in (False, True):
                number += 1
                yield dict(zip(COLUMNS, (number, owner, f"row {number}", flag, team), strict=True))


def record_of(text: str | None) -> Row | None:
    return None if text is None else json.loads(text)


@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda s: s.name)
async def test_each_hears_what_a_select_would_show(deps: Deps, situation: Situation) -> None:
    owner, _ = await make_owner(deps)
    app_id, _ = await provision.create(deps, str(owner.account_id), "heard", "self-hosted")
    app = await deps.registry.get(owner, app_id)
    async with mcp_session(deps, owner) as mcp:
        await build(deps, app, mcp, situation)
        await mcp("manage_realtime", action="configure", app_id=app.id, tables=[TABLE])
    rows = list(rows_of(situation))
    source = f"json_populate_recordset(null::{TABLE}, $rows${json.dumps(rows)}$rows$)"
    # Each row comes, goes to the other owner and team, or is shown or hidden, and is deleted.
    moved = f"update {TABLE} set owner = o.owner, shown = not {TABLE}.shown, team = 3 - {TABLE}.team from {TABLE} o"
    found = await changes_of(
        deps, app, owner, TABLE,
        f"insert into {TABLE} select * from {source}",
        f"{moved} where o.id = {TABLE}.id % {len(rows)} + 1",
        f"delete from {TABLE}",
    )  # fmt: skip
    assert [c.operation for c in found] == [op for op in ("INSERT", "UPDATE", "DELETE") for _ in rows]
    everyone = {identity_of(who.as_caller(owner)): who for who in (*situation.people, ANYBODY, SERVICE)}
    seen = await visible(deps, app, TABLE, found, everyone)
    for identity, who in everyone.items():
        for change, sight in zip(found, seen[identity], strict=True):
            assert sight == expected(situation, who, change), (who, change)
    await provision.delete(deps, app)


def expected(situation: Situation, who: Who, change: Change) -> Sight | None:
    new, old = record_of(change.image), record_of(change.old_image)
    sees_new = new is not None and situation.may_see(who, new)
    sees_old = old is not None and situation.may_see(who, old)
    if not (sees_old if change.operation == "DELETE" else sees_new):
        return None
    return Sight(change.image if sees_new else None, change.old_image if sees_old else None)


@pytest.fixture(scope="module")
async def desk(deps: Deps) -> AsyncIterator[tuple[Caller, App, McpCall]]:
    """An app for the edges."""
    owner, _ = await make_owner(deps)
    app_id, _ = await provision.create(deps, str(owner.account_id), "edges", "self-hosted")
    app = await deps.registry.get(owner, app_id)
    call, close = await hold_open(mcp_session(deps, owner))
    yield owner, app, call
    await close()
    await provision.delete(deps, app)


Desk = tuple[Caller, App, McpCall]
A, B = (Identity("user", f"{letter * 8}-0000-4000-8000-000000000000", "{}") for letter in "ab")
ANON, KEY = Identity("anonymous"), Identity("service")


async def make(deps: Deps, desk: Desk, name: str, structure: str, *policies: dict[str, Any]) -> None:
    """A table as the owner makes it, under the policies, and recorded."""
    _, app, mcp = desk
    async with deps.pools.owner(app) as conn:
        await conn.execute(structure)
    await deps.catalog.changed(app)
    for policy in policies:
        await mcp("manage_rls", app_id=app.id, action="create_policy", table_name=name, **policy)
    await mcp("manage_realtime", app_id=app.id, action="configure", tables=[name])


async def structure(deps: Deps, app: App, *statements: str) -> None:
    async with deps.pools.owner(app) as conn:
        for statement in statements:
            await conn.execute(statement)


READ_ALL = {"policy_name": "all", "command": "SELECT", "using_expression": "true"}


async def test_values_look_as_in_the_rest_api(deps: Deps, desk: Desk) -> None:
    owner, app, mcp = desk
    await make(
        deps,
        desk,
        "kinds",
        "create type mood as enum ('glad', 'sad'); create table kinds (id bigint primary key, "
        "exact numeric, small float8, bytes bytea, plain json, tidy jsonb, at timestamptz, times timestamptz[], "
        "day date, span tstzrange, pause interval, names text[], grid int[][], feeling mood, moods mood[], "
        'fixed char(5), bits bit(3), "Odd ""name" text, image text, place int, n int, sums bigint[], '
        "doubled numeric generated always as (exact * 2) stored, later int generated always as (place + 1) virtual)",
        READ_ALL,
    )
    rows = (
        "(9007199254740993, 1234567890.12345678901234567890, 0.1, '\\x00ff', '{\"b\": 1,  \"a\": 1.50}', "
        "'{\"a\": 1.50}', '2026-01-02 03:04:05.678901+02', '{2026-01-02 03:04:05+00,null}', '0044-03-15 BC', "
        "'[2026-01-01,infinity)', '1 mon -2 days 03:04:05.5', '{\"a,b\",null,\"\"}', '{{1,2},{3,4}}', 'sad', '{glad}', "
        "'ab', '101', 'quote\"d', 'i', 3, 4, '{9007199254740993}')",
        "(2, 'NaN', 'Infinity', null, null, 'null', 'infinity', null, '-infinity', 'empty', null, '{}', null, null, "
        "null, null, null, null, null, null, null, null)",
    )
    # The session that writes has strange settings, and what is recorded must not depend on them.
    found = await changes_of(
        deps, app, owner, "kinds",
        "set local datestyle = 'German'; set local intervalstyle = 'sql_standard'; set local bytea_output = 'escape'; "
        "set local extra_float_digits = -15; set local timezone = 'Asia/Tokyo'; "
        f"insert into kinds values {', '.join(rows)}",
    )  # fmt: skip
    seen = (await visible(deps, app, "kinds", found, [A]))[A]
    answer = await mcp("select_rows", app_id=app.id, table="kinds", order="id.desc", as_role="user", as_user=A.user_id)
    assert [json.loads(sight.record or "") for sight in seen if sight] == answer["rows"]
    assert len(found) == len(answer["rows"]) == 2


async def test_columns_that_a_role_may_not_read(deps: Deps, desk: Desk) -> None:
    owner, app, _ = desk
    await make(deps, desk, "people", "create table people (id int primary key, name text, salary int)", READ_ALL)
    await structure(
        deps, app,
        "revoke select on people from butterbase_user, butterbase_anon",
        "grant select (id, name) on people to butterbase_user",
    )  # fmt: skip
    found = await changes_of(
        deps, app, owner, "people", "insert into people values (1, 'Ann', 10)", "update people set salary = 20"
    )
    seen = await visible(deps, app, "people", found, [A, ANON, KEY])
    assert [sight and sight.record for sight in seen[A]] == ['{"id":1,"name":"Ann"}'] * 2
    assert seen[ANON] == [None, None]
    assert seen[KEY][1] == Sight('{"id":1,"name":"Ann","salary":20}', '{"id":1,"name":"Ann","salary":10}')
    # A column that came to be, and one that is gone, after the change was recorded.
    await structure(deps, app, "alter table people drop column name", "alter table people add column age int")
    seen = await visible(deps, app, "people", found, [A, KEY])
    assert [sight and sight.record for sight in seen[KEY]] == [
        '{"id":1,"salary":10,"age":null}', '{"id":1,"salary":20,"age":null}',
    ]  # fmt: skip
    assert [sight and sight.record for sight in seen[A]] == ['{"id":1}'] * 2
    # A value that the column's type does not take any more takes no other row along.
    more = await changes_of(deps, app, owner, "people", "insert into people values (99999, 1, 1)", "delete from people")
    await structure(deps, app, "alter table people alter column id type smallint")
    seen = await visible(deps, app, "people", [*more, *found], [KEY])
    assert [sight is not None for sight in seen[KEY]] == [False, True, False, True, True]
    await structure(deps, app, "drop table people")
    assert (await visible(deps, app, "people", found, [KEY]))[KEY] == [None, None]


async def test_a_policy_that_fails_lets_nothing_through_and_says_so_once(
    deps: Deps, desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    owner, app, _ = desk
    risky = {"policy_name": "risky", "command": "SELECT", "role": "user", "using_expression": "10 / divisor > 1"}
    await make(
        deps, desk, "parts", "create table parts (id int primary key, divisor int)", risky,
        {"policy_name": "public", "command": "SELECT", "role": "anon", "using_expression": "id > 0"},
    )  # fmt: skip
    found = await changes_of(deps, app, owner, "parts", "insert into parts values (1, 2), (2, 0), (3, 100)")
    for _ in range(3):
        seen = await visible(deps, app, "parts", found, [A, B, ANON, KEY])
        assert [sight is not None for sight in seen[A]] == [True, False, False]
        assert seen[A] == seen[B]
        assert None not in (*seen[ANON], *seen[KEY])
    assert [r.getMessage() for r in caplog.records if "parts" in r.getMessage()] == [
        f"app {app.id}: changes of parts are not delivered: a policy fails for butterbase_user: division by zero"
    ]


async def test_a_policy_that_takes_too_long_holds_nobody_up_for_long(
    deps: Deps, desk: Desk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    owner, app, _ = desk
    monkeypatch.setattr("brolly.realtime.visibility.TIMEOUT_MS", 100)
    await make(deps, desk, "slow", "create table slow (id int primary key)", READ_ALL)
    await structure(
        deps, app,
        "create function nap() returns boolean language sql volatile as 'select pg_sleep(30) is not null'",
        "alter policy \"all\" on slow using (current_user_id() is null or nap())",
    )  # fmt: skip
    found = await changes_of(deps, app, owner, "slow", "insert into slow values (1), (2)")
    seen = await visible(deps, app, "slow", found, [A, B, ANON])
    assert seen[A] == seen[B] == [None, None]
    assert None not in seen[ANON]
    assert any("longer than 100 ms" in r.getMessage() for r in caplog.records)


async def test_rights_are_those_of_the_moment_of_delivery(deps: Deps, desk: Desk) -> None:
    owner, app, mcp = desk
    await structure(deps, app, "create table teams (team int, user_id uuid)")
    member = {
        "policy_name": "member", "command": "SELECT", "role": "user",
        "using_expression": "exists (select 1 from teams t where t.team = tasks.team "
        "and t.user_id = (select current_user_id()::uuid))",
    }  # fmt: skip
    await deps.catalog.changed(app)
    await mcp("manage_rls", app_id=app.id, action="create_user_isolation", table_name="teams", user_column="user_id")
    await make(deps, desk, "tasks", "create table tasks (id int primary key, team int)", member)
    found = await changes_of(
        deps, app, owner, "tasks",
        f"insert into teams values (1, '{A.user_id}'), (2, '{B.user_id}')",
        "insert into tasks values (1, 1), (2, 2)",
    )  # fmt: skip

    async def heard() -> list[list[bool]]:
        seen = await visible(deps, app, "tasks", found, [A, B])
        return [[sight is not None for sight in seen[who]] for who in (A, B)]

    # One sub-select for all rows of a caller, and never another caller's.
    assert await heard() == [[True, False], [False, True]]
    await changes_of(deps, app, owner, "tasks", f"delete from teams where user_id = '{A.user_id}'")
    assert await heard() == [[False, False], [False, True]]
    # What the policy reads is called otherwise, and something else stands under its name.
    await structure(
        deps, app, "alter table teams rename to squads", "create table teams (team int, user_id uuid)",
        f"insert into teams values (1, '{A.user_id}')",
    )  # fmt: skip
    assert await heard() == [[False, False], [False, True]]
    # A policy that nobody announced.
    await structure(deps, app, "alter policy member on tasks using (team = 1)")
    assert await heard() == [[True, False], [True, False]]
    await structure(deps, app, "drop policy member on tasks")
    assert await heard() == [[False, False], [False, False]]


async def test_claims_tell_connections_of_one_user_apart_where_a_policy_reads_them(deps: Deps, desk: Desk) -> None:
    owner, app, _ = desk
    expression = "org = (nullif(current_setting('request.jwt.claims', true), '')::json ->> 'org')"
    await make(
        deps, desk, "notes", "create table notes (id int primary key, org text, later text "
        "generated always as (org || '!') virtual)",
        {"policy_name": "org", "command": "SELECT", "role": "user", "using_expression": "later = 'x!'"},
    )  # fmt: skip
    found = await changes_of(deps, app, owner, "notes", "insert into notes values (1, 'x'), (2, 'y')")
    mine = [Identity("user", A.user_id, json.dumps({"org": org})) for org in ("x", "y")]
    seen = await visible(deps, app, "notes", found, mine)
    assert [[sight is not None for sight in seen[who]] for who in mine] == [[True, False]] * 2
    await structure(deps, app, f"alter policy org on notes using ({expression})")
    await deps.catalog.changed(app)
    seen = await visible(deps, app, "notes", found, mine)
    assert [[sight is not None for sight in seen[who]] for who in mine] == [[True, False], [False, True]]
