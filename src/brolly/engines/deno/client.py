"""HTTP/1.1 to an isolate's unix socket. A function's answer takes a millisecond, and a general client as long again."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import suppress
from typing import Any, cast

import anyio
import httptools

Headers = Sequence[tuple[str, str]]
Body = bytes | AsyncIterator[bytes]

MOST_IDLE = 32
READ_AHEAD = 256 * 1024
"""Bytes of an answer that wait for who reads it, before the isolate is no longer read from."""
_LINE_ENDS = str.maketrans("", "", "\r\n\0")


class LostError(Exception):
    """The connection ended before the answer did."""


class UnreachableError(LostError):
    """Nobody takes connections: nothing was sent."""


class Response(asyncio.Protocol):
    """A connection, and the answer that comes in on it. To be read by ``chunks`` and ended by ``close``."""

    def __init__(self, pool: Client) -> None:
        self._pool, self._loop = pool, asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._writable: asyncio.Future[None] | None = None
        self._paused = False
        self.reset(head_only=False)

    def reset(self, *, head_only: bool) -> None:
        """Be ready for the next answer."""
        self._parser = cast(Any, httptools).HttpResponseParser(self)
        self._head: asyncio.Future[None] = self._loop.create_future()
        self._more: asyncio.Future[None] | None = None
        self._chunks: deque[bytes] = deque()
        self._size, self._reading = 0, True
        self._head_only, self._complete, self._sent, self.lost = head_only, False, False, False
        self.status, self.headers = 0, list[tuple[str, str]]()

    # What the connection tells.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected."""
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Ended by the other side, or by us."""
        self.lost = True
        self._pool.forget(self)
        if self._writable is not None and not self._writable.done():
            self._writable.set_exception(LostError())
            self._writable.exception()
        if not self._head.done():
            self._head.set_exception(LostError())
            # Nobody may be waiting.
            self._head.exception()
        self._wake()

    def data_received(self, data: bytes) -> None:
        """Bytes of the answer."""
        try:
            self._parser.feed_data(data)
        except Exception:
            # What is no HTTP ends the connection.
            self.abort()

    def pause_writing(self) -> None:
        """The isolate reads more slowly than we send."""
        self._paused, self._writable = True, self._loop.create_future()

    def resume_writing(self) -> None:
        """It has caught up."""
        self._paused = False
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)

    # What the parser tells.

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header of the answer."""
        self.headers.append((name.decode("latin-1").lower(), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self.status = self._parser.get_status_code()
        if self.status < 200:
            self.headers.clear()
            return
        self._complete = self._head_only
        if not self._head.done():
            self._head.set_result(None)

    def on_body(self, data: bytes) -> None:
        """A piece of the body."""
        self._chunks.append(data)
        self._size += len(data)
        if self._size > READ_AHEAD and self._reading and self._transport is not None:
            self._reading = False
            self._transport.pause_reading()
        self._wake()

    def on_message_complete(self) -> None:
        """The answer is whole."""
        if self.status >= 200:
            self._complete = True
            self._wake()

    def _wake(self) -> None:
        if self._more is not None and not self._more.done():
            self._more.set_result(None)

    # What the caller does.

    async def send(self, method: str, target: str, headers: Headers, body: Body) -> None:
        """The request; returns with the answer's head, even where the body is not yet sent."""
        lines = [f"{method} {target} HTTP/1.1", *(f"{k}: {v.translate(_LINE_ENDS)}" for k, v in headers)]
        if isinstance(body, bytes):
            if body or method not in ("GET", "HEAD", "OPTIONS"):
                lines.append(f"content-length: {len(body)}")
            self._write("\r\n".join([*lines, "\r\n"]).encode("latin-1", "replace") + body)
            self._sent = True
            await self._head
            return
        lines.append("transfer-encoding: chunked")
        self._write("\r\n".join([*lines, "\r\n"]).encode("latin-1", "replace"))
        async with anyio.create_task_group() as group:
            group.start_soon(self._send_body, body)
            with suppress(Exception):
                await self._head
            # What is unsent when the answer has begun stays unsent, and ends this connection.
            group.cancel_scope.cancel()
        await self._head

    async def _send_body(self, body: AsyncIterator[bytes]) -> None:
        try:
            async for chunk in body:
                if chunk:
                    self._write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
                if self._paused and self._writable is not None:
                    await self._writable
            self._write(b"0\r\n\r\n")
            self._sent = True
        except LostError:
            # The head tells.
            return
        except Exception as error:
            if not self._head.done():
                self._head.set_exception(error)
            self.abort()

    def _write(self, data: bytes) -> None:
        if self._transport is None or self.lost or self._transport.is_closing():
            raise LostError
        self._transport.write(data)

    async def chunks(self) -> AsyncGenerator[bytes]:
        """The body as it comes in; ``LostError`` when it does not come to its end."""
        while True:
            while self._chunks:
                chunk = self._chunks.popleft()
                self._size -= len(chunk)
                if not self._reading and self._size <= READ_AHEAD // 2 and self._transport is not None:
                    self._reading = True
                    self._transport.resume_reading()
                yield chunk
            if self._complete:
                return
            if self.lost:
                raise LostError
            self._more = self._loop.create_future()
            await self._more

    def header(self, name: str) -> str | None:
        """A header's value; the name in lower case."""
        return next((v for k, v in self.headers if k == name), None)

    def close(self) -> None:
        """Done with this answer: the connection is kept if it is whole, else ended, which the handler is told."""
        clean = self._complete and self._sent and not self._head_only and not self.lost
        if clean and self._parser.should_keep_alive() and not self._chunks:
            self._pool.keep(self)
        else:
            self.abort()

    def abort(self) -> None:
        """End the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    @property
    def is_open(self) -> bool:
        """Whether another request can be sent."""
        return self._transport is not None and not self.lost and not self._transport.is_closing()


class Client:
    """The connections to one isolate."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._idle: list[Response] = []
        self._all: set[Response] = set()
        self._closed = False

    async def send(self, method: str, target: str, headers: Headers, body: Body) -> Response:
        """The response as soon as its head is there."""
        response = await self._open(head_only=method == "HEAD")
        try:
            await response.send(method, target, headers, body)
        except BaseException:
            response.abort()
            raise
        return response

    async def _open(self, *, head_only: bool) -> Response:
        while self._idle:
            response = self._idle.pop()
            if response.is_open:
                response.reset(head_only=head_only)
                return response
        if self._closed:
            raise UnreachableError
        try:
            loop = asyncio.get_running_loop()
            _, response = await loop.create_unix_connection(lambda: Response(self), self._path)
        except OSError as error:
            raise UnreachableError from error
        response.reset(head_only=head_only)
        self._all.add(response)
        return response

    def keep(self, response: Response) -> None:
        """A connection that is free."""
        if self._closed or len(self._idle) >= MOST_IDLE:
            response.abort()
        else:
            self._idle.append(response)

    def forget(self, response: Response) -> None:
        """A connection that has ended."""
        self._all.discard(response)
        if response in self._idle:
            self._idle.remove(response)

    def close(self) -> None:
        """End all connections; answers that are being read break."""
        self._closed = True
        for response in list(self._all):
            response.abort()
