"""Where the time of the call goes: the same read, in one process, with one layer more each time."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import anyio

from bench.clients import PROTOCOL, http_client, payload, tool_message
from bench.database import Shelf, door, fill_shelf
from bench.figures import milliseconds
from bench.program import data_folder, serving
from bench.read_call import bare_read, notes
from bench.runner import Run
from bench.stopwatch import Call, Timing, in_turn
from bench.tables import Table
from brolly.app import open_deps
from brolly.core.settings import load_settings
from brolly.core.tool import AuditEvent
from brolly.data.service import SelectRows, select_rows
from brolly.deps import Deps
from brolly.identity import identify
from brolly.web import build_web


@dataclass(frozen=True)
class _Step:
    """A row of the breakdown: what is measured, and what it is compared with to find its own share."""

    name: str
    total: str
    without: tuple[str, ...] = ()


STEPS = (
    _Step("Postgres: begin, take the role, read, commit", "statement"),
    _Step("`data` slice: registry, catalog, plan, SQL, pool, text", "service", ("statement",)),
    _Step("tool table: validate the arguments", "unaudited", ("service",)),
    _Step("audit row", "tool", ("unaudited",)),
    _Step("key to caller: one lookup", "identify"),
    _Step("Starlette and our middleware", "health"),
    _Step("the SDK: transport, session, JSON-RPC, models, event stream", "asgi", ("tool", "identify", "health")),
    _Step("an empty HTTP exchange: client, loopback, uvicorn", "http health", ("health",)),
)


async def measure(run: Run) -> Sequence[Table]:
    """A server apart for the last step; all others in this process, over the same Postgres."""
    rounds, warmup = run.size(1000, 60), run.size(50, 10)
    with data_folder() as home, serving(home) as program:
        async with AsyncExitStack() as stack:
            client = await stack.enter_async_context(http_client(program, 1))
            shelf = await fill_shelf(client, home)
            deps = await stack.enter_async_context(open_deps(load_settings({}, home=home)))
            calls = await _calls(stack, deps, shelf, program.key)
            ids = notes()

            async def post() -> None:
                await client.post(tool_message(1, "select_rows", shelf.reading(next(ids))))

            run.begin("layers", rounds + warmup)
            found = await in_turn(run, {**calls, "http health": client.health, "http": post}, rounds, warmup)
    return [_table(found, rounds)]


def _table(found: dict[str, Timing], rounds: int) -> Table:
    whole = found["http"].wall.median
    rows, rest = [], whole
    for step in STEPS:
        total = found[step.total]
        own = total.wall.median - sum(found[name].wall.median for name in step.without)
        cpu = total.cpu.median - sum(found[name].cpu.median for name in step.without)
        # In the exchange over HTTP only the client is in this process.
        shown = milliseconds(cpu) if step.total != "http health" else ""
        rows.append([step.name, milliseconds(own), f"{own / whole:.0%}", shown, milliseconds(total.wall.median)])
        rest -= own
    rows.append(["the rest: larger messages, two processes in turn", milliseconds(rest), f"{rest / whole:.0%}", "", ""])
    rows.append(["**the whole call over HTTP**", f"**{milliseconds(whole)}**", "", "", ""])
    note = (
        f"Differences of medians of {rounds} rounds, each layer once per round. The last column is what was measured: "
        "the read with everything up to that layer (key, Starlette and the empty exchange by themselves). The "
        "processor time is that of the Python process, without Postgres."
    )
    return Table(["layer", "its own share", "", "processor", "measured"], rows, [note])


async def _calls(stack: AsyncExitStack, deps: Deps, shelf: Shelf, key: str) -> dict[str, Call]:
    bearer = f"Bearer {key}"
    caller = await identify(deps, bearer, request_id="bench", ip="127.0.0.1", user_agent="bench")
    web = build_web(deps)
    await stack.enter_async_context(web.router.lifespan_context(web))
    one, two, three, four = (notes() for _ in range(4))
    tool = deps.tools["select_rows"]
    host: Any = _Unaudited(deps)

    async def service() -> None:
        await select_rows(deps, caller, SelectRows.model_validate(shelf.reading(next(one))))

    async def unaudited() -> None:
        await tool.run(host, caller, "", shelf.reading(next(two)))

    async def audited() -> None:
        await tool.run(deps, caller, "", shelf.reading(next(three)))

    async def find_caller() -> None:
        await identify(deps, bearer, request_id="bench", ip="127.0.0.1", user_agent="bench")

    async def health() -> None:
        await ask(web, "GET", "/health", b"", bearer)

    async def asgi() -> None:
        body = tool_message(1, "select_rows", shelf.reading(next(four)))
        answer = payload(await ask(web, "POST", "/mcp", body, bearer))
        assert not answer["result"].get("isError"), answer

    return {
        "statement": await bare_read(await stack.enter_async_context(door(shelf.home, shelf.app_id)), shelf),
        "service": service,
        "unaudited": unaudited,
        "tool": audited,
        "identify": find_caller,
        "health": health,
        "asgi": asgi,
    }


class _Unaudited:
    """Everything that is open, but nothing is recorded."""

    def __init__(self, deps: Deps) -> None:
        self._deps = deps

    def __getattr__(self, name: str) -> Any:
        return getattr(self._deps, name)

    async def record(self, event: AuditEvent) -> None:
        """Do nothing."""


async def ask(web: Any, method: str, path: str, body: bytes, bearer: str) -> bytes:
    """A request to the application without a network; the answer's body."""
    headers = {
        "host": "127.0.0.1:4000",
        "authorization": bearer,
        "content-type": "application/json",
        "accept": "application/json, text/event-stream",
        "mcp-protocol-version": PROTOCOL,
        "content-length": str(len(body)),
    }
    exchange = SimpleNamespace(sent=False, chunks=list[bytes]())

    async def receive() -> dict[str, Any]:
        if not exchange.sent:
            exchange.sent = True
            return {"type": "http.request", "body": body, "more_body": False}
        await never()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        exchange.chunks.append(message.get("body", b""))

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "client": ("127.0.0.1", os.getpid() % 65536),
        "server": ("127.0.0.1", 4000),
    }
    await web(scope, receive, send)
    return b"".join(exchange.chunks)


async def never() -> None:
    """Wait until cancelled."""
    await anyio.sleep_forever()
