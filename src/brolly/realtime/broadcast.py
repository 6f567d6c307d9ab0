"""Channels: what one client sends reaches the others in the channel, on every server.

Who may join, and who may send, the app decides in its own database, asked as the caller: a function
``realtime_authorize(channel, operation)``, else the rows of a table ``realtime_channels`` that the caller may read.
Without either, signed-in users may and anonymous callers may not.

Servers tell each other by NOTIFY in the control database; what is too long for that lies in a table for a minute.
"""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast
from uuid import uuid4

import anyio

from brolly.core.caller import Caller
from brolly.core.errors import AppError
from brolly.core.frames import json_frame
from brolly.deps import Deps
from brolly.pg.catalog import Snapshot
from brolly.pg.identifiers import quote
from brolly.pg.session import as_caller
from brolly.realtime.limits import MOST_CHANNELS
from brolly.realtime.protocol import LONGEST_PAYLOAD, Broadcast
from brolly.realtime.socket import Socket
from brolly.registry import App

if TYPE_CHECKING:
    from brolly.realtime.room import Room

log = logging.getLogger("brolly.realtime")

CHANNEL = "brolly_realtime"
AUTHORIZE = "realtime_authorize"
RULES = "realtime_channels"
LONGEST_NOTIFY = 7900
MOST_AT_ONCE = 500
MOST_WAITING = 20_000
KEPT_SECONDS = 60

_NOTIFY = f"select pg_notify('{CHANNEL}', p) from unnest($1::text[]) p"
_STORE = "insert into brolly.realtime_messages (body) select unnest($1::text[]) returning id"
_LOAD = "select body from brolly.realtime_messages where id = $1"
_TRIM = "delete from brolly.realtime_messages where created_at < now() - make_interval(secs => $1)"
# A star stands for any text; nothing else in the rule does.
_PATTERN = r"replace(replace(replace(replace(r.channel, '\', '\\'), '%', '\%'), '_', '\_'), '*', '%')"

Handler = Callable[[str, Mapping[str, Any]], None]


async def may_join(deps: Deps, app: App, caller: Caller, channel: str) -> tuple[bool, bool]:
    """Whether the caller may join the channel, and whether they may send in it."""
    if caller.kind == "service":
        return True, True
    snapshot = await deps.catalog.get(app)
    statement = _rule(snapshot)
    if statement is None:
        allowed = caller.kind == "user"
        return allowed, allowed
    try:
        async with as_caller(deps.pools.door(app), caller, read_only=True) as connection:
            row = await connection.fetchrow(statement, channel)
    except AppError as error:
        if error.status >= 500:
            raise
        # A rule that cannot be asked lets nobody in.
        log.info("the rule for channels of %s failed: %s", app.id, error.message)
        return False, False
    return bool(row[0]), bool(row[0]) and bool(row[1])


def _rule(snapshot: Snapshot) -> str | None:
    if snapshot.functions.get(AUTHORIZE):
        name = f"public.{quote(AUTHORIZE)}"
        return f"select {name}($1::text, 'join')::boolean, {name}($1::text, 'send')::boolean"
    table = snapshot.relation(RULES)
    if table is None or "channel" not in table.columns:
        return None
    send = 'bool_or(r."send"::boolean)' if "send" in table.columns else "true"
    return (
        f"select count(*) > 0, coalesce({send}, false) from public.{quote(RULES)} r "
        f"where r.channel = $1::text or (r.channel like '%*%' and $1::text like {_PATTERN})"
    )


