"""Presence: who is here, told to all who are, on every server.

Each tracked client is a row in the control database under its server's lease. A server that ends takes its rows
along; those of one that was killed go when its lease has run out, and the others tell their clients.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import anyio

from brolly.core.errors import AppError
from brolly.core.frames import json_frame
from brolly.deps import Deps
from brolly.realtime.broadcast import CHANNEL, Bus
from brolly.realtime.protocol import LONGEST_METADATA, PresenceTrack, with_ref
from brolly.realtime.socket import Socket

if TYPE_CHECKING:
    from brolly.realtime.room import Room

log = logging.getLogger("brolly.realtime")

BEAT_SECONDS = 5.0
LEASE_SECONDS = 20.0

_TRACK = (
    "with w as (insert into brolly.realtime_presence (app_id, channel, client_id, server_id, user_id, metadata) "
    "values ($1, $2, $3, $4, $5, $6) on conflict (app_id, channel, client_id) "
    "do update set metadata = excluded.metadata, server_id = excluded.server_id) "
    f"select pg_notify('{CHANNEL}', $7)"
)
_STATE = "select client_id, user_id, metadata from brolly.realtime_presence where app_id = $1 and channel = $2"
_LEAVE = (
    "with w as (delete from brolly.realtime_presence where app_id = $1 and channel = any($2::text[]) "
    f"and client_id = $3) select pg_notify('{CHANNEL}', p) from unnest($4::text[]) p"
)
_BEAT = (
    "insert into brolly.realtime_servers (id) values ($1) on conflict (id) do update set seen_at = now() "
    "returning xmax = 0 as fresh"
)
_END = "delete from brolly.realtime_servers where id = any($1::text[])"
_SWEEP = "delete from brolly.realtime_servers where seen_at < now() - make_interval(secs => $1) returning id"
_GONE = (
    "with gone as (delete from brolly.realtime_presence where server_id = any($1::text[]) "
    "or server_id not in (select id from brolly.realtime_servers) returning app_id, channel, client_id, user_id) "
    "select app_id, channel, client_id, user_id from gone"
)
_NOTIFY = f"select pg_notify('{CHANNEL}', p) from unnest($1::text[]) p"


@dataclass(slots=True)
class _Group:
    """Who is known to be present in one app's channel, and the sockets here that are."""

    known: dict[str, tuple[str | None, str]] = field(default_factory=dict[str, tuple[str | None, str]])
    """User and metadata by client."""
    here: dict[str, Socket] = field(default_factory=dict[str, Socket])

    def tell(self, message: Mapping[str, Any], about: str) -> None:
        """Send to all who are here but the one it is about."""
        frame = json_frame(message)
        for client_id, socket in list(self.here.items()):
            if client_id != about:
                socket.put(frame)


