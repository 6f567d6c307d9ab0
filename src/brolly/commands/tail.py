"""tail: the changes of a table as they happen, from the running server's socket."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from brolly.commands.connection import app_id, server
from brolly.commands.logs import plain
from brolly.commands.terminal import write
from brolly.core.errors import CODES, AppError
from brolly.core.settings import load_settings

if TYPE_CHECKING:
    from rich.text import Text

_COLOURS = {"INSERT": "green", "UPDATE": "yellow", "DELETE": "red"}
_FINAL = (1008,)
"""Closed for a reason that another attempt does not change."""
_LONGEST_PAUSE = 10.0
_SILENT_SECONDS = 75.0
"""The server sends a heartbeat more often than that."""


def tail_table(
    home: Path | None, app: str, table: str, *, filter_: str | None, events: Sequence[str], since: str | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Print changes until interrupted; after a lost connection from where it was."""
    asked: dict[str, Any] = {"type": "subscribe", "table": table}
    asked |= {"filter": filter_} if filter_ else {}
    asked |= {"events": list(events)} if events else {}
    asked |= {"since": since} if since else {}
    with server(load_settings(home=home)) as http:
        url = f"{http.base_url}".rstrip("/").replace("http", "ws", 1) + f"/v1/{app_id(http, app)}/realtime"
        authorization = http.headers.get("authorization")
    show = _show_json if as_json else _shower()
    pause, tried = 0.2, False
    while True:
        try:
            _follow(url, authorization, asked, show)
            pause, tried = 0.2, True
        except OSError as error:
            if not tried:
                raise _away(url, error) from error
            time.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)


def _follow(url: str, authorization: str | None, asked: dict[str, Any], show: Any) -> None:
    """Print until the connection ends. ``asked`` keeps the place at which to go on."""
    from websockets.exceptions import ConnectionClosed, InvalidStatus
    from websockets.sync.client import connect

    headers = {"Authorization": authorization} if authorization else {}
    refused: AppError | None = None
    try:
        with connect(url, additional_headers=headers, compression=None, max_size=None, proxy=None) as socket:
            socket.send(json.dumps(asked))
            while True:
                message = json.loads(socket.recv(timeout=_SILENT_SECONDS))
                if message["type"] == "error":
                    refused = _error(message)
                    if message["code"] != "REALTIME_SINCE_EXPIRED":
                        raise refused
                if message["type"] in ("subscribed", "replayed"):
                    asked["since"] = message["since"]
                elif message["type"] == "change":
                    asked["since"] = message["id"]
                if message["type"] in ("change", "warning", "error"):
                    show(message)
    except ConnectionClosed as closed:
        if closed.rcvd is not None and closed.rcvd.code in _FINAL:
            raise refused or AppError("AUTH_FORBIDDEN", f"The server closed: {closed.rcvd.reason}.") from None
    except InvalidStatus as error:
        raise AppError("INTERNAL_ERROR", f"The server answered {error.response.status_code}.") from error


def _error(message: Mapping[str, Any]) -> AppError:
    code = message["code"] if message["code"] in CODES else "INTERNAL_ERROR"
    return AppError(code, message["message"], remediation=message["remediation"])


def _away(url: str, error: Exception) -> AppError:
    return AppError(
        "EXTERNAL_NETWORK_ERROR",
        f"The server at {url} does not answer, or ended: {error}.",
        remediation="See brolly status, start it with brolly up and repeat.",
    )


def _show_json(message: Mapping[str, Any]) -> None:
    write(json.dumps(message))


def _shower() -> Any:
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)

    def show(message: Mapping[str, Any]) -> None:
        console.print(described(message))

    return show


def described(message: Mapping[str, Any]) -> Text:
    """A change for people: when, what, the row; of an update what is new."""
    from rich.text import Text

    if message["type"] != "change":
        return Text(f"{message['message']} {message['remediation']}", "yellow")
    when = datetime.fromisoformat(message["timestamp"]).astimezone()
    row = dict(message["record"] or message["old_record"] or {})
    text = Text.assemble((f"{when:%H:%M:%S}", "dim"), "  ", (message["op"], _COLOURS[message["op"]]), "  ")
    old = message["old_record"]
    for name, value in row.items():
        changed = message["op"] == "UPDATE" and old is not None and old.get(name) != value
        said = f"{name}={json.dumps(value, ensure_ascii=False)} "
        text.append(plain(said), "bold" if changed else "")
    return text
