"""The TypeScript module of an app's tables, judged by the real compiler and the client that is generic over it.

Both come from the npm registry, under the Node that the development dependencies bring.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from brolly.deps import Deps
from brolly.registry import App
from tests import npm
from tests.conftest import McpCall, ToolFailed, http_client

FOLDER = Path(__file__).parent / "typescript"
PACKAGES = (
    "typescript@7.0.2",
    "@supabase/postgrest-js@2.119.0",
    "v1@npm:@supabase/postgrest-js@1.21.4",
)
# Without skipLibCheck: what the client declares is checked together with what we make.
CONFIG = {
    "compilerOptions": {
        "strict": True,
        "noEmit": True,
        "target": "es2022",
        "lib": ["es2022", "dom"],
        "module": "esnext",
        "moduleResolution": "bundler",
        "types": [],
    },
    "files": ["use.ts"],
}


@pytest.fixture
async def tables(deps: Deps, app: App) -> App:
    async with deps.pools.owner(app) as conn:
        await conn.execute((FOLDER / "tables.sql").read_text("utf-8"))
    await deps.catalog.changed(app)
    return app


async def compile_in(folder: Path) -> Any:
    """What the compiler says."""
    command = [str(folder / "node_modules" / ".bin" / "tsc"), "-p", "."]
    with anyio.fail_after(100):
        return await anyio.run_process(command, check=False, cwd=folder, env=npm.environment())


async def test_the_compiler_and_the_client_take_the_types(tables: App, http: httpx.AsyncClient, tmp_path: Path) -> None:
    answer = await http.get(f"/v1/{tables.id}/types.ts")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/typescript; charset=utf-8")
    (tmp_path / "types.ts").write_text(answer.text, "utf-8")
    (tmp_path / "use.ts").write_text((FOLDER / "use.ts").read_text("utf-8"), "utf-8")
    (tmp_path / "tsconfig.json").write_text(json.dumps(CONFIG))
    (tmp_path / "package.json").write_text('{"type": "module"}')
    (tmp_path / "node_modules").symlink_to(await anyio.to_thread.run_sync(npm.packages, *PACKAGES) / "node_modules")
    # What must not compile is in the file too, below @ts-expect-error, which is an error where there is none.
    compiled = await compile_in(tmp_path)
    assert (compiled.returncode, compiled.stdout.decode()) == (0, "")
    (tmp_path / "types.ts").write_text(answer.text.replace("c_integer: number", "c_integer: string"), "utf-8")
    assert (await compile_in(tmp_path)).returncode != 0


async def test_the_tool_and_both_routes_answer_the_same_module(
    tables: App, http: httpx.AsyncClient, mcp: McpCall
) -> None:
    answer = await http.get(f"/v1/{tables.id}/types.ts")
    told = await mcp("manage_schema", action="get", app_id=tables.id, format="typescript")
    # Names in it are users' data, so over MCP it stands between the marks.
    assert answer.text in told
    assert (await http.get(f"/v1/{tables.id}/schema?format=typescript")).text == answer.text
    again = await http.get(f"/v1/{tables.id}/types.ts", headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert "every" in (await http.get(f"/v1/{tables.id}/schema?format=json")).json()["schema"]["tables"]


async def test_types_are_for_service_keys_and_take_no_other_form(
    deps: Deps, tables: App, http: httpx.AsyncClient, anon_http: httpx.AsyncClient, mcp: McpCall
) -> None:
    refused = await anon_http.get(f"/v1/{tables.id}/types.ts")
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "AUTH_REQUIRED")
    from tests.conftest import make_owner

    async with http_client(deps, (await make_owner(deps))[1]) as stranger:
        assert (await stranger.get(f"/v1/{tables.id}/types.ts")).status_code == 404
    for query in ("format=json", "fromat=typescript"):
        assert (await http.get(f"/v1/{tables.id}/types.ts?{query}")).status_code == 400
    with pytest.raises(ToolFailed) as failed:
        await mcp("manage_schema", action="get", app_id=tables.id, format="python")
    assert failed.value.code == "VALIDATION_INVALID_SCHEMA"


async def test_an_app_without_tables_has_types_too(app: App, http: httpx.AsyncClient) -> None:
    text = (await http.get(f"/v1/{app.id}/types.ts")).text
    assert "Tables: { [_ in never]: never }" in text
