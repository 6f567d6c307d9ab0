"""Changes over WebSocket under row-level security: from the write to its receipt, CPU, memory, loss."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import psutil

from bench.clients import HttpClient, http_client
from bench.figures import mebibytes, milliseconds, sample
from bench.program import Program, data_folder, serving
from bench.runner import Run
from bench.tables import Table

_PASSWORD = "Correct horse 1"
_USERS = 10
_SCHEMA = {
    "tables": {
        "things": {
            "columns": {
                "id": {"type": "bigserial", "primaryKey": True},
                "owner": {"type": "uuid"},
                "shared": {"type": "boolean", "default": "false"},
                "body": {"type": "text"},
            }
        }
    }
}
_POLICY = "shared or owner = current_user_id()::uuid"


@dataclass
class Ground:
    """The app under test and its users."""

    program: Program
    app: str
    users: list[str]
    tokens: list[str]
    http: httpx.AsyncClient


@dataclass
class Fleet:
    """The process that holds the sockets."""

    process: asyncio.subprocess.Process

    async def report(self) -> dict[str, Any]:
        """What was heard since the last report."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(b"\n")
        return json.loads(await self.process.stdout.readline())


@asynccontextmanager
async def fleet(ground: Ground, count: int, subscribe: bool = True) -> AsyncGenerator[Fleet]:
    """That many sockets in a process of their own, for the block."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "bench.sockets",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 30,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    asked = {"host": "127.0.0.1", "port": ground.program.port, "app": ground.app, "tokens": ground.tokens}
    process.stdin.write(json.dumps({**asked, "count": count, "subscribe": subscribe}).encode() + b"\n")
    try:
        assert json.loads(await process.stdout.readline())["ready"] == count
        yield Fleet(process)
    finally:
        process.stdin.close()
        process.kill()
        await process.wait()


async def _ground(program: Program, client: HttpClient, http: httpx.AsyncClient) -> Ground:
    app = (await client.call("init_app", name="realtime"))["app_id"]
    await client.call("manage_schema", action="apply", app_id=app, schema=_SCHEMA)
    policy = {"table_name": "things", "policy_name": "mine", "command": "SELECT", "role": "user"}
    await client.call("manage_rls", action="create_policy", app_id=app, **policy, using_expression=_POLICY)
    await client.call("manage_realtime", action="configure", app_id=app, tables=["things"])
    users, tokens = [], []
    for number in range(_USERS):
        who = {"email": f"user{number}@example.com", "password": _PASSWORD}
        (await http.post(f"/auth/{app}/signup", json=who)).raise_for_status()
        session = (await http.post(f"/auth/{app}/login", json=who)).raise_for_status().json()
        users.append(session["user"]["id"])
        tokens.append(session["access_token"])
    return Ground(program, app, users, tokens, http)


async def _write(ground: Ground, rate: float, seconds: float, shared: bool) -> int:
    """Rows at that rate, each by a request of its own; how many."""
    began, count = time.perf_counter(), int(rate * seconds)
    headers = {"Authorization": f"Bearer {ground.program.key}"}

    async def one(number: int) -> None:
        row = {"owner": ground.users[number % _USERS], "shared": shared, "body": "x" * 100}
        answer = await ground.http.post(f"/v1/{ground.app}/things?select=id", json=row, headers=headers)
        answer.raise_for_status()

    async with asyncio.TaskGroup() as group:
        for number in range(count):
            await asyncio.sleep(max(0.0, began + number / rate - time.perf_counter()))
            group.create_task(one(number))
    return count


async def _settled(sockets: Fleet, expected: int) -> dict[str, Any]:
    """All reports until what is expected has come, or for ten seconds nothing more has."""
    total: dict[str, Any] = await sockets.report()
    quiet = 0
    while total["heard"] < expected and quiet < 20:
        await asyncio.sleep(0.5)
        more = await sockets.report()
        quiet = 0 if more["heard"] else quiet + 1
        total = {
            "heard": total["heard"] + more["heard"],
            "most": total["most"] + more["most"],
            "lost": more["lost"],
            "taken": total["taken"] + more["taken"],
        }
    return total


async def _delivery(run: Run, ground: Ground, count: int, rate: float, seconds: float, shared: bool) -> list[str]:
    server = psutil.Process(ground.program.process.pid)
    async with fleet(ground, count) as sockets:
        await asyncio.sleep(1)
        before, began = server.cpu_times(), time.perf_counter()
        wrote = await _write(ground, rate, seconds, shared)
        expected = wrote * (count if shared else count // _USERS)
        found = await _settled(sockets, expected)
        took, after = time.perf_counter() - began, server.cpu_times()
    run.step()
    taken = sample(found["taken"])
    busy = (after.user + after.system - before.user - before.system) / took
    hears = "all" if shared else f"the owner's {count // _USERS}"
    return [
        f"{count:,} sockets, {rate:g} changes/s to {hears}",
        f"{expected / seconds:,.0f}",
        milliseconds(taken.median),
        milliseconds(taken.percentile(0.95)),
        milliseconds(taken.percentile(0.99)),
        f"{busy:.0%}",
        f"{expected - found['heard']} of {expected:,}",
    ]


async def _idle(run: Run, ground: Ground, count: int, subscribe: bool) -> list[str]:
    server = psutil.Process(ground.program.process.pid)
    before = server.memory_info().rss
    async with fleet(ground, count, subscribe):
        await asyncio.sleep(2)
        held = server.memory_info().rss - before
    run.step()
    what = "subscribed" if subscribe else "connected"
    return [f"{count:,} sockets, {what}", mebibytes(held), f"{held / count / 1024:.1f} KiB"]


async def measure(run: Run) -> Sequence[Table]:
    """Delivery at several loads, then sockets that only wait."""
    seconds = run.size(15, 3)
    many = run.size(1000, 100)
    loads = [(many, 100, False), (many, 10, True), (many // 2, 100, True), (many, 100, True)]
    settings = {"BROLLY_REALTIME_ADDRESS_SOCKETS": "20000", "BROLLY_AUTH_LIMIT_FACTOR": "100"}
    with data_folder() as home, serving(home, settings=settings) as program:
        async with http_client(program, 8) as client, httpx.AsyncClient(base_url=program.url, timeout=60) as http:
            ground = await _ground(program, client, http)
            run.begin("deliveries", len(loads) + 2)
            idle = [await _idle(run, ground, run.size(5000, 200), False), await _idle(run, ground, many, True)]
            rows = [await _delivery(run, ground, count, rate, seconds, shared) for count, rate, shared in loads]
    head = ["load", "messages/s", "p50", "p95", "p99", "server's CPU", "lost"]
    note = (
        f"{seconds} s each, {_USERS} users, a policy that looks at the owner. Timed from the moment in the writing "
        "transaction at which the trigger noted the change to its arrival at each socket. Clients, writers, server "
        "and Postgres share the machine; CPU is the server process's alone, of one core."
    )
    return [Table(head, rows, [note]), Table(["idle", "memory", "each"], idle)]
