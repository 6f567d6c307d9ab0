"""An app with two users, and what each does with files."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import pytest

from brolly.apps import provision
from brolly.blob.folder import FolderStore
from brolly.core.caller import Caller
from brolly.deps import Deps
from brolly.registry import App
from tests.api.test_auth_sessions import log_in, sign_up
from tests.conftest import hold_open, http_client, make_owner

PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
    "1f15c4890000000d49444154789c63f8cfc0f01f00050001ff56c72f0d0000000049454e44ae426082"
)


@dataclass
class Place:
    """One app, a client per caller, and a look behind: rows as the administrator sees them, bytes as the disk does."""

    deps: Deps
    app: App
    owner: Caller
    clients: dict[str, httpx.AsyncClient]
    ids: dict[str, str] = field(default_factory=dict[str, str])

    async def send(self, who: str, method: str, path: str, **more: Any) -> httpx.Response:
        return await self.clients[who].request(method, f"/storage/{self.app.id}/{path}", **more)

    async def reserve(self, who: str, data: bytes = PNG, name: str = "a.png", **more: Any) -> dict[str, Any]:
        body = {"filename": name, "contentType": "image/png", "sizeBytes": len(data), **more}
        answer = await self.send(who, "POST", "upload", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def put(self, link: dict[str, Any], data: bytes = PNG, **headers: str) -> httpx.Response:
        async with self._browser(link["upload_url"]) as bare:
            return await bare.put(link["upload_url"], content=data, headers={**link["headers"], **headers})

    def _browser(self, url: str) -> httpx.AsyncClient:
        """A client that knows nothing but the URL, whoever serves it."""
        ours = url.startswith(self.deps.settings.base_url)
        return httpx.AsyncClient(transport=self.clients["nobody"]._transport) if ours else httpx.AsyncClient()

    async def store(self, who: str, data: bytes = PNG, name: str = "a.png", **more: Any) -> str:
        link = await self.reserve(who, data, name, **more)
        answer = await self.put(link, data)
        assert answer.status_code == 200, answer.text
        return link["object_id"]

    async def behind(self, link: dict[str, Any], data: bytes = PNG, content_type: str = "image/png") -> None:
        """The bytes come to the store without our knowing, as with an S3."""

        async def chunks() -> AsyncIterator[bytes]:
            yield data

        await self.deps.blob.write(link["objectKey"], chunks(), content_type=content_type)

    async def fetch(self, url: str, **headers: str) -> httpx.Response:
        async with self._browser(url) as bare:
            return await bare.get(url, headers=headers)

    async def link(self, who: str, object_id: str) -> httpx.Response:
        return await self.send(who, "GET", f"download/{object_id}")

    @asynccontextmanager
    async def sql(self) -> AsyncIterator[Any]:
        connection = await asyncpg.connect(**self.deps.databases.server.connect_args(database=self.app.db_name))
        try:
            yield connection
        finally:
            await connection.close()

    async def rows(self) -> dict[str, dict[str, Any]]:
        async with self.sql() as connection:
            return {str(r["id"]): dict(r) for r in await connection.fetch("select * from storage.objects")}

    async def usage(self) -> tuple[int, int]:
        async with self.sql() as connection:
            row = await connection.fetchrow(
                "select u.bytes, u.files, (select coalesce(sum(size_bytes), 0) from storage.objects) as sum, "
                "(select count(*) from storage.objects) as count from storage.usage u"
            )
        assert (row["bytes"], row["files"]) == (row["sum"], row["count"])
        return row["bytes"], row["files"]

    async def change(self, sql: str, *args: Any) -> None:
        async with self.sql() as connection:
            await connection.execute(sql, *args)

    def on_disk(self) -> dict[str, bytes]:
        """What the folder store holds of this app, by object id; behind the bytes stand the facts of the file."""
        assert isinstance(self.deps.blob, FolderStore)
        folder: Path = self.deps.blob.root / self.app.id
        return {p.name: p.read_bytes().rpartition(b'{"type"')[0] for p in folder.rglob("*") if p.is_file()}

    async def configure(self, **config: Any) -> None:
        answer = await self.clients["service"].patch(f"/v1/{self.app.id}/config/storage", json=config)
        assert answer.status_code == 200, answer.text
        self.app = await self.deps.registry.get(self.owner, self.app.id)

    async def reset(self) -> None:
        """No files, and the rules as at the start."""
        await self.deps.blob.delete_prefix(f"{self.app.id}/")
        await self.change(
            "delete from storage.objects; delete from storage.orphans; update storage.usage set bytes = 0, files = 0"
        )
        await self.deps.control.execute(
            "update brolly.apps set storage_config = default, access_mode = default where id = $1", self.app.id
        )
        await self.deps.registry.changed(self.app.id)


@asynccontextmanager
async def make_place(deps: Deps) -> AsyncIterator[Place]:
    """An app with the users A and B, a service key and nobody."""
    owner, key = await make_owner(deps)
    assert owner.account_id
    app_id, _ = await provision.create(deps, owner.account_id, f"files-{uuid4()}", "self-hosted")
    app = await deps.registry.get(owner, app_id)
    clients = {"service": http_client(deps, key), "nobody": http_client(deps)}
    ids: dict[str, str] = {}
    for name in ("A", "B"):
        user = await sign_up(clients["nobody"], app, f"{name.lower()}@example.com")
        token = (await log_in(clients["nobody"], app, f"{name.lower()}@example.com"))["access_token"]
        clients[name], ids[name] = http_client(deps, token), user["id"]
    try:
        yield Place(deps, app, owner, clients, ids)
    finally:
        for client in clients.values():
            await client.aclose()
        if await deps.registry.find(app_id) is not None:
            await provision.delete(deps, app)


@pytest.fixture(scope="module")
async def module_place(deps: Deps) -> AsyncIterator[Place]:
    """One app for the tests of a module."""
    place, close = await hold_open(make_place(deps))
    yield place
    await close()


@pytest.fixture
async def place(module_place: Place) -> AsyncIterator[Place]:
    """The module's app without files."""
    yield module_place
    await module_place.reset()
    module_place.app = await module_place.deps.registry.get(module_place.owner, module_place.app.id)


def code_of(answer: httpx.Response) -> str:
    """The error's code."""
    return answer.json()["error"]["code"]
