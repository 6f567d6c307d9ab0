"""The kinds of documents that are read, by what their names and senders say. What the bytes say counts later."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Literal

Kind = Literal["pdf", "txt", "md", "csv", "html", "docx", "xlsx", "pptx"]

_OFFICE = "application/vnd.openxmlformats-officedocument"
KINDS: dict[Kind, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "pdf": ((".pdf",), ("application/pdf",)),
    "txt": ((".txt", ".text", ".log"), ("text/plain",)),
    "md": ((".md", ".markdown", ".mdx"), ("text/markdown", "text/x-markdown")),
    "csv": ((".csv", ".tsv"), ("text/csv", "text/tab-separated-values")),
    "html": ((".html", ".htm", ".xhtml"), ("text/html", "application/xhtml+xml")),
    "docx": ((".docx",), (f"{_OFFICE}.wordprocessingml.document",)),
    "xlsx": ((".xlsx", ".xlsm"), (f"{_OFFICE}.spreadsheetml.sheet",)),
    "pptx": ((".pptx",), (f"{_OFFICE}.presentationml.presentation",)),
}
"""Endings of names and media types of each kind."""


def kind_by_name(filename: str, content_type: str | None) -> Kind | None:
    """The kind by the name's ending, else by the media type."""
    ending = PurePosixPath(filename.lower()).suffix
    media = (content_type or "").partition(";")[0].strip().lower()
    for kind, (endings, _) in KINDS.items():
        if ending in endings:
            return kind
    for kind, (_, types) in KINDS.items():
        if media in types:
            return kind
    return None
