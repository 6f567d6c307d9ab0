"""Results as tables: on the terminal, and in docs/benchmarks.md between markers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DOCUMENT = Path(__file__).parent.parent / "docs" / "benchmarks.md"


@dataclass(frozen=True)
class Table:
    """A head, rows of cells, and sentences that go below."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()

    def markdown(self) -> str:
        """The table for the document; all but the first column flush right."""
        lines = [self.head, ["---", *("---:" for _ in self.head[1:])], *self.rows]
        text = "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
        return "\n\n".join([text, *self.notes])

    def for_terminal(self, title: str) -> Any:
        """The table for rich."""
        from rich import box
        from rich.table import Table as Shown

        shown = Shown(title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
        for index, name in enumerate(self.head):
            shown.add_column(name, justify="left" if index == 0 else "right", overflow="fold")
        for cells in self.rows:
            shown.add_row(*(re.sub(r"\*\*(.*?)\*\*", r"[bold red]\1[/]", cell) for cell in cells))
        return shown


def write_section(name: str, tables: Sequence[Table], when: str) -> None:
    """Put the tables between the document's markers of that name; at its end if there are none yet."""
    start, end = f"<!-- bench:{name} -->", f"<!-- /bench:{name} -->"
    body = "\n\n".join([start, *(table.markdown() for table in tables), f"<sub>{when}</sub>", end])
    text = DOCUMENT.read_text("utf-8") if DOCUMENT.exists() else "# Benchmarks\n"
    if start in text and end in text:
        before, rest = text.split(start, 1)
        text = before + body + rest.split(end, 1)[1]
    else:
        text = f"{text.rstrip()}\n\n## {name}\n\n{body}\n"
    DOCUMENT.write_text(text, "utf-8")
