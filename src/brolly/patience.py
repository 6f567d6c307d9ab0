"""How long the server waits for slow clients, so that a thousand of them cannot make it deaf to the others."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import resource
import time
from contextlib import suppress
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

HEADER_SECONDS = 15.0
"""Time for a connection's next request to arrive whole, head and body apart."""
LONGEST_HEAD = 64 * 1024
"""Most bytes of a request's line and headers; the parser itself has no bound."""
LOUD_EVERY = 10.0


class JoinedWrites:
    """A transport that sends the head of an answer together with its body, if that comes at once."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._held = b""
        self._soon: asyncio.Handle | None = None

    def write(self, data: bytes) -> None:
        """Send the data with what is held, or else hold it for no longer than until others have their turn."""
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
            self._transport.write(self._held + data)
        else:
            self._held = data
            self._soon = self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
            self._transport.write(self._held)

    def close(self) -> None:
        """Close when all is sent."""
        self._flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class PatientProtocol(HttpToolsProtocol):
    """uvicorn's HTTP, which by itself waits forever for the rest of a request's head, however long that gets."""

    _deadline: asyncio.TimerHandle | None = None
    _in_head = False
    _head = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock for the first request."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Bound the head."""
        super().data_received(data)
        if self._in_head and not self.transport.is_closing():
            self._head += len(data)
            if self._head > LONGEST_HEAD:
                self.send_400_response("The head of the request is too long.")

    def on_message_begin(self) -> None:
        """Start the clock when a head has begun to come."""
        super().on_message_begin()
        self._in_head, self._head = True, 0
        self._wait()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take the value without the blanks around it, which are no part of it; the parser leaves those behind it."""
        super().on_header(name, value.strip(b" \t"))

    def on_headers_complete(self) -> None:
        """Stop the clock when the head is whole; refuse what cannot be a request of HTTP/1.1."""
        self._in_head = False
        self._stop()
        version = self.parser.get_http_version() if self.parser is not None else ""
        if version == "1.1" and not any(name == b"host" for name, _ in self.headers):
            raise ValueError("a request of HTTP/1.1 without Host")
        super().on_headers_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        cycle.transport = cast(asyncio.Transport, JoinedWrites(self.transport, self.loop))
        super()._start_asgi_task(cycle, app)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        self._stop()
        super().connection_lost(exc)

    def _wait(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(HEADER_SECONDS, self.transport.close)

    def _stop(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class OncePerWhile(logging.Filter):
    """Lets a record that repeats within seconds through once, so that a flood cannot fill the disk."""

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to write the record."""
        said, now = str(record.msg)[:80], time.monotonic()
        if now - self._said.get(said, -LOUD_EVERY) < LOUD_EVERY:
            return False
        if len(self._said) > 1000:
            self._said.clear()
        self._said[said] = now
        return True


def raise_file_limit() -> None:
    """Use as many connections as the system allows: shells often start programs with 1,024 open files."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


_MMAP_THRESHOLD, _ARENA_MAX = -3, -8


def return_large_memory() -> None:
    """Have what is large go back to the system when it is freed.

    Each password is hashed in 19 MiB, on one of several threads; glibc would come to keep that much for each.
    """
    with suppress(OSError, AttributeError):
        adjust = ctypes.CDLL("libc.so.6").mallopt
        adjust(_MMAP_THRESHOLD, 1024 * 1024)
        adjust(_ARENA_MAX, 2)
