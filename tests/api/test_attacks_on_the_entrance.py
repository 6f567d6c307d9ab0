"""What was found by attacking: each of these once went wrong."""

from __future__ import annotations

import json
from typing import Any, ClassVar

import httpx
import pytest
from mcp import Client
from mcp.types import ElicitRequestParams, ElicitResult

from brolly.core.caller import Caller
from brolly.deps import Deps
from brolly.mcp_server import BrollyServer
from brolly.registry import App
from tests.conftest import ToolFailed


async def test_two_credentials_are_refused(anon_http: httpx.AsyncClient, owner_key: str) -> None:
    headers = [("Authorization", f"Bearer {owner_key}"), ("Authorization", "Bearer bb_sk_" + "0" * 40)]
    for path in ("/apps", "/mcp"):
        answer = await anon_http.request("POST" if path == "/mcp" else "GET", path, headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "AUTH_INVALID_TOKEN"), path


async def test_nesting_without_end_is_bad_input(http: httpx.AsyncClient, mcp: Any, app: App) -> None:
    deep = "[" * 100_000
    answer = await http.post(f"/v1/{app.id}/secure", content='{"tables": ' + deep)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "VALIDATION_INVALID_SCHEMA")
    with pytest.raises(ToolFailed) as refused:
        await mcp("seed_database", app_id=app.id, table="t", rows=deep)
    assert refused.value.code == "VALIDATION_INVALID_SCHEMA"


async def test_an_app_id_of_any_length_and_content_is_not_found(deps: Deps, mcp: Any, owner: Caller) -> None:
    for app_id in ("x" * 6000, "app_\0", "app_\ud800", "'; drop table brolly.apps; --"):
        with pytest.raises(ToolFailed) as refused:
            await mcp("manage_app", action="get_config", app_id=app_id)
        assert refused.value.code in ("RESOURCE_NOT_FOUND", "VALIDATION_INVALID_SCHEMA", "VALIDATION_INVALID_INPUT")
    refused_rows = await deps.control.fetchval(
        "select count(*) from brolly.audit_log where account_id = $1 and not success", owner.account_id
    )
    assert refused_rows == 4


async def ask_to_delete(deps: Deps, owner: Caller, app: App, answer: ElicitResult) -> dict[str, Any]:
    async def person(context: Any, params: ElicitRequestParams) -> ElicitResult:
        del context, params
        return answer

    async with Client(BrollyServer(deps, owner), elicitation_callback=person) as client:
        result = await client.call_tool("manage_app", {"action": "delete", "app_id": app.id, "confirm": True})
        return json.loads(result.content[0].text)  # type: ignore[union-attr]


@pytest.mark.parametrize("content", [{"confirm": "false"}, {"confirm": 1}, {"confirm": "true"}, {}])
async def test_only_a_true_yes_is_agreement(deps: Deps, owner: Caller, app: App, content: dict[str, Any]) -> None:
    said = await ask_to_delete(deps, owner, app, ElicitResult(action="accept", content=content))
    assert said["error"]["code"] == "CONFIRMATION_REQUIRED"
    assert await deps.registry.find(app.id) is not None


async def test_an_answer_to_no_question_is_none(deps: Deps, owner: Caller, app: App, http: httpx.AsyncClient) -> None:
    from mcp.types import ElicitRequest

    from brolly import mcp_server

    class Forged:
        """The context of a first call that brings an answer along, without the state that the question sealed."""

        input_responses: ClassVar = {"confirm": ElicitResult(action="accept", content={"confirm": True})}
        request_state: ClassVar[str | None] = None

    with pytest.raises(mcp_server.Pending) as pending:
        mcp_server._answer(Forged(), "Delete it?")  # type: ignore[arg-type]
    assert isinstance(pending.value.request.input_requests["confirm"], ElicitRequest)
    Forged.request_state = "Delete another one?"
    with pytest.raises(mcp_server.Pending):
        mcp_server._answer(Forged(), "Delete it?")  # type: ignore[arg-type]
    Forged.request_state = "Delete it?"
    assert mcp_server._answer(Forged(), "Delete it?") is True  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "check",
    [
        "length(repeat('x', 200000000)) > 0",
        "pg_get_userbyid(id::oid) is not null",
        "id::oid::regrole::text <> ''",
        "lpad('x', 1000000000) <> ''",
        "to_regrole('x') is null",
    ],
)
async def test_expressions_reach_no_names_of_others_and_no_memory(mcp: Any, app: App, check: str) -> None:
    document = {"tables": {"t": {"columns": {"id": {"type": "integer"}}, "checks": {"c": check}}}}
    with pytest.raises(ToolFailed) as refused:
        await mcp("manage_schema", action="apply", app_id=app.id, schema=document)
    assert refused.value.code in ("VALIDATION_INVALID_SCHEMA", "SCHEMA_MIGRATION_FAILED", "RLS_UNSAFE_EXPRESSION")
    assert (await mcp("manage_schema", action="get", app_id=app.id))["schema"]["tables"] == {}


async def test_a_conversion_reaches_no_names_of_others(mcp: Any, app: App) -> None:
    columns = {"id": {"type": "integer"}}
    await mcp("manage_schema", action="apply", app_id=app.id, schema={"tables": {"t": {"columns": columns}}})
    await mcp("insert_row", app_id=app.id, table="t", data={"id": 10})
    changed = {"tables": {"t": {"columns": {"id": {"type": "text"}}, "_alterType": {"id": "id::oid::regrole::text"}}}}
    with pytest.raises(ToolFailed):
        await mcp("manage_schema", action="apply", app_id=app.id, schema=changed, confirm=True)
    assert (await mcp("select_rows", app_id=app.id, table="t"))["rows"] == [{"id": 10}]


async def test_changes_of_one_app_leave_connections_to_the_others(deps: Deps, owner: Caller, app: App) -> None:
    import anyio

    from brolly.pg.pool import OWNERS_PER_APP, owner_login

    most = 0

    async def change() -> None:
        nonlocal most
        async with deps.pools.owner(app) as connection:
            most = max(
                most,
                await connection.fetchval(
                    "select count(*) from pg_stat_activity where usename = $1", owner_login(app.id)
                ),
            )

    async with anyio.create_task_group() as group:
        for _ in range(30):
            group.start_soon(change)
    assert 1 <= most <= OWNERS_PER_APP
