"""Fixtures: one real Postgres for the run, a fresh account and app for each test."""

from __future__ import annotations

import asyncio
import json
import signal
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import httpx
import pytest
from mcp import Client
from playwright.async_api import Browser
from starlette.applications import Starlette

from brolly.app import open_deps
from brolly.core.caller import Caller
from brolly.core.settings import load_settings
from brolly.core.tokens import hash_key, key_display_prefix, new_service_key
from brolly.core.untrusted import parsed
from brolly.deps import Deps
from brolly.keys.service import caller_of_key, ensure_account
from brolly.mcp_server import BrollyServer
from brolly.pg.embedded import remove_data_folder
from brolly.registry import App
from brolly.web import build_web
from tests.browser import open_browser

# Processes inherit that it is ignored, as it is where the run was started by nohup.
signal.signal(signal.SIGHUP, signal.SIG_DFL)

T = TypeVar("T")
McpCall = Callable[..., Awaitable[Any]]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where processes share the files (``make test``), the longest come first, lest one process ends alone."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: not item.nodeid.startswith(("tests/e2e/", "tests/isolation/")))


class ToolFailed(AssertionError):  # noqa: N818
    """A tool answered with ``isError``; ``error`` is the error object, ``code`` its code."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(json.dumps(error))
        self.error = error
        self.code: str = error["code"]


async def hold_open(manager: AbstractAsyncContextManager[T]) -> tuple[T, Callable[[], Awaitable[None]]]:
    """Enter the manager in a task of its own: anyio wants enter and exit in one task, fixtures use two."""
    ready: asyncio.Future[T] = asyncio.get_running_loop().create_future()
    stop = asyncio.Event()

    async def run() -> None:
        try:
            async with manager as value:
                ready.set_result(value)
                await stop.wait()
        except BaseException as error:
            if ready.done():
                raise
            ready.set_exception(error)

    task = asyncio.get_running_loop().create_task(run())

    async def close() -> None:
        stop.set()
        await task

    return await ready, close


@pytest.fixture(scope="session")
async def deps() -> AsyncIterator[Deps]:
    """Open ``Deps`` over an embedded Postgres in a temporary data folder."""
    # Not pytest's own: root's is closed to the account that Postgres runs as, and the cluster would go elsewhere.
    home = Path(tempfile.mkdtemp(prefix="brolly-test-"))
    # One address makes all requests of the run without credentials.
    rates = {f"rate_limit_{subject}": 1_000_000 for subject in ("key", "user", "address")}
    settings = load_settings({}, home=home, public_url="http://brolly.test", **rates)
    value, close = await hold_open(open_deps(settings))
    # Hundreds of databases come and go, and nobody needs them after a crash; tests of that have clusters of their own.
    for setting in ("fsync", "full_page_writes", "synchronous_commit"):
        await value.control.execute(f"alter system set {setting} = off")
    await value.control.execute("select pg_reload_conf()")
    yield value
    await close()
    remove_data_folder(home)


async def make_owner(deps: Deps, scopes: tuple[str, ...] = ("*",), account: str | None = None) -> tuple[Caller, str]:
    """A key of a new account (or of that one), and the caller that it stands for."""
    account_id = account or await ensure_account(deps, f"account-{uuid4()}")
    key = new_service_key()
    await deps.control.execute(
        "insert into brolly.api_keys (account_id, name, key_hash, key_prefix, scopes) values ($1, 'test', $2, $3, $4)",
        account_id,
        hash_key(key),
        key_display_prefix(key),
        list(scopes),
    )
    caller = await caller_of_key(deps, key)
    assert caller is not None
    return caller, key


@pytest.fixture
async def owner_with_key(deps: Deps) -> tuple[Caller, str]:
    """A fresh account's caller and service key."""
    return await make_owner(deps)


@pytest.fixture
def owner(owner_with_key: tuple[Caller, str]) -> Caller:
    """A fresh account's caller."""
    return owner_with_key[0]


@pytest.fixture
def owner_key(owner_with_key: tuple[Caller, str]) -> str:
    """The service key of ``owner``."""
    return owner_with_key[1]


@asynccontextmanager
async def mcp_session(deps: Deps, caller: Caller, **client: Any) -> AsyncIterator[McpCall]:
    """``call(tool, **arguments)`` through a real MCP client in process; raises ``ToolFailed``."""
    async with Client(BrollyServer(deps, caller), **client) as session:

        async def call(tool: str, /, **arguments: Any) -> Any:
            result = await session.call_tool(tool, arguments)
            text = result.content[0].text  # type: ignore[union-attr]
            if result.is_error:
                raise ToolFailed(parsed(text)["error"])
            return parsed(text) if text[:1] in "{[" else text

        yield call


@pytest.fixture
async def mcp(deps: Deps, owner: Caller) -> AsyncIterator[McpCall]:
    """``await mcp(tool, **arguments)`` as ``owner``: the parsed result, or ``ToolFailed``."""
    call, close = await hold_open(mcp_session(deps, owner))
    yield call
    await close()


@pytest.fixture
async def app(deps: Deps, owner: Caller) -> AsyncIterator[App]:
    """A fresh app of ``owner``."""
    from brolly.apps import provision

    assert owner.account_id is not None
    app_id, _ = await provision.create(deps, owner.account_id, f"app-{uuid4()}", "self-hosted")
    app = await deps.registry.get(owner, app_id)
    yield app
    if await deps.registry.find(app_id) is not None:
        await provision.delete(deps, app)


_webs: list[tuple[Deps, Starlette]] = []


def web_of(deps: Deps) -> Starlette:
    """The application over these, built once: a test that changes a setting has other ``Deps``."""
    for known, web in _webs:
        if known is deps:
            return web
    _webs.append((deps, build_web(deps)))
    return _webs[-1][1]


def http_client(deps: Deps, key: str | None = None) -> httpx.AsyncClient:
    """A client of the ASGI application in process, with the key as bearer token."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    transport = httpx.ASGITransport(web_of(deps), raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://brolly.test", headers=headers)


@pytest.fixture
async def http(deps: Deps, owner_key: str) -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client with the key of ``owner``."""
    async with http_client(deps, owner_key) as client:
        yield client


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    """A headless Chromium, started when the first test of the process asks for it."""
    value, close = await hold_open(open_browser())
    yield value
    await close()


@pytest.fixture
async def anon_http(deps: Deps) -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client without credentials."""
    async with http_client(deps) as client:
        yield client
