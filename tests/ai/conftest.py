"""A provider in a process of its own, a server that is told of it, and an app with a key and two users."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from brolly.apps import provision
from brolly.core.caller import Caller
from brolly.deps import Deps
from brolly.registry import App
from brolly.web import build_web
from tests.ai.provider import KEY
from tests.api.test_auth_sessions import log_in, sign_up
from tests.blob.serving import serving
from tests.conftest import hold_open, make_owner

NAMES = ("openai", "anthropic", "google")
MODELS = {"openai": "openai/gpt-5-mini", "anthropic": "anthropic/claude-haiku-4-5", "google": "google/gemini-2.5-flash"}


@dataclass
class StandIn:
    """The provider's process."""

    port: int

    @property
    def settings(self) -> tuple[str, ...]:
        return tuple(f"{name}=http://:{KEY}@127.0.0.1:{self.port}/v1" for name in (*NAMES, "lab"))

    async def seen(self, said: str) -> list[dict[str, Any]]:
        """The calls whose body holds these words."""
        async with httpx.AsyncClient() as client:
            calls = (await client.get(f"http://127.0.0.1:{self.port}/seen")).json()
        return [call for call in calls if said in json.dumps(call.get("body"), ensure_ascii=False)]


@asynccontextmanager
async def stand_in() -> AsyncIterator[StandIn]:
    """The program, started for the block."""
    program = Path(__file__).with_name("provider.py")
    process = await asyncio.create_subprocess_exec(sys.executable, str(program), stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    try:
        yield StandIn(int(await process.stdout.readline()))
    finally:
        process.kill()
        await process.wait()


@dataclass
class Gateway:
    """A server on loopback with the provider configured, an app, and a client for each caller."""

    deps: Deps
    app: App
    owner: Caller
    key: str
    url: str
    provider: StandIn
    clients: dict[str, httpx.AsyncClient]
    ids: dict[str, str] = field(default_factory=dict[str, str])

    async def ask(self, said: str, who: str = "service", path: str = "chat/completions", **more: Any) -> httpx.Response:
        body = {"messages": [{"role": "user", "content": said}], "model": MODELS["openai"], **more}
        return await self.clients[who].post(f"/v1/{self.app.id}/{path}", json=body)

    async def stream(self, said: str, who: str = "service", **more: Any) -> list[dict[str, Any] | str]:
        """The events of a stream, as objects; the last as text."""
        answer = await self.ask(said, who, stream=True, **more)
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"].startswith("text/event-stream")
        datas = [frame.removeprefix("data: ") for frame in answer.text.split("\n\n") if frame.startswith("data: ")]
        return [data if data == "[DONE]" else json.loads(data) for data in datas]

    async def configure(self, **config: Any) -> dict[str, Any]:
        answer = await self.clients["service"].put(f"/v1/{self.app.id}/ai/config", json=config)
        assert answer.status_code == 200, answer.text
        return answer.json()["config"]

    async def usage(self) -> dict[str, Any]:
        return (await self.clients["service"].get(f"/v1/{self.app.id}/ai/usage")).json()

    async def reset(self) -> None:
        """The rules as at the start, and nothing used."""
        await self.deps.control.execute(
            "update brolly.apps set ai_config = default, ai_key = null, access_mode = default where id = $1",
            self.app.id,
        )
        for table in ("ai_usage", "ai_spending", "ai_reservations", "ai_bodies"):
            await self.deps.control.execute(f"delete from brolly.{table} where app_id = $1", self.app.id)
        await self.deps.control.execute("delete from brolly.rate_windows")
        await self.deps.registry.changed(self.app.id)


@asynccontextmanager
async def make_gateway(deps: Deps, **settings: Any) -> AsyncIterator[Gateway]:
    async with stand_in() as provider:
        told = replace(deps.settings, **{"ai_providers": provider.settings, "ai_timeout": 2, **settings})
        deps = replace(deps, settings=told)
        owner, key = await make_owner(deps)
        assert owner.account_id
        app_id, _ = await provision.create(deps, owner.account_id, f"ai-{uuid4()}", "self-hosted")
        app = await deps.registry.get(owner, app_id)
        async with serving(build_web(deps)) as url:

            def client(token: str | None) -> httpx.AsyncClient:
                headers = {"Authorization": f"Bearer {token}"} if token else {}
                return httpx.AsyncClient(base_url=url, headers=headers, timeout=30)

            clients = {"service": client(key), "nobody": client(None)}
            ids: dict[str, str] = {}
            for name in ("A", "B"):
                user = await sign_up(clients["nobody"], app, f"{name.lower()}@example.com")
                session = await log_in(clients["nobody"], app, f"{name.lower()}@example.com")
                clients[name], ids[name] = client(session["access_token"]), user["id"]
            try:
                yield Gateway(deps, app, owner, key, url, provider, clients, ids)
            finally:
                for one in clients.values():
                    await one.aclose()
        await provision.delete(deps, app)


@pytest.fixture(scope="module")
async def module_gateway(deps: Deps) -> AsyncIterator[Gateway]:
    """One for the file."""
    value, close = await hold_open(make_gateway(deps))
    yield value
    await close()


@pytest.fixture
async def gateway(module_gateway: Gateway) -> Gateway:
    """The file's gateway, as at the start."""
    await module_gateway.reset()
    return module_gateway