class Presence:
    """Who is present in the apps that have sockets here. The channel ``""`` is the app itself."""

    def __init__(self, deps: Deps, rooms: Mapping[str, Room], bus: Bus) -> None:
        self._deps, self._rooms, self._bus = deps, rooms, bus
        self._groups: dict[tuple[str, str], _Group] = {}
        self._unsent: list[tuple[str, list[str], str, list[str]]] = []
        self._again = self._begun = False
        bus.on("presence", self._heard)
        bus.missed = self._missed

    async def track(self, socket: Socket, message: PresenceTrack) -> None:
        """Tell all others of this client; tell the client who they are."""
        channel, app_id = message.channel or "", socket.room.app.id
        if channel and channel not in socket.channels:
            raise AppError(
                "AUTH_FORBIDDEN",
                f"Join the channel {channel!r} before being present in it.",
                remediation='Send {"type": "join", "channel": …} first; butterbase_docs, topic realtime.',
            )
        metadata = json.dumps(message.metadata, separators=(",", ":"), ensure_ascii=False)
        if len(metadata.encode("utf-8", "replace")) > LONGEST_METADATA or "\\u0000" in metadata:
            raise AppError("REQUEST_TOO_LARGE", f"Metadata has at most {LONGEST_METADATA} bytes, and no zero byte.")
        group = self._groups.setdefault((app_id, channel), _Group())
        fresh = socket.client_id not in group.here
        told = self._told("join", channel, socket.client_id, socket.caller.user_id, metadata)
        row = (app_id, channel, socket.client_id, self._bus.server, socket.caller.user_id, metadata)
        await self._deps.control.execute(_TRACK, *row, self._bus.payload("presence", app_id, told))
        if socket not in socket.room.sockets:
            await self._leave(socket, app_id, [channel])
            return
        group.here[socket.client_id] = socket
        self._apply(app_id, told)
        if fresh or message.type == "presence_track":
            await self._read(app_id, channel, group)
            others = [
                {"client_id": client, "user_id": user, "metadata": json.loads(text)}
                for client, (user, text) in group.known.items()
                if client != socket.client_id
            ]
            state = self._in(channel, {"type": "presence_state", "clients": others})
            socket.send(with_ref(state, message.ref))

    async def untrack(self, socket: Socket, channel: str | None) -> None:
        """The client is present there no more."""
        app_id, name = socket.room.app.id, channel or ""
        group = self._groups.get((app_id, name))
        if group is not None and socket.client_id in group.here:
            await self._leave(socket, app_id, [name])

    async def gone(self, socket: Socket) -> None:
        """The client is gone."""
        self._bus.gone(socket)
        app_id = socket.room.app.id
        channels = [c for (a, c), g in self._groups.items() if a == app_id and socket.client_id in g.here]
        if channels:
            await self._leave(socket, app_id, channels)

    async def _leave(self, socket: Socket, app_id: str, channels: list[str]) -> None:
        payloads: list[str] = []
        for channel in channels:
            told = self._told("leave", channel, socket.client_id, socket.caller.user_id, "{}")
            payloads.append(self._bus.payload("presence", app_id, told))
            if (group := self._groups.get((app_id, channel))) is not None:
                group.here.pop(socket.client_id, None)
            self._apply(app_id, told)
        leaving = (app_id, channels, socket.client_id, payloads)
        try:
            await self._deps.control.execute(_LEAVE, *leaving)
        except AppError:
            # The others must hear of it all the same, once the database is back.
            self._unsent.append(leaving)

    @staticmethod
    def _told(what: str, channel: str, client: str, user: str | None, metadata: str) -> dict[str, Any]:
        return {"what": what, "channel": channel, "client_id": client, "user_id": user, "metadata": metadata}

    @staticmethod
    def _in(channel: str, message: dict[str, Any]) -> dict[str, Any]:
        return {**message, "channel": channel} if channel else message

    def _heard(self, app_id: str, told: Mapping[str, Any]) -> None:
        self._apply(app_id, told)

    def _apply(self, app_id: str, told: Mapping[str, Any]) -> None:
        """Tell those who are here what is new to them."""
        channel, client, user = str(told["channel"]), str(told["client_id"]), told["user_id"]
        group = self._groups.get((app_id, channel))
        if group is None:
            return
        before = group.known.get(client)
        if told["what"] == "leave":
            if group.known.pop(client, None) is not None:
                group.tell(self._in(channel, {"type": "presence_leave", "client_id": client, "user_id": user}), client)
            if not group.here:
                del self._groups[app_id, channel]
            return
        group.known[client] = (user, str(told["metadata"]))
        message: dict[str, Any] = {"client_id": client, "user_id": user, "metadata": json.loads(told["metadata"])}
        if before is None:
            group.tell(self._in(channel, {"type": "presence_join", **message}), client)
        elif before[1] != told["metadata"]:
            group.tell(self._in(channel, {"type": "presence_update", **message}), client)

    async def _read(self, app_id: str, channel: str, group: _Group) -> None:
        """Compare what is known with what is, and tell the difference."""
        rows = await self._deps.control.fetch(_STATE, app_id, channel)
        present = {row["client_id"]: row for row in rows}
        for client in [c for c in group.known if c not in present and c not in group.here]:
            self._apply(app_id, self._told("leave", channel, client, group.known[client][0], "{}"))
        for client, row in present.items():
            if client not in group.here:
                self._apply(app_id, self._told("join", channel, client, row["user_id"], row["metadata"]))

    def _missed(self) -> None:
        self._again = True

    async def run(self) -> None:
        """Keep the lease, end those of servers that are gone, and mend what was missed, until cancelled."""
        while True:
            try:
                await self.beat()
            except AppError as error:
                log.warning("presence waits: %s", error.message)
            except Exception:
                log.exception("presence failed for a moment")
            await anyio.sleep(BEAT_SECONDS)

    async def beat(self) -> None:
        """Renew the lease, end those that ran out, mend what was missed."""
        fresh = await self._deps.control.fetchval(_BEAT, self._bus.server)
        if fresh and self._begun:
            # The others believed this server dead, or Postgres crashed and has forgotten.
            await self._publish()
        self._begun = True
        await self._sweep()
        await self._mend()

    async def _publish(self) -> None:
        for (app_id, channel), group in list(self._groups.items()):
            for client, socket in list(group.here.items()):
                metadata = group.known[client][1]
                told = self._told("join", channel, client, socket.caller.user_id, metadata)
                row = (app_id, channel, client, self._bus.server, socket.caller.user_id, metadata)
                await self._deps.control.execute(_TRACK, *row, self._bus.payload("presence", app_id, told))

    async def _sweep(self) -> None:
        ended = [row["id"] for row in await self._deps.control.fetch(_SWEEP, LEASE_SECONDS)]
        if ended:
            await self._tell_gone(ended)

    async def _tell_gone(self, servers: list[str]) -> None:
        payloads: list[str] = []
        for row in await self._deps.control.fetch(_GONE, servers):
            told = self._told("leave", row["channel"], row["client_id"], row["user_id"], "{}")
            payloads.append(self._bus.payload("presence", row["app_id"], told))
            self._apply(row["app_id"], told)
        if payloads:
            await self._deps.control.execute(_NOTIFY, payloads)

    async def _mend(self) -> None:
        unsent, self._unsent = self._unsent, []
        for leaving in unsent:
            try:
                await self._deps.control.execute(_LEAVE, *leaving)
            except AppError:
                self._unsent.append(leaving)
        if self._again:
            self._again = False
            for (app_id, channel), group in list(self._groups.items()):
                await self._read(app_id, channel, group)

    async def end(self) -> None:
        """This server ends: its clients leave now, not when its lease runs out."""
        try:
            await self._deps.control.execute(_END, [self._bus.server])
            await self._tell_gone([self._bus.server])
        except AppError as error:
            log.warning("presence ends with this server's lease: %s", error.message)
