"""The stores under test, each reached over real HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from uuid import uuid4

import httpx
import pytest
from starlette.applications import Starlette

from brolly.blob.folder import FolderStore
from brolly.blob.s3 import S3Store
from brolly.blob.signing import UrlSigner
from brolly.blob.store import BlobStore
from brolly.core.settings import Settings, load_settings
from brolly.storage import objects
from tests.blob.s3_server import s3_service, store_of
from tests.blob.serving import serving
from tests.conftest import hold_open


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


@pytest.fixture(scope="session")
async def s3_settings() -> AsyncIterator[Settings]:
    """Settings of an S3 service for the run."""
    settings, close = await hold_open(s3_service())
    yield settings
    await close()


@pytest.fixture(scope="module")
async def s3(s3_settings: Settings) -> AsyncIterator[S3Store]:
    """The S3 store."""
    store = store_of(s3_settings)
    yield store
    await store.close()


@pytest.fixture(scope="module", params=["folder", "s3"])
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
