"""The one door to an app's data, and the pools behind it."""

from __future__ import annotations

import anyio
import asyncpg
import pytest

from brolly.apps import provision
from brolly.core.caller import Caller, anonymous
from brolly.core.errors import AppError
from brolly.deps import Deps
from brolly.pg.free_statement import prepare_connection
from brolly.pg.pool import AppPools, Limits, door_login, login_password
from brolly.pg.session import as_caller
from brolly.registry import App

WHO = (
    "select current_user::text as role, session_user::text as login, current_user_id() as id, "
    "nullif(current_setting('request.jwt.claims', true), '') as claims"
)


async def notes(deps: Deps, app: App) -> None:
    async with deps.pools.owner(app) as owner:
        await owner.execute("create table public.notes (id int primary key, body text)")


async def test_it_takes_on_the_role_for_the_block_alone(deps: Deps, app: App, owner: Caller) -> None:
    pool = deps.pools.door(app)
    for caller, role, user in (
        (anonymous(), "butterbase_anon", None),
        (owner, "butterbase_service", None),
        (owner.simulate("user", "u'; drop table x; --"), "butterbase_user", "u'; drop table x; --"),
    ):
        async with as_caller(pool, caller) as connection:
            row = await connection.fetchrow(WHO)
            assert (row["role"], row["login"], row["id"]) == (role, door_login(app.id), user)
        async with deps.pools.reader(app) as connection:
            row = await connection.fetchrow(WHO)
            assert (row["role"], row["id"], row["claims"]) == (door_login(app.id), None, None)


async def test_a_role_that_is_none_of_ours_is_refused(deps: Deps, app: App) -> None:
    from dataclasses import replace

    class Forged(Caller):
        role = "brolly_owner"  # type: ignore[assignment]

    forged = Forged("service")
    assert replace(forged).role == "brolly_owner"
    with pytest.raises(AppError) as refused:
        async with as_caller(deps.pools.door(app), forged):
            pass
    assert refused.value.code == "AUTH_RLS_POLICY_VIOLATION"


async def test_read_only_refuses_writes_of_the_service_too(deps: Deps, app: App, owner: Caller) -> None:
    await notes(deps, app)
    with pytest.raises(AppError, match="changes nothing"):
        async with as_caller(deps.pools.door(app), owner, read_only=True) as connection:
            await connection.execute("insert into notes values (1, 'x')")


async def test_a_cancelled_borrower_leaves_nothing_behind(deps: Deps, app: App, owner: Caller) -> None:
    await notes(deps, app)
    pool = deps.pools.door(app)
    for n in range(10):
        inside = anyio.Event()

        async def borrow(inside: anyio.Event = inside, row: int = 10 + n) -> None:
            async with as_caller(pool, owner.simulate("user", "alice")) as connection:
                # Another row each time, lest it waits for the transaction that is just being ended.
                await connection.execute("insert into notes values ($1, 'never committed')", row)
                inside.set()
                await connection.execute("select pg_sleep(30)")

        async with anyio.create_task_group() as group:
            group.start_soon(borrow)
            await inside.wait()
            group.cancel_scope.cancel()
    async with deps.pools.reader(app) as connection:
        row = await connection.fetchrow(WHO)
        assert (row["role"], row["id"]) == (door_login(app.id), None)
    async with as_caller(pool, owner) as connection:
        assert await connection.fetchval("select count(*) from notes") == 0
        await connection.execute("insert into notes values (2, 'kept')")
    async with as_caller(pool, owner) as connection:
        assert await connection.fetchval("select array_agg(id) from notes") == [2]


async def test_a_new_table_is_closed_to_anonymous_callers(deps: Deps, app: App, owner: Caller) -> None:
    await notes(deps, app)
    pool = deps.pools.door(app)
    with pytest.raises(AppError) as refused:
        async with as_caller(pool, anonymous()) as connection:
            await connection.fetch("select * from notes")
    assert refused.value.code == "AUTH_RLS_POLICY_VIOLATION"
    async with as_caller(pool, owner.simulate("user", "alice")) as connection:
        assert await connection.fetch("select * from notes") == []


