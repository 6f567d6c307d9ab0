"""The guided workflows (``tools/skills/*.md``): one source for MCP prompts, Claude's skills and Gemini's commands.

A file begins with lines ``title:``, ``description:`` and any number of ``argument: name - meaning``, then a blank
line and the text. Examples name the app ``app_abc123``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from brolly.core.pages import skill_files
from brolly.core.settings import APP_ID

STAND_IN = "app_abc123"


@dataclass(frozen=True, slots=True)
class Skill:
    """One workflow. ``arguments`` are the meanings of what a person may say beforehand, by name; all are optional."""

    name: str
    title: str
    description: str
    arguments: Mapping[str, str]
    text: str

    def told(self, given: Mapping[str, str]) -> str:
        """The text for a model, with what the person said. What they said is set off, never mixed into the text,
        but for an app's id, which takes the stand-in's place."""
        app_id = given.get("app_id", "")
        text = self.text.replace(STAND_IN, app_id) if APP_ID.fullmatch(app_id) else self.text
        said = "\n".join(f"- {name}: {value}" for name, value in given.items() if value.strip())
        return f"{text}\n\nWhat the person said about it:\n{said}" if said else text


@cache
def skills() -> Mapping[str, Skill]:
    """Every workflow by name."""
    return {name: _read(name, text) for name, text in skill_files().items()}


def _read(name: str, source: str) -> Skill:
    head, _, text = source.partition("\n\n")
    said = [line.partition(": ") for line in head.splitlines()]
    one = {key: value for key, _, value in said}
    arguments = [value.partition(" - ") for key, _, value in said if key == "argument"]
    return Skill(name, one["title"], one["description"], {n: meaning for n, _, meaning in arguments}, text.strip())
