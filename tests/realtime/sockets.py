"""A server that speaks WebSocket over open ``Deps``, and clients of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import quote

import uvicorn
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from brolly.deps import Deps
from brolly.realtime import hub
from brolly.web import build_web
from brolly.wire import socket_options

SECONDS = 10.0


@asynccontextmanager
async def serving(deps: Deps, **more: Any) -> AsyncIterator[str]:
    """A server on a port of loopback; its address for sockets."""
    options = socket_options(deps.settings.realtime_frame_kb * 1024)
    config = uvicorn.Config(build_web(deps), port=0, log_config=None, lifespan="on", **{**options, **more})
    server = uvicorn.Server(config)
    # Many of the users here have no account, only a token, and would be put out after a while.
    before, hub.RECHECK_SECONDS = hub.RECHECK_SECONDS, 3600.0
    task = asyncio.get_running_loop().create_task(server.serve())
    while not server.started:
        assert not task.done(), task.exception()
        await asyncio.sleep(0.005)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"ws://127.0.0.1:{port}"
    finally:
        hub.RECHECK_SECONDS = before
        server.should_exit = True
        await task


class Client:
    """One socket: what it heard, and what it has not looked at yet."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.heard: list[dict[str, Any]] = []

    async def send(self, type_: str, **message: Any) -> None:
        await self.connection.send(json.dumps({"type": type_, **message}))

    async def next(self, *types: str) -> dict[str, Any]:
        """The next message of these types; what comes before it stays in ``heard``."""
        for number, message in enumerate(self.heard):
            if message["type"] in types:
                return self.heard.pop(number)
        async with asyncio.timeout(SECONDS):
            while True:
                message = json.loads(await self.connection.recv())
                if message["type"] in types:
                    return message
                self.heard.append(message)

    async def ask(self, type_: str, answer: str, **message: Any) -> dict[str, Any]:
        """Send, and the answer of that type; an error is one too."""
        await self.send(type_, ref="asked", **message)
        while True:
            found = await self.next(answer, "error")
            if found.get("ref") == "asked":
                return found

    async def changes(self, count: int) -> list[dict[str, Any]]:
        return [await self.next("change") for _ in range(count)]

    async def silent(self) -> None:
        """Nothing else was sent before the answer to this."""
        await self.ask("heartbeat", "heartbeat")
        assert [m for m in self.heard if m["type"] == "change"] == []

    async def closed(self) -> tuple[int, str]:
        """The code and reason with which the server closes; messages before that are in ``heard``."""
        async with asyncio.timeout(SECONDS):
            with suppress(ConnectionClosed):
                while True:
                    self.heard.append(json.loads(await self.connection.recv()))
        assert self.connection.close_code is not None
        return self.connection.close_code, self.connection.close_reason or ""


@asynccontextmanager
async def client(
    url: str, app_id: str, token: str | None = None, *, header: str | None = None, **options: Any
) -> AsyncIterator[Client]:
    """A socket to the app, with the token in the query or in the header."""
    query = f"?token={quote(token, safe='')}" if token is not None else ""
    headers = {"Authorization": f"Bearer {header}"} if header is not None else {}
    headers |= options.pop("headers", {})
    path = f"{url}/v1/{app_id}/realtime{query}"
    async with connect(path, additional_headers=headers, proxy=None, compression=None, **options) as connection:
        yield Client(connection)


@asynccontextmanager
async def admitted(url: str, app_id: str, token: str | None = None, **options: Any) -> AsyncIterator[Client]:
    """As ``client``, once the server has said ``connected``."""
    async with client(url, app_id, token, **options) as one:
        one.hello = await one.next("connected")  # type: ignore[attr-defined]
        yield one
