"""Each hears exactly what a SELECT would have shown: in every situation of the isolation suite, and at its edges."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from brolly.apps import provision
from brolly.core.caller import Caller
from brolly.deps import Deps
from brolly.pg.session import as_caller
from brolly.realtime.changes import Change, Sight, identity_of
from brolly.realtime.feed import feed_of
from brolly.realtime.visibility import visible
from brolly.registry import App
from tests.conftest import make_owner, mcp_session
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
