"""One client's connection: what it asked for, and what waits to be sent to it."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast
from uuid import uuid4

import anyio

from brolly.core.caller import Caller
from brolly.core.errors import AppError
from brolly.core.frames import Wire, json_frame
from brolly.core.times import iso
from brolly.realtime.changes import identity_of
from brolly.realtime.limits import EVENTS_AT_ONCE, Pace
from brolly.realtime.protocol import SLOW_READER, error_message
from brolly.realtime.subscriptions import Audience, Resumption, Wanted

if TYPE_CHECKING:
    from brolly.realtime.room import Room

HEARTBEAT_SECONDS = 30.0
WARNING_SECONDS = 60.0
"""How long before its token expires a client is told."""


@dataclass(slots=True)
class Entry:
    """One subscription of a socket. While it catches up it is served alone."""

    wanted: Wanted
    resumption: Resumption | None = None


class Socket:
    """A connection that was let in. Everything that is sent goes through ``put``, in order."""

    __slots__ = (
        "__weakref__", "_drained", "_most", "_placed", "_size", "_waiting", "caller", "channels", "client_id",
        "events", "heartbeat_at", "identify", "identity", "pace", "room", "subscriptions", "warned", "wire",
    )  # fmt: skip

    def __init__(
        self, room: Room, caller: Caller, wire: Wire, identify: Callable[[str], Awaitable[Caller]], now: float
    ) -> None:
        self.room, self.caller, self.wire, self.identify = room, caller, wire, identify
        self.client_id = uuid4().hex
        self.identity = identity_of(caller)
        self.pace = Pace()
        self.heartbeat_at = now + HEARTBEAT_SECONDS
        self.warned = False
        self.subscriptions: dict[str, dict[str | None, Entry]] = {}
        self.channels: dict[str, bool] = {}
        """The channels that it joined, and whether it may send in them."""
        self.events: anyio.CapacityLimiter | None = None
        self._placed: dict[str, Audience] = {}
        self._waiting: deque[bytes] | None = None
        self._size = 0
        self._drained: anyio.Event | None = None
        self._most = room.deps.settings.realtime_queue_kb * 1024
        wire.on_writable = self._flush

    # Sending.

    @property
    def open(self) -> bool:
        """Whether it can still be written to."""
        return self.wire.open

    def put(self, frames: bytes) -> None:
        """Send whole frames; they wait while the client reads more slowly, up to a limit at which it is let go."""
        if self._waiting is None and not self.wire.full:
            self.wire.write(frames)
            return
        if not self.wire.open:
            return
        if self._waiting is None:
            self._waiting = deque()
        self._waiting.append(frames)
        self._size += len(frames)
        if self._size > self._most:
            self.close(SLOW_READER, "read too slowly; connect again and subscribe with since")

    def send(self, message: dict[str, Any]) -> None:
        """Send one message."""
        self.put(json_frame(message))

    def send_error(self, error: AppError, ref: Any = None) -> None:
        """Send the error as a message."""
        self.send(error_message(error, self.room.deps.settings.base_url, ref))

    def _flush(self) -> None:
        """Send what waits, as far as the client reads."""
        while self._waiting and not self.wire.full:
            frames = self._waiting.popleft()
            self._size -= len(frames)
            self.wire.write(frames)
        if not self._waiting:
            self._waiting = None
            if self._drained is not None:
                self._drained.set()
                self._drained = None

    async def drained(self) -> None:
        """Return when nothing waits, or the connection closes."""
        while self.open and (self._waiting is not None or self.wire.full):
            if self._drained is None:
                self._drained = anyio.Event()
            with anyio.move_on_after(1):
                await self._drained.wait()

    def close(self, code: int, reason: str, error: AppError | None = None) -> None:
        """Close the connection; the client hears why."""
        self._waiting, self._size = None, 0
        if error is not None and not self.wire.full:
            self.send_error(error)
        self.wire.cut(code, reason[:120])
        if self._drained is not None:
            self._drained.set()

    def refuse(self, error: AppError) -> None:
        """Close as the error's code has it."""
        self.close(error.ws_close, error.code, error)

    # Subscriptions.

    @property
    def count(self) -> int:
        """How many subscriptions it has."""
        return sum(map(len, self.subscriptions.values()))

    def want(self, table: str, wanted: Wanted, *, resume: bool) -> Entry:
        """Hear of the table's changes as wanted, instead of what was wanted under the same name."""
        self.unwant(table, wanted.id, tidy=False)
        entry = Entry(wanted)
        self.subscriptions.setdefault(table, {})[wanted.id] = entry
        if resume:
            entry.resumption = Resumption(self.identity, (wanted,), {self})
            self.room.index(table).add(entry.resumption)
        self._place(table)
        return entry

    def unwant(self, table: str, name: str | None, *, tidy: bool = True) -> bool:
        """Without that subscription; False when there is none."""
        entries = self.subscriptions.get(table, {})
        entry = entries.pop(name, None)
        if entry is None:
            return False
        if not entries:
            del self.subscriptions[table]
        if entry.resumption is not None:
            self.room.index(table).leave(self, entry.resumption)
            entry.resumption = None
        self._place(table)
        if tidy:
            self.room.left(table)
        return True

    def caught_up(self, table: str, entry: Entry) -> None:
        """From now on the subscription is served with all others that want the same."""
        if entry.resumption is None or self.subscriptions.get(table, {}).get(entry.wanted.id) is not entry:
            return
        self.room.index(table).leave(self, entry.resumption)
        entry.resumption = None
        self._place(table)

    def _place(self, table: str) -> None:
        index = self.room.index(table)
        if (old := self._placed.pop(table, None)) is not None:
            index.leave(self, old)
        entries = self.subscriptions.get(table, {}).values()
        wanted = tuple(entry.wanted for entry in entries if entry.resumption is None)
        if wanted:
            self._placed[table] = index.join(self, self.identity, wanted)

    def become(self, caller: Caller) -> None:
        """Go on with the rights of a newer token."""
        self.caller, self.warned = caller, False
        identity = identity_of(caller)
        if identity == self.identity:
            return
        self.identity = identity
        for table, entries in self.subscriptions.items():
            for entry in entries.values():
                if entry.resumption is not None:
                    entry.resumption.identity = identity
            self._place(table)

    def forget(self) -> None:
        """Hear of nothing any more."""
        self.wire.on_writable = None
        for table in list(self.subscriptions):
            for name in list(self.subscriptions.get(table, ())):
                self.unwant(table, name)
        if self._drained is not None:
            self._drained.set()

    # Time.

    @property
    def expires(self) -> float | None:
        """When its token expires, in seconds since the epoch."""
        exp = self.caller.claims.get("exp")
        return float(cast(float, exp)) if self.caller.kind == "user" and isinstance(exp, int | float) else None

    def look_at_clock(self, now: float, wall: float, heartbeat: Callable[[], bytes]) -> None:
        """Send what is due by time: heartbeat, a warning that the token expires, its end."""
        if now >= self.heartbeat_at:
            self.heartbeat_at = now + HEARTBEAT_SECONDS
            self.put(heartbeat())
        expires = self.expires
        if expires is None or wall < expires - WARNING_SECONDS:
            return
        if wall >= expires:
            self.refuse(AppError("AUTH_END_USER_JWT_EXPIRED", "The access token of this connection has expired."))
        elif not self.warned:
            self.warned = True
            self.send(
                {
                    "type": "warning",
                    "code": "TOKEN_EXPIRES",
                    "message": f"The access token expires in {max(0, int(expires - wall))} s, and this connection "
                    "with it.",
                    "remediation": 'Renew it at POST /auth/{app_id}/refresh and send {"type": "refresh", "token": …}.',
                    "expires_at": _moment(expires),
                }
            )

    def event_slots(self) -> anyio.CapacityLimiter:
        """Bounds how many of its events run at the same time."""
        if self.events is None:
            self.events = anyio.CapacityLimiter(EVENTS_AT_ONCE)
        return self.events


def _moment(seconds: float) -> str:
    from datetime import UTC, datetime

    return iso(datetime.fromtimestamp(seconds, UTC))
