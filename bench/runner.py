"""One run: which measurements, how large, and what is shown meanwhile."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.to_thread
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from bench.machine import Surroundings, wait_for_calm
from bench.tables import Table, write_section

_SHOW_EVERY = 0.5


class Run:
    """Passed to every measurement: its size, and where it says how far it is."""

    def __init__(self, quick: bool, progress: Progress) -> None:
        self.quick = quick
        self._progress = progress
        self._task: TaskID | None = None
        self._shown = 0.0

    def size(self, full: int, quick: int) -> int:
        """How often to repeat."""
        return quick if self.quick else full

    def begin(self, what: str, total: int) -> None:
        """Show a bar for a part that has that many steps."""
        self.finish()
        self._task = self._progress.add_task(what, total=total)
        self._progress.refresh()

    def step(self, count: int = 1) -> None:
        """Some steps are done. Shown only now and then: drawing costs what is to be measured."""
        if self._task is None:
            return
        self._progress.advance(self._task, count)
        if time.monotonic() - self._shown > _SHOW_EVERY:
            self._shown = time.monotonic()
            self._progress.refresh()

    def finish(self) -> None:
        """Take the bar away."""
        if self._task is not None:
            self._progress.remove_task(self._task)
            self._task = None


@dataclass(frozen=True)
class Measurement:
    """A name on the command line, what it says, and what makes its tables."""

    name: str
    title: str
    measure: Callable[[Run], Awaitable[Sequence[Table]]]


@dataclass(frozen=True)
class Wishes:
    """How to run: ``keep`` writes the document, ``calm`` waits at most so many seconds for a quiet machine."""

    quick: bool
    keep: bool
    calm: float


async def run_all(chosen: Sequence[Measurement], wishes: Wishes, console: Console) -> list[str]:
    """Run them one after another; the names of those that failed."""
    failed: list[str] = []
    columns: list[Any] = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()]
    with Progress(*columns, console=console, auto_refresh=False, transient=True) as progress:
        for one in chosen:
            await anyio.to_thread.run_sync(wait_for_calm, wishes.calm)
            around = Surroundings()
            run = Run(wishes.quick, progress)
            run.begin(one.title, 1)
            try:
                tables = await one.measure(run)
            except Exception:
                console.print_exception(max_frames=8)
                failed.append(one.name)
                continue
            finally:
                run.finish()
            when = around.describe()
            for index, table in enumerate(tables):
                console.print(table.for_terminal(one.title if index == 0 else ""))
                for note in table.notes:
                    console.print(note, highlight=False)
            console.print(f"[dim]{when}[/]\n")
            if wishes.keep:
                write_section(one.name, tables, when)
    return failed
