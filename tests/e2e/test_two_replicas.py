"""Two servers over one external Postgres behave as one: same secret, different data folders."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import anyio
import httpx
import pytest_asyncio

from brolly.pg.embedded import embedded_postgres
from tests.e2e.processes import Machine, Process, brolly, free_port, recorded

SECRET = "the same secret on every replica, 32 characters or more"
HEADERS = {"Accept": "application/json, text/event-stream", "MCP-Protocol-Version": "2025-06-18"}


@dataclass
class Pair:
    """Two replicas, and the address of their Postgres."""

    one: Process
    two: Process
    dsn: str


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def pair(shared: Machine) -> AsyncIterator[Pair]:
    async with AsyncExitStack() as stack:
        cluster = shared.home()
        postgres = await stack.enter_async_context(embedded_postgres(cluster, "administrator"))
        server = postgres.server
        dsn = f"postgresql://{server.user}:{server.password}@/{server.database}?host={quote(server.host, safe='')}"
        # Together, as an orchestrator would.
        one = shared.start(shared.home(), database_url=dsn, secret=SECRET)
        two = shared.start(shared.home(), database_url=dsn, secret=SECRET)
        await anyio.to_thread.run_sync(one.ready)
        await anyio.to_thread.run_sync(two.ready)
        yield Pair(one, two, dsn)
        for replica in (one, two):
            await anyio.to_thread.run_sync(replica.end)


def call(client: httpx.Client, tool: str, **arguments: Any) -> Any:
    """The answer of a tool, failed or not."""
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": tool, "arguments": arguments}}
    response = client.post("/mcp", json=body)
    assert response.status_code == 200, response.text
    data = response.text
    return json.loads(json.loads(data)["result"]["content"][0]["text"])


def test_an_app_of_one_is_served_by_the_other(pair: Pair) -> None:
    with pair.one.client(**HEADERS) as one, pair.two.client(**HEADERS) as two:
        made = call(one, "init_app", name="served")
        assert call(two, "init_app", name="served") | {"created": True} == made | {
            "api_base": f"{pair.two.url}/v1/{made['app_id']}",
            "api_url": f"{pair.two.url}/v1/{made['app_id']}",
            "url": made["url"].replace(str(pair.one.port), str(pair.two.port)),
        }
        assert made["app_id"] in [app["id"] for app in call(two, "manage_app", action="list")["apps"]]


def test_both_know_the_owners_key(pair: Pair) -> None:
    assert (pair.one.home / "owner.key").read_text() == (pair.two.home / "owner.key").read_text()
    for replica in (pair.one, pair.two):
        found = recorded(replica.home)
        assert found is not None
        assert found["postgres"] == "external"
        assert not (replica.home / "postgres").exists()


def test_a_key_revoked_on_one_is_refused_by_the_other_at_once(pair: Pair) -> None:
    with pair.one.client(**HEADERS) as one:
        key = call(one, "manage_auth_config", action="generate_service_key", name="brief")
        with pair.two.client(key=key["key"]) as two:
            assert two.get("/apps").status_code == 200
            assert call(one, "manage_api_keys", action="revoke", key_id=key["id"], confirm=True)["revoked"]
            refused = two.get("/apps")
    assert refused.status_code == 401
    assert refused.json()["error"]["code"] == "AUTH_INVALID_API_KEY"


def test_a_change_of_structure_on_one_is_seen_by_the_other(pair: Pair) -> None:
    def tables(*columns: str) -> dict[str, Any]:
        types = {"id": {"type": "bigserial", "primaryKey": True}, **{name: {"type": "text"} for name in columns}}
        return {"tables": {"notes": {"columns": types}}}

    with pair.one.client(**HEADERS) as one, pair.two.client(**HEADERS) as two:
        app_id = call(one, "init_app", name="structure")["app_id"]
        call(one, "manage_schema", action="apply", app_id=app_id, schema=tables("body"))
        # Each has its picture of the tables in memory from here on.
        for client in (one, two):
            assert "row" in call(client, "insert_row", app_id=app_id, table="notes", data={"body": "first"})
        call(two, "manage_schema", action="apply", app_id=app_id, schema=tables("body", "colour"))
        told = call(one, "insert_row", app_id=app_id, table="notes", data={"body": "second", "colour": "red"})
        assert told["row"]["colour"] == "red"
        assert len(call(two, "select_rows", app_id=app_id, table="notes")["rows"]) == 3


def test_an_app_deleted_on_one_is_gone_on_the_other(pair: Pair) -> None:
    with pair.one.client(**HEADERS) as one, pair.two.client(**HEADERS) as two:
        app_id = call(one, "init_app", name="brief")["app_id"]
        assert call(two, "manage_app", action="get_config", app_id=app_id)["id"] == app_id
        call(one, "manage_app", action="delete", app_id=app_id, confirm=True)
        assert call(two, "manage_app", action="get_config", app_id=app_id)["error"]["code"] == "RESOURCE_NOT_FOUND"


async def test_one_name_asked_of_both_at_once_gives_one_app(pair: Pair) -> None:
    answers: list[dict[str, Any]] = []

    def ask(replica: Process) -> None:
        with replica.client(**HEADERS) as client:
            answers.append(call(client, "init_app", name="raced"))

    async with anyio.create_task_group() as group:
        for replica in (pair.one, pair.two) * 4:
            group.start_soon(anyio.to_thread.run_sync, ask, replica)
    assert len({answer["app_id"] for answer in answers}) == 1
    assert sum(answer["created"] for answer in answers) == 1


def test_another_secret_is_refused_in_words(shared: Machine, pair: Pair) -> None:
    other = "another secret, which is also 32 characters long"
    done = brolly(shared.home(), "serve", "--port", str(free_port()), database_url=pair.dsn, secret=other)
    assert done.returncode == 1
    assert "set up with another installation secret" in done.stderr
    assert "BROLLY_SECRET" in done.stderr
    assert "Traceback" not in done.stderr
    assert other not in done.stderr
    assert "administrator" not in done.stderr


def test_both_go_on_after_one_has_ended(shared: Machine, pair: Pair) -> None:
    third = shared.serve(shared.home(), database_url=pair.dsn, secret=SECRET)
    with third.client(**HEADERS) as client:
        call(client, "init_app", name="served")
    assert third.end() < 10
    with pair.one.client(**HEADERS) as one:
        assert call(one, "init_app", name="served")["created"] is False
