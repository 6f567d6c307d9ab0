"""Brolly on a Postgres of the operator's, with a login that is no superuser."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

import asyncpg
import pytest

from brolly.app import open_deps
from brolly.apps import provision
from brolly.core.errors import AppError
from brolly.core.settings import Settings, load_settings
from brolly.pg.embedded import embedded_postgres, remove_data_folder
from brolly.pg.session import as_caller
from tests.conftest import hold_open, make_owner

SECRET = "a secret of at least thirty-two characters"


@pytest.fixture(scope="module")
async def dsn() -> AsyncIterator[str]:
    """A cluster, and in it a login that may create databases and roles and nothing else."""
    home = Path(tempfile.mkdtemp(prefix="brolly-test-"))
    cluster, close = await hold_open(embedded_postgres(home, "password"))
    server = cluster.server
    admin = await asyncpg.connect(**server.connect_args())
    await admin.execute("create role operator login createdb createrole password 'p w'")
    await admin.execute("create database installation owner operator")
    await admin.close()
    for database in ("template1", "installation"):
        inside = await asyncpg.connect(**server.connect_args(database=database))
        await inside.execute("create extension vector")
        await inside.close()
    yield f"postgresql://operator:{quote('p w')}@/installation?host={quote(server.host)}&port={server.port}"
    await close()
    remove_data_folder(home)


@pytest.fixture
def settings(dsn: str, tmp_path: Path) -> Settings:
    return load_settings({}, home=tmp_path, database_url=dsn, secret=SECRET)


async def test_apps_are_made_served_and_removed(settings: Settings) -> None:
    deps, close = await hold_open(open_deps(settings))
    try:
        owner, _ = await make_owner(deps)
        app_id, created = await provision.create(deps, str(owner.account_id), "external", "self-hosted")
        assert created
        app = await deps.registry.get(owner, app_id)
        async with deps.pools.owner(app) as connection:
            await connection.execute("create table public.things (id int primary key, place vector(3))")
        async with as_caller(deps.pools.door(app), owner) as connection:
            await connection.execute("insert into things values (1, '[1,2,3]')")
            assert await connection.fetchval("select count(*) from things") == 1
        # Somebody is still connected when it goes.
        async with deps.pools.reader(app):
            await provision.delete(deps, app)
        assert await deps.control.fetchval("select count(*) from pg_database where datname = $1", app_id) == 0
    finally:
        await close()
    assert not (settings.home / "postgres").exists()


async def test_another_secret_is_refused(settings: Settings, dsn: str, tmp_path: Path) -> None:
    deps, close = await hold_open(open_deps(settings))
    await close()
    other = load_settings({}, home=tmp_path, database_url=dsn, secret="x" * 40)
    with pytest.raises(AppError, match="another installation secret"):
        await hold_open(open_deps(other))
    assert deps.settings.database_url not in repr(deps)
    assert SECRET not in repr(deps)
