"""Enumerated types as the catalog has them."""

from __future__ import annotations

from brolly.deps import Deps
from brolly.registry import App


async def test_enumerations_are_found_by_the_oid_of_their_columns(deps: Deps, app: App) -> None:
    async with deps.pools.owner(app) as conn:
        await conn.execute(
            """create type mood as enum ('sad', 'it''s "fine"', 'happy');
            create domain good as mood check (value <> 'sad');
            create table days (id int primary key, m mood, all_of mood[], g good)"""
        )
    await deps.catalog.changed(app)
    snapshot = await deps.catalog.get(app)
    columns = snapshot.tables["days"].columns
    mood = snapshot.enums[columns["m"].base_oid]
    assert (mood.name, mood.values) == ("mood", ("sad", 'it\'s "fine"', "happy"))
    assert snapshot.enums[columns["all_of"].element_oid] == mood
    assert snapshot.enums[columns["g"].base_oid] == mood