async def test_the_owner_role_is_no_superuser_and_keeps_out_of_the_platforms_tables(deps: Deps, app: App) -> None:
    async with deps.pools.owner(app) as connection:
        row = await connection.fetchrow(
            "select rolsuper or rolbypassrls or rolcreaterole or rolcreatedb as wide "
            "from pg_roles where rolname = current_user"
        )
        assert row["wide"] is False
    for statement in (
        "delete from brolly.applied_migrations",
        "update brolly.migrations set name = 'x'",
        "create extension if not exists file_fdw",
        "copy (select 1) to program 'true'",
        "select pg_read_file('/etc/passwd')",
        "set role brolly",
        "alter role butterbase_anon login",
        "create schema other",
    ):
        with pytest.raises((AppError, asyncpg.PostgresError)):
            async with deps.pools.owner(app) as connection:
                await connection.execute(statement)


async def test_connections_of_all_apps_together_are_bounded(deps: Deps, owner: Caller) -> None:
    apps: list[App] = []
    for number in range(5):
        app_id, _ = await provision.create(deps, str(owner.account_id), f"bounded-{number}", "self-hosted")
        apps.append(await deps.registry.get(owner, app_id))
    server = deps.databases._server
    pools = AppPools(server, deps.secret, Limits(per_app=2, total=3))
    logins = [door_login(app.id) for app in apps]

    async def connected() -> int:
        return await deps.control.fetchval("select count(*) from pg_stat_activity where usename = any($1)", logins)

    try:
        for app in apps * 3:
            async with as_caller(pools.door(app), owner) as connection:
                assert await connection.fetchval("select current_database()") == app.db_name
            assert sum(pools.door(a).size for a in apps) <= 3
        assert await connected() <= 4  # one may be saying goodbye
    finally:
        await pools.close()


async def test_room_is_made_by_what_is_idle_alone(deps: Deps, app: App) -> None:
    await deps.databases.create_function_logins(app.id)
    pools = AppPools(deps.databases._server, deps.secret, Limits(per_app=1, total=1))
    own = [pools.function(app, kind, prepare_connection) for kind in ("user", "anonymous")]
    try:
        async with own[0].acquire() as busy:
            async with pools.door(app).acquire():
                pass
            async with own[1].acquire():
                pass
            assert await busy.fetchval("select 1") == 1
        assert pools.door(app).size == 0
    finally:
        await pools.close()


async def test_a_lost_connection_is_unavailable_then_well_again(deps: Deps, app: App, owner: Caller) -> None:
    pool = deps.pools.door(app)

    async def lose_it() -> None:
        async with as_caller(pool, owner) as connection:
            pid = await connection.fetchval("select pg_backend_pid()")
            await deps.control.execute("select pg_terminate_backend($1)", pid)
            await connection.fetchval("select 1")

    with pytest.raises(AppError) as lost:
        await lose_it()
    assert lost.value.code == "EXTERNAL_DB_ERROR"
    assert lost.value.retry_after
    async with as_caller(pool, owner) as connection:
        assert await connection.fetchval("select 1") == 1


async def test_a_statement_is_ended_after_its_time(deps: Deps, app: App, owner: Caller) -> None:
    async def be_slow() -> None:
        async with as_caller(deps.pools.door(app), owner) as connection:
            await connection.execute("set local statement_timeout = '50ms'")
            await connection.execute("select pg_sleep(10)")

    with pytest.raises(AppError) as late:
        await be_slow()
    assert late.value.code == "DATABASE_TIMEOUT"
    async with deps.pools.reader(app) as connection:
        assert await connection.fetchval("show statement_timeout") == f"{deps.settings.statement_timeout}s"


async def test_a_wrong_password_opens_nothing(deps: Deps, app: App) -> None:
    server = deps.databases._server
    login = door_login(app.id)
    assert login_password(deps.secret, login) != login_password("another secret", login)
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(
            **server.connect_args(user=login, password=login_password("another", login), database=app.db_name)
        )


async def test_a_caller_fills_neither_the_disk_nor_the_clock(deps: Deps, app: App) -> None:
    async with deps.pools.reader(app) as connection:
        assert await connection.fetchval("show temp_file_limit") == "512MB"
        assert await connection.fetchval("show transaction_timeout") == "1min"
