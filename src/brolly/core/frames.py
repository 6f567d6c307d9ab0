"""WebSocket frames that are made once and written to many connections, and the connection as features see it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Protocol

WIRE = "brolly.wire"
"""Under this name the server puts the connection's ``Wire`` into the extensions of the ASGI scope."""
GOING_AWAY = 1001

_TEXT = 0x81  # whole, and a text


class Wire(Protocol):
    """A connection that was accepted, for writing frames past ASGI."""

    on_writable: Callable[[], None] | None
    """Called when the peer has read what was held back."""

    @property
    def open(self) -> bool:
        """Whether frames can still be written."""
        ...

    @property
    def full(self) -> bool:
        """Whether the peer reads more slowly than was written; what is written now waits in memory."""
        ...

    def write(self, frames: bytes) -> None:
        """Send whole frames as they are; nothing once the connection closes."""

    def cut(self, code: int, reason: str) -> None:
        """Close with that code; the connection ends within seconds, whether the peer reads or not."""


def frame(text: bytes) -> bytes:
    """The text as one frame, as a server sends it: whole and unmasked."""
    size = len(text)
    if size < 126:
        return bytes((_TEXT, size)) + text
    if size < 65536:
        return bytes((_TEXT, 126)) + size.to_bytes(2, "big") + text
    return bytes((_TEXT, 127)) + size.to_bytes(8, "big") + text


def json_frame(message: Mapping[str, Any]) -> bytes:
    """The message as compact JSON in a frame."""
    return frame(json.dumps(message, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace"))
