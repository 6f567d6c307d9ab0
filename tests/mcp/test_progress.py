"""Calls that last: progress for whoever asks, and an end to what was begun when the caller takes the call back."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import anyio
import asyncpg
import httpx
import psutil
import pytest
import uvicorn

from brolly.apps import provision
from brolly.core.untrusted import parsed
from brolly.core.worker import start_workers
from brolly.deps import Deps
from brolly.hosting.build_worker import build_workers
from brolly.patience import PatientProtocol
from brolly.rag.worker import workers as readers
from brolly.registry import App
from brolly.web import build_web
from tests.build.test_builds import package, zipped
from tests.conftest import hold_open, make_owner

NEWEST = "2026-07-28"
PREFIX = "io.modelcontextprotocol"


@asynccontextmanager
async def server_of(deps: Deps) -> AsyncGenerator[str]:
    """A real server on a port of loopback, with the workers that a server has."""
    config = uvicorn.Config(build_web(deps), port=0, log_config=None, lifespan="on", http=PatientProtocol)
    server = uvicorn.Server(config)
    async with anyio.create_task_group() as group:
        start_workers(group, [*build_workers(deps), *readers(deps)])
        async with anyio.create_task_group() as serving:
            serving.start_soon(server.serve)
            with anyio.fail_after(10):
                while not server.started:  # noqa: ASYNC110 - uvicorn offers no event
                    await anyio.sleep(0.01)
            yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/mcp"
            server.should_exit = True
        group.cancel_scope.cancel()


class Desk:
    """An app, a client of its server in the era that is asked for, and a look at what the database does."""

    def __init__(self, deps: Deps, app: App, url: str, http: httpx.AsyncClient) -> None:
        self.deps, self.app, self.url, self.http = deps, app, url, http

    def request(self, tool: str, arguments: dict[str, Any], *, newest: bool, token: bool) -> Any:
        meta: dict[str, Any] = {"progressToken": "t-1"} if token else {}
        headers = {"Accept": "application/json, text/event-stream"}
        if newest:
            meta |= {f"{PREFIX}/protocolVersion": NEWEST, f"{PREFIX}/clientCapabilities": {}}
            headers |= {"MCP-Protocol-Version": NEWEST, "Mcp-Method": "tools/call", "Mcp-Name": tool}
        params = {"name": tool, "arguments": {"app_id": self.app.id, **arguments}, "_meta": meta}
        body = {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params}
        return self.http.stream("POST", self.url, json=body, headers=headers, timeout=60)

    async def call(self, tool: str, newest: bool = True, token: bool = False, **arguments: Any) -> tuple[str, Any, Any]:
        """The kind of the answer, the notifications before it, and what the tool says."""
        async with self.request(tool, arguments, newest=newest, token=token) as response:
            text = (await response.aread()).decode()
        kind = response.headers["content-type"].partition(";")[0]
        messages = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")] or [
            json.loads(text)
        ]
        *notes, last = messages
        return kind, [n["params"] for n in notes], parsed(last["result"]["content"][0]["text"])

    @asynccontextmanager
    async def sql(self) -> AsyncIterator[Any]:
        """The app's database as the administrator sees it."""
        connection: Any = await asyncpg.connect(**self.deps.databases.server.connect_args(database=self.app.db_name))
        try:
            yield connection
        finally:
            await connection.close()

    async def busy(self, like: str) -> int:
        """Statements of the app at work that have that text in them."""
        return await self.deps.control.fetchval(
            "select count(*) from pg_stat_activity where datname = $1 and state = 'active' and query ilike $2",
            self.app.db_name,
            f"%{like}%",
        )

    async def take_back(self, tool: str, like: str, *, newest: bool, token: bool, **arguments: Any) -> None:
        """Begin the call, close its request once that statement is at work, and wait until it is no more."""
        async with anyio.create_task_group() as group:

            async def send() -> None:
                async with self.request(tool, arguments, newest=newest, token=token) as response:
                    await response.aread()

            group.start_soon(send)
            with anyio.fail_after(20):
                while not await self.busy(like):  # noqa: ASYNC110 - only looking tells
                    await anyio.sleep(0.02)
            group.cancel_scope.cancel()
        with anyio.fail_after(10):
            while await self.busy(like):  # noqa: ASYNC110 - only looking tells
                await anyio.sleep(0.02)


@pytest.fixture(scope="module")
async def desk(deps: Deps) -> AsyncIterator[Desk]:
    owner, key = await make_owner(deps)
    assert owner.account_id is not None
    app_id, _ = await provision.create(deps, owner.account_id, f"app-{uuid4()}", "self-hosted")
    url, close = await hold_open(server_of(deps))
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {key}"}) as http:
        here = Desk(deps, await deps.registry.get(owner, app_id), url, http)
        columns = {"id": {"type": "integer", "primaryKey": True}, "slow": {"type": "boolean"}}
        tables = {"t": {"columns": columns}}
        await here.call("manage_schema", action="apply", schema={"tables": tables})
        async with here.sql() as connection:
            await connection.execute(
                "create function public.crawl() returns trigger language plpgsql as "
                "'begin if new.slow then perform pg_sleep(50); end if; return new; end';"
                "create trigger crawl before insert on public.t for each row execute function public.crawl()"
            )
        yield here
    await close()


