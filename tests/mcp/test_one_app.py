"""A client held to one app: its calls need not name the app, and reach no other, whatever they name."""

from __future__ import annotations

from typing import Any

import pytest
from mcp import Client

from brolly.core.caller import Caller
from brolly.core.errors import AppError
from brolly.core.settings import load_settings
from brolly.deps import Deps
from brolly.mcp_server import BrollyServer
from brolly.registry import App
from tests.conftest import McpCall, ToolFailed, http_client, mcp_session

ITEMS = {
    "tables": {
        "items": {
            "columns": {
                "id": {"type": "uuid", "primaryKey": True, "default": "gen_random_uuid()"},
                "title": {"type": "text"},
            }
        }
    }
}


async def test_the_list_names_no_app_and_nothing_of_the_account(deps: Deps, owner: Caller, app: App) -> None:
    async with Client(BrollyServer(deps, owner.hold(app.id))) as session:
        tools = {tool.name: tool for tool in (await session.list_tools()).tools}
    assert not {"init_app", "manage_api_keys", "list_regions"} & tools.keys()
    assert {"manage_schema", "select_rows", "butterbase_docs"} <= tools.keys()
    for tool in tools.values():
        assert "app_id" not in tool.input_schema["properties"]
        assert "app_id" not in tool.input_schema.get("required", [])
        assert "app_id" not in (tool.description or "")
    assert "list" not in tools["manage_app"].input_schema["properties"]["action"]["enum"]


async def test_calls_reach_the_app_without_naming_it_and_no_other(
    deps: Deps, owner: Caller, mcp: McpCall, app: App
) -> None:
    other = (await mcp("init_app", name="other"))["app_id"]
    async with mcp_session(deps, owner.hold(app.id)) as held:
        assert (await held("manage_schema", action="apply", schema=ITEMS))["applied"]
        await held("insert_row", table="items", data={"title": "one"})
        # An agent that names it all the same, as the skills of the published product do, is right as well.
        assert (await held("select_rows", app_id=app.id, table="items"))["rows"][0]["title"] == "one"
        refused: list[tuple[str, dict[str, Any]]] = [
            ("manage_schema", {"action": "get", "app_id": other}),
            ("manage_app", {"action": "delete", "app_id": other, "confirm": True}),
        ]
        for tool, arguments in refused:
            with pytest.raises(ToolFailed) as failed:
                await held(tool, **arguments)
            assert failed.value.code == "RESOURCE_NOT_FOUND"
        account: list[tuple[str, dict[str, Any]]] = [
            ("init_app", {"name": "third"}),
            ("manage_app", {"action": "list"}),
            ("manage_api_keys", {"action": "list"}),
            ("manage_auth_config", {"action": "generate_service_key", "name": "wider", "app_id": app.id}),
        ]
        for tool, arguments in account:
            with pytest.raises(ToolFailed) as failed:
                await held(tool, **arguments)
            assert failed.value.code == "AUTH_FORBIDDEN"
            assert f"held to {app.id}" in failed.value.error["message"]
        with pytest.raises(ToolFailed) as failed:
            await held("manage_schema", action="aply")
        assert "apply" in failed.value.error["message"]
        with pytest.raises(ToolFailed) as failed:
            await held("select_rows")
        assert "app_id" not in failed.value.error["remediation"]
    assert {each["id"] for each in (await mcp("manage_app", action="list"))["apps"]} >= {app.id, other}


async def test_a_key_for_one_app_cannot_be_held_to_another(owner: Caller, app: App) -> None:
    narrow = owner.hold(app.id)
    assert narrow.hold(app.id).app_scopes == {app.id}
    with pytest.raises(AppError) as refused:
        narrow.hold("app_other")
    assert refused.value.code == "RESOURCE_NOT_FOUND"


@pytest.mark.parametrize("given", ["blog", "", "app_x/../..", "app_ONE"])
async def test_what_is_no_id_holds_to_nothing_and_is_refused(deps: Deps, owner_key: str, given: str) -> None:
    async with http_client(deps, owner_key) as http:
        for answer in (await http.post(f"/mcp?app={given}"), await http.post("/mcp", headers={"x-brolly-app": given})):
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, "VALIDATION_INVALID_SCHEMA")


def test_a_name_in_place_of_the_id_is_told_before_anything_starts() -> None:
    with pytest.raises(AppError) as refused:
        load_settings({"BROLLY_APP": "blog"})
    assert "manage_app list" in f"{refused.value.message} {refused.value.remediation}"
