"""Ends subscriptions that the table does not bear any more: it is gone, or a column of their filter is another."""

from __future__ import annotations

from typing import TYPE_CHECKING

from brolly.core.errors import AppError
from brolly.pg.catalog import Table
from brolly.realtime.subscriptions import Wanted

if TYPE_CHECKING:
    from brolly.realtime.room import Room


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
