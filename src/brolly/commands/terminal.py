"""What people see: failures in words, tables and spinners on a terminal, plain lines elsewhere."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Coroutine, Generator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import anyio

from brolly.core.errors import AppError

T = TypeVar("T")


def run(work: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
    """Run the coroutine function; Ctrl-C ends it in good order."""
    return anyio.run(work, *args)


def show_failure(error: BaseException) -> int:
    """Say on stderr what failed and what to do; the exit code. Unexpected errors keep their traceback."""
    found = _cause(error)
    if isinstance(found, AppError):
        from rich.text import Text

        message, _, rest = found.message.partition("\n")
        text = Text.assemble(("Error: ", "bold red"), (message, "red"), ("\n" + rest if rest else ""))
        _stderr().print(text, soft_wrap=True, highlight=False)
        _stderr().print(Text(found.remediation), soft_wrap=True, highlight=False)
        return 1
    if isinstance(found, KeyboardInterrupt):
        return 130
    if isinstance(found, BrokenPipeError):
        _close_stdout()
        return 1
    raise error


def _cause(error: BaseException) -> BaseException:
    """The error inside the groups that task groups wrap around it: ours if there is one, else the only one."""
    leaves = _leaves(error)
    ours = [leaf for leaf in leaves if isinstance(leaf, AppError)]
    return (ours or leaves)[0] if ours or len(leaves) == 1 else error


def _leaves(error: BaseException) -> list[BaseException]:
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    inside = cast("BaseExceptionGroup[BaseException]", error).exceptions
    return [leaf for part in inside for leaf in _leaves(part)]


def _close_stdout() -> None:
    """Keep the interpreter from complaining once more about a reader that is gone."""
    import os

    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _stderr() -> Any:
    from rich.console import Console

    return Console(stderr=True)


def is_terminal() -> bool:
    """Whether a person reads stdout."""
    return sys.stdout.isatty()


def write(text: str) -> None:
    """One line to stdout."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def write_json(value: Any) -> None:
    """The value for a program."""
    write(json.dumps(value, ensure_ascii=False, indent=1))


def write_facts(facts: Sequence[tuple[str, str]]) -> None:
    """Names and values, a line each; on a terminal aligned and coloured."""
    if not is_terminal():
        for name, value in facts:
            write(f"{name}: {value}")
        return
    from rich.console import Console
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    for name, value in facts:
        table.add_row(f"[dim]{name}[/]", _plain(value))
    Console().print(table)


def write_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table; without a terminal its cells separated by tabs, without a head."""
    if not is_terminal():
        for row in rows:
            write("\t".join(row))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*map(_plain, row))
    Console().print(table)


def _plain(value: str) -> Any:
    from rich.text import Text

    return Text(value, overflow="fold")


@contextmanager
def spinner(text: str) -> Generator[Callable[[str], None]]:
    """A spinner on stderr while the block runs; call it to say what is done now. Silent without a terminal."""
    if not sys.stderr.isatty():
        yield lambda _line: None
        return
    with _stderr().status(text) as shown:
        yield shown.update
