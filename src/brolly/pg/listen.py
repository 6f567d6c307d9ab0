"""Hearing NOTIFY. ``Listener`` is the one listening connection on the control database; caches live by what it hears.

While it is not connected, ``healthy`` is False and caches must not be used. After a
reconnect every handler is called with an empty payload: anything may have changed.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio
import asyncpg

from brolly.pg.errors import translated
from brolly.pg.server import Server

PING_SECONDS = 15.0


class Listener:
    """Hears NOTIFY on named channels and calls the handlers."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._handlers: dict[str, Callable[[str], None]] = {}
        self._wake: anyio.Event | None = None
        self.healthy = False

    def on(self, channel: str, handler: Callable[[str], None]) -> None:
        """Call ``handler(payload)`` for each message; with ``""`` when some may have been missed."""
        self._handlers[channel] = handler
        if self._wake is not None:
            self._wake.set()

    def _forget_all(self) -> None:
        for handler in self._handlers.values():
            handler("")

    async def run(self) -> None:
        """Listen until cancelled; raises when the connection is lost, to be started again by its worker."""
        connection: Any = await asyncpg.connect(**self._server.connect_args(), timeout=10)
        heard = set[str]()
        wake = self._wake = anyio.Event()
        try:
            connection.add_termination_listener(self._woken)
            while not connection.is_closed():
                await self._listen(connection, heard)
                with anyio.move_on_after(PING_SECONDS):
                    await wake.wait()
                wake = self._wake = anyio.Event()
                if not connection.is_closed():
                    # A connection can die without a word (a cable, a firewall): ask.
                    await connection.execute("select 1", timeout=5)
            raise ConnectionError("the listening connection was closed")
        finally:
            self.healthy, self._wake = False, None
            with anyio.move_on_after(1, shield=True):
                await connection.close()

    async def _listen(self, connection: Any, heard: set[str]) -> None:
        """Listen to the channels that are new; their handlers may have missed something until now."""
        new = [channel for channel in self._handlers if channel not in heard]
        for channel in new:
            await connection.add_listener(channel, self._heard)
            heard.add(channel)
        if self.healthy:
            for channel in new:
                self._handlers[channel]("")
        else:
            self._forget_all()
            self.healthy = True

    def _woken(self, *_: Any) -> None:
        if self._wake is not None:
            self._wake.set()

    def _heard(self, _connection: Any, _pid: int, channel: str, payload: str) -> None:
        self._handlers[channel](payload)


class Ear:
    """A connection that listens to one channel of one database."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._lost = False
        self._event = anyio.Event()

    async def wait(self, seconds: float) -> None:
        """Return when something was said since the last call, or after that time. Raises once disconnected."""
        with anyio.move_on_after(seconds):
            await self._event.wait()
        if self._lost:
            raise ConnectionError("the listening connection was closed")
        if self._event.is_set():
            self._event = anyio.Event()
        else:
            # A connection can die without a word: ask.
            await self._connection.execute("select 1", timeout=5)

    def hear(self, *_said: Any) -> None:
        """Something was said."""
        self._event.set()

    def lose(self, *_connection: Any) -> None:
        """The connection is gone."""
        self._lost = True
        self._event.set()


@asynccontextmanager
async def listening(args: Mapping[str, Any], channel: str) -> AsyncGenerator[Ear]:
    """Listen for the block. What is said after it is entered is heard; errors of the database are ours."""
    with translated():
        connection: Any = await asyncpg.connect(**args, timeout=10)
        try:
            ear = Ear(connection)
            connection.add_termination_listener(ear.lose)
            await connection.add_listener(channel, ear.hear)
            yield ear
        finally:
            with anyio.move_on_after(1, shield=True):
                await connection.close()
