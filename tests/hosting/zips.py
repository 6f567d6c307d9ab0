"""Zips for tests, and a site to ask."""

from __future__ import annotations

import io
import zipfile
from typing import Any

import httpx

from brolly.deps import Deps
from brolly.registry import App
from tests.conftest import http_client

PAGE = "<!doctype html><title>{0}</title><h1>{0}</h1>"


def zipped(files: dict[str, str | bytes]) -> bytes:
    """A zip of the files."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return out.getvalue()


async def upload(deps: Deps, made: dict[str, Any], data: bytes) -> httpx.Response:
    """Send a zip as a client does."""
    async with http_client(deps) as client:
        return await client.put(made["uploadUrl"], content=data, headers={"Content-Type": "application/zip"})


async def deploy(deps: Deps, mcp: Any, app: App, files: dict[str, str | bytes], **more: Any) -> dict[str, Any]:
    """Create, send, start; the deployment as it ended."""
    made = await mcp("create_frontend_deployment", app_id=app.id, **more)
    sent = await upload(deps, made, zipped(files))
    assert sent.status_code == 200, sent.text
    return await mcp("manage_frontend", action="start_deployment", app_id=app.id, deployment_id=made["deployment_id"])


def site(deps: Deps, host: str, **headers: str) -> httpx.AsyncClient:
    """A client of the host, which asks for no encoding and follows nothing."""
    client = http_client(deps)
    client.base_url = httpx.URL(f"http://{host}")
    client.headers["accept-encoding"] = "identity"
    client.headers.update(headers)
    return client