class Bus:
    """Carries what servers tell each other, and the channels' messages."""

    def __init__(self, deps: Deps, rooms: Mapping[str, Room]) -> None:
        self._deps, self._rooms = deps, rooms
        self.server = uuid4().hex
        self._numbers = itertools.count()
        self._handlers: dict[str, Handler] = {"broadcast": self._heard_broadcast}
        self.missed: Callable[[], None] = lambda: None
        """Called when something may not have been heard."""
        self._rechecking: set[str] = set()
        self._members: dict[tuple[str, str], set[Socket]] = {}
        self._send, self._receive = anyio.create_memory_object_stream[str](MOST_WAITING)
        self._load, self._loads = anyio.create_memory_object_stream[int](MOST_WAITING)

    def on(self, kind: str, handler: Handler) -> None:
        """Call ``handler(app_id, message)`` for what other servers tell of that kind."""
        self._handlers[kind] = handler

    def payload(self, kind: str, app_id: str, message: Mapping[str, Any]) -> str:
        """The text that other servers hear. Each is another one, or Postgres would take two for one."""
        head = {"server": self.server, "number": next(self._numbers), "kind": kind, "app": app_id}
        return json.dumps({**head, "message": message}, separators=(",", ":"), ensure_ascii=False)

    # Channels.

    async def join(self, socket: Socket, channel: str) -> bool:
        """Let the socket into the channel, or raise; whether it may send there."""
        if len(socket.channels) >= MOST_CHANNELS and channel not in socket.channels:
            raise AppError(
                "REALTIME_CONNECTION_LIMIT",
                f"A socket is in at most {MOST_CHANNELS} channels.",
                remediation="Leave channels that are not needed; butterbase_docs, topic realtime.",
            )
        room = socket.room
        joins, sends = await may_join(self._deps, room.app, socket.caller, channel)
        if not joins:
            self._expel(socket, channel)
            raise _refused(f"You may not join the channel {channel!r}.")
        socket.channels[channel] = sends
        if socket in room.sockets:
            self._members.setdefault((room.app.id, channel), set()).add(socket)
        return sends

    def left(self, socket: Socket, channel: str) -> None:
        """The socket hears the channel no more."""
        key = (socket.room.app.id, channel)
        members = self._members.get(key)
        if members is not None:
            members.discard(socket)
            if not members:
                del self._members[key]

    def _expel(self, socket: Socket, channel: str) -> None:
        socket.channels.pop(channel, None)
        self.left(socket, channel)

    def gone(self, socket: Socket) -> None:
        """The socket hears nothing any more."""
        for channel in list(socket.channels):
            self._expel(socket, channel)

    async def send(self, socket: Socket, message: Broadcast) -> None:
        """Send to all others in the channel, here at once and on the other servers."""
        if message.channel not in socket.channels:
            raise _refused(f"Join the channel {message.channel!r} before sending to it.")
        if not socket.channels[message.channel]:
            raise _refused(f"You may not send in the channel {message.channel!r}.")
        said: dict[str, Any] = {"type": "broadcast", "channel": message.channel, "event": message.event}
        said |= {"payload": message.payload, "client_id": socket.client_id, "user_id": socket.caller.user_id}
        frame = json_frame(said)
        if len(frame) > LONGEST_PAYLOAD:
            raise AppError("REQUEST_TOO_LARGE", f"A broadcast has at most {LONGEST_PAYLOAD} bytes.")
        app_id = socket.room.app.id
        self._deliver(app_id, message.channel, frame, socket)
        try:
            self._send.send_nowait(self.payload("broadcast", app_id, said))
        except anyio.WouldBlock:
            raise AppError("QUOTA_RATE_LIMIT", "The other servers cannot keep up with the broadcasts.") from None

    def _deliver(self, app_id: str, channel: str, frame: bytes, sender: Socket | None) -> None:
        for socket in list(self._members.get((app_id, channel), ())):
            if socket is not sender:
                socket.put(frame)

    def _heard_broadcast(self, app_id: str, message: Mapping[str, Any]) -> None:
        channel = str(message["channel"])
        if (app_id, channel) in self._members:
            self._deliver(app_id, channel, json_frame(message), None)

    async def recheck(self, room: Room) -> None:
        """Put out of channels whoever may be there no more."""
        if room.app.id in self._rechecking:
            return
        self._rechecking.add(room.app.id)
        try:
            await self._recheck(room)
        finally:
            self._rechecking.discard(room.app.id)

    async def _recheck(self, room: Room) -> None:
        asked: dict[tuple[Any, str], tuple[bool, bool]] = {}
        for socket in list(room.sockets):
            for channel in list(socket.channels):
                key = (socket.identity, channel)
                if key not in asked:
                    asked[key] = await may_join(self._deps, room.app, socket.caller, channel)
                joins, sends = asked[key]
                if joins:
                    socket.channels[channel] = sends
                    continue
                self._expel(socket, channel)
                socket.send({"type": "left", "channel": channel, "reason": "the right to be in it was lost"})

    # Between servers.

    def _heard(self, payload: str) -> None:
        if not payload:
            self.missed()
            return
        told = cast(dict[str, Any], json.loads(payload))
        if told["server"] == self.server or told["app"] not in self._rooms:
            return
        if "stored" in told:
            self._load.send_nowait(int(told["stored"]))
            return
        handler = self._handlers.get(told["kind"])
        if handler is not None:
            handler(told["app"], told["message"])

    async def run(self) -> None:
        """Hear and tell until cancelled."""
        self._deps.listener.on(CHANNEL, self._heard)
        async with self._send, self._receive, self._load, self._loads, anyio.create_task_group() as group:
            group.start_soon(self._load_stored)
            group.start_soon(self._trim)
            async for first in self._receive:
                batch = [first]
                while len(batch) < MOST_AT_ONCE and self._receive.statistics().current_buffer_used:
                    batch.append(self._receive.receive_nowait())
                await self._tell(batch)

    async def _tell(self, batch: list[str]) -> None:
        try:
            short = [p for p in batch if len(p.encode()) <= LONGEST_NOTIFY]
            long = [p for p in batch if len(p.encode()) > LONGEST_NOTIFY]
            if long:
                rows = await self._deps.control.fetch(_STORE, long)
                for row, payload in zip(rows, long, strict=True):
                    told = json.loads(payload)
                    del told["message"]
                    short.append(json.dumps({**told, "stored": row["id"]}))
            await self._deps.control.execute(_NOTIFY, short)
        except (AppError, OSError) as error:
            # A broadcast is told once, to who is there; nothing waits for a database that is away.
            log.warning("%d broadcasts reached only this server's clients: %s", len(batch), error)

    async def _load_stored(self) -> None:
        async for number in self._loads:
            try:
                body = await self._deps.control.fetchval(_LOAD, number)
            except (AppError, OSError) as error:
                log.warning("a broadcast of another server was lost: %s", error)
                continue
            if body is not None:
                self._heard(body)

    async def _trim(self) -> None:
        while True:
            await anyio.sleep(KEPT_SECONDS)
            try:
                await self._deps.control.execute(_TRIM, float(KEPT_SECONDS))
            except (AppError, OSError) as error:
                log.warning("old broadcasts are not removed: %s", error)


def _refused(message: str) -> AppError:
    return AppError(
        "AUTH_FORBIDDEN",
        message,
        remediation=f"The app's owner decides with a function {AUTHORIZE}(channel text, operation text) or rows of a "
        f"table {RULES} that the caller may read; manage_schema apply makes either.",
    )
