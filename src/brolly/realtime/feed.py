"""The changes of an app as they come, to all who follow it in this process, and those that a reader missed."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import anyio
import anyio.abc
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from brolly.core.errors import AppError
from brolly.deps import Deps
from brolly.pg.errors import unavailable
from brolly.pg.listen import Ear
from brolly.realtime.attention import Attention
from brolly.realtime.changes import Change, Position
from brolly.realtime.reading import MOST, read_changes, read_position
from brolly.registry import App, Registry

log = logging.getLogger("brolly.realtime")

CHANNEL = "realtime_changes"
LOOK_SECONDS = 5.0
"""A reader looks this often though nothing was said; so a position is never older than this."""
LINGER_SECONDS = 10.0
"""For which a feed goes on without followers: who lost a connection comes back."""
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
_WAITING_BATCHES = 16


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
    """An app's changes from ``position`` on: iterate over ``batches``. They end when the app is gone or paused. While
    the database does not answer none come, and none are lost. Who does not take them holds up the app's others here.
    """

    position: Position
    batches: MemoryObjectReceiveStream[Batch]


class Feed:
    """All apps' feeds in this process; works while it is ``opened``."""

    def __init__(self, deps: Deps) -> None:
        self._deps = deps
        self._apps: dict[str, _AppFeed] = {}
        self._group: anyio.abc.TaskGroup | None = None

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[None]:
        """Feeds run for the block. Where blocks lie within each other, the outer one goes on after the inner one."""
        async with anyio.create_task_group() as group:
            outer, self._group = self._group, group
            try:
                yield
            finally:
                self._group = outer
                group.cancel_scope.cancel()

    def active(self, app_id: str) -> bool:
        """Whether somebody follows the app in this process."""
        feed = self._apps.get(app_id)
        return feed is not None and bool(feed.followers)

    def sent(self, app_id: str) -> Position | None:
        """Up to where followers were sent everything; it moves on when nothing happens, too."""
        feed = self._apps.get(app_id)
        return feed.sent if feed is not None else None

    @asynccontextmanager
    async def subscribe(self, app: App) -> AsyncGenerator[Subscription]:
        """Follow the app for the block. The first who does opens the listening connection; raises when it cannot."""
        if self._group is None:
            raise RuntimeError("the feed is not open")
        feed = self._apps.get(app.id)
        if feed is None or feed.ended:
            feed = self._apps[app.id] = _AppFeed(self._deps, app)
            self._group.start_soon(self._run, feed)
        send, receive = anyio.create_memory_object_stream[Batch](_WAITING_BATCHES)
        with send, receive:
            position = await feed.add(send)
            try:
                yield Subscription(position, receive)
            finally:
                feed.remove(send)

    async def _run(self, feed: _AppFeed) -> None:
        try:
            await feed.run()
        except Exception:
            # What follows it learns of the end, and begins anew.
            log.exception("the feed of app %s", feed.app.id)
        finally:
            feed.end()
            if self._apps.get(feed.app.id) is feed:
                del self._apps[feed.app.id]

    async def replay(self, app: App, since: Position, tables: Collection[str], limit: int = MOST) -> Replay:
        """What came after ``since`` and was committed by now, in order. Raises ``REALTIME_SINCE_EXPIRED`` when some of
        it may have been trimmed."""
        found = await read_changes(self._deps, app, since, limit, tables)
        if found.lost:
            raise AppError(
                "REALTIME_SINCE_EXPIRED",
                "Changes after that one are not kept any more.",
                details={"retention_seconds": self._deps.settings.realtime_retention},
            )
        return Replay(found.changes, found.position, found.more)

    async def position(self, app: App) -> Position:
        """The position of a reader who begins now."""
        return await read_position(self._deps, app)


class _AppFeed:
    """One app's changes, read once for all who follow it in this process."""

    def __init__(self, deps: Deps, app: App) -> None:
        self._deps = deps
        self.app = app
        self.followers: list[MemoryObjectSendStream[Batch]] = []
        self.ended = False
        self.sent: Position | None = None
        self._position: Position | None = None
        self._begun = anyio.Event()
        self._scope = anyio.CancelScope()
        self._left = 0.0
        self._attention = Attention(deps, app)

    async def add(self, send: MemoryObjectSendStream[Batch]) -> Position:
        """From the position that this answers on, everything is sent there."""
        self.followers.append(send)
        try:
            with anyio.fail_after(LOOK_SECONDS * 2):
                await self._begun.wait()
        except BaseException as error:
            self.remove(send)
            if isinstance(error, TimeoutError):
                raise unavailable() from None
            raise
        if self._position is None:
            raise unavailable()
        return self._position

    def remove(self, send: MemoryObjectSendStream[Batch]) -> None:
        """Send nothing more there."""
        if send in self.followers:
            self.followers.remove(send)
        self._left = anyio.current_time()

    def end(self) -> None:
        """Nothing comes any more."""
        self.ended = True
        self._begun.set()
        for send in self.followers:
            send.close()
        self.followers.clear()

    async def run(self) -> None:
        """Listen, read and send until nobody follows or the app is gone. Whatever happens to the connection, it goes
        on from where it was."""
        pause = FIRST_PAUSE
        while await self._wanted():
            try:
                async with self._deps.pools.listening(self.app, CHANNEL) as ear:
                    pause = FIRST_PAUSE
                    await self._follow(ear)
            except (AppError, OSError) as error:
                log.warning("the feed of app %s was interrupted: %s", self.app.id, error)
                await anyio.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE)

    async def _wanted(self) -> bool:
        if self.ended:
            return False
        if not self.followers and anyio.current_time() - self._left > LINGER_SECONDS:
            return False
        try:
            app = await self._deps.registry.find(self.app.id)
        except AppError:
            return True  # the control database does not answer either
        return app is not None and app.status == "ready" and app.paused_at is None

    async def _follow(self, ear: Ear) -> None:
        await self._attention.begin()
        if self._position is None:
            self._position = await read_position(self._deps, self.app)
            self._begun.set()
        while await self._wanted():
            found = await read_changes(self._deps, self.app, self._position, MOST)
            if found.lost:
                # Nobody may believe that nothing happened: they come again, and hear that they must read anew.
                log.error("app %s: the database was away for longer than changes are kept", self.app.id)
                self.end()
                return
            self._position = found.position
            if found.changes:
                batch = Batch(found.changes, found.position)
                for send in list(self.followers):
                    try:
                        await send.send(batch)
                    except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                        continue
            self.sent = found.position
            pause = await self._attention.look_again(found.now, found.polled, bool(found.changes))
            if found.more:
                continue
            if pause is None:
                await ear.wait(LOOK_SECONDS)
            else:
                await anyio.sleep(pause)


_FEEDS: WeakKeyDictionary[Registry, Feed] = WeakKeyDictionary()


def feed_of(deps: Deps) -> Feed:
    """The feeds of this process."""
    feed = _FEEDS.get(deps.registry)
    if feed is None:
        feed = _FEEDS[deps.registry] = Feed(deps)
    return feed
