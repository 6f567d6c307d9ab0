"""The bytes of a request as they come, from senders that have to go on sending."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import anyio
from starlette.requests import ClientDisconnect, Request

IDLE_SECONDS = 60.0
"""For how long a sender may be silent: one that holds its connection for nothing must not keep it."""


async def chunks_of(request: Request) -> AsyncGenerator[bytes]:
    """The body. Raises ``ClientDisconnect`` when the sender is gone, or silent for too long."""
    stream = request.stream()
    while True:
        try:
            with anyio.fail_after(IDLE_SECONDS):
                chunk = await anext(stream)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise ClientDisconnect from None
        yield chunk