ERAS = [(False, False), (True, True)]


@pytest.mark.parametrize(("newest", "token"), ERAS)
async def test_rows_of_a_call_that_was_taken_back_are_not_stored(desk: Desk, newest: bool, token: bool) -> None:
    rows = [{"id": n, "slow": n == 60} for n in range(90)]
    await desk.take_back("seed_database", "insert into", newest=newest, token=token, table="t", rows=rows)
    async with desk.sql() as connection:
        assert await connection.fetchval("select count(*) from t") == 0
    _, _, audit = await desk.call("query_audit_logs", event_type="row.seed", limit=1)
    assert (audit["logs"][0]["success"], "took it back" in audit["logs"][0]["error_message"]) == (False, True)


@pytest.mark.parametrize("newest", [False, True])
async def test_a_migration_that_was_taken_back_changes_nothing(desk: Desk, newest: bool) -> None:
    name = f"later_{newest}".lower()
    async with desk.sql() as other, other.transaction():
        await other.execute("lock table t in access share mode")
        wanted = {
            name: {"columns": {"id": {"type": "integer", "primaryKey": True}}},
            "t": {"columns": {"more": {"type": "text"}}},
        }
        await desk.take_back(
            "manage_schema", "alter table", newest=newest, token=False, action="apply", schema={"tables": wanted}
        )
    async with desk.sql() as connection:
        assert await connection.fetchval("select to_regclass($1)", name) is None
        shown = "select count(*) from pg_attribute where attrelid = 'public.t'::regclass and attname = 'more'"
        assert await connection.fetchval(shown) == 0
    # The very same call works afterwards: no lock, no half of it, is left.
    _, _, again = await desk.call("manage_schema", action="apply", schema={"tables": {name: wanted[name]}})
    assert "error" not in again


async def _send_source(desk: Desk, build: str) -> str:
    _, _, made = await desk.call("manage_frontend", action="create_from_source")
    source = zipped({"package.json": package(build)})
    path = made["uploadUrl"].partition("brolly.test")[2]
    put = await desk.http.put(desk.url.removesuffix("/mcp") + path, content=source)
    assert put.status_code == 200, put.text
    return made["deployment_id"]


@pytest.mark.parametrize("newest", [False, True])
async def test_a_build_tells_what_it_prints_and_how_it_ended(desk: Desk, newest: bool) -> None:
    there = await _send_source(desk, "echo hammering; sleep 1; mkdir dist; echo hello > dist/index.html")
    kind, notes, done = await desk.call(
        "manage_frontend", newest, token=True, action="start_from_source", deployment_id=there
    )
    assert (kind, done["status"]) == ("text/event-stream", "READY")
    assert done["url"].startswith("http")
    assert {note["progressToken"] for note in notes} == {"t-1"}
    grown = [note["progress"] for note in notes]
    assert grown == sorted(set(grown))
    assert any("hammering" in note["message"] for note in notes)


async def test_a_build_ends_with_its_call(desk: Desk) -> None:
    there = await _send_source(desk, "echo begun; sleep 4546; mkdir dist; echo > dist/index.html")
    arguments = {"action": "start_from_source", "deployment_id": there}
    async with desk.request("manage_frontend", arguments, newest=True, token=True) as response:
        with anyio.fail_after(30):
            async for line in response.aiter_lines():
                if "begun" in line:
                    break
    state = "select d.status || b.state from brolly.builds b join brolly.deployments d on d.id = b.deployment_id "
    with anyio.fail_after(10):
        while await desk.deps.control.fetchval(f"{state} where d.id::text = $1", there) != "CANCELEDDONE":  # noqa: ASYNC110
            await anyio.sleep(0.05)
    assert not [p for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] == ["sleep", "4546"]]


async def test_documents_are_read_while_the_caller_hears_of_it(desk: Desk) -> None:
    await desk.call("manage_rag_content", action="create_collection", name="docs")
    text = "\n\n".join(f"Sentence number {n} speaks of {n} things." for n in range(800))
    arguments: dict[str, Any] = {"action": "ingest_document", "collection": "docs", "text": text}
    kind, notes, done = await desk.call("manage_rag_content", token=True, **arguments)
    assert done["status"] == "ready"
    assert kind == "text/event-stream"
    assert all(note["message"].startswith("text.md") for note in notes)
    _, _, at_once = await desk.call("manage_rag_content", **{**arguments, "text": "Short."})
    assert at_once["status"] == "pending"


async def test_who_asks_for_no_progress_gets_no_stream(desk: Desk) -> None:
    for newest in (False, True):
        kind, notes, _ = await desk.call("manage_app", newest, action="get_config")
        assert (kind, notes) == ("application/json", [])
        # The word alone, in somebody's data, asks for nothing.
        kind, _, _ = await desk.call("submit_suggestion", newest, description='{"progressToken": 1}')
        assert kind == "application/json"
