"""uvicorn's WebSocket with a short way out: frames that were made once are written to many connections as they are.

An ASGI message for each connection and change would make and check the same frame a thousand times. The application
finds the connection's ``Wire`` in the scope's extensions, and may write through it once the socket is accepted.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, cast

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from brolly.core.frames import GOING_AWAY, WIRE

PING_SECONDS = 25.0
"""After that long a peer is asked whether it is there, and given as long to answer."""
CLOSE_SECONDS = 5.0
"""For the peer's answer to a close; then the connection is cut, however much it has not read."""


_SILENT = logging.getLogger("brolly.wire")
_SILENT.setLevel(logging.WARNING)


class WireProtocol(WebSocketsSansIOProtocol):
    """Closes with 1001 when the server ends, and does not wait for ever for who does not read."""

    on_writable: Callable[[], None] | None = None
    """Called when the peer has read what was held back."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.close_timeout = CLOSE_SECONDS
        # It would write tokens into the log, which some addresses hold.
        self.conn.logger = _SILENT
        self.conn.debug = False

    def handle_connect(self, event: Any) -> None:
        """Offer the wire in the scope. The application has not begun when this returns."""
        super().handle_connect(event)
        if (scope := getattr(self, "scope", None)) is not None:
            cast(dict[str, Any], scope["extensions"])[WIRE] = self

    @property
    def open(self) -> bool:
        """Whether frames can still be written."""
        return not (self.close_sent or self.disconnected or self.transport.is_closing())

    @property
    def full(self) -> bool:
        """Whether the peer reads more slowly than was written."""
        return not self.writable.is_set()

    def write(self, frames: bytes) -> None:
        """Send whole frames as they are; nothing once the connection closes."""
        if self.open:
            self.transport.write(frames)

    def cut(self, code: int, reason: str) -> None:
        """Close with that code; the connection ends within seconds, whether the peer reads or not."""
        if not self.open:
            return
        self.conn.send_close(code, reason)
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        self.close_timer = self.loop.call_later(self.close_timeout, self.transport.abort)

    def resume_writing(self) -> None:
        """Tell who holds frames back."""
        super().resume_writing()
        if self.on_writable is not None and not self.disconnected:
            self.on_writable()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget whom to tell."""
        self.on_writable = None
        super().connection_lost(exc)

    def keepalive_timeout(self) -> None:
        """The peer is gone without a word: nothing that is still to be sent will arrive."""
        super().keepalive_timeout()
        self.transport.abort()

    def shutdown(self) -> None:
        """Tell the peer that the server goes away; it may connect again elsewhere, or later."""
        self.stop_keepalive()
        if not self.handshake_complete:
            super().shutdown()
            return
        self.cut(GOING_AWAY, "the server is ending; connect again")
        self.transport.close()


def socket_options(frame_bytes: int) -> dict[str, Any]:
    """uvicorn's options. Compression would cost 64 KB and more for each connection."""
    return {
        "ws": cast(type[asyncio.Protocol], WireProtocol),
        "ws_max_size": frame_bytes,
        "ws_per_message_deflate": False,
        "ws_ping_interval": PING_SECONDS,
        "ws_ping_timeout": PING_SECONDS,
    }
