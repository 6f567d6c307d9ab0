"""The stores under test, each reached over real HTTP."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from uuid import uuid4

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette

from brolly.blob.folder import FolderStore
from brolly.blob.signing import UrlSigner
from brolly.blob.store import BlobStore
from brolly.core.settings import load_settings
from brolly.storage import objects

_numbers = itertools.count()


@asynccontextmanager
async def serving(app: Starlette) -> AsyncIterator[str]:
    """The application on a port of loopback; its base URL."""
    config = uvicorn.Config(app, port=0, log_level="error", lifespan="off", ws="none")
    server = uvicorn.Server(config)
    task = asyncio.get_running_loop().create_task(server.serve())
    while not server.started:  # noqa: ASYNC110
        await asyncio.sleep(0.005)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        await task


@asynccontextmanager
async def served_folder(root: Path) -> AsyncIterator[FolderStore]:
    """A folder store whose signed URLs are served."""

    async def arrived(*_: object) -> bool:
        """Here every object is one that somebody reserved."""
        return True

    app = Starlette(routes=objects.routes)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(objects, "arrived", arrived)
        async with serving(app) as base_url:
            store = FolderStore(root, UrlSigner("x" * 32, base_url))
            app.state.deps = SimpleNamespace(blob=store, settings=load_settings({}, home=root))
            await store.open()
            yield store


@pytest.fixture(scope="module")
async def folder(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[FolderStore]:
    """The folder store."""
    async with served_folder(tmp_path_factory.mktemp("blob") / "objects") as store:
        yield store


@pytest.fixture(scope="module", params=["folder"])
def store(request: pytest.FixtureRequest) -> BlobStore:
    """Each store that there is."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def namespace() -> str:
    """A namespace that no other test uses."""
    return f"app_{uuid4().hex[:12]}"


@pytest.fixture
def key(namespace: str) -> str:
    """A key that no other test uses."""
    return f"{namespace}/{uuid4()}"


@pytest.fixture(scope="module")
async def browser() -> AsyncIterator[httpx.AsyncClient]:
    """A client that knows nothing but URLs."""
    async with httpx.AsyncClient() as client:
        yield client
