"""Attempts to get past the policies, the role, or out of the app's database."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import asyncpg
import pytest

from brolly.apps import provision
from brolly.core.caller import Caller
from brolly.core.errors import AppError
from brolly.deps import Deps
from brolly.pg.pool import door_login, login_password, owner_login
from brolly.pg.session import as_caller
from brolly.registry import App
from tests.conftest import ToolFailed

ALICE = "aaaaaaaa-0000-4000-8000-00000000000a"
NASTY = [
    "x' or '1'='1",
    "'; set role butterbase_service; --",
    '"; reset role; --',
    "\\'; select 1; --",
    "butterbase_service",
    "${jndi}",
    "a\n'b\"c",
]


@pytest.fixture
async def notes(deps: Deps, app: App, mcp: Any) -> None:
    async with deps.pools.owner(app) as conn:
        await conn.execute("create table notes (id serial primary key, owner text, body text)")
        await conn.execute("insert into notes (owner, body) values ('alice', 'a'), ('bob', 'b')")
    await deps.catalog.changed(app)
    await mcp("manage_rls", action="create_user_isolation", app_id=app.id, table_name="notes", user_column="owner")


@pytest.mark.parametrize("user", NASTY)
async def test_a_user_id_is_only_ever_a_value(
    deps: Deps, app: App, owner: Caller, mcp: Any, notes: None, user: str
) -> None:
    who = {"app_id": app.id, "table": "notes", "as_role": "user", "as_user": user}
    assert (await mcp("select_rows", **who))["rows"] == []
    await mcp("insert_row", data={"body": "mine", "owner": "alice"}, **who)
    assert [(r["owner"], r["body"]) for r in (await mcp("select_rows", **who))["rows"]] == [(user, "mine")]
    claims = replace(owner.simulate("user", user), claims={"sub": user, "role": user, user: user})
    async with as_caller(deps.pools.door(app), claims) as conn:
        assert await conn.fetchval("select current_user::text") == "butterbase_user"
        assert await conn.fetchval("select public.current_user_id()") == user
        assert json.loads(await conn.fetchval("select current_setting('request.jwt.claims')")) == claims.claims


@pytest.mark.parametrize("role", ["service", "butterbase_service", "user; reset role", "brolly_owner", "none"])
async def test_a_role_cannot_be_smuggled_in(app: App, mcp: Any, notes: None, role: str) -> None:
    for tool, rest in (("select_rows", {}), ("insert_row", {"data": {"body": "x"}})):
        with pytest.raises(ToolFailed) as refused:
            await mcp(tool, app_id=app.id, table="notes", as_role=role, as_user=ALICE, **rest)
        assert refused.value.code == "VALIDATION_INVALID_SCHEMA"


async def test_the_door_takes_no_role_but_the_three(deps: Deps, app: App, owner: Caller) -> None:
    for role in ("brolly_owner", owner_login(app.id), "postgres", 'butterbase_user"; reset role; --'):
        forged: Any = SimpleNamespace(role=role, user_id=ALICE, claims={})
        with pytest.raises((AppError, asyncpg.PostgresError)):
            async with as_caller(deps.pools.door(app), forged):
                raise AssertionError(f"took on {role}")


async def test_rows_cannot_be_moved_to_or_taken_from_another_user(
    deps: Deps, app: App, owner: Caller, notes: None
) -> None:
    alice = owner.simulate("user", "alice")
    for sql in (
        "update notes set owner = 'bob'",
        "insert into notes (id, owner) values (1, 'alice') on conflict (id) do update set owner = 'bob'",
    ):
        with pytest.raises(AppError) as refused:
            async with as_caller(deps.pools.door(app), alice) as conn:
                await conn.execute(sql)
        assert refused.value.code == "AUTH_RLS_POLICY_VIOLATION"
    async with as_caller(deps.pools.door(app), alice) as conn:
        assert await conn.execute("update notes set owner = 'alice' where owner = 'bob'") == "UPDATE 0"
        # Bob's row is in the way, and may neither be seen nor overwritten.
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await conn.execute("insert into notes (id) values (2) on conflict (id) do update set body = 'taken'")
    async with as_caller(deps.pools.door(app), owner) as conn:
        assert await conn.fetch("select owner, body from notes order by id") == [("alice", "a"), ("bob", "b")]


async def test_a_forged_owner_is_overwritten_on_every_way_to_insert(
    deps: Deps, app: App, owner: Caller, notes: None
) -> None:
    async with as_caller(deps.pools.door(app), owner.simulate("user", "alice")) as conn:
        await conn.execute("insert into notes (owner, body) values ('bob', '1')")
        await conn.execute("insert into notes (owner, body) select 'bob', '2'")
        await conn.execute("insert into notes (body) values ('3')")
        # Not even by a setting that a free statement could make.
        await conn.execute("select set_config('app.role', 'butterbase_service', true)")
        await conn.execute("insert into notes (owner, body) values ('bob', '5')")
    async with as_caller(deps.pools.door(app), owner) as conn:
        rows = await conn.fetch("select owner from notes where body ~ '[0-9]'")
        assert {row["owner"] for row in rows} == {"alice"}


async def test_the_next_borrower_of_a_connection_is_nobody(deps: Deps, app: App, owner: Caller, notes: None) -> None:
    door = deps.pools.door(app)
    pids: set[int] = set()
    for how in ("commit", "error", "cancel"):
        try:
            async with as_caller(door, owner.simulate("user", "alice")) as conn:
                pids.add(await conn.fetchval("select pg_backend_pid()"))
                if how == "error":
                    await conn.execute("select 1 / 0")
                elif how == "cancel":
                    raise asyncio.CancelledError
        except (AppError, asyncio.CancelledError):
            pass
        async with door.acquire() as conn:
            assert await conn.fetchval("select current_user = session_user")
            assert await conn.fetchval("select current_user::text") == door_login(app.id)
            assert not await conn.fetchval("select public.current_user_id()")
            for setting in ("app.role", "request.jwt.claim.sub", "request.jwt.claims"):
                assert not await conn.fetchval("select current_setting($1, true)", setting)
            # The login by itself reaches nothing.
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await conn.fetch("select * from notes")
    assert pids


async def test_a_login_connects_to_its_own_app_alone(deps: Deps, app: App, owner: Caller) -> None:
    assert owner.account_id is not None
    other, _ = await provision.create(deps, owner.account_id, "other", "self-hosted")
    server: Any = deps.pools._server  # type: ignore[attr-defined]
    try:
        for login in (door_login(app.id), owner_login(app.id)):
            password = login_password(deps.secret, login)
            own = await asyncpg.connect(**server.connect_args(user=login, password=password, database=app.db_name))
            await own.close()
            for database in (other, server.database, "postgres", "template1", deps.databases.template):
                with pytest.raises(asyncpg.PostgresError) as refused:
                    await asyncpg.connect(**server.connect_args(user=login, password=password, database=database))
                assert refused.value.sqlstate in ("42501", "55000"), (login, database, refused.value)
            with pytest.raises(asyncpg.InvalidPasswordError):
                await asyncpg.connect(**server.connect_args(user=login, password="guess", database=app.db_name))
    finally:
        found = await deps.registry.find(other)
        assert found is not None
        await provision.delete(deps, found)


FORBIDDEN = [
    "set role brolly_owner",
    "set session authorization brolly_owner",
    "create role intruder",
    "create table mine (id int)",
    "create temp table mine (id int)",
    "create function f() returns int language sql as 'select 1'",
    "create schema mine",
    "alter table notes disable row level security",
    "alter table notes no force row level security",
    "drop policy notes_user_isolation on notes",
    "create policy p on notes using (true)",
    "alter function notes_set_user_id() rename to x",
    "drop trigger notes_set_user_id_trigger on notes",
    "truncate notes",
    "alter role butterbase_user bypassrls",
    "select * from pg_authid",
    "select * from pg_user_mapping",
    "select * from brolly.migrations",
    "select * from brolly.applied_migrations",
    "insert into brolly.migrations (name, applied_by, sql_up, sql_down, checksum) values ('', '', '', '', '')",
    "select pg_read_file('/etc/passwd')",
    "select pg_ls_dir('.')",
    "select lo_import('/etc/passwd')",
    "copy notes to '/tmp/stolen'",
    "copy notes from program 'id'",
    "load 'plpgsql'",
    "set log_statement = 'none'",
    "drop extension vector",
    "set session_replication_role = replica",
]


@pytest.mark.parametrize("kind", ["user", "anonymous", "service", "login"])
async def test_no_caller_may_change_structure_or_read_beyond_the_tables(
    deps: Deps, app: App, owner: Caller, notes: None, kind: str
) -> None:
    callers = {"user": owner.simulate("user", "alice"), "anonymous": owner.simulate("anon", None), "service": owner}
    door = deps.pools.door(app)
    async with as_caller(door, callers[kind]) if kind in callers else door.acquire() as conn:
        for sql in FORBIDDEN:
            outcome = "done"
            try:
                async with conn.transaction():
                    await conn.execute(sql)
            except asyncpg.PostgresError as error:
                outcome = error.sqlstate
            assert outcome == "42501", sql


async def test_switching_row_security_off_is_an_error_and_not_a_way_round(
    deps: Deps, app: App, owner: Caller, notes: None
) -> None:
    async with as_caller(deps.pools.door(app), owner.simulate("user", "alice")) as conn:
        await conn.execute("set local row_security = off")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            async with conn.transaction():
                await conn.fetch("select * from notes")


async def test_a_filter_that_fails_on_others_rows_never_meets_them(
    deps: Deps, app: App, owner: Caller, notes: None
) -> None:
    """A condition with an error as its side effect would tell of rows that are not shown."""
    async with as_caller(deps.pools.door(app), owner.simulate("user", "alice")) as conn:
        rows = await conn.fetch("select * from notes where 1 / (case body when 'b' then 0 else 1 end) = 1")
        assert [row["body"] for row in rows] == ["a"]


async def test_the_tables_own_owner_is_held_by_policies_too(deps: Deps, app: App, notes: None) -> None:
    """FORCE: what runs as the owner role, such as a default or a trigger, sees no rows either."""
    async with deps.pools.owner(app) as conn:
        assert await conn.fetch("select * from notes") == []
