"""Server-sent events, as they come in from providers: bytes to events, bounded."""

from __future__ import annotations

from dataclasses import dataclass

LONGEST_EVENT = 8 * 1024 * 1024


class TooLong(Exception):  # noqa: N818
    """An event without an end."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event: its name ("" for the usual one) and its data."""

    name: str
    data: str


class EventReader:
    """Takes bytes as they come, gives whole events. Lines end with CR, LF or both, wherever the pieces are cut."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._name = ""
        self._data: list[str] = []
        self._size = 0
        self._began = False

    def feed(self, piece: bytes) -> list[Event]:
        """The events that this piece completes."""
        self._rest += piece
        if not self._began and len(self._rest) >= 3:
            self._began = True
            if self._rest.startswith(b"\xef\xbb\xbf"):
                del self._rest[:3]
        found: list[Event] = []
        at = 0
        while (end := self._line_end(at)) >= 0:
            line = bytes(self._rest[at:end])
            at = end + (2 if self._rest.startswith(b"\r\n", end) else 1)
            if (event := self._line(line)) is not None:
                found.append(event)
        del self._rest[:at]
        if len(self._rest) + self._size > LONGEST_EVENT:
            raise TooLong
        return found

    def _line_end(self, start: int) -> int:
        feed, back = self._rest.find(b"\n", start), self._rest.find(b"\r", start)
        if back >= 0 and (feed < 0 or back < feed):
            # A CR at the very end may be the first half of CRLF.
            return back if back + 1 < len(self._rest) else -1
        return feed

    def _line(self, line: bytes) -> Event | None:
        if not line:
            return self._dispatch()
        name, _, value = line.partition(b":")
        text = value.removeprefix(b" ").decode("utf-8", "replace")
        if name == b"data":
            self._data.append(text)
            self._size += len(value)
        elif name == b"event":
            self._name = text
        return None

    def _dispatch(self) -> Event | None:
        event = Event(self._name, "\n".join(self._data)) if self._data else None
        self._name, self._data, self._size = "", [], 0
        return event

    def end(self) -> list[Event]:
        """What stood at the end without the blank line after it: some servers leave it out."""
        rest = bytes(self._rest)
        self._rest.clear()
        last = self._line(rest.rstrip(b"\r")) if rest else None
        return [event for event in (last, self._dispatch()) if event is not None]
