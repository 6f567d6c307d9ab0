"""One listening connection on the control database; caches live by what it hears.

While it is not connected, ``healthy`` is False and caches must not be used. After a
reconnect every handler is called with an empty payload: anything may have changed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import asyncpg

from brolly.pg.server import Server

PING_SECONDS = 15.0


class Listener:
    """Hears NOTIFY on named channels and calls the handlers."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._handlers: dict[str, Callable[[str], None]] = {}
        self.healthy = False

    def on(self, channel: str, handler: Callable[[str], None]) -> None:
        """Call ``handler(payload)`` for each message; with ``""`` when some may have been missed."""
        self._handlers[channel] = handler

    def _forget_all(self) -> None:
        for handler in self._handlers.values():
            handler("")

    async def run(self) -> None:
        """Listen until cancelled; raises when the connection is lost, to be started again by its worker."""
        connection: Any = await asyncpg.connect(**self._server.connect_args(), timeout=10)
        lost = anyio.Event()
        try:
            connection.add_termination_listener(lambda *_: lost.set())  # pyright: ignore[reportUnknownLambdaType]
            for channel in self._handlers:
                await connection.add_listener(channel, self._heard)
            self._forget_all()
            self.healthy = True
            while not lost.is_set():
                with anyio.move_on_after(PING_SECONDS):
                    await lost.wait()
                if not lost.is_set():
                    # A connection can die without a word (a cable, a firewall): ask.
                    await connection.execute("select 1", timeout=5)
            raise ConnectionError("the listening connection was closed")
        finally:
            self.healthy = False
            with anyio.move_on_after(1, shield=True):
                await connection.close()

    def _heard(self, _connection: Any, _pid: int, channel: str, payload: str) -> None:
        self._handlers[channel](payload)
