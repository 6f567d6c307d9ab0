"""All sockets of this process: heartbeats, tokens that end, rights that were lost."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

import anyio
import anyio.abc
import anyio.lowlevel

from brolly.core.errors import AppError
from brolly.core.frames import json_frame
from brolly.core.times import iso
from brolly.deps import Deps
from brolly.realtime.broadcast import Bus
from brolly.realtime.feed import feed_of
from brolly.realtime.limits import Openings
from brolly.realtime.presence import Presence
from brolly.realtime.replay import has_all
from brolly.realtime.room import Room
from brolly.realtime.socket import Socket
from brolly.registry import App, Registry

log = logging.getLogger("brolly.realtime")

TICK_SECONDS = 1.0
RECHECK_SECONDS = 15.0
"""How often it is looked whether users and keys are still welcome."""


class Hub:
    """The rooms of the apps that have sockets here."""

    def __init__(self, deps: Deps, group: anyio.abc.TaskGroup) -> None:
        self.deps, self.group = deps, group
        self.openings = Openings(deps.settings)
        self.rooms: dict[str, Room] = {}
        self.bus = Bus(deps, self.rooms)
        self.presence = Presence(deps, self.rooms, self.bus)

    def enter(self, app: App) -> Room:
        """The app's room."""
        room = self.rooms.get(app.id)
        if room is None:
            room = self.rooms[app.id] = Room(self.deps, app, self.group)
        return room

    def start(self, work: Callable[..., Awaitable[None]], *args: Any) -> None:
        """Do that beside; its failure is logged, and ends nothing else."""
        self.group.start_soon(_guarded, work, args)

    async def leave(self, socket: Socket) -> None:
        """The socket is gone."""
        socket.room.sockets.discard(socket)
        socket.forget()
        await self.presence.gone(socket)

    async def run(self) -> None:
        """Look at the clock until cancelled."""
        checked = anyio.current_time()
        while True:
            await anyio.sleep(TICK_SECONDS)
            now = anyio.current_time()
            due = now - checked >= RECHECK_SECONDS
            if due:
                checked = now
            for room in list(self.rooms.values()):
                try:
                    await self._tick(room, now, recheck=due)
                except AppError as error:
                    log.warning("the sockets of %s could not be looked at: %s", room.app.id, error.message)
                except Exception:
                    log.exception("the sockets of %s could not be looked at", room.app.id)

    async def _tick(self, room: Room, now: float, *, recheck: bool) -> None:
        @cache
        def heartbeat() -> bytes:
            return json_frame({"type": "heartbeat", "timestamp": iso(datetime.now(UTC))})

        wall = time.time()
        for number, socket in enumerate(list(room.sockets)):
            socket.look_at_clock(now, wall, heartbeat)
            if number % 500 == 499:
                await anyio.lowlevel.checkpoint()
        room.move_on()
        await room.end_outdated()
        self._merge(room)
        room.close_idle(now)
        await self._look_at_app(room)
        if recheck and room.sockets:
            await self._look_at_callers(room)
        if not room.sockets and room.idle:
            self.rooms.pop(room.app.id, None)

    def _merge(self, room: Room) -> None:
        """Serve with the others whoever has caught up with what the room has sent."""
        for socket in room.sockets:
            for table, entries in list(socket.subscriptions.items()):
                for entry in list(entries.values()):
                    position = entry.resumption.position if entry.resumption is not None else None
                    if position is not None and has_all(room.position, position):
                        socket.caught_up(table, entry)

    async def _look_at_app(self, room: Room) -> None:
        """Nothing is asked of the database: the registry knows of changes."""
        app = await self.deps.registry.find(room.app.id)
        if app is room.app:
            return
        if app is not None:
            room.app = app
        for socket in list(room.sockets):
            try:
                await self.deps.registry.open(socket.caller, room.app.id)
            except AppError as error:
                socket.refuse(error)

    async def _look_at_callers(self, room: Room) -> None:
        users = {s.caller.user_id for s in room.sockets if s.caller.kind == "user"}
        keys = {s.caller.key_id for s in room.sockets if s.caller.kind == "service"}
        self.start(self.bus.recheck, room)
        ended_users = await self.deps.capabilities["ended_users"](self.deps, room.app, users) if users else set[str]()
        ended_keys = await self.deps.capabilities["ended_keys"](self.deps, keys) if keys else set[str]()
        for socket in list(room.sockets):
            if socket.caller.kind == "user" and socket.caller.user_id in ended_users:
                socket.refuse(AppError("ACCOUNT_DISABLED", "This account is disabled, or no longer exists."))
            if socket.caller.kind == "service" and socket.caller.key_id in ended_keys:
                socket.refuse(AppError("AUTH_INVALID_API_KEY", "This service key was revoked, or has expired."))


async def _guarded(work: Callable[..., Awaitable[None]], args: tuple[Any, ...]) -> None:
    try:
        await work(*args)
    except AppError as error:
        log.warning("%s: %s", work.__qualname__, error.message)
    except Exception:
        log.exception("%s failed", work.__qualname__)


_HUBS: WeakKeyDictionary[Registry, Hub] = WeakKeyDictionary()


@asynccontextmanager
async def serving(deps: Deps) -> AsyncGenerator[None]:
    """Serve sockets for the block."""
    async with feed_of(deps).opened(), anyio.create_task_group() as group:
        before = _HUBS.get(deps.registry)
        hub = _HUBS[deps.registry] = Hub(deps, group)
        group.start_soon(hub.run)
        group.start_soon(hub.presence.run)
        group.start_soon(hub.bus.run)
        try:
            yield
        finally:
            _HUBS.pop(deps.registry, None)
            if before is not None:
                _HUBS[deps.registry] = before
            with anyio.move_on_after(2, shield=True):
                await hub.presence.end()
            group.cancel_scope.cancel()


def hub_of(deps: Deps) -> Hub | None:
    """The sockets of this process; None where it does not serve any."""
    return _HUBS.get(deps.registry)
