"""What each message of a client does."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from brolly.core.errors import AppError
from brolly.core.times import iso
from brolly.realtime import event
from brolly.realtime.changes import position_of
from brolly.realtime.limits import MOST_SUBSCRIPTIONS
from brolly.realtime.protocol import (
    OPERATIONS,
    Broadcast,
    Event,
    Heartbeat,
    Incoming,
    Join,
    PresenceTrack,
    PresenceUntrack,
    Refresh,
    Subscribe,
    Unsubscribe,
    with_ref,
)
from brolly.realtime.replay import catch_up
from brolly.realtime.socket import Socket
from brolly.realtime.subscriptions import Wanted

if TYPE_CHECKING:
    from brolly.realtime.hub import Hub


async def answer(hub: Hub, socket: Socket, message: Incoming) -> None:
    """Do what the message asks for; raises ``AppError`` for what the client is to hear."""
    do: Callable[[Hub, Socket, Any], Awaitable[None]] = _DOES[type(message)]
    await do(hub, socket, message)


async def _subscribe(hub: Hub, socket: Socket, message: Subscribe) -> None:
    room = socket.room
    if socket.count >= MOST_SUBSCRIPTIONS and message.id not in socket.subscriptions.get(message.table, {}):
        raise AppError(
            "REALTIME_CONNECTION_LIMIT",
            f"A socket has at most {MOST_SUBSCRIPTIONS} subscriptions.",
            remediation="Unsubscribe from what is not needed, or filter by in.(…); butterbase_docs, topic realtime.",
        )
    table = (await room.deps.catalog.get(room.app)).relation(message.table)
    if table is None:
        raise AppError("VALIDATION_TABLE_NOT_FOUND", f"There is no table {message.table!r}.")
    made: Any = None
    if message.filter is not None and message.filter != {} and message.filter != "":
        filtering = room.deps.capabilities["row_filter"]
        made = await filtering(room.deps, room.app, socket.caller, table.name, message.filter)
    since = position_of(message.since) if message.since is not None else None
    await room.open()
    wanted = Wanted(message.id, made, frozenset(message.events or OPERATIONS))
    entry = socket.want(table.name, wanted, resume=since is not None)
    reply: dict[str, Any] = {"type": "subscribed", "table": table.name}
    reply |= {"filter": message.filter} if made is not None else {}
    reply |= {"id": message.id} if message.id is not None else {}
    reply |= {"events": sorted(wanted.operations), "since": message.since or str(room.position)}
    socket.send(with_ref(reply, message.ref))
    if not await room.records(table):
        socket.send(
            {
                "type": "warning",
                "code": "TABLE_NOT_REALTIME_ENABLED",
                "table": table.name,
                "message": f"Changes of {table.name} are not recorded, so none will arrive.",
                "remediation": f'The owner calls manage_realtime with action configure and tables ["{table.name}"].',
            }
        )
    if since is not None:
        hub.start(catch_up, socket, table.name, entry, since, message.ref)


async def _unsubscribe(_hub: Hub, socket: Socket, message: Unsubscribe) -> None:
    socket.unwant(message.table, message.id)
    reply: dict[str, Any] = {"type": "unsubscribed", "table": message.table}
    reply |= {"id": message.id} if message.id is not None else {}
    socket.send(with_ref(reply, message.ref))


async def _event(hub: Hub, socket: Socket, message: Event) -> None:
    slots = socket.event_slots()
    # The next message is read when there is room for this one.
    place = object()
    await slots.acquire_on_behalf_of(place)
    hub.start(event.run, socket, message, slots, place)


async def _refresh(_hub: Hub, socket: Socket, message: Refresh) -> None:
    caller = await socket.identify(message.token)
    await socket.room.deps.registry.open(caller, socket.room.app.id)
    now = socket.caller
    if (caller.kind, caller.user_id, caller.account_id) != (now.kind, now.user_id, now.account_id):
        raise AppError(
            "AUTH_FORBIDDEN",
            "The token is another caller's than the one who connected.",
            remediation="Connect anew with that token; butterbase_docs, topic realtime, explains refresh.",
        )
    socket.become(caller)
    reply: dict[str, Any] = {"type": "refreshed", "role": caller.role}
    if socket.expires is not None:
        reply["expires_at"] = iso(datetime.fromtimestamp(socket.expires, UTC))
    socket.send(with_ref(reply, message.ref))


async def _heartbeat(_hub: Hub, socket: Socket, message: Heartbeat) -> None:
    socket.send(with_ref({"type": "heartbeat", "timestamp": iso(datetime.now(UTC))}, message.ref))


async def _track(hub: Hub, socket: Socket, message: PresenceTrack) -> None:
    await hub.presence.track(socket, message)


async def _untrack(hub: Hub, socket: Socket, message: PresenceUntrack) -> None:
    await hub.presence.untrack(socket, message.channel)
    reply: dict[str, Any] = {"type": "presence_untracked"}
    reply |= {"channel": message.channel} if message.channel is not None else {}
    socket.send(with_ref(reply, message.ref))


async def _join(hub: Hub, socket: Socket, message: Join) -> None:
    if message.type == "leave":
        await hub.presence.untrack(socket, message.channel)
        socket.channels.pop(message.channel, None)
        hub.bus.left(socket, message.channel)
        socket.send(with_ref({"type": "left", "channel": message.channel}, message.ref))
    else:
        may_send = await hub.bus.join(socket, message.channel)
        socket.send(with_ref({"type": "joined", "channel": message.channel, "send": may_send}, message.ref))


async def _broadcast(hub: Hub, socket: Socket, message: Broadcast) -> None:
    await hub.bus.send(socket, message)
    if message.ack:
        socket.send(with_ref({"type": "broadcast_ack", "channel": message.channel}, message.ref))


_DOES: dict[type, Callable[[Any, Socket, Any], Awaitable[None]]] = {
    Subscribe: _subscribe,
    Unsubscribe: _unsubscribe,
    Event: _event,
    Refresh: _refresh,
    Heartbeat: _heartbeat,
    PresenceTrack: _track,
    PresenceUntrack: _untrack,
    Join: _join,
    Broadcast: _broadcast,
}
