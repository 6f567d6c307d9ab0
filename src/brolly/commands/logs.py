"""logs: what a function did, as the running server tells it; with --follow while it happens."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from brolly.commands.connection import app_id, ask, refusal, server
from brolly.commands.terminal import write
from brolly.core.errors import AppError
from brolly.core.settings import load_settings

if TYPE_CHECKING:
    import httpx
    from rich.text import Text

_SPAN = re.compile(r"(\d{1,6})\s*(s|m|h|d)")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_LEVELS = {"error": "red", "warn": "yellow", "info": "", "debug": "dim"}


def show_logs(
    home: Path | None, app: str, function: str, *, follow: bool, errors: bool, since: str | None, limit: int,
    as_json: bool,
) -> None:  # fmt: skip
    """Print the function's log, oldest first."""
    query: dict[str, str] = {"level": "error"} if errors else {}
    if since is not None:
        query["since"] = moment(since, datetime.now(UTC)).isoformat()
    with server(load_settings(home=home)) as http:
        path = f"/v1/{app_id(http, app)}/functions/{function}/logs"
        show = _show_json if as_json else _shower()
        if follow:
            for entry in _follow(http, f"{path}/stream", {**query, "limit": str(limit)}):
                show(entry)
            return
        found = ask(http, path, {**query, "limit": str(limit)})
        for entry in reversed(found["logs"]):
            show(entry)


def moment(text: str, now: datetime) -> datetime:
    """``10m`` before now, or a time in ISO 8601 (without a zone: this machine's)."""
    if span := _SPAN.fullmatch(text.strip()):
        return now - timedelta(**{_UNITS[span[2]]: int(span[1])})
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        raise AppError(
            "VALIDATION_INVALID_SCHEMA",
            f"--since {text[:60]!r} is no time.",
            remediation="Write 30s, 10m, 2h or 1d, or a time such as 2026-01-31T08:00; brolly logs --help tells more.",
        ) from None


def _follow(http: httpx.Client, path: str, query: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """Entries as they come, without end. The server ends a stream now and then; the next goes on where it ended."""
    last = ""
    while True:
        with http.stream("GET", path, params=query, headers={"Last-Event-ID": last} if last else {}) as answer:
            if not answer.is_success:
                answer.read()
                raise refusal(answer)
            for line in answer.iter_lines():
                if line.startswith("id: "):
                    last = line[4:]
                elif line.startswith("data: "):
                    yield json.loads(line[6:])
        if not last:
            # Nothing came yet: what follows is new, and not the earlier entries once more.
            query = {**query, "limit": "0"}


def _show_json(entry: Mapping[str, Any]) -> None:
    write(json.dumps(entry))


def _shower() -> Any:
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)

    def show(entry: Mapping[str, Any]) -> None:
        console.print(described(entry))

    return show


def described(entry: Mapping[str, Any]) -> Text:
    """An invocation for people: its line, what it printed, and the error with its stack."""
    from rich.text import Text

    status = entry["statusCode"]
    good = status < 400 and not entry["error"]
    when = datetime.fromisoformat(entry["timestamp"]).astimezone()
    text = Text.assemble(
        (f"{when:%Y-%m-%d %H:%M:%S}", "dim"),
        "  ",
        (str(status), "green" if good else "yellow" if status < 500 else "bold red"),
        f"  {plain(entry['method'])} {plain(entry['path'])}",
        (f"  {entry['duration']:g} ms  {plain(entry['trigger'])}, {plain(entry['caller'])}", "dim"),
    )
    for line in entry["consoleLogs"]:
        text.append(
            f"\n  {plain(line['level']):<5} {plain(line['message'], '        ')}", _LEVELS.get(line["level"], "")
        )
    if entry["error"]:
        stack = entry["stack"] or ""
        text.append("\n  " + plain(stack if entry["error"] in stack else entry["error"], "  "), "red")
    return text


def plain(text: str, indent: str = "") -> str:
    """What strangers may have caused to be printed must not move the cursor of a terminal."""
    lines = text.splitlines() or [""]
    clean = [
        "".join(c if c.isprintable() or c == "\t" else "\N{REPLACEMENT CHARACTER}" for c in line) for line in lines
    ]
    return ("\n" + indent).join(clean)
