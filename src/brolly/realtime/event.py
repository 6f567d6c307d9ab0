"""Events: a client's message runs the app's function, and the function's answer goes back to that client."""

from __future__ import annotations

import logging
from typing import Any

import anyio

from brolly.core.errors import AppError
from brolly.realtime.protocol import Event, with_ref
from brolly.realtime.socket import Socket

log = logging.getLogger("brolly.realtime")


async def run(socket: Socket, message: Event, slots: anyio.CapacityLimiter, place: object) -> None:
    """Run the event's function with the rights of the socket's caller, and send what it answers.

    ``place`` is held in ``slots`` until then.
    """
    room = socket.room
    try:
        run_event = room.deps.capabilities["run_event"]
        # The registry's record of now: functions are known by it.
        app = await room.deps.registry.open(socket.caller, room.app.id)
        data = await run_event(room.deps, app, socket.caller, message.event, message.payload)
        reply: dict[str, Any] = {"type": "event_response", "event": message.event, "data": data}
        socket.send(with_ref(reply, message.ref))
    except AppError as error:
        if error.code == "FUNCTION_FAILED":
            # The words that clients know.
            error = AppError(error.code, f"Event handler execution failed: {error.message}", details=error.details)
        socket.send_error(error, message.ref)
    except Exception as error:
        log.error("unexpected error at an event of %s", room.app.id, exc_info=error)
        socket.send_error(AppError("INTERNAL_ERROR", "Event handler execution failed"), message.ref)
    finally:
        slots.release_on_behalf_of(place)
