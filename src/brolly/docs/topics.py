"""The pages: topics written here, and one page per tool from ``tools/``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

from brolly.core.pages import tool_pages

TOPICS = (
    "overview",
    "mcp",
    "rest",
    "auth",
    "storage",
    "functions",
    "realtime",
    "frontend",
    "schema",
    "rls",
    "platform",
    "regions",
    "cli",
)
ALL = "all"

_HEADING = re.compile(r"^(#{1,3}) (.+)$")
_FENCE = re.compile(r"^\s*(```|~~~)")


@dataclass(frozen=True, slots=True)
class Section:
    """A page's part under one heading; ``heading`` is the page's title for what stands first.

    ``place`` are all headings above it, from the page's title down to its own.
    """

    page: str
    heading: str
    text: str
    place: str


@cache
def pages() -> Mapping[str, str]:
    """Every page as Markdown by name: the topics in their order, then the tools."""
    folder = resources.files("brolly.docs") / "pages"
    topics = {topic: (folder / f"{topic}.md").read_text("utf-8") for topic in TOPICS}
    return {**topics, **tool_pages()}


def summary(page: str) -> str:
    """A page's first paragraph on one line."""
    lines = pages()[page].splitlines()[1:]
    first = "\n".join(lines).strip().split("\n\n", 1)[0]
    return " ".join(first.split())


@cache
def sections() -> tuple[Section, ...]:
    """Every page cut at its headings."""
    return tuple(section for name, text in pages().items() for section in _cut(name, text))


def _cut(page: str, text: str) -> list[Section]:
    found: list[Section] = []
    path, lines, fenced = [page], list[str](), False

    def close() -> None:
        found.append(Section(page, path[-1], "\n".join(lines).strip(), " > ".join(path)))
        lines.clear()

    for line in text.splitlines():
        if _FENCE.match(line):
            fenced = not fenced
        match = None if fenced else _HEADING.match(line)
        if match is None:
            lines.append(line)
            continue
        close()
        path[len(match.group(1)) - 1 :] = [match.group(2)]
    close()
    return [section for section in found if section.text]
