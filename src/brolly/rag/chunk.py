"""A text in chunks for search: of so many tokens at most, along headings and sentences, each with its place."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from brolly.engines.documents.text import Text
from brolly.rag.pieces import Piece, pieces_of

Spans = Callable[[str], list[tuple[int, int]]]
"""Where each token of a text begins and ends, as the embedding model counts."""
PATH_SEPARATOR = " > "
_SMALL = 8
"""A section of less than this part of a chunk is joined with the next one."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """``content`` is what stands from ``start`` to ``end``; in the middle of a table its header is repeated above."""

    content: str
    heading: str
    page: int | None
    start: int
    end: int
    tokens: int


@dataclass(frozen=True, slots=True)
class _Counted:
    piece: Piece
    tokens: int


def chunks_of(text: Text, size: int, overlap: int, spans: Spans) -> list[Chunk]:
    """The chunks in order. No chunk has more than ``size`` tokens; neighbours share up to ``overlap``."""
    maker = _Maker(text, size, overlap, spans)
    for piece in pieces_of(text.content, text.form):
        maker.take(piece)
    maker.flush()
    return maker.made


class _Maker:
    def __init__(self, text: Text, size: int, overlap: int, spans: Spans) -> None:
        self._text = text
        # Pieces counted one by one make a few tokens less than together, now and then.
        self._size = size - max(2, size // 50)
        self._overlap = overlap
        self._spans = spans
        self._held: list[_Counted] = []
        self._tokens = 0
        self._shared = 0
        """How many of the pieces held were in the chunk before."""
        self._page_starts = [offset for offset, _ in text.pages]
        self.made: list[Chunk] = []

    def take(self, piece: Piece) -> None:
        """Add a piece to the chunk under way, or to a new one where that is full or a new section begins."""
        if piece.kind == "heading" and self._tokens * _SMALL >= self._size and self._fresh():
            self.flush()
        for part in self._fitting(piece):
            each = self._with_gap(part)
            room = self._size - self._header_tokens(each.piece)
            if self._held and self._tokens + each.tokens > room:
                self._break(each)
            self._held.append(each)
            self._tokens += each.tokens

    def _with_gap(self, part: _Counted) -> _Counted:
        """With the blank lines that stand before it, where they will be inside the chunk."""
        if not self._held or self._held[-1].piece.end >= part.piece.start:
            return part
        gap = self._text.content[self._held[-1].piece.end : part.piece.start]
        return replace(part, tokens=part.tokens + len(self._spans(gap)))

    def _fresh(self) -> bool:
        return len(self._held) > self._shared

    def _header_tokens(self, piece: Piece) -> int:
        """What the header above a row costs, where the row would be the first."""
        table = self._held[0].piece.table if self._held else piece.table
        if table is None:
            return 0
        cost = len(self._spans(self._text.content[slice(*table)]))
        # A header that is half a chunk is not worth repeating.
        return cost if cost * 2 <= self._size else 0

    def _break(self, coming: _Counted) -> None:
        """End the chunk under way; headings at its end go with what comes, and its last sentences are shared."""
        carried: list[_Counted] = []
        while len(self._held) > 1 and self._held[-1].piece.kind in ("heading", "header"):
            carried.insert(0, self._held.pop())
        shared = [] if carried else self._tail(coming)
        self.flush()
        self._held = [*shared, *carried]
        self._shared = len(shared)
        self._tokens = sum(each.tokens for each in self._held)
        if self._tokens + coming.tokens > self._size:
            # What comes needs the room itself.
            self._held, self._shared, self._tokens = carried, 0, sum(each.tokens for each in carried)

    def _tail(self, coming: _Counted) -> list[_Counted]:
        tail: list[_Counted] = []
        if coming.piece.kind != "prose":
            return tail
        total = 0
        for each in reversed(self._held):
            total += each.tokens
            if total > self._overlap or each.piece.kind != "prose":
                break
            tail.insert(0, each)
        # Not all of it: that would be no step forward.
        return tail if len(tail) < len(self._held) else tail[1:]

    def flush(self) -> None:
        """Make a chunk of what is held."""
        held, fresh = self._held, self._fresh()
        self._held, self._tokens, self._shared = [], 0, 0
        if not held or not fresh:
            return
        content = self._text.content
        start, end = held[0].piece.start, held[-1].piece.end
        raw = content[start:end]
        start, end = start + len(raw) - len(raw.lstrip()), start + len(raw.rstrip())
        said = content[start:end]
        table = held[0].piece.table
        if table is not None:
            header = content[slice(*table)]
            if len(self._spans(header)) * 2 <= self._size:
                said = header.rstrip("\n") + "\n" + said
        if said.strip():
            body = [each for each in held if each.piece.kind != "heading"] or held
            path = _common([each.piece.path for each in body])
            tokens = len(self._spans(said))
            self.made.append(Chunk(said, PATH_SEPARATOR.join(path), self._page(start), start, end, tokens))

    def _page(self, offset: int) -> int | None:
        at = bisect_right(self._page_starts, offset) - 1
        return self._text.pages[at][1] if at >= 0 else None

    def _fitting(self, piece: Piece) -> Iterator[_Counted]:
        """The piece, or parts of it where it is larger than a chunk: code by lines, anything else by tokens."""
        spans = self._spans(self._text.content[piece.start : piece.end])
        most = self._size - (self._header_tokens(piece) if piece.table else 0)
        if len(spans) <= most:
            yield _Counted(piece, len(spans))
        elif piece.kind == "code":
            yield from self._lines(piece)
        else:
            yield from self._torn(piece, spans, most)

    def _lines(self, piece: Piece) -> Iterator[_Counted]:
        at = piece.start
        for line in self._text.content[piece.start : piece.end].splitlines(keepends=True):
            part = replace(piece, start=at, end=at + len(line), kind="line")
            at += len(line)
            spans = self._spans(line)
            if len(spans) <= self._size:
                yield _Counted(part, len(spans))
            else:
                yield from self._torn(part, spans, self._size)

    def _torn(self, piece: Piece, spans: list[tuple[int, int]], most: int) -> Iterator[_Counted]:
        """Parts of at most so many tokens, at blanks where there are any."""
        content, first = self._text.content, 0
        # A part on its own may count a token more than within the whole.
        most = max(1, most - 2)
        while first < len(spans):
            last = min(first + most, len(spans))
            if last < len(spans):
                last = self._blank(content, piece.start, spans, first, last)
            start = piece.start + (spans[first][0] if first else 0)
            end = piece.start + spans[last][0] if last < len(spans) else piece.end
            if end > start:
                yield _Counted(replace(piece, start=start, end=end), last - first)
            first = last

    def _blank(self, content: str, base: int, spans: list[tuple[int, int]], first: int, last: int) -> int:
        """The last token before which there is a blank; in text without blanks, where it has to be."""
        for at in range(last, first + (last - first) // 2, -1):
            before = base + spans[at][0]
            if content[before - 1 : before].isspace() or content[before : before + 1].isspace():
                return at
        return last


def _common(paths: list[tuple[str, ...]]) -> tuple[str, ...]:
    """The headings that all have; of a small section and the next, those above both."""
    first = paths[0]
    for path in paths[1:]:
        kept = 0
        while kept < min(len(first), len(path)) and first[kept] == path[kept]:
            kept += 1
        first = first[:kept]
    return first
