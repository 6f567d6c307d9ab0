"""Which store the settings ask for, open for a block."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from brolly.blob.folder import FolderStore
from brolly.blob.signing import UrlSigner
from brolly.blob.store import BlobStore
from brolly.core.settings import Settings


@asynccontextmanager
async def open_blob(settings: Settings, secret: str) -> AsyncGenerator[BlobStore]:
    """The folder ``objects`` in the data folder."""
    store = FolderStore(settings.home / "objects", UrlSigner(secret, settings.base_url))
    await store.open()
    try:
        yield store
    finally:
        await store.close()
