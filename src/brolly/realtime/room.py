"""One app's sockets, and the way of its changes to them.

A batch of changes costs one statement for all filters of a table that Postgres has to look at, one for what all
identities may see, and then as many writes as there are sockets that hear of it. Messages are made once for all who
may see the same.
"""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import anyio.abc
import anyio.lowlevel
from anyio.streams.memory import MemoryObjectReceiveStream

from brolly.core.errors import AppError
from brolly.core.frames import frame
from brolly.core.times import iso
from brolly.deps import Deps
from brolly.pg.catalog import Table
from brolly.realtime.changes import Change, Identity, Position, Sight
from brolly.realtime.feed import Batch, feed_of
from brolly.realtime.outdated import end_failed, end_outdated
from brolly.realtime.protocol import INTERNAL
from brolly.realtime.subscriptions import Audience, Ids, Resumption, TableIndex
from brolly.realtime.visibility import visible
from brolly.registry import App

if TYPE_CHECKING:
    from brolly.realtime.socket import Socket

log = logging.getLogger("brolly.realtime")

GRACE_SECONDS = 10.0
"""For which the app's feed stays open when nobody subscribes any more."""
RECORDED_SECONDS = 10.0
_RECORDS = (
    "select exists (select from pg_trigger g join pg_proc p on p.oid = g.tgfoid "
    "join pg_namespace n on n.oid = p.pronamespace where g.tgrelid = $1::int8::oid and n.nspname = 'realtime')"
)
RETRY_SECONDS = (0.1, 0.5, 1.0, 2.0, 5.0)


class Frames:
    """The messages of some changes of a table, each made once."""

    def __init__(self, changes: Sequence[Change]) -> None:
        self._changes = changes
        self._heads: dict[int, str] = {}
        self._made: dict[tuple[int, str | None, str | None, Ids], bytes] = {}

    def of(self, number: int, sight: Sight, ids: Ids) -> bytes:
        """The frame for who sees that much of the change, by which of their subscriptions."""
        key = (number, sight.record, sight.old_record, ids)
        if (made := self._made.get(key)) is None:
            made = self._made[key] = frame(self._text(number, sight, ids).encode("utf-8", "replace"))
        return made

    def _text(self, number: int, sight: Sight, ids: Ids) -> str:
        head = self._heads.get(number)
        if head is None:
            change = self._changes[number]
            head = self._heads[number] = (
                f'{{"type":"change","id":"{change.token}","table":{json.dumps(change.table)},"op":"{change.operation}",'
                f'"timestamp":"{iso(change.at)}"'
            )
        named = "" if ids == (None,) else f',"subscriptions":{json.dumps(ids, ensure_ascii=False)}'
        return f'{head}{named},"record":{sight.record or "null"},"old_record":{sight.old_record or "null"}}}'


@dataclass(slots=True)
class _Due:
    """What is due to one audience of a batch: which changes, for which of its subscriptions. ``members`` are those
    who subscribed before the batch."""

    audience: Audience
    members: list[Socket]
    changes: list[tuple[int, Ids]] = field(default_factory=list[tuple[int, Ids]])


