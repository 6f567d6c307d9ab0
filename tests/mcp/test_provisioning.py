"""Making apps: together, by name, and what a process that died leaves behind."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import anyio
import asyncpg
import pytest

from brolly.apps import provision
from brolly.core.caller import Caller
from brolly.deps import Deps
from brolly.pg.locks import advisory_lock
from brolly.pg.pool import door_login, login_password, owner_login
from tests.conftest import make_owner


async def traces(deps: Deps, app_id: str) -> tuple[int, int, int]:
    """How many rows, databases and logins there are of an app."""
    row = await deps.control.fetchrow(
        "select (select count(*) from brolly.apps where id = $1), "
        "(select count(*) from pg_database where datname = $1), "
        "(select count(*) from pg_roles where rolname ^@ $1)",
        app_id,
    )
    return tuple(row)


async def test_many_at_once_do_not_wait_for_each_other_forever(deps: Deps, owner: Caller) -> None:
    made: list[str] = []

    async def make(name: str) -> None:
        app_id, _ = await provision.create(deps, str(owner.account_id), name, "self-hosted")
        made.append(app_id)

    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            for number in range(16):
                group.start_soon(make, f"together-{number}")
    assert len(set(made)) == 16


async def test_one_name_asked_for_at_once_gives_one_app(deps: Deps, owner: Caller) -> None:
    made: list[tuple[str, bool]] = []

    async def make() -> None:
        made.append(await provision.create(deps, str(owner.account_id), "same", "self-hosted"))

    async with anyio.create_task_group() as group:
        for _ in range(6):
            group.start_soon(make)
    assert len({app_id for app_id, _ in made}) == 1
    assert sum(created for _, created in made) == 1


async def test_the_same_name_in_two_accounts_gives_two_subdomains(deps: Deps) -> None:
    name = f"twin-{uuid4()}"
    apps: list[Any] = []
    for _ in range(2):
        owner, _key = await make_owner(deps)
        app_id, created = await provision.create(deps, str(owner.account_id), name, "self-hosted")
        assert created
        apps.append(await deps.registry.get(owner, app_id))
    assert apps[0].name == apps[1].name
    assert apps[0].subdomain != apps[1].subdomain


async def test_a_failure_on_the_way_leaves_nothing(deps: Deps, owner: Caller, monkeypatch: Any) -> None:
    seen: list[str] = []
    original = deps.databases.create_database

    async def fails(connection: Any, app_id: str) -> None:
        await original(connection, app_id)
        seen.append(app_id)
        raise RuntimeError("the disk is full")

    monkeypatch.setattr(deps.databases, "create_database", fails)
    with pytest.raises(RuntimeError, match="the disk is full"):
        await provision.create(deps, str(owner.account_id), "unlucky", "self-hosted")
    assert await traces(deps, seen[0]) == (0, 0, 0)
    monkeypatch.undo()
    _, created = await provision.create(deps, str(owner.account_id), "unlucky", "self-hosted")
    assert created


async def half_made(deps: Deps, owner: Caller, *, with_database: bool) -> str:
    """An app as a process that was killed leaves it."""
    app_id = f"app_{uuid4().hex[:12]}"
    async with deps.control.acquire() as connection:
        async with connection.transaction():
            await connection.execute(
                "insert into brolly.apps (id, account_id, name, subdomain, db_name, region, status) "
                "values ($1, $2, $1, $1, $1, 'self-hosted', 'provisioning')",
                app_id,
                owner.account_id,
            )
            await deps.databases.create_logins(connection, app_id)
        if with_database:
            await deps.databases.create_database(connection, app_id)
    return app_id


async def test_the_sweep_undoes_what_died_half_way(deps: Deps, owner: Caller) -> None:
    for with_database in (False, True):
        app_id = await half_made(deps, owner, with_database=with_database)
        assert await traces(deps, app_id) == (1, int(with_database), 2)
        assert app_id in await provision.sweep(deps)
        assert await traces(deps, app_id) == (0, 0, 0)


async def test_the_sweep_leaves_alone_what_somebody_works_on(deps: Deps, owner: Caller) -> None:
    app_id = await half_made(deps, owner, with_database=True)
    async with deps.control.acquire() as connection, advisory_lock(connection, app_id):
        assert app_id not in await provision.sweep(deps)
        assert await traces(deps, app_id) == (1, 1, 2)
    assert app_id in await provision.sweep(deps)


async def test_a_deletion_that_died_is_finished(deps: Deps, owner: Caller) -> None:
    app_id, _ = await provision.create(deps, str(owner.account_id), "half-deleted", "self-hosted")
    await deps.control.execute("update brolly.apps set status = 'deleting' where id = $1", app_id)
    await deps.registry.changed(app_id)
    assert app_id in await provision.sweep(deps)
    assert await traces(deps, app_id) == (0, 0, 0)


async def test_logins_reach_their_own_database_alone(deps: Deps, owner: Caller) -> None:
    first, _ = await provision.create(deps, str(owner.account_id), "first", "self-hosted")
    second, _ = await provision.create(deps, str(owner.account_id), "second", "self-hosted")
    server = deps.databases._server
    for login in (door_login(first), owner_login(first)):
        password = login_password(deps.secret, login)
        for database in (second, server.database, "postgres", deps.databases.template):
            with pytest.raises(asyncpg.PostgresError) as refused:
                await asyncpg.connect(**server.connect_args(user=login, password=password, database=database))
            assert refused.value.sqlstate in ("42501", "55000"), database
        inside = await asyncpg.connect(**server.connect_args(user=login, password=password, database=first))
        await inside.close()
