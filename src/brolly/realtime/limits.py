"""How many sockets there may be, and how fast each may speak."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import anyio

from brolly.core.errors import AppError
from brolly.core.networks import network_of
from brolly.core.settings import Settings
from brolly.registry import App

MESSAGES_SECOND, MESSAGES_BURST = 50, 200
"""What one socket may send; more waits in the client, since nothing more is read from it meanwhile."""
MOST_SUBSCRIPTIONS = 100
MOST_CHANNELS = 100
EVENTS_AT_ONCE = 8
"""Functions that one socket's events may run at the same time."""


class Openings:
    """Counts the sockets of this process, per app and per address at an app."""

    def __init__(self, settings: Settings) -> None:
        self._most_of_app = settings.realtime_app_sockets
        self._most_of_address = settings.realtime_address_sockets
        self.apps: Counter[str] = Counter()
        self._addresses: Counter[tuple[str, str]] = Counter()

    @contextmanager
    def taken(self, app: App, ip: str | None) -> Generator[None]:
        """One more for the block; raises where there are as many as may be."""
        address = (app.id, network_of(ip))
        if self.apps[app.id] >= self._most_of_app:
            raise _too_many(f"The app has {self._most_of_app} sockets open")
        if self._addresses[address] >= self._most_of_address:
            raise _too_many(f"Your address has {self._most_of_address} sockets open at this app")
        self.apps[app.id] += 1
        self._addresses[address] += 1
        try:
            yield
        finally:
            _less(self.apps, app.id)
            _less(self._addresses, address)


def _less(counts: Counter[Any], key: Any) -> None:
    counts[key] -= 1
    if counts[key] <= 0:
        del counts[key]


def _too_many(what: str) -> AppError:
    return AppError(
        "REALTIME_CONNECTION_LIMIT",
        f"{what}, which is as many as may be.",
        remediation="Close sockets that are not needed; the operator can raise BROLLY_REALTIME_APP_SOCKETS and "
        "BROLLY_REALTIME_ADDRESS_SOCKETS. manage_realtime get shows whether any are open.",
    )


class Pace:
    """Lets a socket speak in bursts, and makes it wait when it goes on and on."""

    __slots__ = ("_at", "_left")

    def __init__(self) -> None:
        self._left = float(MESSAGES_BURST)
        self._at = -math.inf

    async def wait(self) -> None:
        """Return when the next message may be looked at."""
        now = anyio.current_time()
        self._left = min(MESSAGES_BURST, self._left + (now - self._at) * MESSAGES_SECOND) - 1
        self._at = now
        if self._left < 0:
            await anyio.sleep(-self._left / MESSAGES_SECOND)