class Room:
    """The sockets of one app."""

    def __init__(self, deps: Deps, app: App, group: anyio.abc.TaskGroup) -> None:
        self.deps, self.app = deps, app
        self.sockets: set[Socket] = set()
        self.replays = anyio.CapacityLimiter(4)
        self._group = group
        self._tables: dict[str, TableIndex] = {}
        self._position: Position | None = None
        self._following: anyio.CancelScope | None = None
        self._opening = anyio.Lock()
        self._empty_since: float | None = None
        self._batches: MemoryObjectReceiveStream[Batch] | None = None
        self._recorded: dict[int, float] = {}

    @property
    def position(self) -> Position:
        """Of who subscribes now: what comes after it will be sent to them."""
        assert self._position is not None  # noqa: S101 - the feed was opened before anybody subscribed
        return self._position

    def index(self, table: str) -> TableIndex:
        """Who wants changes of the table."""
        found = self._tables.get(table)
        if found is None:
            found = self._tables[table] = TableIndex()
        return found

    def left(self, table: str) -> None:
        """Somebody wants changes of the table no more."""
        if not self._tables.get(table, True):
            del self._tables[table]

    @property
    def idle(self) -> bool:
        """Whether nobody follows the app's changes."""
        return self._following is None and not self._tables

    async def records(self, table: Table) -> bool:
        """Whether changes of the table are recorded, for as long as that was looked up for."""
        now = anyio.current_time()
        if self._recorded.get(table.oid, 0.0) > now:
            return True
        async with self.deps.pools.reader(self.app) as connection:
            found = bool(await connection.fetchval(_RECORDS, table.oid))
        if found:
            self._recorded[table.oid] = now + RECORDED_SECONDS
        return found

    async def open(self) -> None:
        """Follow the app's changes, if nobody does yet. Raises when the database does not answer."""
        self._empty_since = None
        if self._following is not None:
            return
        async with self._opening:
            if self._following is None:
                self._following = await self._group.start(self._follow)

    def move_on(self) -> None:
        """Begin later where nothing happens: what was long ago is not kept, though nothing was missed."""
        if self._batches is None or self._following is None:
            return
        waiting = self._batches.statistics()
        sent = feed_of(self.deps).sent(self.app.id)
        # All that was sent has been delivered only while this waits for more.
        if sent is not None and waiting.tasks_waiting_receive and not waiting.current_buffer_used:
            self._position = sent

    def close_idle(self, now: float) -> None:
        """End the feed when nobody has wanted changes for a while."""
        if self._tables or self._following is None:
            self._empty_since = None
        elif self._empty_since is None:
            self._empty_since = now
        elif now - self._empty_since > GRACE_SECONDS:
            self._following.cancel()
            self._following = None

    async def _follow(self, *, task_status: anyio.abc.TaskStatus[anyio.CancelScope]) -> None:
        started = False
        with anyio.CancelScope() as scope:
            try:
                async with feed_of(self.deps).subscribe(self.app) as subscription:
                    self._position, self._batches = subscription.position, subscription.batches
                    task_status.started(scope)
                    started = True
                    async for batch in subscription.batches:
                        await self._deliver(batch)
            except Exception as error:
                if not started:
                    raise
                log.error("the changes of %s cannot be followed", self.app.id, exc_info=error)
        if self._following is scope:
            self._following = None
            # Those who may not come back are told why by whoever looks at the app.
            for socket in [s for s in self.sockets if s.subscriptions]:
                socket.close(INTERNAL, "the feed ended; connect again and subscribe with since")

    async def end_outdated(self) -> None:
        """End what the tables do not bear any more, though nothing changes in them."""
        for table in list(self._tables):
            if self._position is not None and self._tables.get(table):
                await end_outdated(self, table)

    async def _deliver(self, batch: Batch) -> None:
        """Send each change to who may see it. Who is to hear of the batch is settled before anything is waited for:
        whoever subscribes after that begins after the batch."""
        for table in {change.table for change in batch.changes}:
            if self._tables.get(table):
                await self._patiently(partial(end_outdated, self, table))
        by_table: dict[str, list[Change]] = defaultdict(list)
        for change in batch.changes:
            if self._tables.get(change.table):
                by_table[change.table].append(change)
        present = {table: self._present(table) for table in by_table}
        since, self._position = self.position, batch.position
        for table, changes in by_table.items():
            await self._deliver_table(table, changes, present[table], since)

    def _present(self, table: str) -> dict[Audience, list[Socket]]:
        return {audience: list(audience.members) for audience in self._tables[table].all()}

    async def _deliver_table(
        self, table: str, changes: Sequence[Change], present: Mapping[Audience, list[Socket]], since: Position
    ) -> None:
        index = self._tables.get(table)
        if index is None:
            return
        computed = index.computed
        passed, failed = await self._patiently(lambda: self.passing(computed, changes))
        due: dict[Audience, _Due] = {}
        for number, change in enumerate(changes):
            for audience, ids in index.audiences(change, passed[number]).items():
                if audience in present:
                    one = due.setdefault(audience, _Due(audience, present[audience]))
                    one.changes.append((number, ids))
        if failed:
            end_failed(table, present, failed, since)
        if not due:
            return
        wanted = sorted({number for one in due.values() for number, _ in one.changes})
        places = {number: place for place, number in enumerate(wanted)}
        asked = [changes[number] for number in wanted]
        identities = {one.audience.identity for one in due.values()}
        sights = await self._patiently(lambda: visible(self.deps, self.app, table, asked, identities))
        frames = Frames(changes)
        for one in due.values():
            seen = sights.get(one.audience.identity) or [None] * len(asked)
            made = [
                (changes[number], frames.of(number, sight, ids))
                for number, ids in one.changes
                if (sight := seen[places[number]]) is not None
            ]
            if made:
                await self._fan_out(table, one, made)

    async def _fan_out(self, table: str, due: _Due, made: list[tuple[Change, bytes]]) -> None:
        audience = due.audience
        if isinstance(audience, Resumption):
            position = audience.position
            if position is None:
                audience.held += made
                return
            made = [one for one in made if not position.covers(one[0])]
        data = b"".join(frames for _, frames in made)
        for number, socket in enumerate(due.members):
            if table in socket.subscriptions:
                socket.put(data)
            if number % 500 == 499:
                await anyio.lowlevel.checkpoint()

    async def passing(self, filters: Sequence[Any], changes: Sequence[Change]) -> tuple[list[list[Any]], set[Any]]:
        """For each change the filters that let it pass, and those that failed; Postgres looks, once for all."""
        if not filters or not changes:
            return [[] for _ in changes], set()
        images = [change.image or change.old_image or "{}" for change in changes]
        match = self.deps.capabilities["match_rows"]
        fits: list[list[bool] | None] = await match(self.deps, self.app, filters, images)
        found = list(zip(filters, fits, strict=True))
        passed = [[f for f, row in found if row is not None and row[i]] for i in range(len(changes))]
        return passed, {f for f, row in found if row is None}

    async def sights(
        self, table: str, changes: Sequence[Change], identities: Collection[Identity]
    ) -> Mapping[Identity, Sequence[Sight | None]]:
        """What each identity may see of the changes."""
        return await visible(self.deps, self.app, table, changes, identities)

    async def _patiently(self, ask: Any) -> Any:
        """Ask again while the database does not answer: what was not decided is neither sent nor lost."""
        for pause in (*RETRY_SECONDS, *[RETRY_SECONDS[-1]] * 1000):
            try:
                return await ask()
            except AppError as error:
                log.warning("changes of %s wait: %s", self.app.id, error.message)
                await anyio.sleep(pause)
        raise AppError("EXTERNAL_DB_ERROR", "The database did not answer for more than an hour.")
