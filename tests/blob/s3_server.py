"""The S3 service of the tests: moto behind a gate that verifies signatures, or one given by the environment.

``TEST_S3_ENDPOINT``, ``TEST_S3_BUCKET``, ``TEST_S3_REGION``, ``TEST_S3_ACCESS_KEY`` and ``TEST_S3_SECRET_KEY`` run
the same suite against any other service; the bucket must exist.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.routing import Route

from brolly.blob.s3 import S3Store
from brolly.blob.s3_client import make_client
from brolly.core.settings import Settings, load_settings
from tests.blob.serving import free_port, serving
from tests.blob.sigv4 import ACCESS_KEY, SECRET_KEY, Gate

METHODS = ["GET", "HEAD", "PUT", "POST", "DELETE"]


@asynccontextmanager
async def moto() -> AsyncIterator[str]:
    """A moto process; its base URL."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: ASYNC220
    base_url = f"http://127.0.0.1:{port}"
    try:
        async with asyncio.timeout(30), httpx.AsyncClient() as client:
            while True:
                try:
                    await client.get(base_url)
                    break
                except httpx.TransportError:
                    assert process.poll() is None, "moto ended"
                    await asyncio.sleep(0.05)
        yield base_url
    finally:
        process.kill()
        process.wait()


def settings_of(endpoint: str, **more: Any) -> Settings:
    """Settings that put files into the bucket of the tests."""
    given = {
        "home": Path("/nonexistent"),
        "s3_bucket": "brolly-tests",
        "s3_endpoint": endpoint,
        "s3_access_key": ACCESS_KEY,
        "s3_secret_key": SECRET_KEY,
    }
    return load_settings({}, **{**given, **more})


@asynccontextmanager
async def s3_service() -> AsyncIterator[Settings]:
    """Settings of a running service that enforces signatures."""
    if endpoint := os.environ.get("TEST_S3_ENDPOINT"):
        names = ("bucket", "region", "access_key", "secret_key")
        given = {f"s3_{name}": os.environ.get(f"TEST_S3_{name.upper()}") for name in names}
        yield settings_of(endpoint, **{name: value for name, value in given.items() if value})
        return
    async with moto() as base_url, httpx.AsyncClient(base_url=base_url, timeout=30) as behind:
        gate = Starlette(routes=[Route("/{path:path}", Gate(behind).pass_on, methods=METHODS)])
        assert (await behind.put("/brolly-tests")).is_success
        async with serving(gate) as endpoint:
            yield settings_of(endpoint)


def store_of(settings: Settings) -> S3Store:
    """A store as the product opens it."""
    client = make_client(settings, settings.s3_endpoint)
    return S3Store(client, client, settings.s3_bucket)
