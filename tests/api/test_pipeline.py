"""A caller's statement in one message: the same door as ``as_caller``, and what goes wrong on the way."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio
import asyncpg
import pytest

from brolly.core.caller import Caller, anonymous
from brolly.core.errors import AppError
from brolly.deps import Deps
from brolly.pg import pipeline
from brolly.pg.pipeline import Step
from brolly.pg.pool import Database, door_login, login_password
from brolly.pg.session import as_caller, run_as_caller, take_role
from brolly.registry import App

WHO = (
    "select current_user::text as role, session_user::text as login, current_user_id() as id, "
    "coalesce(current_setting('app.role', true), '') as told, "
    "coalesce(current_setting('request.jwt.claims', true), '') as claims, "
    "current_setting('transaction_read_only')::text as fence"
)


@pytest.fixture
async def single(deps: Deps, app: App) -> AsyncIterator[Database]:
    """A pool of one connection: whatever a borrower leaves behind, the next one finds."""
    login = door_login(app.id)
    pool = Database(
        deps.databases._server, size=1, user=login, password=login_password(deps.secret, login), database=app.db_name
    )
    yield pool
    await pool.close()


async def afterwards(pool: Database, app: App, pid: int | None = None) -> int:
    """What the next borrower finds: nobody's role, no transaction. The backend's process id."""
    async with pool.acquire() as connection:
        assert not connection.is_in_transaction()
        row = dict(await connection.fetchrow(WHO))
        assert row == {
            "role": door_login(app.id),
            "login": door_login(app.id),
            "id": None,
            "told": "",
            "claims": "",
            "fence": "off",
        }
        found = connection.get_server_pid()
        assert pid in (None, found)
        return found


async def value(pool: Database, who: Caller, sql: str, *args: Any, read_only: bool = False) -> Any:
    (row,) = (await run_as_caller(pool, who, sql, args, read_only=read_only)).rows
    (found,) = row.values()
    return found


async def test_it_takes_on_the_role_for_its_statement_alone(single: Database, app: App, owner: Caller) -> None:
    pid = await afterwards(single, app)
    strange = "u'; drop table x; --"
    for caller, role, user in (
        (anonymous(), "butterbase_anon", None),
        (owner.simulate("user", strange), "butterbase_user", strange),
        (owner, "butterbase_service", None),
        (owner.simulate("user", "other"), "butterbase_user", "other"),
    ):
        for read_only in (True, False):
            (row,) = (await run_as_caller(single, caller, WHO, (), read_only=read_only)).rows
            assert (row["role"], row["id"], row["told"]) == (role, user, role)
            assert row["fence"] == ("on" if read_only else "off")
        await afterwards(single, app, pid)


async def test_values_arrive_as_they_were_sent(single: Database, owner: Caller) -> None:
    for text in ("", "ä€𝄞", 'a"b\\c,{}\n', "NULL", "'", "x" * 100_000):
        assert await value(single, owner, "select $1::text as v", text) == text
        both = "select array_to_string($1::text[], '|', 'none') as v"
        assert await value(single, owner, both, [text, "b", None]) == f"{text}|b|none"
    for number in (0, -1, 2**62, -(2**62)):
        assert await value(single, owner, "select $1::int8 as v", number) == number
    assert await value(single, owner, "select $1::int8 is null as v", None) is True
    assert await value(single, owner, "select null::text as v") is None
    with pytest.raises(AppError) as refused:
        await value(single, owner, "select $1::text as v", "half \ud800")
    assert refused.value.code == "VALIDATION_INVALID_INPUT"
    with pytest.raises(AppError) as refused:
        await value(single, owner, "select $1::text as v", "zero \0")
    assert refused.value.code == "VALIDATION_INVALID_INPUT"


async def test_errors_leave_nothing_behind(single: Database, app: App, owner: Caller, deps: Deps) -> None:
    async with deps.pools.owner(app) as connection:
        await connection.execute("create table public.notes (id int primary key, check (id < 100))")
    pid = await afterwards(single, app)

    class Forged(Caller):
        role = "brolly_owner"  # type: ignore[assignment]

    with pytest.raises(AppError) as refused:
        await run_as_caller(single, Forged("service"), "insert into notes values (1)", ())
    assert refused.value.code == "AUTH_RLS_POLICY_VIOLATION"
    await afterwards(single, app, pid)
    for _ in range(2):
        with pytest.raises(AppError) as refused:
            await run_as_caller(single, owner, "insert into notes select n from generate_series(1, 100) n", ())
        assert refused.value.code == "VALIDATION_CHECK_CONSTRAINT_VIOLATION"
        assert (refused.value.details or {})["constraint_details"] == "notes_id_check"
        await afterwards(single, app, pid)
        with pytest.raises(asyncpg.PostgresSyntaxError):
            await run_as_caller(single, owner, "selekt", ())
        await afterwards(single, app, pid)
        with pytest.raises(AppError, match="changes nothing"):
            await run_as_caller(single, owner, "insert into notes values (1)", (), read_only=True)
        await afterwards(single, app, pid)
    assert await value(single, owner, "select count(*) as v from notes") == 0
    assert (await run_as_caller(single, owner, "insert into notes values (1), (2)", ())).count == 2
    assert await value(single, owner, "select count(*) as v from notes") == 2


async def test_an_error_at_the_commit_is_the_statements(single: Database, app: App, owner: Caller, deps: Deps) -> None:
    async with deps.pools.owner(app) as connection:
        await connection.execute(
            "create table public.pairs (id int primary key, other int references pairs deferrable initially deferred)"
        )
    with pytest.raises(AppError) as refused:
        await run_as_caller(single, owner, "insert into pairs values (1, 2)", ())
    assert refused.value.code == "VALIDATION_FOREIGN_KEY_VIOLATION"
    assert await value(single, owner, "select count(*) as v from pairs") == 0
    await afterwards(single, app)


async def test_a_transaction_that_is_left_open_ends_with_its_connection(single: Database, app: App) -> None:
    pid = await afterwards(single, app)
    with pytest.raises(AppError):
        await single.pipeline((Step("begin"), Step("select set_config('role', 'butterbase_service', true)")))
    assert await afterwards(single, app) != pid


async def test_a_long_answer_comes_whole(single: Database, app: App, owner: Caller) -> None:
    size = 20_000_000
    found = await value(single, owner, "select convert_to(repeat('x', $1::int4), 'UTF8') as v", size)
    assert found == b"x" * size
    rows = (await run_as_caller(single, owner, "select n::int8 as n from generate_series(1, 50000) n", ())).rows
    assert [row["n"] for row in rows] == list(range(1, 50001))
    await afterwards(single, app)


async def test_a_slow_statement_is_ended_and_nothing_else(single: Database, app: App, owner: Caller) -> None:
    pid = await afterwards(single, app)
    limit = Step("select set_config('statement_timeout', '50', true)")
    with pytest.raises(AppError) as refused:
        await single.pipeline((limit, Step("select pg_sleep(30)")))
    assert refused.value.code == "DATABASE_TIMEOUT"
    await afterwards(single, app, pid)
    async with single.acquire() as connection:
        assert await connection.fetchval("show statement_timeout") == "15s"


async def test_a_cancelled_request_gives_the_place_free_but_not_the_connection(
    single: Database, app: App, owner: Caller
) -> None:
    pid = await afterwards(single, app)
    for _ in range(3):
        with anyio.move_on_after(0.05) as scope:
            await run_as_caller(single, owner, "select pg_sleep(30)", ())
        assert scope.cancelled_caught
        assert await afterwards(single, app) != pid
        assert single.size == 1


async def test_a_server_that_dies_in_the_middle_is_told(single: Database, app: App, owner: Caller, deps: Deps) -> None:
    pid = await afterwards(single, app)
    refused: list[str] = []

    async def wait() -> None:
        try:
            await run_as_caller(single, owner, "select repeat('x', 5000000), pg_sleep(30)", ())
        except AppError as error:
            refused.append(error.code)

    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        await anyio.sleep(0.05)
        await deps.control.execute("select pg_terminate_backend($1)", pid)
    assert refused == ["EXTERNAL_DB_ERROR"]
    assert await afterwards(single, app) != pid
    assert single.size == 1


async def test_an_idle_connection_that_was_ended_is_not_lent(
    single: Database, app: App, owner: Caller, deps: Deps
) -> None:
    pid = await afterwards(single, app)
    await deps.control.execute("select pg_terminate_backend($1)", pid)
    await anyio.sleep(0.05)
    assert await value(single, owner, "select 1 as v") == 1
    assert await afterwards(single, app) != pid


async def test_a_statement_outlives_changes_of_its_table(single: Database, app: App, owner: Caller, deps: Deps) -> None:
    read = "select * from notes"
    for change, found in (
        ("create table public.notes as select 1::int8 as a", {"a": 1}),
        ("alter table public.notes add b text default 'x'", {"a": 1, "b": "x"}),
        ("alter table public.notes alter a type text", {"a": "1", "b": "x"}),
        ("drop table public.notes; create table public.notes as select true as c", {"c": True}),
    ):
        async with deps.pools.owner(app) as connection:
            await connection.execute(change)
        for _ in range(2):
            assert (await run_as_caller(single, owner, read, ())).rows == [found]
    async with single.acquire() as connection:
        await connection.execute("deallocate all")
    assert (await run_as_caller(single, owner, read, ())).rows == [{"c": True}]


async def test_few_statements_are_kept(
    single: Database, app: App, owner: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "_KEPT_STATEMENTS", 10)
    for number in range(30):
        assert await value(single, owner, f"select {number} as v") == number
        with pytest.raises(asyncpg.UndefinedFunctionError):
            await value(single, owner, f"select no_such_function({number}) as v")
    async with single.acquire() as connection:
        kept = await connection.fetchval("select count(*) from pg_prepared_statements where name like 'brolly%'")
    assert kept <= 11
    assert await value(single, owner, "select 0 as v") == 0


async def test_both_ways_take_turns_on_a_connection(single: Database, app: App, owner: Caller) -> None:
    async def one(number: int) -> None:
        who = owner.simulate("user", f"user-{number}")
        if number % 2:
            assert await value(single, who, "select current_user_id() as v") == f"user-{number}"
            return
        async with as_caller(single, who) as connection:
            assert await connection.fetchval("select current_user_id()") == f"user-{number}"

    async with anyio.create_task_group() as group:
        for number in range(200):
            group.start_soon(one, number)
    assert single.size == 1
    await afterwards(single, app)


async def test_who_gives_up_waiting_takes_no_place(single: Database, app: App, owner: Caller) -> None:
    async with single.acquire():
        for _ in range(5):
            with anyio.move_on_after(0.01) as scope:
                await value(single, owner, "select 1 as v")
            assert scope.cancelled_caught
    assert (single.users, single.size) == (0, 1)
    assert await value(single, owner, "select 1 as v") == 1


async def test_connections_that_nobody_uses_are_closed(
    deps: Deps, app: App, owner: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("brolly.pg.pool.IDLE_SECONDS", 0.1)
    pool = deps.pools.door(app)
    async with anyio.create_task_group() as group:
        for _ in range(4):
            group.start_soon(value, pool, owner, "select pg_sleep(0.05) is null as v")
    assert pool.size == 4
    with anyio.fail_after(5):
        while pool.size:  # noqa: ASYNC110 - it is a timer of the loop's that closes them
            await anyio.sleep(0.02)
    assert await value(pool, owner, "select 1 as v") == 1


async def test_groups_in_one_message_fail_apart(deps: Deps, single: Database, app: App) -> None:
    same, own = Step("select $1::text::int8 / $2::text::int8 as n", ("6", "2")), Step("select current_user_id() as id")
    before = await afterwards(single, app)

    def group(user: str, *steps: Step) -> tuple[Step, ...]:
        return (take_role("butterbase_user", user, "{}", 5_000), *steps)

    by_zero, no_table = Step(same.text, ("6", "0")), Step("select * from nowhere")
    for _ in range(2):  # the second time with what was prepared
        a, b, c, d, e = await single.pipelines(
            [group("a", same, own), group("b", by_zero), group("c", no_table, own), group("d", same), group("e", own)]
        )
        assert isinstance(a, list)
        assert isinstance(d, list)
        assert isinstance(e, list)
        assert [a[1].rows, a[2].rows, d[1].rows, e[1].rows] == [[{"n": 3}], [{"id": "a"}], [{"n": 3}], [{"id": "e"}]]
        assert isinstance(b, AppError)
        assert isinstance(c, AppError)
        assert (b.code, c.code) == ("VALIDATION_INVALID_INPUT", "VALIDATION_TABLE_NOT_FOUND")
        # None of it stays, and the connection is as good as before.
        assert await afterwards(single, app) == before

    async def end() -> None:
        await anyio.sleep(0.2)
        await deps.control.execute("select pg_terminate_backend($1)", before)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(end)
        with pytest.raises(AppError) as lost:
            await single.pipelines([group("a", own), group("b", Step("select pg_sleep(5)::text as slept"), own)])
    assert lost.value.code == "EXTERNAL_DB_ERROR"
    assert await afterwards(single, app) != before
