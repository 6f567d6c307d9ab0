"""The protocol's own conformance suite against the real server: the scenarios that need no test fixtures.

The suite runs under the Node that the development dependencies bring and comes from the npm registry.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest
import uvicorn

from brolly.deps import Deps
from brolly.patience import PatientProtocol
from brolly.web import build_web
from tests import npm
from tests.conftest import hold_open

PACKAGE = "@modelcontextprotocol/conformance"
HANDSHAKE_ERA = "0.1.16"
STATELESS_ERA = "0.2.0-alpha.12"

SCENARIOS = [
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
    web = build_web(deps)

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
