"""The protocol's own conformance suite against the real server: the scenarios that need no test fixtures.

The suite runs under the Node that the development dependencies bring and comes from the
npm registry; where npm cannot reach it, the tests are skipped with that reason.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest
import uvicorn

from brolly.deps import Deps
from brolly.web import build_web
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


def npx() -> str | None:
    """The npx of this environment, else the machine's."""
    beside = Path(sysconfig.get_path("scripts")) / ("npx.cmd" if sys.platform == "win32" else "npx")
    return str(beside) if beside.exists() else shutil.which("npx")


async def run_suite(version: str, *arguments: str, cwd: Path) -> Any:
    tool = npx()
    if tool is None:
        pytest.skip("npm is not on this machine")
    # Node's own folder first: npx runs whatever node it finds, and the suite needs 22 or newer.
    environment = {**os.environ, "PATH": f"{Path(tool).parent}{os.pathsep}{os.environ['PATH']}"}
    with anyio.fail_after(100):
        return await anyio.run_process(
            [tool, "-y", f"{PACKAGE}@{version}", "server", *arguments],
            check=False,
            cwd=cwd,
            env=environment,
        )


@pytest.fixture(scope="module")
async def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to run in; skips when the suite cannot be fetched."""
    folder = tmp_path_factory.mktemp("conformance")
    for version in (HANDSHAKE_ERA, STATELESS_ERA):
        fetched = await run_suite(version, "--help", cwd=folder)
        if fetched.returncode != 0:
            pytest.skip(f"npm cannot fetch {PACKAGE}@{version}: {fetched.stderr.decode()[-300:]}")
    return folder


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

    server = uvicorn.Server(uvicorn.Config(with_key, port=0, log_config=None, lifespan="on"))
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
async def test_scenario(suite: Path, url: str, version: str, scenario: str, options: tuple[str, ...]) -> None:
    done = await run_suite(version, "--url", url, "--scenario", scenario, *options, cwd=suite)
    report = done.stdout.decode() + done.stderr.decode()
    assert done.returncode == 0, report
    assert "0 failed" in report or "Failed: 0" in report or "✓" in report, report
