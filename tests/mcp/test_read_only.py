"""A read-only key and a read-only server: what is offered, what is refused, what stays as it was."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from mcp import Client

from brolly.core.caller import Caller
from brolly.core.tool import READ
from brolly.deps import Deps
from brolly.mcp_server import BrollyServer
from brolly.registry import App
from brolly.web import build_web
from tests.conftest import ToolFailed, http_client, make_owner, mcp_session

WRITES: list[tuple[str, dict[str, Any]]] = [
    ("init_app", {"name": "new"}),
    ("manage_app", {"action": "pause", "app_id": "APP", "paused": True}),
    ("manage_app", {"action": "update_cors", "app_id": "APP", "allowed_origins": ["https://x.example"]}),
    ("manage_app", {"action": "delete", "app_id": "APP", "confirm": True}),
    ("manage_schema", {"action": "apply", "app_id": "APP", "schema": {"tables": {}}}),
    ("manage_rls", {"action": "enable", "app_id": "APP", "table_name": "t"}),
    ("insert_row", {"app_id": "APP", "table": "t", "data": {}}),
    ("seed_database", {"app_id": "APP", "table": "t", "rows": [{}]}),
    ("manage_auth_config", {"action": "generate_service_key", "name": "wider"}),
    ("manage_api_keys", {"action": "revoke", "key_id": "x", "confirm": True}),
    ("submit_suggestion", {"category": "improvement", "description": "More words."}),
]
READS: list[tuple[str, dict[str, Any]]] = [
    ("manage_app", {"action": "list"}),
    ("manage_app", {"action": "get_config", "app_id": "APP"}),
    ("manage_schema", {"action": "get", "app_id": "APP"}),
    ("manage_rls", {"action": "list", "app_id": "APP"}),
    ("manage_api_keys", {"action": "list"}),
    ("query_audit_logs", {"app_id": "APP"}),
    ("list_regions", {}),
    ("butterbase_docs", {}),
]


def real(arguments: dict[str, Any], app: App) -> dict[str, Any]:
    return json.loads(json.dumps(arguments).replace('"APP"', f'"{app.id}"'))


@pytest.fixture(params=["key", "server"])
async def reader(request: Any, deps: Deps, owner: Caller) -> AsyncIterator[tuple[Deps, Caller]]:
    """A read-only key of the account, or its full key at a read-only server."""
    if request.param == "key":
        yield deps, (await make_owner(deps, ("*", "read"), owner.account_id))[0]
    else:
        yield replace(deps, settings=replace(deps.settings, read_only=True)), owner


@pytest.mark.parametrize(("tool", "arguments"), WRITES)
async def test_writes_are_refused(reader: tuple[Deps, Caller], app: App, tool: str, arguments: dict[str, Any]) -> None:
    deps, caller = reader
    count = (
        "select (select count(*) from brolly.apps) + (select count(*) from brolly.api_keys where revoked_at is null)"
    )
    before = await deps.control.fetchval(count), await deps.registry.find(app.id)
    async with mcp_session(deps, caller) as mcp:
        with pytest.raises(ToolFailed) as failed:
            await mcp(tool, **real(arguments, app))
    assert failed.value.code == "AUTH_FORBIDDEN"
    assert "read" in failed.value.error["message"]
    assert (await deps.control.fetchval(count), await deps.registry.find(app.id)) == before


@pytest.mark.parametrize(("tool", "arguments"), READS)
async def test_reads_work(reader: tuple[Deps, Caller], app: App, tool: str, arguments: dict[str, Any]) -> None:
    deps, caller = reader
    async with mcp_session(deps, caller) as mcp:
        assert await mcp(tool, **real(arguments, app))


async def test_the_list_offers_reads_alone(reader: tuple[Deps, Caller]) -> None:
    deps, caller = reader
    async with Client(BrollyServer(deps, caller)) as session:
        listed = {tool.name: tool for tool in (await session.list_tools()).tools}
    for name, tool in deps.tools.items():
        reads = [label for label, action in tool.actions.items() if action.effect is READ]
        assert (name in listed) == bool(reads)
        if reads and reads != [""]:
            assert listed[name].input_schema["properties"]["action"]["enum"] == reads
    assert {"init_app", "insert_row", "submit_suggestion"}.isdisjoint(listed)


async def test_the_list_over_http_follows_the_key(deps: Deps, owner: Caller, app: App) -> None:
    _, key = await make_owner(deps, ("*", "read"), owner.account_id)
    async with http_client(deps, key) as client:
        assert (await client.get(f"/v1/{app.id}/config")).status_code == 200
        refused = await client.patch(f"/v1/{app.id}/config/pause", json={"paused": True})
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "AUTH_FORBIDDEN")
        assert (await client.delete(f"/apps/{app.id}")).status_code == 403
        assert (await client.post("/init", json={"name": "x"})).status_code == 403
    assert (await deps.registry.get(owner, app.id)).paused_at is None


async def test_a_client_that_asked_for_reads_alone_is_told_so(deps: Deps, owner: Caller, owner_key: str) -> None:
    _, reader = await make_owner(deps, ("*", "read"), owner.account_id)
    body = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {"name": "init_app", "arguments": {"name": "x"}},
    }
    headers = {"Accept": "application/json, text/event-stream", "X-Brolly-Read-Only": "1"}
    web = build_web(deps)
    transport = httpx.ASGITransport(web)
    async with (
        web.router.lifespan_context(web),
        httpx.AsyncClient(transport=transport, base_url="http://brolly.test", headers=headers) as client,
    ):
        for key, why in ((owner_key, "BROLLY_READ_ONLY"), (reader, "This key has the scope read")):
            answer = await client.post("/mcp", json=body, headers={"Authorization": f"Bearer {key}"})
            assert "AUTH_FORBIDDEN" in answer.text
            assert why in answer.text


async def test_a_read_only_server_does_not_note_the_use_of_keys(deps: Deps, owner: Caller) -> None:
    caller, key = await make_owner(deps, account=owner.account_id)
    await deps.control.execute("update brolly.api_keys set last_used_at = null where id = $1", caller.key_id)
    quiet = replace(deps, settings=replace(deps.settings, read_only=True))
    async with http_client(quiet, key) as client:
        assert (await client.get("/apps")).status_code == 200
    used = "select last_used_at from brolly.api_keys where id = $1"
    assert await deps.control.fetchval(used, caller.key_id) is None
