"""Migrations are numbered without gaps, applied once, never edited, and never run backwards."""

from __future__ import annotations

import re
from importlib import resources

import asyncpg
import pytest

from brolly.core.errors import AppError
from brolly.deps import Deps
from brolly.pg.migrate import Kind, latest, migrate, migrations
from scripts.schemas import describe_database, scratch_database

KINDS: tuple[Kind, ...] = ("control", "app")


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_have_neither_gaps_nor_doubles(kind: Kind) -> None:
    folder = resources.files("brolly") / "migrations" / kind
    names = sorted(entry.name for entry in folder.iterdir())
    assert [m.version for m in migrations(kind)] == list(range(1, len(names) + 1))
    for name in names:
        assert re.fullmatch(r"\d{4}_[a-z0-9]+_[a-z0-9_]+\.sql", name), f"{name} is not NNNN_slice_what.sql"


@pytest.mark.parametrize("kind", KINDS)
async def test_applying_twice_changes_nothing(deps: Deps, kind: Kind) -> None:
    async with scratch_database(deps) as connection:
        assert await migrate(connection, kind) == [m.name for m in migrations(kind)]
        first = await describe_database(connection)
        rows = await connection.fetch("select * from brolly.applied_migrations order by version")
        assert await migrate(connection, kind) == []
        assert await describe_database(connection) == first
        assert await connection.fetch("select * from brolly.applied_migrations order by version") == rows


@pytest.mark.parametrize("kind", KINDS)
async def test_an_edited_migration_is_refused(deps: Deps, kind: Kind) -> None:
    async with scratch_database(deps) as connection:
        await migrate(connection, kind)
        await connection.execute("update brolly.applied_migrations set checksum = 'other' where version = 1")
        with pytest.raises(AppError) as refused:
            await migrate(connection, kind)
        assert refused.value.code == "CONFIG_INVALID"
        assert migrations(kind)[0].name in refused.value.message


@pytest.mark.parametrize("kind", KINDS)
async def test_a_newer_database_is_refused_and_left_alone(deps: Deps, kind: Kind) -> None:
    async with scratch_database(deps) as connection:
        await migrate(connection, kind)
        await connection.execute(
            "insert into brolly.applied_migrations (version, name, checksum) values ($1, 'later', 'x')",
            latest(kind) + 1,
        )
        first = await describe_database(connection)
        with pytest.raises(AppError) as refused:
            await migrate(connection, kind)
        assert refused.value.code == "CONFIG_INVALID"
        assert "newer" in refused.value.remediation
        assert await describe_database(connection) == first


@pytest.mark.parametrize("kind", KINDS)
async def test_a_migration_that_fails_leaves_nothing(deps: Deps, kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    from brolly.pg import migrate as module

    good = migrations(kind)
    bad = module.Migration(len(good) + 1, f"{len(good) + 1:04}_test_bad.sql", "create table brolly.half (); select 1/0")
    async with scratch_database(deps) as connection:
        await migrate(connection, kind)
        first = await describe_database(connection)
        monkeypatch.setattr(module, "migrations", lambda _kind: (*good, bad))
        with pytest.raises(asyncpg.DivisionByZeroError):
            await migrate(connection, kind)
        assert await describe_database(connection) == first
