"""Texts as they are, tables of values, and pages of the web. Runs in the process that reads one document."""

from __future__ import annotations

import csv
import io
from typing import Any

from brolly.engines.documents.refusal import RefusedError

_DROPPED = (
    "script",
    "style",
    "noscript",
    "template",
    "iframe",
    "object",
    "embed",
    "svg",
    "canvas",
    "form",
    "nav",
    "head",
)
_WIDEST_CELL = 20_000
_MARKS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe\0\0", "utf-32"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))


def load() -> None:
    """Import what reading needs."""
    import bs4
    import charset_normalizer
    import markdownify

    charset_normalizer.from_bytes("Grüße aus Österreich, wo es schön ist.".encode("cp1252")).best()
    markdownify.markdownify(str(bs4.BeautifulSoup("<p>a</p>", "html.parser")))


def read_text(data: bytes, kind: str) -> dict[str, Any]:
    """The text in the form that suits its kind."""
    text = decoded(data)
    if kind == "html":
        return {"content": markdown_of(text), "form": "markdown", "kind": kind, "pages": []}
    if kind == "csv":
        return {"content": table_of(text), "form": "markdown", "kind": kind, "pages": []}
    content = text.replace("\r\n", "\n").replace("\r", "\n")
    return {"content": content, "form": "markdown" if kind == "md" else "plain", "kind": kind, "pages": []}


def decoded(data: bytes) -> str:
    """The characters: by a mark at the beginning, as UTF-8, or else in the encoding that they most likely are in."""
    if not data.strip():
        raise RefusedError("empty")
    for mark, name in _MARKS:
        if data.startswith(mark):
            try:
                return data.decode(name)
            except UnicodeDecodeError:
                raise RefusedError("encoding") from None
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        text = None
    sample = data[: 1 << 16]
    if text is None and _looks_binary(sample):
        raise RefusedError("binary")
    if text is not None:
        if _looks_binary(sample):
            raise RefusedError("binary")
        return text
    import charset_normalizer

    # A sample is enough to tell, and does not take its time from the reading.
    best = charset_normalizer.from_bytes(data[: 1 << 18]).best()
    if best is None:
        raise RefusedError("encoding")
    return data.decode(best.encoding, "replace")


def _looks_binary(sample: bytes) -> bool:
    """Zero bytes, or many of those that no text has."""
    odd = sum(1 for byte in sample if byte < 32 and byte not in b"\t\n\r\f\x0b\x1b")
    return b"\0" in sample or odd * 20 > len(sample)


def markdown_of(html: str) -> str:
    """A page's text with its headings, lists and tables; nothing of what would run or is not meant to be read."""
    import bs4
    import markdownify

    soup: Any = bs4.BeautifulSoup(html, "html.parser")
    for comment in soup.find_all(string=_is_comment):
        comment.extract()
    for element in soup.find_all(_DROPPED):
        element.decompose()
    for element in soup.find_all(hidden_from_readers):
        element.decompose()
    converter: Any = markdownify.MarkdownConverter(
        heading_style="ATX",
        strip=["img"],
        escape_asterisks=False,
        escape_underscores=False,
        autolinks=False,
        table_infer_header=True,
    )
    lines = [line.rstrip() for line in converter.convert_soup(soup).replace("\xa0", " ").split("\n")]
    return _without_gaps(lines)


def _is_comment(node: Any) -> bool:
    return type(node).__name__ == "Comment"


def hidden_from_readers(element: Any) -> bool:
    """Whether a browser would not show it: instructions to models like to hide there."""
    style = str(element.get("style", "")).replace(" ", "").lower()
    return element.has_attr("hidden") or "display:none" in style or "visibility:hidden" in style


def _without_gaps(lines: list[str]) -> str:
    kept: list[str] = []
    for line in lines:
        if line or (kept and kept[-1]):
            kept.append(line)
    return "\n".join(kept).strip() + "\n"


def table_of(text: str) -> str:
    """Values between separators as a table of Markdown, one row a line."""
    csv.field_size_limit(_WIDEST_CELL * 100)
    # By what stands most often in the first line; the library's guess by proportions often takes a letter.
    first = text.partition("\n")[0]
    separator = max(",;\t|", key=first.count)
    try:
        read = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
        rows = [row for row in read if any(cell.strip() for cell in row)]
    except csv.Error:
        raise RefusedError("corrupt") from None
    return markdown_table(rows)


def markdown_table(rows: list[list[str]]) -> str:
    """Rows, of which the first names the columns."""
    if not rows:
        return ""
    width = max(map(len, rows))
    lines = [_line(row, width) for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * width, *lines[1:]]) + "\n"


def _line(row: list[str], width: int) -> str:
    cells = [" ".join(cell.split())[:_WIDEST_CELL].replace("|", "\\|") for cell in row]
    return "| " + " | ".join(cells + [""] * (width - len(cells))) + " |"
