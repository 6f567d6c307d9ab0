"""A feed that runs, and one app for each module."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from brolly.apps import provision
from brolly.core.caller import Caller
from brolly.deps import Deps
from brolly.realtime.feed import Feed, feed_of
from brolly.registry import App
from tests.conftest import McpCall, hold_open, make_owner, mcp_session


@pytest.fixture(scope="session")
async def feed(deps: Deps) -> AsyncIterator[Feed]:
    """The process's feeds, running."""
    feed = feed_of(deps)
    _, close = await hold_open(feed.opened())
    yield feed
    await close()


@pytest.fixture(scope="module")
async def shop(deps: Deps) -> AsyncIterator[tuple[Caller, App, McpCall]]:
    """An owner, an app that the module's tests share, and the owner's tools."""
    owner, _ = await make_owner(deps)
    assert owner.account_id is not None
    app_id, _ = await provision.create(deps, owner.account_id, f"shop-{uuid4()}", "self-hosted")
    app = await deps.registry.get(owner, app_id)
    call, close = await hold_open(mcp_session(deps, owner))
    yield owner, app, call
    await close()
    await provision.delete(deps, app)
