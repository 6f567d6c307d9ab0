"""Bounds what a statement may answer, in bytes, while the answer comes in."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from brolly.pg.pool import Connection


class Meter(asyncio.Protocol):
    """Stands before asyncpg's protocol on its transport, and hangs up when too much comes.

    asyncpg gathers a statement's whole answer, and Postgres sends values of up to a gigabyte.
    """

    def __init__(self, inner: Any, transport: Any, most: int) -> None:
        self._inner, self._transport, self._left = inner, transport, most

    @property
    def exceeded(self) -> bool:
        """Whether the connection was ended for it."""
        return self._left < 0

    def data_received(self, data: bytes) -> None:
        """Count, and pass on."""
        self._left -= len(data)
        if self._left < 0:
            self._transport.abort()
        else:
            self._inner.data_received(data)

    def eof_received(self) -> Any:
        """Pass on."""
        return self._inner.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass on."""
        self._inner.connection_lost(exc)

    def pause_writing(self) -> None:
        """Pass on."""
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        """Pass on."""
        self._inner.resume_writing()


@contextmanager
def metered(connection: Connection, most: int) -> Generator[Meter]:
    """For the block, end the connection when Postgres sends more than ``most`` bytes."""
    transport, inner = connection._transport, connection._protocol
    meter = Meter(inner, transport, most)
    transport.set_protocol(meter)
    try:
        yield meter
    finally:
        if not meter.exceeded and not connection.is_closed():
            transport.set_protocol(inner)
