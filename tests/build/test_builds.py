"""Builds from source as owners see them: from the zip to the live deployment, and all the ways in which they end."""

from __future__ import annotations

import io
import json
import zipfile
from typing import Any

import anyio
import httpx
import psutil
import pytest

from brolly.deps import Deps
from brolly.hosting import builds
from brolly.hosting.build_worker import run_next
from brolly.hosting.builds import MOST_ATTEMPTS
from brolly.registry import App
from tests.conftest import McpCall, ToolFailed, http_client, make_owner

PAGE = (
    'mkdir -p dist && echo "<h1>$VITE_TITLE $VITE_BROLLY_APP_ID $NEXT_PUBLIC_BUTTERBASE_APP_ID</h1>" > dist/index.html'
)


def zipped(files: dict[str, str]) -> bytes:
    """The files as a zip."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return out.getvalue()


def package(build: str, **more: object) -> str:
    """A package.json whose build is that line of the shell."""
    return json.dumps({"name": "x", "scripts": {"build": build}, **more})


async def sent(mcp: McpCall, app: App, http: httpx.AsyncClient, files: dict[str, str]) -> dict[str, Any]:
    """A deployment whose source was sent."""
    made = await mcp("manage_frontend", action="create_from_source", app_id=app.id)
    put = await http.put(made["uploadUrl"], content=zipped(files), headers={"Content-Type": "application/zip"})
    assert put.status_code == 200, put.text
    return made


async def built(
    deps: Deps, mcp: McpCall, app: App, http: httpx.AsyncClient, files: dict[str, str], **options: Any
) -> dict[str, Any]:
    """The deployment after its build, which is done here and now."""
    made = await sent(mcp, app, http, files)
    started = await mcp(
        "manage_frontend", action="start_from_source", app_id=app.id, deployment_id=made["deployment_id"], **options
    )
    assert started["status"] == "BUILDING"
    assert await run_next(deps)
    answer = await http.get(started["status_url"])
    return {**answer.json(), "logs": started["logs_url"], "build_id": started["build_id"]}


async def log_of(http: httpx.AsyncClient, url: str, **query: int) -> list[str]:
    """The data of each event, the last one with its name."""
    answer = await http.get(url, params=query)
    assert answer.headers["content-type"].startswith("text/event-stream")
    return [block.partition("data: ")[2] for block in answer.text.strip().split("\n\n")]


async def printed(deps: Deps, line: str) -> None:
    """Wait until some build has printed that line."""
    with anyio.fail_after(30):
        while not await deps.control.fetchval("select 1 from brolly.build_lines where text = $1", line):  # noqa: ASYNC110
            await anyio.sleep(0.05)


async def page_of(deps: Deps, http: httpx.AsyncClient, app: App) -> str:
    """The site's first page."""
    answer = await http.get(f"http://{app.subdomain}.localhost/")
    return answer.text


async def test_source_becomes_the_live_site_with_its_variables(
    deps: Deps, mcp: McpCall, app: App, http: httpx.AsyncClient
) -> None:
    await mcp("manage_frontend", action="set_env", app_id=app.id, vars={"VITE_TITLE": "set", "TOKEN": "hush-hush-77"})
    script = f"echo token $TOKEN && {PAGE}"
    done = await built(deps, mcp, app, http, {"package.json": package(script)}, user_env={"VITE_TITLE": "Hello"})
    assert (done["status"], done["fileCount"]) == ("READY", 1), done
    assert await page_of(deps, http, app) == f"<h1>Hello {app.id} {app.id}</h1>\n"
    lines = await log_of(http, done["logs"])
    assert lines[-1] == "end"
    assert "token ***" in lines
    assert not any("hush" in line for line in lines)
    assert await log_of(http, done["logs"], offset=len(lines) - 2) == lines[-2:]
    # Sealed while it waits, gone when it is over.
    assert await deps.control.fetchval("select environment from brolly.builds where id = $1", done["build_id"]) is None


@pytest.mark.parametrize(
    ("files", "options", "why"),
    [
        ({"package.json": package("echo before; exit 3")}, {}, "status 3; the log says why.\nFound"),
        ({"package.json": package("true")}, {}, "left no folder with an index.html"),
        ({"package.json": package(PAGE)}, {"output_dir": "web"}, "There is one in dist"),
        ({"readme.md": "x"}, {}, "neither a package.json nor an index.html"),
    ],
)
async def test_a_failed_build_changes_nothing_and_says_why(
    deps: Deps, mcp: McpCall, app: App, http: httpx.AsyncClient, files: dict[str, str], options: Any, why: str
) -> None:
    await built(deps, mcp, app, http, {"index.html": "first"})
    done = await built(deps, mcp, app, http, files, **options)
    assert done["status"] == "ERROR"
    assert why in done["error"]
    assert await page_of(deps, http, app) == "first"


