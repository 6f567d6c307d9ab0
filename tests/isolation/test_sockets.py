"""Each socket tells of exactly the changes that a SELECT would have shown its caller, by whichever door they came."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from brolly.auth.signing import sign
from tests.isolation.callers import SERVICE, Who
from tests.isolation.doors import DOORS, TABLE, Row, Surroundings
from tests.isolation.situations import SITUATIONS, Situation
from tests.isolation.test_isolation import Ground, everyone, ground  # noqa: F401 - a fixture
from tests.realtime.sockets import Client, admitted, serving

THOROUGH = ("owner", "isolation", "user_isolation", "membership", "anonymous_reads")
"""Situations in which every door writes; in the others plain statements do."""

Expected = tuple[str, Row | None, Row | None]


async def token_of(around: Surroundings, who: Who, key: str) -> str | None:
    if who.is_service:
        return key
    claims = {"sub": who.id, "role": "authenticated", "app_id": around.app.id}
    return await sign(around.deps, around.app, claims, 900) if who.id else None


@pytest.fixture
async def listeners(ground: Ground) -> AsyncIterator[dict[Who, Client]]:  # noqa: F811
    """A socket of everyone, subscribed to the table."""
    from tests.conftest import make_owner

    around = ground.around
    await around.mcp("manage_realtime", action="configure", app_id=around.app.id, tables=[TABLE])
    await ground.reset()
    _, key = await make_owner(around.deps, account=around.owner.account_id)
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(serving(around.deps))
        found: dict[Who, Client] = {}
        for who in everyone(ground):
            token = await token_of(around, who, key)
            found[who] = await stack.enter_async_context(admitted(url, around.app.id, token))
            await found[who].ask("subscribe", "subscribed", table=TABLE)
        yield found


def story(situation: Situation) -> list[Row]:
    """What becomes of one row: it passes from one to the other, is hidden, shown, and nobody's."""
    a, b = (who.id for who in situation.people)
    steps = [(a, True, 1), (a, False, 1), (b, False, 2), (b, True, 2), (None, True, None), (a, False, 2)]
    return [{"id": 9, "owner": o, "body": f"step {n}", "shown": s, "team": t} for n, (o, s, t) in enumerate(steps)]


def heard_by(situation: Situation, who: Who, rows: list[Row]) -> list[Expected]:
    def sees(row: Row) -> bool:
        return who.is_service or situation.may_see(who, row)

    found: list[Expected] = [("INSERT", rows[0], None)] if sees(rows[0]) else []
    for old, new in itertools.pairwise(rows):
        if sees(new):
            found.append(("UPDATE", new, old if sees(old) else None))
    if sees(rows[-1]):
        found.append(("DELETE", None, rows[-1]))
    return found


def doors_for(situation: Situation) -> list[str]:
    writing = [name for name, door in DOORS.items() if {"insert", "update", "delete"} & door.verbs]
    return writing if situation.name in THOROUGH else ["sql"]


async def write(around: Surroundings, name: str, rows: list[Row]) -> None:
    """The story through that door; what it does not offer, by plain statements."""
    plain, door = DOORS["sql"](around), DOORS[name](around)

    def able(verb: Any) -> Any:
        return getattr(door if verb in door.verbs else plain, verb)

    assert await able("insert")(SERVICE, rows[0])
    for row in rows[1:]:
        assert await able("update")(SERVICE, 9, {k: v for k, v in row.items() if k != "id"})
    assert await able("delete")(SERVICE, 9)


def shown(change: dict[str, Any]) -> Expected:
    return change["op"], change["record"], change["old_record"]


@pytest.mark.parametrize("ground", SITUATIONS, indirect=True, ids=lambda s: s.name)
async def test_each_hears_what_they_could_read(ground: Ground, listeners: dict[Who, Client]) -> None:  # noqa: F811
    situation, rows = ground.situation, story(ground.situation)
    for door in doors_for(situation):
        await write(ground.around, door, rows)
        for who in (SERVICE, *(w for w in listeners if w is not SERVICE)):
            expected = heard_by(situation, who, rows)
            assert [shown(c) for c in await listeners[who].changes(len(expected))] == expected, (door, who)
        for one in listeners.values():
            await one.silent()
