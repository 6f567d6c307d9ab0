"""Ends subscriptions that the table does not bear any more: it is gone, a column of their filter is another, or the
filter fails."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from brolly.core.errors import AppError
from brolly.pg.catalog import Table
from brolly.realtime.changes import Position
from brolly.realtime.subscriptions import Audience, Resumption, Wanted

if TYPE_CHECKING:
    from brolly.realtime.room import Room
    from brolly.realtime.socket import Socket


async def end_outdated(room: Room, table: str) -> None:
    """Nobody may believe that nothing happens: each is told that its subscription ended, and from where to go on."""
    wanted = {one for audience in room.index(table).all() for one in audience.wanted}
    found = (await room.deps.catalog.get(room.app)).relation(table)
    ended = {one: error for one in wanted if (error := _reason(table, found, one)) is not None}
    if not ended:
        return
    since = str(room.position)
    for socket in list(room.sockets):
        for entry in list(socket.subscriptions.get(table, {}).values()):
            error = ended.get(entry.wanted)
            if error is None:
                continue
            socket.unwant(table, entry.wanted.id)
            named = {} if entry.wanted.id is None else {"id": entry.wanted.id}
            details = {**error.details, **named, "since": since}
            socket.send_error(AppError(error.code, error.message, remediation=error.remediation, details=details))


def _reason(table: str, found: Table | None, wanted: Wanted) -> AppError | None:
    if found is None:
        return AppError(
            "VALIDATION_TABLE_NOT_FOUND",
            f"There is no table {table!r} any more, so the subscription to it has ended.",
            details={"table": table},
        )
    if wanted.filter is None or wanted.filter.goes_with(found):
        return None
    return AppError(
        "VALIDATION_INVALID_SCHEMA",
        f"A column of the filter was renamed, dropped or given another type in {table}, so the subscription has ended.",
        remediation="Subscribe again with since and a filter that goes with the table; manage_schema get shows its "
        "columns.",
        details={"table": table, "filter": wanted.filter.text},
    )


def end_failed(
    table: str, present: Mapping[Audience, Sequence[Socket]], failed: Collection[Any], since: Position
) -> None:
    """End what has a filter that could not be computed for what comes after ``since``."""
    for audience, members in present.items():
        # Who is catching up has what it was sent, and not all up to here.
        told = None if isinstance(audience, Resumption) else since
        for wanted in audience.wanted:
            if wanted.filter not in failed:
                continue
            for socket in members:
                entry = socket.subscriptions.get(table, {}).get(wanted.id)
                if entry is not None and entry.wanted == wanted:
                    socket.unwant(table, wanted.id)
                    socket.send_error(filter_failed(table, wanted, told))


def filter_failed(table: str, wanted: Wanted, since: Position | None) -> AppError:
    """What the client hears whose filter could not be computed."""
    details = {"table": table, "filter": wanted.filter.text}
    details |= {} if wanted.id is None else {"id": wanted.id}
    details |= {} if since is None else {"since": str(since)}
    return AppError(
        "VALIDATION_INVALID_SCHEMA",
        f"The filter cannot be computed for a changed row of {table}, so the subscription has ended.",
        remediation="Read the rows with select_rows, then subscribe again with another filter, or with since and none.",
        details=details,
    )
