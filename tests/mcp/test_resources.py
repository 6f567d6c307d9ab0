"""Resources and completions: what a client reads and fills in, as the caller's tools would show it and no more."""

from __future__ import annotations

import json
from typing import Any

import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError
from mcp.types import PromptReference, ResourceTemplateReference

from brolly.core.caller import Caller
from brolly.deps import Deps
from brolly.mcp_server import BrollyServer
from brolly.registry import App
from tests.conftest import McpCall, make_owner

ITEMS = {"tables": {"items": {"columns": {"id": {"type": "serial", "primaryKey": True}, "title": {"type": "text"}}}}}
CODE = "export async function handler() {\n  console.log('heard');\n  return new Response('ok');\n}"


async def read(session: Client, uri: str) -> Any:
    [content] = (await session.read_resource(uri)).contents
    text: str = content.text  # type: ignore[union-attr]
    return json.loads(text) if content.mime_type == "application/json" else text


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_a_client_reads_pages_apps_schemas_and_logs(
    deps: Deps, owner: Caller, mcp: McpCall, app: App, mode: Any
) -> None:
    await mcp("manage_schema", action="apply", app_id=app.id, schema=ITEMS)
    await mcp("deploy_function", app_id=app.id, name="hear", code="// @ts-nocheck\n" + CODE)
    await mcp("invoke_function", app_id=app.id, function_name="hear")
    async with Client(BrollyServer(deps, owner), mode=mode) as session:
        assert [str(each.uri) for each in (await session.list_resources()).resources] == ["brolly://apps"]
        templates = [each.uri_template for each in (await session.list_resource_templates()).resource_templates]
        assert "brolly://apps/{app_id}/schema" in templates
        assert (await read(session, "brolly://docs/rls")).startswith("# ")
        assert (await read(session, "brolly://tools/manage_rls")).startswith("# manage_rls")
        assert [each["id"] for each in (await read(session, "brolly://apps"))["apps"]] == [app.id]
        assert (await read(session, f"brolly://apps/{app.id}"))["app_id"] == app.id
        assert list((await read(session, f"brolly://apps/{app.id}/schema"))["schema"]["tables"]) == ["items"]
        assert (await read(session, f"brolly://apps/{app.id}/logs"))["logs"]
        log = await read(session, f"brolly://apps/{app.id}/functions/hear/logs")
        assert log["untrusted"] is True
        assert "heard" in json.dumps(log)


async def test_what_is_not_there_or_not_theirs_is_not_found(deps: Deps, app: App) -> None:
    stranger, _ = await make_owner(deps)
    async with Client(BrollyServer(deps, stranger)) as session:
        assert (await read(session, "brolly://apps"))["apps"] == []
        for uri in (
            f"brolly://apps/{app.id}", f"brolly://apps/{app.id}/schema", f"brolly://apps/{app.id}/logs",
            "brolly://docs/nothing", "brolly://nothing", f"brolly://apps/{app.id}/schema/../logs", "file:///etc/passwd",
        ):  # fmt: skip
            with pytest.raises(MCPError) as refused:
                await session.read_resource(uri)
            assert refused.value.error.code == -32602, uri
            assert app.name not in refused.value.error.message


async def test_a_client_held_to_less_reads_less(deps: Deps, owner: Caller, mcp: McpCall, app: App) -> None:
    other = (await mcp("init_app", name="other"))["app_id"]
    async with Client(BrollyServer(deps, owner.hold(app.id))) as session:
        assert (await session.list_resources()).resources == []
        assert (await read(session, f"brolly://apps/{app.id}"))["app_id"] == app.id
        for uri in ("brolly://apps", f"brolly://apps/{other}"):
            with pytest.raises(MCPError):
                await session.read_resource(uri)
    narrow = Caller("service", account_id=owner.account_id, scopes=frozenset({"*", "tool:manage_rls"}))
    async with Client(BrollyServer(deps, narrow)) as session:
        templates = [each.name for each in (await session.list_resource_templates()).resource_templates]
        assert templates == ["docs", "tools"]
        with pytest.raises(MCPError):
            await session.read_resource(f"brolly://apps/{app.id}/schema")


async def test_arguments_complete(deps: Deps, owner: Caller, mcp: McpCall, app: App) -> None:
    await mcp("manage_schema", action="apply", app_id=app.id, schema=ITEMS)
    schema = ResourceTemplateReference(uri="brolly://apps/{app_id}/schema")
    async with Client(BrollyServer(deps, owner)) as session:

        async def values(ref: Any, name: str, begun: str, **given: str) -> list[str]:
            done = await session.complete(ref, {"name": name, "value": begun}, context_arguments=given or None)
            return done.completion.values

        assert await values(schema, "app_id", "app_") == [app.id]
        assert await values(schema, "app_id", app.name.upper()[:8]) == [app.id], "an app is found by its name"
        assert await values(schema, "app_id", "nothing like it") == []
        assert await values(ResourceTemplateReference(uri="brolly://docs/{topic}"), "topic", "rl") == ["rls"]
        tools = ResourceTemplateReference(uri="brolly://tools/{tool}")
        assert (await values(tools, "tool", "rls"))[0] == "manage_rls"
        debug = PromptReference(name="debug-rls")
        assert await values(debug, "table", "", app_id=app.id) == ["items"]
        assert await values(debug, "table", "") == []
        assert await values(debug, "table", "", app_id="app_nothere") == []
    stranger, _ = await make_owner(deps)
    async with Client(BrollyServer(deps, stranger)) as session:
        done = await session.complete(schema, {"name": "app_id", "value": ""})
        assert done.completion.values == []
        done = await session.complete(debug, {"name": "table", "value": ""}, context_arguments={"app_id": app.id})
        assert done.completion.values == []
