"""The snapshots of the apps in use, kept until a change is announced."""

from __future__ import annotations

from asyncio import Lock
from collections.abc import Awaitable, Callable
from typing import Any, Protocol
from weakref import WeakValueDictionary

from brolly.pg.catalog import Snapshot


class AppLike(Protocol):
    """What the cache needs of an app."""

    @property
    def id(self) -> str: ...


class Catalogs:
    """The snapshots of the apps in use, read on demand and kept until a change is announced.

    At most ``LIMIT`` are kept; the one read longest ago makes room.
    """

    LIMIT = 1000

    def __init__(self, read: Callable[[Any], Awaitable[Snapshot]], announce: Callable[[str], Awaitable[None]]) -> None:
        self._read = read
        self._announce = announce
        self._kept: dict[str, Snapshot] = {}
        self._loading: dict[str, object] = {}
        self._locks: WeakValueDictionary[str, Lock] = WeakValueDictionary()

    async def get(self, app: AppLike) -> Snapshot:
        """The app's tables; callers at the same time share one read."""
        kept = self._kept.get(app.id)
        if kept is not None:
            return kept
        lock = self._locks.get(app.id)
        if lock is None:
            lock = self._locks[app.id] = Lock()
        async with lock:
            return self._kept.get(app.id) or await self._load(app)

    async def _load(self, app: AppLike) -> Snapshot:
        # forget() takes the mark away, so a result that began before a change is not kept.
        mark = self._loading[app.id] = object()
        try:
            snapshot = await self._read(app)
            if self._loading.get(app.id) is mark:
                self._kept[app.id] = snapshot
                if len(self._kept) > self.LIMIT:
                    del self._kept[next(iter(self._kept))]
        finally:
            if self._loading.get(app.id) is mark:
                del self._loading[app.id]
        return snapshot

    async def changed(self, app: AppLike) -> None:
        """Forget the app's tables here and, by an announcement, in every replica. Call after commit."""
        self.forget(app.id)
        await self._announce(app.id)

    def forget(self, app_id: str | None) -> None:
        """Drop what is kept of one app, or of all (None: after the listening connection was lost)."""
        if app_id is None:
            self._kept.clear()
            self._loading.clear()
        else:
            self._kept.pop(app_id, None)
            self._loading.pop(app_id, None)
