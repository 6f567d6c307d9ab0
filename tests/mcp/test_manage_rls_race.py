"""Changes of protection at the same time as others: whichever comes first, the end is whole."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from brolly.core.caller import Caller
from brolly.deps import Deps
from brolly.pg.catalog import Table
from brolly.pg.snapshot import read_snapshot
from brolly.registry import App
from tests.conftest import ToolFailed, hold_open, mcp_session

LOCK = "select pg_advisory_xact_lock(hashtextextended('brolly-structure', 0))"
LIMIT = 30


@pytest.fixture
async def notes(deps: Deps, app: App) -> str:
    async with deps.pools.owner(app) as conn:
        await conn.execute("create table notes (id serial primary key, user_id uuid, author text)")
    await deps.catalog.changed(app)
    return "notes"


async def table(deps: Deps, app: App) -> Table:
    async with deps.pools.owner(app) as conn:
        return (await read_snapshot(conn)).tables["notes"]


async def until_waiting(deps: Deps, app: App, count: int) -> None:
    """Return when that many sessions wait for an advisory lock of the app's database."""
    async with asyncio.timeout(LIMIT):
        while True:
            waiting = await deps.control.fetchval(
                "select count(*) from pg_locks l join pg_database d on d.oid = l.database "
                "where d.datname = $1 and l.locktype = 'advisory' and not l.granted",
                app.db_name,
            )
            if waiting >= count:
                return
            await asyncio.sleep(0)


@pytest.mark.parametrize("order", [("user_id", "author"), ("author", "user_id")])
async def test_two_isolations_at_once_end_as_one_of_them(
    deps: Deps, app: App, owner: Caller, notes: str, order: tuple[str, str]
) -> None:
    calls, closers = zip(*[await hold_open(mcp_session(deps, owner)) for _ in order], strict=True)
    async with deps.pools.owner(app) as conn, conn.transaction():
        await conn.execute(LOCK)
        tasks = []
        for number, (call, column) in enumerate(zip(calls, order, strict=True), 1):
            arguments = {"app_id": app.id, "table_name": notes, "user_column": column}
            tasks.append(asyncio.create_task(call("manage_rls", action="create_user_isolation", **arguments)))
            await until_waiting(deps, app, number)
    async with asyncio.timeout(LIMIT):
        await asyncio.gather(*tasks)
    for close in closers:
        await close()
    found = await table(deps, app)
    (isolation,) = [p for p in found.policies if p.name == "notes_user_isolation"]
    assert order[1] in (isolation.using or "")
    async with deps.pools.owner(app) as conn:
        source = await conn.fetchval("select prosrc from pg_proc where proname = 'notes_set_user_id'")
        assert await conn.fetchval("select count(*) from brolly.migrations") == 2
    assert f"'{order[1]}'" in source
    assert f"'{order[0]}'" not in source


async def test_the_same_isolation_many_times_at_once_is_one_change(deps: Deps, app: App, mcp: Any, notes: str) -> None:
    arguments = {"action": "create_user_isolation", "app_id": app.id, "table_name": notes, "user_column": "user_id"}
    async with asyncio.timeout(LIMIT):
        await asyncio.gather(*[mcp("manage_rls", **arguments) for _ in range(6)])
    assert len((await table(deps, app)).policies) == 2
    async with deps.pools.owner(app) as conn:
        assert await conn.fetchval("select count(*) from brolly.migrations") == 1


async def test_a_policy_and_an_apply_at_once_end_as_one_after_the_other(
    deps: Deps, app: App, mcp: Any, notes: str
) -> None:
    document = (await mcp("manage_schema", action="get", app_id=app.id))["schema"]
    document["tables"]["notes"]["columns"]["team"] = {"type": "integer"}
    policy = {"action": "create_policy", "table_name": notes, "policy_name": "p", "using_expression": "team = 1"}

    async def create() -> str:
        try:
            await mcp("manage_rls", app_id=app.id, **policy)
        except ToolFailed as error:
            return error.code
        return "created"

    async with asyncio.timeout(LIMIT):
        outcome, _ = await asyncio.gather(
            create(), mcp("manage_schema", action="apply", app_id=app.id, schema=document)
        )
    found = await table(deps, app)
    assert "team" in found.columns
    assert ("p" in {p.name for p in found.policies}) is (outcome == "created")
    assert found.rls_enabled is (outcome == "created")
    # If the policy came first, there was no such column yet.
    assert outcome in ("created", "RLS_INVALID_EXPRESSION")
    # What is kept in memory is what is there.
    assert (await deps.catalog.get(app)).tables["notes"] == found


async def test_a_dropped_column_and_a_policy_on_it_at_once(deps: Deps, app: App, mcp: Any, notes: str) -> None:
    document = {"tables": {"notes": {"columns": {"id": {"type": "serial"}}, "_dropColumns": ["author"]}}}
    policy = {"action": "create_policy", "table_name": notes, "policy_name": "p", "using_expression": "author = 'a'"}

    async def attempt(tool: str, **arguments: Any) -> str | None:
        try:
            await mcp(tool, app_id=app.id, **arguments)
        except ToolFailed as error:
            return error.code
        return None

    async with asyncio.timeout(LIMIT):
        outcomes = await asyncio.gather(
            attempt("manage_rls", **policy),
            attempt("manage_schema", action="apply", schema=document, confirm=True),
        )
    found = await table(deps, app)
    if "author" in found.columns:
        assert outcomes == [None, "SCHEMA_MIGRATION_FAILED"]
        assert "p" in {p.name for p in found.policies}
    else:
        assert outcomes == ["RLS_INVALID_EXPRESSION", None]
        assert found.policies == ()


async def test_a_cancelled_call_changes_nothing(deps: Deps, app: App, owner: Caller, notes: str) -> None:
    call, close = await hold_open(mcp_session(deps, owner))
    async with deps.pools.owner(app) as conn, conn.transaction():
        await conn.execute(LOCK)
        task = asyncio.ensure_future(call("manage_rls", action="enable", app_id=app.id, table_name=notes))
        await until_waiting(deps, app, 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    await close()
    assert not (await table(deps, app)).rls_enabled
