"""Reading recorded changes from a position on: exactly those that its reader has not."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from brolly.deps import Deps
from brolly.pg.databases import REALTIME_ROLE
from brolly.pg.session import run_as_platform
from brolly.realtime.changes import Change, Moment, Position, moment_of
from brolly.registry import App

MOST = 500
_MOST_BYTES = 16_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_COLUMNS = (
    "c.id, c.transaction, c.table_name, c.operation, c.image::text as image, c.old_image::text as old_image, "
    "(extract(epoch from c.at) * 1000000)::int8 as micros"
)
_SIZE = "coalesce(octet_length(image), 0) + coalesce(octet_length(old_image), 0)"


def _statement(earlier: bool, tables: bool) -> str:
    """Snapshot and rows are of one moment, being read by one statement.

    First, if ``earlier``, what was to be seen at the position's later moment and comes after its number; then what
    came to be seen since. Nothing of the first can depend on the second. Within each by number: who changes a row
    waits for who changed it before, and is numbered later.
    """
    unseen = "(c.transaction >= $1::text::xid8 or c.transaction = any ($2::text[]::xid8[]))"
    wanted = " and c.table_name = any ($4::text[])" if tables else ""
    end = f"and c.transaction < s.next{wanted} order by c.id limit $3::int8"
    rows = f"select 2 as phase, {_COLUMNS} from realtime.changes c where {unseen} {end}"
    if earlier:
        n = 5 if tables else 4
        before = f"(c.transaction >= ${n}::text::xid8 or c.transaction = any (${n + 1}::text[]::xid8[]))"
        first = f"select 1 as phase, {_COLUMNS} from realtime.changes c where {before} and not {unseen}"
        rows = f"({first} and c.id > ${n + 2}::int8 {end}) union all ({rows})"
    return (
        "select s.now, s.trimmed, s.polled, c.phase, c.id, c.transaction::text::int8 as transaction, c.table_name, "
        "c.operation, c.image, c.old_image, c.micros, "
        f"(sum({_SIZE}) over (order by c.phase, c.id) - {_SIZE})::int8 as ahead "
        "from (select pg_current_snapshot()::text as now, pg_snapshot_xmax(pg_current_snapshot()) as next, "
        "(select m.snapshot::text from realtime.marks m where m.trimmed order by m.taken_at desc limit 1) as trimmed, "
        "coalesce((select a.polled_until > statement_timestamp() from realtime.attention a), false) as polled) s "
        f"left join lateral (select * from ({rows}) f order by phase, id limit $3::int8) c on true "
        "order by c.phase, c.id"
    )


_STATEMENTS = {(e, t): _statement(e, t) for e in (False, True) for t in (False, True)}
_NOW = "select pg_current_snapshot()::text as now"


@dataclass(frozen=True, slots=True)
class Found:
    """Changes after a position. With ``more`` there may be others; ``position`` is of a reader who has these.
    ``lost``: some that belong here were trimmed. ``now`` is when it was looked, and ``polled`` whether writers may then
    have woken nobody."""

    changes: tuple[Change, ...]
    position: Position
    more: bool
    lost: bool
    now: Moment
    polled: bool


async def read_position(deps: Deps, app: App) -> Position:
    """The position of a reader who begins now."""
    result = await run_as_platform(deps.pools.door(app), REALTIME_ROLE, _NOW, ())
    now = moment_of(result.rows[0]["now"])
    return Position(now, now, 0)


async def read_changes(
    deps: Deps, app: App, since: Position, limit: int, tables: Collection[str] | None = None
) -> Found:
    """The changes that a reader at ``since`` has not, up to ``limit`` of them."""
    earlier = since.before != since.at
    args: list[Any] = [*_moment_args(since.at), limit]
    if tables is not None:
        args.append(list(tables))
    if earlier:
        args += [*_moment_args(since.before), since.id]
    text = _STATEMENTS[earlier, tables is not None]
    rows = (await run_as_platform(deps.pools.door(app), REALTIME_ROLE, text, args)).rows
    now = moment_of(rows[0]["now"])
    lost = since.at.next > now.next or _lost(since.before, rows[0]["trimmed"])
    changes: list[Change] = []
    for row in rows:
        # A few rows at a time where they are long; one at least.
        if row["id"] is None or row["ahead"] > _MOST_BYTES:
            break
        changes.append(_change(row, since, now))
    more = len(changes) == limit or len(changes) < sum(row["id"] is not None for row in rows)
    position = changes[-1].position if changes and more else Position(now, now, 0)
    return Found(tuple(changes), position, more, lost, now, rows[0]["polled"])


def _moment_args(moment: Moment) -> tuple[str, list[str]]:
    return str(moment.next), [str(running) for running in sorted(moment.running)]


def _lost(had: Moment, trimmed: str | None) -> bool:
    """Whether something may have been trimmed that was not to be seen then."""
    if trimmed is None:
        return False
    mark = moment_of(trimmed)
    return mark.next > had.next or any(mark.has(running) for running in had.running)


def _change(row: Any, since: Position, now: Moment) -> Change:
    position = Position(since.before, since.at, row["id"]) if row["phase"] == 1 else Position(since.at, now, row["id"])
    return Change(
        id=row["id"],
        transaction=row["transaction"],
        table=row["table_name"],
        operation=row["operation"],
        image=row["image"],
        old_image=row["old_image"],
        at=_EPOCH + timedelta(microseconds=row["micros"]),
        position=position,
    )
