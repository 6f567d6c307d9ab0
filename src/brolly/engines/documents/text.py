"""What a document says, as one text with marks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Form = Literal["markdown", "plain"]


@dataclass(frozen=True, slots=True)
class Text:
    """``pages`` holds where each page begins, as (offset, number), in order; empty for what has no pages.

    ``form`` says what the marks in it are: headings, tables and code fences of Markdown, or none.
    """

    content: str
    form: Form
    kind: str
    pages: tuple[tuple[int, int], ...] = ()
