"""A text in pieces that are not torn apart: sentences, lines, table rows, code blocks, each under its headings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_HEADING = re.compile(r"(#{1,6})[ \t]+(.+?)[ \t]*#*[ \t]*$")
_FENCE = re.compile(r"[ \t]{0,3}(`{3,}|~{3,})")
_ROW = re.compile(r"[ \t]*\|.*\|[ \t]*$")
_RULE = re.compile(r"[ \t]*\|(?:[ \t]*:?-+:?[ \t]*\|)+[ \t]*$")
_SENTENCE = re.compile(r"(?<=[.!?…])[\"'”’)\]]*\s+|(?<=[\u3002\uff01\uff1f])|\n+")
_LONGEST_HEADING = 200


@dataclass(frozen=True, slots=True)
class Piece:
    """From ``start`` to ``end`` in the text. ``path`` are the headings above it, outermost first.

    ``table`` is where the header of the table that it is a row of stands. ``kind`` says how it may be joined:
    a heading belongs with what follows.
    """

    start: int
    end: int
    kind: str
    path: tuple[str, ...]
    table: tuple[int, int] | None = None


@dataclass(slots=True)
class _Reader:
    """Where the reading of lines is."""

    text: str
    at: int = 0

    def peek(self) -> str | None:
        if self.at >= len(self.text):
            return None
        end = self.text.find("\n", self.at)
        return self.text[self.at : len(self.text) if end < 0 else end + 1]


def pieces_of(text: str, form: str) -> Iterator[Piece]:
    """The pieces in order. Together they cover all that is not blank."""
    if form != "markdown":
        yield from _prose(text, 0, len(text), ())
        return
    reader = _Reader(text)
    path: list[tuple[int, str]] = []
    while (line := reader.peek()) is not None:
        names = tuple(name for _, name in path)
        if not line.strip():
            reader.at += len(line)
        elif (heading := _HEADING.match(line.rstrip("\n"))) is not None:
            level = len(heading[1])
            path = [(above, name) for above, name in path if above < level]
            path.append((level, heading[2][:_LONGEST_HEADING]))
            yield Piece(reader.at, reader.at + len(line), "heading", tuple(name for _, name in path))
            reader.at += len(line)
        elif (fence := _FENCE.match(line)) is not None:
            yield _code(reader, fence[1], names)
        elif _ROW.match(line.rstrip("\n")):
            yield from _table(reader, names)
        else:
            yield from _paragraph(reader, names)


def _code(reader: _Reader, fence: str, path: tuple[str, ...]) -> Piece:
    start = reader.at
    reader.at += len(reader.peek() or "")
    while (line := reader.peek()) is not None:
        reader.at += len(line)
        if line.strip().startswith(fence) and not line.strip().strip(fence[0]):
            break
    return Piece(start, reader.at, "code", path)


def _table(reader: _Reader, path: tuple[str, ...]) -> Iterator[Piece]:
    start, rows = reader.at, list[tuple[int, int]]()
    while (line := reader.peek()) is not None and _ROW.match(line.rstrip("\n")):
        rows.append((reader.at, reader.at + len(line)))
        reader.at += len(line)
    header: tuple[int, int] | None = None
    if len(rows) > 2 and _RULE.match(reader.text[slice(*rows[1])].rstrip("\n")):
        header = (start, rows[1][1])
        yield Piece(*header, "header", path)
        rows = rows[2:]
    for first, last in rows:
        yield Piece(first, last, "row", path, header)


def _paragraph(reader: _Reader, path: tuple[str, ...]) -> Iterator[Piece]:
    start = reader.at
    while (line := reader.peek()) is not None and line.strip():
        special = _HEADING.match(line.rstrip("\n")) or _FENCE.match(line) or _ROW.match(line.rstrip("\n"))
        if reader.at > start and special:
            break
        reader.at += len(line)
    yield from _prose(reader.text, start, reader.at, path)


def _prose(text: str, start: int, end: int, path: tuple[str, ...]) -> Iterator[Piece]:
    """Sentences and lines."""
    first = start
    for gap in _SENTENCE.finditer(text, start, end):
        if text[first : gap.end()].strip():
            yield Piece(first, gap.end(), "prose", path)
            first = gap.end()
    if text[first:end].strip():
        yield Piece(first, end, "prose", path)
