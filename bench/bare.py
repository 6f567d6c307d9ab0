"""What a request for rows costs without any server: the statement in its role by asyncpg, as concurrently."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import anyio
import asyncpg

from bench.database import cluster, secret
from bench.figures import sample
from bench.load import Burst
from bench.posts import Ask
from bench.program import Program
from bench.read_call import TAKE_ROLE
from brolly.data import changes, query, reading
from brolly.data.plan import Condition, plan_read
from brolly.data.query import Statement
from brolly.data.query_string import parse_query
from brolly.data.request import InsertRequest
from brolly.data.values import plan_insert
from brolly.pg.catalog import Snapshot
from brolly.pg.pool import door_login, login_password
from brolly.pg.snapshot import read_snapshot


def statement(ask: Ask, tables: Snapshot) -> Statement:
    """What Brolly sends for the request."""
    parts = urlsplit(ask.path)
    _, _, _, table, *rest = parts.path.split("/")
    plan = plan_read(parse_query(table, parse_qsl(parts.query)).request, tables)
    if ask.method == "POST":
        (new,) = plan_insert(InsertRequest(table, (json.loads(ask.body),)), tables)
        return changes.store(new, plan)
    if not rest:
        return query.short_page(plan, reading.MAX_BYTES, keys=True, total=False)
    column = plan.table.columns[plan.table.primary_key[0]]
    single = reading.replace(plan, conditions=(Condition(column, "eq", rest[0]),), limit=1)
    return query.short_page(single, reading.MAX_BYTES, keys=False, total=False)


class Bare:
    """Connections of the login that Brolly uses."""

    def __init__(self, pool: Any, tables: Snapshot, users: Sequence[str]) -> None:
        self._pool, self._tables, self._users = pool, tables, users

    async def burst(self, asks: Sequence[Ask], connections: int, seconds: float) -> Burst:
        """The requests' statements in turn, for that long."""
        found = [(one, statement(one, self._tables)) for one in asks]
        turn, took = itertools.cycle(found), list[float]()
        began = time.perf_counter()

        async def work() -> None:
            while time.perf_counter() - began < seconds:
                ask, made = next(turn)
                at = time.perf_counter()
                user = self._users[ask.user]
                async with self._pool.acquire() as connection, connection.transaction(readonly=ask.method == "GET"):
                    await connection.execute(TAKE_ROLE, "butterbase_user", user, json.dumps({"sub": user}))
                    await connection.fetchrow(made.text, *made.args)
                took.append(time.perf_counter() - at)

        async with anyio.create_task_group() as group:
            for _ in range(connections):
                group.start_soon(work)
        spent, all_of_them = time.perf_counter() - began, sample(took)
        return Burst(len(took), spent, all_of_them.median, all_of_them.percentile(0.99), max(took), 0)


async def open_bare(program: Program, app_id: str, users: Sequence[str], connections: int) -> tuple[Any, Bare]:
    """The pool, to be closed by who asks, and what uses it."""
    login = door_login(app_id)
    password = login_password(secret(program.home), login)
    arguments = cluster(program.home).connect_args(user=login, password=password, database=app_id)
    pool: Any = await asyncpg.create_pool(**arguments, min_size=1, max_size=connections)
    async with pool.acquire() as connection:
        tables = await read_snapshot(connection)
    return pool, Bare(pool, tables, users)
