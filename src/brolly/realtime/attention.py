"""Whether a feed waits to be woken, or looks by itself.

A commit that wakes (NOTIFY) holds a lock of the whole cluster while it is brought to disk, so busy writers would
stand in line. They wake only who waits: ``watched_until`` says that a feed is there, ``polled_until`` that it looks by
itself.

A transaction that was told before ``polled_until`` not to wake may commit long after. It was under way, and had
written, by then: a look that began after ``polled_until`` has either seen its changes, or has it among the running. So
a feed may go to sleep once all that were running at such a look have ended. The same holds for its first look.
"""

from __future__ import annotations

from collections import deque

import anyio

from brolly.deps import Deps
from brolly.pg.databases import REALTIME_ROLE
from brolly.pg.session import run_as_platform
from brolly.realtime.changes import Moment
from brolly.registry import App

POLL_SECONDS = 0.015
"""Between two looks while there is much to see,"""
LULL_SECONDS = 0.05
"""and while somebody may still come who was told not to wake."""
_WATCH_SECONDS, _RENEW_WATCH = 90.0, 30.0
_POLLED_SECONDS, _RENEW_POLLED = 1.5, 0.5
_BUSY = 5
"""So many looks that found something in half a second begin a busy time; fewer than that in one end it."""

_ATTEND = (
    "with a as (update realtime.attention set "
    "watched_until = greatest(watched_until, clock_timestamp() + make_interval(secs => $1::text::float8)), "
    "polled_until = greatest(polled_until, clock_timestamp() + make_interval(secs => $2::text::float8)) returning 1) "
    # Whoever else waits is told that nobody will wake it.
    "select case when $3::int8 = 1 then pg_catalog.pg_notify('realtime_changes', '')::text end as said from a"
)


class Attention:
    """How one feed looks at its app."""

    def __init__(self, deps: Deps, app: App) -> None:
        self._deps, self._app = deps, app
        self._finds: deque[float] = deque(maxlen=_BUSY)
        self._owing: frozenset[int] | None = None
        self._watch_at = self._poll_at = 0.0
        self._busy = False

    async def begin(self) -> None:
        """Before the first look over a connection: from now on writers wake."""
        self._owing, self._busy = None, False
        await self._attend(False)

    async def look_again(self, now: Moment, polled: bool, found: bool) -> float | None:
        """After a look: in how many seconds to look again; None to wait until woken."""
        time = anyio.current_time()
        if found:
            self._finds.append(time)
        was, self._busy = self._busy, self._is_busy(time)
        if time >= self._watch_at or (self._busy and time >= self._poll_at):
            await self._attend(self._busy, tell=not was)
        if self._busy:
            self._owing = None
            return POLL_SECONDS
        if polled:
            self._owing = None
            return LULL_SECONDS
        running = now.running
        self._owing = running if self._owing is None else self._owing & running
        return LULL_SECONDS if self._owing else None

    def _is_busy(self, time: float) -> bool:
        return len(self._finds) == _BUSY and time - self._finds[0] < (1.0 if self._busy else 0.5)

    async def _attend(self, polls: bool, *, tell: bool = False) -> None:
        time = anyio.current_time()
        self._watch_at = time + _RENEW_WATCH
        if polls:
            self._poll_at = time + _RENEW_POLLED
        args = (str(_WATCH_SECONDS), str(_POLLED_SECONDS if polls else -1.0), int(polls and tell))
        await run_as_platform(self._deps.pools.door(self._app), REALTIME_ROLE, _ATTEND, args, durable=False)