async def test_what_cannot_be_started_is_refused(mcp: McpCall, app: App, http: httpx.AsyncClient) -> None:
    made = await mcp("manage_frontend", action="create_from_source", app_id=app.id)
    assert made["max_source_bytes"] == 50 * 1_048_576
    start = {"action": "start_from_source", "app_id": app.id, "deployment_id": made["deployment_id"]}
    for more, code in (
        ({}, "STATE_PREREQUISITE_MISSING"),
        ({"lockfile_hash": "../../etc"}, "VALIDATION_INVALID_SCHEMA"),
        ({"package_manager": "cargo"}, "VALIDATION_INVALID_SCHEMA"),
        ({"user_env": {"A B": "1"}}, "VALIDATION_INVALID_SCHEMA"),
        ({"deployment_id": "b2b8a7b6-0000-4000-8000-000000000000"}, "RESOURCE_NOT_FOUND"),
    ):
        with pytest.raises(ToolFailed) as failed:
            await mcp("manage_frontend", **{**start, **more})
        assert failed.value.code == code
    files = await mcp("create_frontend_deployment", app_id=app.id)
    with pytest.raises(ToolFailed) as failed:
        await mcp("manage_frontend", **{**start, "deployment_id": files["deployment_id"]})
    assert failed.value.code == "STATE_PREREQUISITE_MISSING"
    made = await sent(mcp, app, http, {"index.html": ""})
    path = f"/v1/{app.id}/frontend/deployments/from-source/{made['deployment_id']}/start"
    answer = await http.post(
        path, json={"lockfileHash": "0" * 32, "outputDir": "dist", "buildCommand": "npm run build"}
    )
    assert answer.status_code == 202
    assert (await http.post(path, json={})).status_code == 409


async def test_others_find_neither_build_nor_log(
    deps: Deps, mcp: McpCall, app: App, http: httpx.AsyncClient, anon_http: httpx.AsyncClient
) -> None:
    done = await built(deps, mcp, app, http, {"index.html": "x"})
    _, key = await make_owner(deps)
    async with http_client(deps, key) as stranger:
        assert (await stranger.get(done["logs"])).status_code == 404
    assert (await anon_http.get(done["logs"])).status_code == 401
    assert (await http.get(f"/v1/{app.id}/frontend/builds/none/logs")).status_code == 404


async def test_a_canceled_build_stops_and_publishes_nothing(
    deps: Deps, mcp: McpCall, app: App, http: httpx.AsyncClient
) -> None:
    made = await sent(
        mcp, app, http, {"package.json": package("echo begun; sleep 4545; mkdir dist; echo > dist/index.html")}
    )
    started = await mcp(
        "manage_frontend", action="start_from_source", app_id=app.id, deployment_id=made["deployment_id"]
    )
    async with anyio.create_task_group() as group:
        group.start_soon(run_next, deps)
        await printed(deps, "begun")
        answer = await http.post(f"/v1/{app.id}/frontend/deployments/{made['deployment_id']}/cancel")
        assert answer.json()["status"] == "CANCELED"
    assert not [p for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] == ["sleep", "4545"]]
    assert (await log_of(http, started["logs_url"]))[-1] == "end"
    assert await deps.control.fetchval("select state from brolly.builds where id = $1", started["build_id"]) == "DONE"
    assert not await deps.control.fetchval("select 1 from brolly.sites where app_id = $1", app.id)


async def test_a_build_whose_server_is_gone_is_done_again_and_not_for_ever(
    deps: Deps, mcp: McpCall, app: App, http: httpx.AsyncClient
) -> None:
    made = await sent(mcp, app, http, {"index.html": "again"})
    started = await mcp(
        "manage_frontend", action="start_from_source", app_id=app.id, deployment_id=made["deployment_id"]
    )
    assert await builds.claim(deps)
    # Its server lives, as far as anybody knows.
    assert await builds.claim(deps) is None
    lost = "update brolly.deployments set lease_until = now() - interval '1 second' where id = $1"
    await deps.control.execute(lost, made["deployment_id"])
    assert await run_next(deps)
    assert (await http.get(started["status_url"])).json()["status"] == "READY"

    made = await sent(mcp, app, http, {"index.html": "never"})
    started = await mcp(
        "manage_frontend", action="start_from_source", app_id=app.id, deployment_id=made["deployment_id"]
    )
    for _ in range(MOST_ATTEMPTS):
        assert await builds.claim(deps)
        await deps.control.execute(lost, made["deployment_id"])
    assert await run_next(deps)
    ended = (await http.get(started["status_url"])).json()
    assert (ended["status"], ended["error"]) == ("ERROR", "The server ended while it was building, more than once.")


async def test_a_server_that_ends_in_good_order_puts_its_build_back(
    deps: Deps, mcp: McpCall, app: App, http: httpx.AsyncClient
) -> None:
    made = await sent(mcp, app, http, {"package.json": package("echo at work; sleep 4646")})
    started = await mcp(
        "manage_frontend", action="start_from_source", app_id=app.id, deployment_id=made["deployment_id"]
    )
    async with anyio.create_task_group() as group:
        group.start_soon(run_next, deps)
        await printed(deps, "at work")
        group.cancel_scope.cancel()
    row = await deps.control.fetchrow("select state, attempts from brolly.builds where id = $1", started["build_id"])
    assert tuple(row) == ("QUEUED", 0)
    await mcp("manage_app", action="delete", app_id=app.id, confirm=True)
    assert not await run_next(deps)


async def test_a_long_log_keeps_its_beginning_and_its_end(
    deps: Deps, mcp: McpCall, app: App, http: httpx.AsyncClient
) -> None:
    script = "seq 1 7000; printf 'a\\033[31mred\\n'; exit 9"
    done = await built(deps, mcp, app, http, {"package.json": package(script)})
    lines = await log_of(http, done["logs"])
    assert "1" in lines
    assert "7000" in lines
    assert "6000" not in lines
    assert "ared" in lines
    assert len(lines) < 5300
