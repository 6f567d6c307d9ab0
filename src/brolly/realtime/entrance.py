"""The way in: ``GET /v1/{app}/realtime`` as a WebSocket."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, cast
from urllib.parse import urlsplit

import anyio

from brolly.core.caller import Caller
from brolly.core.errors import AppError
from brolly.core.frames import WIRE, Wire, json_frame
from brolly.deps import Deps
from brolly.realtime.hub import Hub, hub_of
from brolly.realtime.messages import answer
from brolly.realtime.protocol import UNSUPPORTED, MessageError, error_message, parse
from brolly.realtime.socket import Socket
from brolly.registry import App

log = logging.getLogger("brolly.realtime")

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Entrance:
    """The ASGI application of the socket."""

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Let the client in, or tell it why not, then listen to it."""
        deps: Deps = scope["app"].state.deps
        await receive()
        await send({"type": "websocket.accept"})
        wire = cast(Wire, scope["extensions"][WIRE])
        state, app_id = scope["state"], str(scope["path_params"]["app_id"])
        caller: Caller = state["caller"]
        try:
            if (refused := state.get("refused")) is not None:
                raise refused
            app = await deps.registry.open(caller, app_id)
            check_origin(app, scope["headers"])
            hub = hub_of(deps)
            if hub is None:
                raise AppError("EXTERNAL_DB_ERROR", "The server is just starting or ending.")
            with hub.openings.taken(app, caller.ip):
                await _serve(hub, app, caller, wire, state["identify"], receive)
        except AppError as error:
            _refuse(deps, wire, error)
        except Exception as error:
            log.error("unexpected error in a socket of %s", app_id, exc_info=error)
            _refuse(deps, wire, AppError("INTERNAL_ERROR", "Something went wrong here."))


def _refuse(deps: Deps, wire: Wire, error: AppError) -> None:
    wire.write(json_frame(error_message(error, deps.settings.base_url)))
    wire.cut(error.ws_close, error.code)


def check_origin(app: App, headers: list[tuple[bytes, bytes]]) -> None:
    """Refuse pages of other origins than the app allows: browsers leave that to the server for WebSockets."""
    found = {name: value.decode("latin-1") for name, value in headers if name in (b"origin", b"host")}
    origin = found.get(b"origin")
    if origin is None or origin in app.allowed_origins or urlsplit(origin).netloc == found.get(b"host"):
        return
    raise AppError(
        "AUTH_FORBIDDEN",
        f"Pages of {origin[:200]} are not among the app's allowed origins.",
        remediation="Add the origin with manage_app, action update_cors.",
    )


async def _serve(
    hub: Hub, app: App, caller: Caller, wire: Wire, identify: Callable[[str], Awaitable[Caller]], receive: Receive
) -> None:
    room = hub.enter(app)
    socket = Socket(room, caller, wire, identify, anyio.current_time())
    room.sockets.add(socket)
    try:
        role = {"service": "service", "user": "user"}.get(caller.kind, "anon")
        hello: dict[str, Any] = {"type": "connected", "app_id": app.id, "role": caller.role, "kind": role}
        hello |= {"client_id": socket.client_id, "user_id": caller.user_id}
        socket.send(hello)
        await _listen(hub, socket, receive)
    finally:
        with anyio.CancelScope(shield=True):
            await hub.leave(socket)


async def _listen(hub: Hub, socket: Socket, receive: Receive) -> None:
    while True:
        message: Mapping[str, Any] = await receive()
        if message["type"] == "websocket.disconnect":
            return
        if not socket.open:
            continue
        text = message.get("text")
        if text is None:
            error = MessageError("Binary messages are not understood; send JSON texts.")
            socket.close(UNSUPPORTED, "binary message", error)
            continue
        await socket.pace.wait()
        await _answer(hub, socket, text)
        await socket.drained()


async def _answer(hub: Hub, socket: Socket, text: str) -> None:
    try:
        incoming = parse(text)
    except MessageError as error:
        socket.send_error(error, error.ref)
        return
    try:
        await answer(hub, socket, incoming)
    except AppError as error:
        socket.send_error(error, incoming.ref)
    except Exception as error:
        log.error("unexpected error at a message of %s", socket.room.app.id, exc_info=error)
        socket.send_error(AppError("INTERNAL_ERROR", "Something went wrong here."), incoming.ref)
