"""How long the server waits for slow clients, so that a thousand of them cannot make it deaf to the others."""

from __future__ import annotations

import asyncio
import logging
import resource
import time
from contextlib import suppress

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_SECONDS = 15.0
"""Time for a connection's next request to arrive whole, head and body apart."""
LOUD_EVERY = 10.0


class PatientProtocol(H11Protocol):
    """uvicorn's HTTP, which by itself waits forever for the rest of a request's head."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock for the first request."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Stop the clock when a head is whole; start it when the next one has begun to come."""
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._stop()
        elif self.conn.trailing_data[0]:
            self._wait()

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
