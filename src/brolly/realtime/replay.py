"""What a client missed: the changes after its last one, then those that came meanwhile, none lost and none twice."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from brolly.core.errors import AppError
from brolly.realtime.changes import Change, Position
from brolly.realtime.feed import feed_of
from brolly.realtime.outdated import filter_failed
from brolly.realtime.protocol import Ref, with_ref
from brolly.realtime.room import Frames
from brolly.realtime.socket import Entry, Socket

log = logging.getLogger("brolly.realtime")


async def catch_up(socket: Socket, table: str, entry: Entry, since: Position, ref: Ref) -> None:
    """Send what came after ``since``, then have the subscription served like all others.

    The live changes wait in the subscription from before the first look at the past, so that there is no moment of
    which nobody tells; those that the past had are told by the position of its end.
    """
    room, resumption = socket.room, entry.resumption
    if resumption is None:
        return
    feed, sent, position = feed_of(room.deps), 0, since
    try:
        more = True
        while more and socket.open and entry.resumption is resumption:
            async with room.replays:
                # What waits from before this look is in it, or in a later one.
                resumption.held.clear()
                found = await feed.replay(room.app, position, [table])
                frames = await _seen(socket, table, entry, found.changes)
            if frames is None or entry.resumption is not resumption:
                _end(socket, table, entry, position, ref)
                return
            sent += len(frames)
            if frames:
                socket.put(b"".join(frames))
            position, more = found.position, found.more
            await socket.drained()
    except AppError as error:
        if error.status >= 500:
            # Not begun is not lost: the client still has its position.
            socket.refuse(error)
            return
        socket.send_error(error, ref)
        position = None
    if entry.resumption is not resumption:
        return
    held, resumption.held = resumption.held, []
    waiting = [frames for change, frames in held if position is None or not position.covers(change)]
    if waiting:
        socket.put(b"".join(waiting))
    told = room.position if position is None else position
    socket.send(with_ref({"type": "replayed", "table": table, "count": sent, "since": str(told)}, ref))
    resumption.position = position
    if position is None:
        socket.caught_up(table, entry)


def _end(socket: Socket, table: str, entry: Entry, since: Position, ref: Ref) -> None:
    """End it because its filter failed, unless somebody else has ended it meanwhile."""
    if entry.resumption is not None:
        socket.unwant(table, entry.wanted.id)
        socket.send_error(filter_failed(table, entry.wanted, since), ref)


async def _seen(socket: Socket, table: str, entry: Entry, changes: Sequence[Change]) -> list[bytes] | None:
    """The frames of what it wants and may see; None when its filter fails."""
    room, wanted = socket.room, entry.wanted
    due = [change for change in changes if change.operation in wanted.operations]
    if wanted.filter is not None:
        passed, failed = await room.passing([wanted.filter], due)
        if failed:
            return None
        due = [change for change, filters in zip(due, passed, strict=True) if filters]
    if not due:
        return []
    sights = (await room.sights(table, due, [socket.identity])).get(socket.identity) or []
    frames = Frames(due)
    return [frames.of(number, sight, (wanted.id,)) for number, sight in enumerate(sights) if sight is not None]


def has_all(later: Position, earlier: Position) -> bool:
    """Whether a reader at ``later`` has everything that one at ``earlier`` has."""
    before, at = later.before, earlier.at
    return before.next >= at.next and all(t in at.running for t in before.running if t < at.next)
