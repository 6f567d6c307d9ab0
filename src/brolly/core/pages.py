"""The pages about the tools (``tools/*.md``) and the workflows (``tools/skills/*.md``): in the wheel, or beside the
sources in a checkout."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path


def _folder() -> Traversable | None:
    packaged = resources.files("brolly") / "_pages" / "tools"
    if packaged.is_dir():
        return packaged
    checkout = Path(__file__).parents[3] / "tools"
    return checkout if checkout.is_dir() else None


@cache
def tool_pages() -> Mapping[str, str]:
    """Each tool's page as Markdown, by tool name."""
    return _texts(_folder())


@cache
def skill_files() -> Mapping[str, str]:
    """Each workflow's file, by name."""
    folder = _folder()
    return _texts(folder / "skills" if folder is not None else None)


def _texts(folder: Traversable | None) -> Mapping[str, str]:
    if folder is None or not folder.is_dir():
        return {}
    return {
        entry.name.removesuffix(".md"): entry.read_text("utf-8")
        for entry in sorted(folder.iterdir(), key=lambda e: e.name)
        if entry.name.endswith(".md")
    }
