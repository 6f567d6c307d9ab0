"""The conformance suite: who may see, add, change and delete whose rows, through every door, in every situation.

After each attempt the whole table must be what the situation's model says.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest

import tests.isolation.deno_door
import tests.isolation.rest_door
import tests.isolation.routine_doors  # noqa: F401 - adds its doors
from brolly.apps import provision
from brolly.deps import Deps
from brolly.registry import App
from tests.conftest import McpCall, hold_open, make_owner, mcp_session
from tests.isolation.callers import ANYBODY, SERVICE, Who
from tests.isolation.doors import COLUMNS, DOORS, TABLE, Door, Row, Surroundings, Verb
from tests.isolation.situations import SITUATIONS, Situation


@dataclass(frozen=True)
class Ground:
    """The truth about the table, read and set past all policies."""

    around: Surroundings
    situation: Situation
    beside: Any
    """The administrator's own connection: nothing of it is what the doors use."""

    @property
    def rows(self) -> list[Row]:
        """What the table holds before each attempt."""
        a, b = (who.id for who in self.situation.people)
        values = [(1, a, 1, False), (2, a, 2, True), (3, b, 1, False), (4, b, 2, True), (5, None, None, False)]
        return [dict(zip(COLUMNS, (i, owner, f"row {i}", flag, team), strict=True)) for i, owner, team, flag in values]

    async def reset(self) -> None:
        """Put the rows back, if anything has changed them."""
        if await self.read() == self.rows:
            return
        rows = f"jsonb_populate_recordset(null::{TABLE}, $rows${json.dumps(self.rows)}$rows$)"
        await self.beside.execute(f"delete from {TABLE}; insert into {TABLE} select * from {rows}")

    async def settle(self, expected: list[Row], attempt: object) -> None:
        """The table must hold what is expected; then it gets its rows back, if that is not what it had."""
        assert await self.read() == expected, attempt
        if expected != self.rows:
            await self.reset()

    async def read(self) -> list[Row]:
        found = await self.beside.fetchval(f"select coalesce(json_agg(t order by id), '[]') from {TABLE} t")
        return json.loads(found)


async def build(deps: Deps, app: App, mcp: McpCall, situation: Situation) -> None:
    """The tables as the owner makes them, then the situation's calls."""
    async with deps.pools.owner(app) as conn:
        await conn.execute(
            f"create table {TABLE} (id int primary key, owner {situation.owner_type}, body text, "
            "shown boolean, team int);"
            "create table members (team int, user_id uuid);"
        )
        if situation.members:
            await conn.executemany(
                "insert into members values ($1, $2::uuid)",
                [(team, who.id) for team, who in enumerate(situation.people, 1)],
            )
    await deps.catalog.changed(app)
    for table, calls in (("members", situation.members), (TABLE, situation.calls)):
        for call in calls:
            await mcp("manage_rls", app_id=app.id, table_name=table, **call)


@pytest.fixture(scope="module")
async def ground(deps: Deps, request: pytest.FixtureRequest) -> AsyncIterator[Ground]:
    """An app in the situation, shared by all doors and verbs."""
    owner, _ = await make_owner(deps)
    assert owner.account_id is not None
    app_id, _ = await provision.create(deps, owner.account_id, "isolation", "self-hosted")
    app = await deps.registry.get(owner, app_id)
    mcp, close = await hold_open(mcp_session(deps, owner))
    await build(deps, app, mcp, request.param)
    beside: Any = await asyncpg.connect(**deps.databases.server.connect_args(database=app.db_name))
    yield Ground(Surroundings(deps, app, owner, mcp), request.param, beside)
    await beside.close()
    await close()
    await provision.delete(deps, app)


@pytest.fixture
async def door(ground: Ground, request: pytest.FixtureRequest) -> Door:
    return DOORS[request.param](ground.around)


every_situation = pytest.mark.parametrize("ground", SITUATIONS, indirect=True, ids=lambda s: s.name)


def every_door(verb: Verb) -> pytest.MarkDecorator:
    """The doors that offer the verb."""
    return pytest.mark.parametrize("door", [name for name, d in DOORS.items() if verb in d.verbs], indirect=True)


def everyone(ground: Ground) -> list[Who]:
    return [*ground.situation.people, ANYBODY, SERVICE]


def in_order(rows: list[Row]) -> list[Row]:
    """The rows by id; a driver's own types, such as UUID, as text."""
    plain = [{k: v if v is None or isinstance(v, bool | int) else str(v) for k, v in r.items()} for r in rows]
    return sorted(plain, key=lambda r: r["id"])


@every_situation
@every_door("read")
async def test_reads(ground: Ground, door: Door) -> None:
    await ground.reset()
    for who in everyone(ground):
        expected = [row for row in ground.rows if ground.situation.may_see(who, row)]
        assert in_order(await door.read(who)) == expected, who


def new_rows(ground: Ground) -> Iterator[Row]:
    """Rows that a caller may try to add: in everybody's name, shown or not, in each team."""
    for owner in (*(who.id for who in ground.situation.people), None):
        for shown in (True, False):
            for team in (1, 2):
                yield {"id": 9, "owner": owner, "body": "new", "shown": shown, "team": team}


@every_situation
@every_door("insert")
async def test_inserts(ground: Ground, door: Door) -> None:
    await ground.reset()
    for who in everyone(ground):
        for row in new_rows(ground):
            stored = ground.situation.after_insert(who, row)
            assert await door.insert(who, row) is (stored is not None), (who, row)
            await ground.settle([*ground.rows, *([stored] if stored else [])], (who, row))


@every_situation
@every_door("update")
async def test_updates(ground: Ground, door: Door) -> None:
    a, b = (who.id for who in ground.situation.people)
    tries: list[Row] = [{"body": "changed"}, {"owner": a}, {"owner": b}, {"owner": None}, {"shown": True}, {"team": 1}]
    await ground.reset()
    for who in everyone(ground):
        for row in ground.rows:
            for values in tries:
                new = ground.situation.after_update(who, row, values)
                assert await door.update(who, row["id"], values) is (new is not None), (who, row, values)
                expected = [new if new and r["id"] == row["id"] else r for r in ground.rows]
                await ground.settle(expected, (who, row, values))


@every_situation
@every_door("delete")
async def test_deletes(ground: Ground, door: Door) -> None:
    await ground.reset()
    for who in everyone(ground):
        for row in ground.rows:
            gone = ground.situation.may_delete(who, row)
            assert await door.delete(who, row["id"]) is gone, (who, row)
            await ground.settle([r for r in ground.rows if not (gone and r["id"] == row["id"])], (who, row))
