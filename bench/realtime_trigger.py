"""What recording costs whoever writes, and what it takes to tell for whom a change is."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio

from bench.database import administrator
from bench.figures import milliseconds, times
from bench.program import data_folder
from bench.runner import Run
from bench.tables import Table
from brolly.app import open_deps
from brolly.apps import provision
from brolly.core.caller import Caller
from brolly.core.settings import load_settings
from brolly.deps import Deps
from brolly.keys.service import ensure_account
from brolly.realtime.changes import Change, Identity, Moment, Position
from brolly.realtime.feed import feed_of
from brolly.realtime.service import Tables, configure
from brolly.realtime.visibility import visible
from brolly.registry import App

CONNECTIONS = (1, 16)
BULK = 20_000
_COLUMNS = (
    "(id bigint generated always as identity primary key, user_id uuid default gen_random_uuid(), title text, "
    "body text, created_at timestamptz default now())"
)
# As it would be without ``realtime.attention``: every commit wakes.
_ALWAYS = (
    "create function public.always() returns trigger language plpgsql as "
    "$$ begin perform pg_notify('realtime_changes', ''); return null; end $$; "
    "create trigger always after insert on public.woken for each statement execute function public.always()"
)
KINDS = {
    "plain": "not recorded",
    "recorded": "recorded, nobody listens",
    "heard": "recorded, a feed listens",
    "woken": "the same, with a NOTIFY in every commit",
}


async def measure(run: Run) -> Sequence[Table]:
    """Inserts into the same table recorded and not; then rows of a table with a policy, judged for identities."""
    with data_folder() as home:
        async with open_deps(load_settings({}, home=home)) as deps:
            account = await ensure_account(deps, "bench")
            app_id, _ = await provision.create(deps, account, "bench", "self-hosted")
            owner = Caller("service", account_id=account, scopes=frozenset("*"))
            app = await deps.registry.get(owner, app_id)
            async with deps.pools.owner(app) as conn:
                for kind in KINDS:
                    await conn.execute(f"create table {kind} {_COLUMNS}")
            await deps.catalog.changed(app)
            await configure(deps, owner, Tables(app_id=app_id, tables=["recorded", "heard", "woken"]))
            async with administrator(home, app_id) as conn:
                await conn.execute(_ALWAYS)
            writes = await _writes(run, deps, app, home)
            return [writes, await _judgements(run, deps, app)]


@asynccontextmanager
async def _listening(deps: Deps, app: App, kind: str) -> AsyncGenerator[None]:
    if kind in ("plain", "recorded"):
        async with administrator(deps.settings.home, app.id) as conn:
            await conn.execute("update realtime.attention set watched_until = '-infinity'")
        yield
        return
    feed = feed_of(deps)
    async with feed.opened(), feed.subscribe(app) as subscription, anyio.create_task_group() as group:

        async def take() -> None:
            async for _ in subscription.batches:
                pass

        group.start_soon(take)
        yield
        group.cancel_scope.cancel()


async def _writes(run: Run, deps: Deps, app: App, home: Path) -> Table:
    rounds, seconds = run.size(3, 1), run.size(3, 1)
    best: dict[tuple[str, int], float] = {}
    bulk: dict[str, float] = {}
    async with AsyncExitStack() as stack:
        connections = [await stack.enter_async_context(administrator(home, app.id)) for _ in range(max(CONNECTIONS))]

        async def write(connection: Any, kind: str, until: float) -> int:
            done = 0
            while time.perf_counter() < until:
                await connection.execute(f"insert into {kind} (title, body) values ($1, $2)", "hello", "x" * 200)
                done += 1
            return done

        for _ in range(rounds):
            for kind in KINDS:
                async with _listening(deps, app, kind):
                    for count in CONNECTIONS:
                        began = time.perf_counter()
                        jobs = [write(c, kind, began + seconds) for c in connections[:count]]
                        rate = sum(await asyncio.gather(*jobs)) / (time.perf_counter() - began)
                        best[kind, count] = max(best.get((kind, count), 0), rate)
                    began = time.perf_counter()
                    await connections[0].execute(
                        f"insert into {kind} (title, body) select 'a', repeat('x', 200) from generate_series(1, {BULK})"
                    )
                    bulk[kind] = min(bulk.get(kind, 1e9), time.perf_counter() - began)
                run.step()
    rows = [
        [name, *(f"{best[kind, n]:.0f}/s ({times(best[kind, n] / best['plain', n])})" for n in CONNECTIONS),
         f"{milliseconds(bulk[kind])} ({times(bulk[kind] / bulk['plain'])})"]
        for kind, name in KINDS.items()
    ]  # fmt: skip
    head = ["a table that is", *(f"inserts, {n} at a time" for n in CONNECTIONS), f"{BULK:,} rows in one statement"]
    note = f"Best of {rounds} rounds of {seconds} s, rows of 300 bytes, fsync on. In brackets: against not recorded."
    return Table(head, rows, [note])


async def _judgements(run: Run, deps: Deps, app: App) -> Table:
    policies = {
        "owner": "user_id = current_user_id()::uuid",
        "member": "exists (select 1 from members m where m.user_id = current_user_id()::uuid and m.team = member.id)",
        "public": "true",
    }
    async with deps.pools.owner(app) as conn:
        await conn.execute("create table members (team bigint, user_id uuid, primary key (user_id, team))")
        for name, expression in policies.items():
            await conn.execute(f"create table {name} {_COLUMNS}")
            await conn.execute(f"alter table {name} enable row level security")
            await conn.execute(f"create policy read on {name} for select to butterbase_user using ({expression})")
    await deps.catalog.changed(app)
    people = [Identity("user", str(uuid4())) for _ in range(500)]
    rows: list[list[str]] = []
    for name in policies:
        for count in (1, 10, 500):
            cells = [f"{name}, {count} identit{'y' if count == 1 else 'ies'}"]
            for size in (1, 10, 100):
                changes = [_change(name, place, people[place].user_id) for place in range(size)]
                took: list[float] = []
                for _ in range(run.size(15, 3) + 5):
                    began = time.perf_counter()
                    await visible(deps, app, name, changes, people[:count])
                    took.append(time.perf_counter() - began)
                cells.append(milliseconds(sorted(took[5:])[len(took[5:]) // 2]))
            rows.append(cells)
            run.step()
    head = ["policy", "1 change", "10 changes", "100 changes"]
    return Table(head, rows, ["Median time to decide for all identities what of the changes each may see."])


def _change(table: str, place: int, user: str | None) -> Change:
    image = {"id": place, "user_id": user, "title": "hello", "body": "x" * 200, "created_at": "2026-01-01T00:00:00Z"}
    moment = Moment(1)
    at = datetime.now(UTC)
    return Change(place, 1, table, "INSERT", json.dumps(image), None, at, Position(moment, moment, place))
