"""The log of a function while it grows."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import anyio
from pydantic import Field

from brolly.core.caller import Caller
from brolly.core.tool import AppParams
from brolly.deps import Deps
from brolly.functions.logs import GetLogs, flush, latest, read, shown
from brolly.functions.store import find_function
from brolly.registry import App

LOOK_SECONDS = 0.5
QUIET_LOOKS = 30
MOST_AT_ONCE = 200
LONGEST_SECONDS = 3600.0
"""Then the reader comes again, and its key is looked at again."""


class Follow(AppParams):
    """Query of the live log: how many earlier entries come first, and which entries are meant at all."""

    function_name: str
    limit: int = Field(0, ge=0, le=1000)
    since: datetime | None = None
    level: Literal["error", "all"] = "all"


@dataclass(frozen=True, slots=True)
class Tail:
    """Whose log is followed, and what of it."""

    app: App
    wanted: Follow


async def open_tail(deps: Deps, caller: Caller, params: Follow) -> Tail:
    """What the caller may follow; raises as get_logs does."""
    app = await deps.registry.get(caller, params.app_id)
    await find_function(deps, app, params.function_name)
    return Tail(app, params)


async def follow(deps: Deps, tail: Tail, after: int | None) -> AsyncGenerator[str]:
    """New entries as server-sent events, oldest first, until the reader goes away. ``after``: the last that it had.

    Read from the database, so that calls that other replicas ran are there too.
    """
    app, wanted = tail.app, tail.wanted
    params = GetLogs(app_id=app.id, function_name=wanted.function_name, since=wanted.since, level=wanted.level, limit=1)
    first = after is None
    if after is None:
        await flush(deps)
        after = await latest(deps, app, wanted.function_name)
    yield ": following\n\n"
    if first:
        limit = wanted.limit or (1000 if wanted.since else 0)
        for row in reversed(await read(deps, app, params, limit=limit) if limit else []):
            if row["id"] <= after:
                yield _event(row)
    quiet = 0
    ends = anyio.current_time() + LONGEST_SECONDS
    while anyio.current_time() < ends:
        await flush(deps)
        rows = await read(deps, app, params, limit=MOST_AT_ONCE, after=after)
        for row in rows:
            after = row["id"]
            yield _event(row)
        quiet = 0 if rows else quiet + 1
        if quiet >= QUIET_LOOKS:
            quiet = 0
            yield ": still here\n\n"
        if len(rows) < MOST_AT_ONCE:
            await anyio.sleep(LOOK_SECONDS)


def _event(row: Any) -> str:
    return f"id: {row['id']}\nevent: log\ndata: {json.dumps(shown(row))}\n\n"
