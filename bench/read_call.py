"""One indexed row read under row-level security: through MCP, and by the same statement without anything around it."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client as sdk_stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client

from bench.clients import http_client, stdio_client, tool_message
from bench.database import ROWS, TABLE, Shelf, administrator, door, fill_shelf
from bench.figures import Sample, milliseconds, times
from bench.program import Program, command, data_folder, environment, serving
from bench.runner import Run
from bench.stopwatch import Call, in_turn
from bench.tables import Table
from brolly.data import query, response
from brolly.data.plan import plan_read
from brolly.data.request import parse_read
from brolly.pg.snapshot import read_snapshot

PLAIN = "the row by a plain select, as superuser"
BARE = "the server's own statement by bare asyncpg: begin, role, read, commit"
HTTP = "`select_rows` over HTTP, message by message"
SDK_HTTP = "`select_rows` over HTTP, the SDK's client"
STDIO = "`select_rows` over stdio, line by line"
SDK_STDIO = "`select_rows` over stdio, the SDK's client"
GOAL = 0.010
TAKE_ROLE = (
    "select set_config('role', $1, true), set_config('app.role', $1, true), "
    "set_config('request.jwt.claim.sub', $2, true), set_config('request.jwt.claims', $3, true)"
)


async def measure(run: Run) -> Sequence[Table]:
    """Every way in turn, call by call."""
    rounds, warmup = run.size(1000, 60), run.size(50, 10)
    with data_folder() as home, serving(home) as program:
        async with AsyncExitStack() as stack:
            client = await stack.enter_async_context(http_client(program, 1))
            shelf = await fill_shelf(client, home)
            calls = await ways(stack, program, shelf)
            run.begin("one row", rounds + warmup)
            found = await in_turn(run, calls, rounds, warmup)
    bare = found[BARE].wall.median
    rows = [_row(name, timing.wall, bare) for name, timing in found.items()]
    worst = max(found[name].wall.median for name in (HTTP, SDK_HTTP, STDIO, SDK_STDIO))
    note = (
        f"{rounds} rounds, each way once per round, one call at a time, on {ROWS:,} rows. Client and server share the "
        f"machine. Goal: p50 at most {milliseconds(GOAL)}: {'yes' if worst <= GOAL else '**no**'}."
    )
    return [Table(["", "least", "p50", "p99", "largest", "against the statement"], rows, [note])]


def _row(name: str, found: Sample, bare: float) -> list[str]:
    least, median, largest = found.spread(milliseconds)
    return [name, least, median, milliseconds(found.percentile(0.99)), largest, times(found.median / bare)]


def notes() -> Iterator[int]:
    """Ids of notes, scattered over the table, always in the same order."""
    return (1 + (step * 7919) % ROWS for step in itertools.count())


async def ways(stack: AsyncExitStack, program: Program, shelf: Shelf) -> dict[str, Call]:
    """Every way to read the row, each with a connection of its own that stays open."""
    plain = await stack.enter_async_context(administrator(shelf.home, shelf.app_id))
    bare = await stack.enter_async_context(door(shelf.home, shelf.app_id))
    http = await stack.enter_async_context(http_client(program, 1))
    stdio = await stack.enter_async_context(stdio_client(program))
    sdk_http = await stack.enter_async_context(sdk_over_http(program))
    sdk_stdio = await stack.enter_async_context(sdk_over_stdio(program))
    one, two, three, four, five = (notes() for _ in range(5))

    async def read_plain() -> None:
        row = await plain.fetchrow(f"select id, user_id, title, body, created_at from {TABLE} where id = $1", next(one))
        assert row is not None

    async def post() -> None:
        answer = await http.post(tool_message(1, "select_rows", shelf.reading(next(two))))
        _check(answer["result"]["content"][0]["text"])

    async def line() -> None:
        answer = await stdio.send(tool_message(1, "select_rows", shelf.reading(next(three))))
        _check(answer["result"]["content"][0]["text"])

    async def call_http() -> None:
        _check((await sdk_http.call_tool("select_rows", shelf.reading(next(four)))).content[0].text)

    async def call_stdio() -> None:
        _check((await sdk_stdio.call_tool("select_rows", shelf.reading(next(five)))).content[0].text)

    return {
        PLAIN: read_plain,
        BARE: await bare_read(bare, shelf),
        HTTP: post,
        SDK_HTTP: call_http,
        STDIO: line,
        SDK_STDIO: call_stdio,
    }


def _check(text: str) -> None:
    if len(json.loads(text)["rows"]) != 1:
        raise RuntimeError(f"expected one row: {text[:300]}")


async def bare_read(connection: Any, shelf: Shelf) -> Call:
    """What the server sends to Postgres for the call, and nothing around it."""
    tables = await read_snapshot(connection)
    ids = notes()

    def statement(note: int) -> query.Statement:
        request = parse_read(TABLE, filters=[("id", f"eq.{note}")], select=None, order=None, limit=1, offset=0)
        return query.read(plan_read(request, tables), response.MAX_BYTES)

    first = statement(1)

    async def read() -> None:
        note = next(ids)
        user = shelf.owner_of(note)
        args = [str(note) if value == "1" else value for value in first.args]
        async with connection.transaction(readonly=True):
            await connection.execute(TAKE_ROLE, "butterbase_user", user, json.dumps({"sub": user}))
            row = await connection.fetchrow(first.text, *args)
        assert row["shown"] == 1

    return read


@asynccontextmanager
async def sdk_over_http(program: Program) -> AsyncGenerator[Any]:
    """The SDK's client over HTTP, in the protocol version that it chooses."""
    headers = {"Authorization": f"Bearer {program.key}"}
    async with (
        create_mcp_http_client(headers=headers) as http,
        Client(streamable_http_client(f"{program.url}/mcp", http_client=http)) as client,
    ):
        yield client


@asynccontextmanager
async def sdk_over_stdio(program: Program) -> AsyncGenerator[Any]:
    """The SDK's client over stdio."""
    first, *rest = command("mcp", "--home", str(program.home))
    parameters = StdioServerParameters(command=first, args=rest, env=environment())
    with (program.home / "bridge.log").open("w") as log:
        async with Client(sdk_stdio_client(parameters, errlog=log)) as client:
            yield client
