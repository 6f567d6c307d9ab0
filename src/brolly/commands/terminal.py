"""What people see: failures in words, tables and spinners on a terminal, plain lines elsewhere."""

from __future__ import annotations

import codecs
import json
import re
import sys
from collections.abc import Callable, Coroutine, Generator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import anyio

from brolly.core.errors import AppError

T = TypeVar("T")

_ASCII = {
    "✓": "+",
    "▸": ">",
    "✗": "x",
    "×": "x",
    "…": "...",
    "–": "-",
    "—": "-",
    "‘": "'",
    "’": "'",
    "“": '"',
    "”": '"',
}
_TOOL = re.compile(r"\b(?:manage|generate|select|insert|seed|init|query|list|submit|butterbase)_[a-z_]+")
_TOOL_PREFIX = re.compile(rf"^{_TOOL.pattern}(?: [a-z_]+)?: ")


def run(work: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
    """Run the coroutine function; Ctrl-C ends it in good order."""
    return anyio.run(work, *args)


def run_serving(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """As ``run``, on the event loop for many connections, which commands that do one thing need not load."""
    anyio.run(work, backend_options={"use_uvloop": True})


def settle_encoding() -> None:
    """Where the locale has no UTF-8, write similar ASCII signs rather than fail."""
    codecs.register_error("brolly-ascii", _similar)
    for stream in (sys.stdout, sys.stderr):
        # None when the program was started without it.
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="backslashreplace" if _speaks_utf8(stream) else "brolly-ascii")


def _similar(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_ASCII.get(sign, "?") for sign in error.object[error.start : error.end]), error.end


def _speaks_utf8(stream: Any) -> bool:
    return (stream.encoding or "").lower().replace("-", "").startswith("utf")


def show_failure(error: BaseException, command: str, as_json: bool) -> int:
    """Say what failed and what to do; the exit code. Unexpected errors keep their traceback.

    For programs (``as_json``) on stdout as ``{"error": {code, message, remediation}}``, for people on stderr.
    """
    found = _cause(error)
    if isinstance(found, AppError):
        _show_error(found.code, _TOOL_PREFIX.sub("", found.message), _for_command(found, command), as_json)
        return 1
    if isinstance(found, KeyboardInterrupt):
        return 130
    if isinstance(found, BrokenPipeError):
        _close_stdout()
        return 1
    raise error


def show_misuse(message: str, command: str, as_json: bool) -> None:
    """Say what is wrong with the command line itself."""
    _show_error("VALIDATION_INVALID_SCHEMA", message, f"{command} --help lists the arguments and options.", as_json)


def _show_error(code: str, message: str, remediation: str, as_json: bool) -> None:
    if as_json:
        write_json({"error": {"code": code, "message": message, "remediation": remediation}})
        return
    from rich.text import Text

    first, _, rest = message.partition("\n")
    text = Text.assemble(("Error: ", "bold red"), (first, "red"), ("\n" + rest if rest else ""))
    _stderr().print(text, soft_wrap=True, highlight=False)
    _stderr().print(Text(remediation), soft_wrap=True, highlight=False)


def _for_command(error: AppError, command: str) -> str:
    """The remediation; what is worded for an agent's tools is put in terms of the command."""
    # A setting may hold the names of tools.
    if error.code == "CONFIG_INVALID" or not _TOOL.search(error.remediation):
        return error.remediation
    if error.code.startswith("VALIDATION_"):
        return f"Correct it and repeat; {command} --help describes the arguments."
    return "Repeat the command; if it fails again, see brolly status and the server's log."


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


def note(text: str) -> None:
    """One line to stderr, about something that worked but wants to be known."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def write_json(value: Any) -> None:
    """The value for a program."""
    write(json.dumps(value, ensure_ascii=not _speaks_utf8(sys.stdout), indent=1))


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

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        # An id is there to be copied.
        table.add_column(column, no_wrap=column == "id", min_width=36 if column == "id" else None)
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
    with _stderr().status(text, spinner="dots" if _speaks_utf8(sys.stderr) else "line") as shown:
        yield shown.update
