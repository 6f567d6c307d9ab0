"""The changes of an app as they come, to all who follow it in this process, and those that a reader missed."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from anyio.streams.memory import MemoryObjectReceiveStream

from brolly.deps import Deps
from brolly.realtime.changes import Change, Position
from brolly.registry import App, Registry


@dataclass(frozen=True, slots=True)
class Batch:
    """Changes in the order of delivery. ``position``: of a reader who has them and all before."""

    changes: tuple[Change, ...]
    position: Position


@dataclass(frozen=True, slots=True)
class Replay:
    """Changes that a reader missed. With ``more``, ask again from the last one's position; else ``position`` is that
    of a reader who has them, whatever they may be: live changes that it covers were among them."""

    changes: tuple[Change, ...]
    position: Position
    more: bool


@dataclass(slots=True)
class Subscription:
    """An app's changes from ``position`` on: iterate over ``batches``. They end when the app is gone. While the
    database does not answer none come, and none are lost."""

    position: Position
    batches: MemoryObjectReceiveStream[Batch]


class Feed:
    """All apps' feeds in this process."""

    def __init__(self, deps: Deps) -> None:
        self._deps = deps

    @asynccontextmanager
    async def subscribe(self, app: App) -> AsyncGenerator[Subscription]:
        """Follow the app for the block. The first who does opens the listening connection; raises when it cannot."""
        raise NotImplementedError
        yield

    async def replay(self, app: App, since: Position, tables: Collection[str], limit: int = 1000) -> Replay:
        """What came after ``since`` and was committed by now, in order. Raises ``REALTIME_SINCE_EXPIRED`` when some of
        it may have been trimmed."""
        raise NotImplementedError

    async def position(self, app: App) -> Position:
        """The position of a reader who begins now."""
        raise NotImplementedError


_FEEDS: WeakKeyDictionary[Registry, Feed] = WeakKeyDictionary()


def feed_of(deps: Deps) -> Feed:
    """The feeds of this process."""
    feed = _FEEDS.get(deps.registry)
    if feed is None:
        feed = _FEEDS[deps.registry] = Feed(deps)
    return feed
