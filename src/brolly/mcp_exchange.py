"""One exchange over ``/mcp``: answered by a body or, where progress is asked for, a stream; ended when its client goes.

Closing the request is how a call is cancelled over HTTP. The SDK looks for that in streams alone, so it is done
here for both. Looking costs a task, so a call that is answered within a moment is not looked after.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, cast

import anyio
from mcp.server.streamable_http_manager import DEFAULT_MAX_REQUEST_BODY_SIZE, StreamableHTTPSessionManager
from starlette.types import Message, Receive, Scope, Send

_MOMENT = 0.2
_TOKEN = b'"progressToken"'


def asks_for_progress(body: bytes) -> bool:
    """Whether the message's ``_meta`` holds a token for notifications. Most bodies do not even hold the word."""
    if _TOKEN not in body:
        return False
    try:
        message: Any = json.loads(body)
    except (ValueError, RecursionError):
        return False
    for key in ("params", "_meta"):
        message = cast(dict[str, Any], message).get(key) if isinstance(message, dict) else None
    return isinstance(message, dict) and cast(dict[str, Any], message).get("progressToken") is not None


class _Client:
    """The sender of one request, once its body has come: it is there, or has gone."""

    def __init__(self, scope: Scope, receive: Receive, read: list[Message]) -> None:
        self._scope, self._receive, self._read = scope, receive, read
        self._call = anyio.CancelScope()
        self._gone: asyncio.Event | None = None
        self._task: asyncio.Task[None] | None = None

    async def receive(self) -> Message:
        """What was read already, then that the client has gone."""
        if self._read:
            return self._read.pop(0)
        if not self._whole:
            return await self._receive()
        await self._watch().wait()
        return {"type": "http.disconnect"}

    @property
    def _whole(self) -> bool:
        return self._scope["state"].get("whole", True)

    def _watch(self) -> asyncio.Event:
        if self._gone is None:
            self._gone = asyncio.Event()
            self._task = asyncio.get_running_loop().create_task(self._wait(self._gone))
        return self._gone

    async def _wait(self, gone: asyncio.Event) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        # The actions see by this that the call was taken back, and not ended with the server.
        self._scope["state"]["client_left"] = True
        gone.set()
        self._call.cancel()

    @asynccontextmanager
    async def attended(self) -> AsyncGenerator[None]:
        """End the block when the client goes."""
        timer = asyncio.get_running_loop().call_later(_MOMENT, self._watch) if self._whole else None
        try:
            with self._call:
                yield
        finally:
            if timer is not None:
                timer.cancel()
            if self._task is not None:
                self._task.cancel()


async def _read_body(scope: Scope, receive: Receive) -> list[Message]:
    """The body's messages, up to the limit at which the SDK refuses."""
    messages: list[Message] = []
    size = 0
    while True:
        message = await receive()
        messages.append(message)
        size += len(message.get("body", b""))
        scope["state"]["whole"] = message["type"] != "http.request" or not message.get("more_body", False)
        if scope["state"]["whole"] or size > DEFAULT_MAX_REQUEST_BODY_SIZE:
            return messages


class Exchanges:
    """The SDK's two ways to answer: by a body alone, a quarter faster, and by a stream that notifications fit in."""

    def __init__(self, plain: StreamableHTTPSessionManager) -> None:
        self._plain = plain
        self._stream = StreamableHTTPSessionManager(
            plain.app, json_response=False, stateless=True, security_settings=plain.security_settings
        )

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Accept requests for the block."""
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._plain.run())
            await stack.enter_async_context(self._stream.run())
            yield

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        messages = await _read_body(scope, receive)
        body = b"".join(message.get("body", b"") for message in messages)
        manager = self._stream if asks_for_progress(body) else self._plain
        client = _Client(scope, receive, messages)
        async with client.attended():
            await manager.handle_request(scope, client.receive, send)
