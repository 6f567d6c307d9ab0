"""Which store the settings ask for, open for a block."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from anyio import to_thread

from brolly.blob.folder import FolderStore
from brolly.blob.signing import UrlSigner
from brolly.blob.store import BlobStore
from brolly.core.settings import Settings


@asynccontextmanager
async def open_blob(settings: Settings, secret: str) -> AsyncGenerator[BlobStore]:
    """A bucket if one is set, else the folder ``objects`` in the data folder."""
    if settings.s3_bucket:
        store = await to_thread.run_sync(_bucket, settings)
    else:
        store = FolderStore(settings.home / "objects", UrlSigner(secret, settings.base_url))
        await store.open()
    try:
        yield store
    finally:
        await store.close()


def _bucket(settings: Settings) -> BlobStore:
    # Imported only here: boto3 takes a fifth of a second and 20 MB that a folder does not need.
    from brolly.blob.s3 import S3Store
    from brolly.blob.s3_client import make_client

    client = make_client(settings, settings.s3_endpoint)
    public = settings.s3_public_endpoint
    signing = make_client(settings, public) if public else client
    return S3Store(client, signing, settings.s3_bucket)
