"""Every action and every route that changes something, tried with keys that may not: refused, and nothing changed.

Tables are taken from the slices themselves, so what is added later is tried as well.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import pytest
from mcp import Client
from starlette.routing import Route

from brolly.apps import provision
from brolly.core.caller import Caller
from brolly.core.tool import DESTROY, READ
from brolly.core.untrusted import parsed
from brolly.deps import Deps
from brolly.mcp_server import BrollyServer
from brolly.rag.jobs import read_document
from brolly.registry import App
from brolly.slices import SLICES
from tests.conftest import ToolFailed, http_client, make_owner, mcp_session
from tests.contract.examples import STAND_IN, calls, filled

PAGES = Path(__file__).parents[2] / "tools"
# Signing in is for people without a key, who own what it changes; codes and signatures are judged there.
_SIGN_IN = re.compile(r"/auth/\{app_id\}/|/oauth/")
# What a function does is its own affair: it is called by whoever its trigger lets in, and has its own keys.
_CALLS = re.compile(r"/v1/\{app_id\}/(fn|webhook)/")
# A database's function may be a read; that one that writes is refused by Postgres is tested with the routes.
_RPC, _QUERY = "/v1/{app_id}/rpc/{function}", "/v1/{app_id}/rag/collections/{collection}/query"
_GONE = "/v1/{app_id}/frontend/deployments/{deployment_id}/sync"
_SCRATCH = ("audit", "presence", "rate_windows")


@pytest.fixture(scope="module")
async def app_of(deps: Deps) -> tuple[App, Caller]:
    owner, _ = await make_owner(deps)
    assert owner.account_id is not None
    app_id, _ = await provision.create(deps, owner.account_id, f"app-{uuid4()}", "self-hosted")
    return await deps.registry.get(owner, app_id), owner


async def contents(deps: Deps, app: App) -> dict[str, str]:
    """A sum over each table of the platform and of the app, but for what calls leave behind anyway."""
    found: dict[str, str] = {}
    own: Any = await asyncpg.connect(**deps.databases.server.connect_args(database=app.db_name))
    for source in (own, deps.control):
        tables = await source.fetch(
            "select format('%I.%I', n.nspname, c.relname) as name from pg_class c join pg_namespace n "
            "on n.oid = c.relnamespace where c.relkind in ('r', 'p') and n.nspname !~ '^(pg_|information_schema)'"
        )
        for row in tables:
            name = row["name"]
            if not any(word in name for word in _SCRATCH):
                text = "sum(hashtextextended((to_jsonb(t) - 'last_used_at')::text, 0)::numeric)::text"
                found[f"{source is own} {name}"] = str(await source.fetchval(f"select {text} from {name} t"))
    await own.close()
    return found


async def test_a_read_only_key_may_call_no_action_that_writes(deps: Deps, app_of: tuple[App, Caller]) -> None:
    app, owner = app_of
    reader, _ = await make_owner(deps, ("*", "read"), owner.account_id)
    before = await contents(deps, app)
    tried = 0
    async with mcp_session(deps, reader) as mcp:
        for name, tool in deps.tools.items():
            for label, action in tool.actions.items():
                if action.effect is READ:
                    continue
                tried += 1
                with pytest.raises(ToolFailed) as failed:
                    await mcp(name, app_id=app.id, confirm=True, **({"action": label} if label else {}))
                assert failed.value.code == "AUTH_FORBIDDEN", (name, label)
    assert tried > 40
    assert await contents(deps, app) == before


def writing_routes() -> list[tuple[str, str]]:
    """Method and path of every route of the slices that is not a read."""
    routes = [r for one in SLICES for r in (*one.routes, *one.last_routes) if isinstance(r, Route)]
    return [(m, r.path) for r in routes for m in sorted((r.methods or set()) - {"GET", "HEAD", "OPTIONS"})]


def real(path: str, app: App) -> str:
    return re.sub(r"\{(\w+)(:\w+)?\}", lambda found: app.id if found[1] == "app_id" else str(uuid4()), path)


async def _try(client: httpx.AsyncClient, method: str, path: str) -> httpx.Response:
    return await client.request(method, path, json={}, headers={"Tus-Resumable": "1.0.0", "Upload-Length": "1"})


async def test_a_read_only_key_may_use_no_route_that_writes(deps: Deps, app_of: tuple[App, Caller]) -> None:
    app, owner = app_of
    _, key = await make_owner(deps, ("*", "read"), owner.account_id)
    before = await contents(deps, app)
    tried = 0
    async with http_client(deps, key) as client:
        for method, path in writing_routes():
            if _SIGN_IN.match(path) or _CALLS.match(path) or path in (_RPC, _QUERY, _GONE):
                continue
            tried += 1
            answer = await _try(client, method, real(path, app))
            assert answer.headers["content-type"] == "application/json", (method, path)
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "AUTH_FORBIDDEN"), (method, path)
    assert tried > 60
    assert await contents(deps, app) == before


async def test_the_keys_of_others_change_nothing_by_any_route(deps: Deps, app_of: tuple[App, Caller]) -> None:
    app, owner = app_of
    keys = [(await make_owner(deps))[1], (await make_owner(deps, ("app:app_other",), owner.account_id))[1]]
    before = await contents(deps, app)
    for key in keys:
        async with http_client(deps, key) as client:
            for method, path in writing_routes():
                if "{app_id}" not in path or _SIGN_IN.match(path):
                    continue
                answer = await _try(client, method, real(path, app))
                # An empty body is told of before anything is looked up.
                right = answer.status_code == 404 or answer.json()["error"]["code"].startswith("VALIDATION_")
                assert right, (method, path, answer.text)
    assert await contents(deps, app) == before


def examples() -> list[tuple[str, dict[str, Any]]]:
    """Every call of the tools' pages that names the app, with arguments that are right."""
    found = [block for page in sorted(PAGES.glob("*.md")) for block, code in calls(page.read_text()) if code is None]
    known = {STAND_IN: "APP", **{f"<{n}>": str(uuid4()) for n in re.findall(r"<(\w+)>", json.dumps(found))}}
    return [(b["tool"], filled(b["arguments"], known)) for b in found if STAND_IN in json.dumps(b["arguments"])]


