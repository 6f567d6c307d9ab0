"""The protocol's own conformance suite against the real server.

Some scenarios call tools of certain names. These stand in the table of tools as ours do, so what is tried is how the
server answers, fails and tells progress. Pictures, sound, sampling and logging are no part of it: it has none.

The suite runs under the Node that the development dependencies bring and comes from the npm registry.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
import uvicorn

from brolly.core.caller import Caller
from brolly.core.errors import AppError
from brolly.core.progress import report
from brolly.core.tool import READ, Action, Params, Tool
from brolly.deps import Deps
from brolly.patience import PatientProtocol
from brolly.web import build_web
from tests import npm
from tests.conftest import hold_open

PACKAGE = "@modelcontextprotocol/conformance"
HANDSHAKE_ERA = "0.1.16"
STATELESS_ERA = "0.2.0-alpha.12"

CALLS = ("tools-call-simple-text", "tools-call-error", "tools-call-with-progress")
SCENARIOS = [
    *((HANDSHAKE_ERA, name, ()) for name in CALLS),
    *((STATELESS_ERA, name, ("--spec-version", "2026-07-28")) for name in CALLS),
    *(
        (HANDSHAKE_ERA, name, ())
        for name in (
            "server-initialize",
            "ping",
            "tools-list",
            "resources-list",
            "prompts-list",
            "server-sse-multiple-streams",
            "dns-rebinding-protection",
        )
    ),
    *(
        (STATELESS_ERA, name, ("--spec-version", "2026-07-28"))
        for name in (
            "tools-list",
            "resources-list",
            "prompts-list",
            "sep-2164-resource-not-found",
            "caching",
            "http-header-validation",
            "dns-rebinding-protection",
        )
    ),
]


async def simple_text(deps: Deps, caller: Caller, params: Params) -> str:
    return "This is a simple text response for testing."


async def error_handling(deps: Deps, caller: Caller, params: Params) -> str:
    raise AppError("STATE_INVALID_TRANSITION", "This tool intentionally returns an error for testing")


async def with_progress(deps: Deps, caller: Caller, params: Params) -> str:
    for done in (0, 50, 100):
        await report("on the way", done, 100)
        await anyio.sleep(0.05)
    return "done"


FIXTURES = {
    name: Tool(name, name, name, {"": Action(run, Params, effect=READ)}, "test")
    for name, run in (
        ("test_simple_text", simple_text),
        ("test_error_handling", error_handling),
        ("test_tool_with_progress", with_progress),
    )
}


async def run_suite(version: str, *arguments: str, cwd: Path) -> Any:
    folder = await anyio.to_thread.run_sync(npm.packages, f"{PACKAGE}@{version}")
    command = [str(folder / "node_modules" / ".bin" / "conformance"), "server", *arguments]
    with anyio.fail_after(100):
        return await anyio.run_process(command, check=False, cwd=cwd, env=npm.environment())


@pytest.fixture(scope="module")
async def url(deps: Deps) -> AsyncIterator[str]:
    """The real application on a port of loopback, with a key added to each request: the suite has no option for one."""
    from tests.conftest import make_owner

    _, key = await make_owner(deps)
    web = build_web(replace(deps, tools={**deps.tools, **FIXTURES}))

    async def with_key(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            scope["headers"] = [*scope["headers"], (b"authorization", f"Bearer {key}".encode())]
        await web(scope, receive, send)

    server = uvicorn.Server(uvicorn.Config(with_key, port=0, log_config=None, lifespan="on", http=PatientProtocol))
    task, close = await hold_open(_serving(server))
    yield f"http://127.0.0.1:{task}/mcp"
    await close()


class _serving:  # noqa: N801 - used as a context manager
    def __init__(self, server: uvicorn.Server) -> None:
        self.server = server

    async def __aenter__(self) -> int:
        import asyncio

        self.task = asyncio.get_running_loop().create_task(self.server.serve())
        with anyio.fail_after(10):
            while not self.server.started:  # noqa: ASYNC110 - uvicorn offers no event
                await anyio.sleep(0.01)
        return self.server.servers[0].sockets[0].getsockname()[1]

    async def __aexit__(self, *_error: object) -> None:
        self.server.should_exit = True
        await self.task


@pytest.mark.parametrize(("version", "scenario", "options"), SCENARIOS)
async def test_scenario(tmp_path: Path, url: str, version: str, scenario: str, options: tuple[str, ...]) -> None:
    done = await run_suite(version, "--url", url, "--scenario", scenario, *options, cwd=tmp_path)
    report = done.stdout.decode() + done.stderr.decode()
    assert done.returncode == 0, report
    assert "0 failed" in report or "Failed: 0" in report or "✓" in report, report
