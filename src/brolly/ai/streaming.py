"""Answers to HTTP clients that may go away: what was asked upstream for them ends when they do."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import anyio
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from brolly.ai.chat import ChatStream
from brolly.core.errors import AppError

T = TypeVar("T")

QUIET_SECONDS = 15.0
"""After so long without a word a comment goes out, lest something between takes the connection for dead."""
ErrorBody = Callable[[AppError], dict[str, Any]]


class ClientGone(Exception):  # noqa: N818
    """Nobody waits for the answer."""


async def while_connected(request: Request, work: Callable[[], Awaitable[T]]) -> T:
    """The result of the work, which is cancelled when the client hangs up; then ``ClientGone``.

    The request's body must have been read.
    """
    found: list[T] = []
    failed: list[Exception] = []
    async with anyio.create_task_group() as group:

        async def watch() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass
            group.cancel_scope.cancel()

        group.start_soon(watch)
        try:
            found.append(await work())
        except Exception as error:
            # Through the group it would come out wrapped.
            failed.append(error)
        group.cancel_scope.cancel()
    if failed:
        raise failed[0]
    if not found:
        raise ClientGone
    return found[0]


class EventStream(Response):
    """A chat as server-sent events in OpenAI's form, ended with ``[DONE]``, or with an error in its last event."""

    def __init__(self, stream: ChatStream, error_body: ErrorBody) -> None:
        super().__init__()
        self._stream, self._error_body = stream, error_body
        self._sent_at = 0.0
        self._sending = anyio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until there is no more, or nobody to send to."""
        headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-store"),
            (b"x-accel-buffering", b"no"),
            (b"x-butterbase-router", self._stream.model.encode("ascii", "replace")),
        ]
        try:
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            async with anyio.create_task_group() as group:
                group.start_soon(self._watch, receive, group.cancel_scope)
                group.start_soon(self._keep_alive, send)
                await self._send_all(send)
                group.cancel_scope.cancel()
        finally:
            await self._stream.end()

    async def _send_all(self, send: Send) -> None:
        chunks = self._stream.chunks()
        try:
            async for chunk in chunks:
                await self._send(send, b"data: " + _json(chunk) + b"\n\n")
            last = b"data: [DONE]\n\n"
        except AppError as error:
            last = b"data: " + _json(self._error_body(error)) + b"\n\n"
        finally:
            with anyio.CancelScope(shield=True):
                await chunks.aclose()
        # Who has read the end finds what it cost.
        await self._stream.end()
        await self._send(send, last)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send(self, send: Send, data: bytes) -> None:
        async with self._sending:
            await send({"type": "http.response.body", "body": data, "more_body": True})
            self._sent_at = anyio.current_time()

    async def _watch(self, receive: Receive, scope: anyio.CancelScope) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        scope.cancel()

    async def _keep_alive(self, send: Send) -> None:
        self._sent_at = anyio.current_time()
        while True:
            await anyio.sleep(max(0.1, self._sent_at + QUIET_SECONDS - anyio.current_time()))
            if anyio.current_time() - self._sent_at >= QUIET_SECONDS:
                await self._send(send, b": still working\n\n")


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")