async def test_the_keys_of_others_find_no_app_in_any_tool(deps: Deps, app_of: tuple[App, Caller]) -> None:
    app, owner = app_of
    strangers = [(await make_owner(deps))[0], (await make_owner(deps, ("app:app_other",), owner.account_id))[0]]
    before = await contents(deps, app)
    tried: set[str] = set()
    for stranger in strangers:
        async with mcp_session(deps, stranger) as mcp:
            for tool, arguments in examples():
                tried.add(tool)
                with pytest.raises(ToolFailed) as failed:
                    await mcp(tool, **filled(arguments, {'"APP"': f'"{app.id}"'}))
                # Keys for the account are not made by a key for one app, whatever app it names.
                right = {"RESOURCE_NOT_FOUND"} | (
                    {"AUTH_FORBIDDEN"} if "generate_service_key" in str(arguments) else set()
                )
                assert failed.value.code in right, (tool, arguments, failed.value.error)
    assert len(tried) > 15
    assert await contents(deps, app) == before


def test_what_destroys_says_what_is_lost(deps: Deps) -> None:
    for name, tool in deps.tools.items():
        for label, action in tool.actions.items():
            assert (action.loses is not None) == (action.effect is DESTROY), (name, label)


async def test_documents_are_lost_only_when_somebody_agrees(deps: Deps, app_of: tuple[App, Caller]) -> None:
    app, owner = app_of
    async with Client(BrollyServer(deps, owner)) as session:

        async def call(**arguments: Any) -> Any:
            answer = await session.call_tool("manage_rag_content", {"app_id": app.id, **arguments})
            return parsed(answer.content[0].text)  # type: ignore[union-attr]

        await call(action="create_collection", name="kept")
        made = await call(action="ingest_document", collection="kept", text="# One\n\nSome words.")
        await read_document(deps, {"app_id": app.id, "document_id": made["document_id"], "revision": 1}, 0)
        for asked in (
            {"action": "delete_document", "collection": "kept", "document_id": made["document_id"]},
            {"action": "delete_collection", "name": "kept"},
        ):
            refused = await call(**asked)
            assert refused["error"]["code"] == "CONFIRMATION_REQUIRED"
            assert re.search(r"\d", refused["error"]["message"].replace(made["document_id"], "")), refused
        assert (await call(action="get_collection", name="kept"))["documentCount"]["ready"] == 1
