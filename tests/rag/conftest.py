"""One app for a module's tests of retrieval, with two users, and a worker that reads its documents."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import anyio
import asyncpg
import httpx
import pytest

from brolly.apps import provision
from brolly.core.caller import Caller
from brolly.core.worker import start_workers
from brolly.deps import Deps
from brolly.pg import queue
from brolly.rag.worker import workers
from brolly.registry import App
from tests.api.test_auth_sessions import log_in, sign_up
from tests.conftest import hold_open, http_client, make_owner


@dataclass
class Library:
    """An app, a client per caller, and a look behind as the administrator."""

    deps: Deps
    app: App
    owner: Caller
    clients: dict[str, httpx.AsyncClient]
    ids: dict[str, str] = field(default_factory=dict[str, str])

    async def send(self, who: str, method: str, path: str, **more: Any) -> httpx.Response:
        return await self.clients[who].request(method, f"/v1/{self.app.id}/rag/{path}", **more)

    async def collection(self, name: str, **more: Any) -> dict[str, Any]:
        answer = await self.send("owner", "POST", "collections", json={"name": name, **more})
        assert answer.status_code == 201, answer.text
        return answer.json()

    async def ingest(self, collection: str, who: str = "owner", **what: Any) -> str:
        answer = await self.send(who, "POST", f"collections/{collection}/ingest", json=what)
        assert answer.status_code == 202, answer.text
        return answer.json()["document_id"]

    async def settled(self, collection: str, document_id: str, who: str = "owner") -> dict[str, Any]:
        """The document when it is ready or has failed."""
        async with asyncio.timeout(60):
            while True:
                answer = await self.send(who, "GET", f"collections/{collection}/documents/{document_id}")
                assert answer.status_code == 200, answer.text
                if answer.json()["status"] in ("ready", "failed"):
                    return answer.json()
                await asyncio.sleep(0.05)

    async def read(self, collection: str, who: str = "owner", **what: Any) -> dict[str, Any]:
        return await self.settled(collection, await self.ingest(collection, who, **what), who)

    async def store(self, data: bytes, name: str, who: str = "owner", kind: str = "text/plain") -> str:
        """A stored file; its id."""
        wanted = {"filename": name, "contentType": kind, "sizeBytes": len(data)}
        made = await self.clients[who].post(f"/storage/{self.app.id}/upload", json=wanted)
        assert made.status_code == 200, made.text
        link = made.json()
        sent = await self.clients[who].put(link["upload_url"], content=data, headers=link["headers"])
        assert sent.status_code == 200, sent.text
        return link["object_id"]

    @asynccontextmanager
    async def sql(self) -> AsyncIterator[Any]:
        """The app's database as the administrator sees it."""
        connection: Any = await asyncpg.connect(**self.deps.databases.server.connect_args(database=self.app.db_name))
        try:
            yield connection
        finally:
            await connection.close()

    async def chunks(self, document_id: str, table: str) -> list[dict[str, Any]]:
        async with self.sql() as connection:
            rows = await connection.fetch(
                f'select * from public."{table}" where document_id = $1 order by position', document_id
            )
        return [dict(row) for row in rows]


@pytest.fixture(scope="module")
async def reading(deps: Deps) -> AsyncIterator[None]:
    """The worker of a server runs, and looks often for what is to be tried again."""

    @asynccontextmanager
    async def running() -> AsyncIterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(queue, "LOOK_SECONDS", 0.2)
            async with anyio.create_task_group() as group:
                start_workers(group, workers(deps))
                yield
                group.cancel_scope.cancel()

    _, close = await hold_open(running())
    yield
    await close()


@pytest.fixture(scope="module")
async def library(deps: Deps, reading: None) -> AsyncIterator[Library]:
    """An app of an account of its own; ann and ben are its users."""
    owner, key = await make_owner(deps)
    assert owner.account_id is not None
    app_id, _ = await provision.create(deps, owner.account_id, f"app-{uuid4()}", "self-hosted")
    app = await deps.registry.get(owner, app_id)
    clients = {"owner": http_client(deps, key), "nobody": http_client(deps)}
    here = Library(deps, app, owner, clients)
    for name in ("ann", "ben"):
        email = f"{name}@example.com"
        here.ids[name] = (await sign_up(clients["nobody"], app, email))["id"]
        session = await log_in(clients["nobody"], app, email)
        clients[name] = http_client(deps, session["access_token"])
    yield here
    for client in clients.values():
        await client.aclose()
    await provision.delete(deps, app)
