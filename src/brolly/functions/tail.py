"""The log of a function while it grows."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from datetime import UTC, datetime

import anyio

from brolly.core.times import iso
from brolly.deps import Deps
from brolly.functions.logs import GetLogs, flush, read, shown
from brolly.registry import App

LOOK_SECONDS = 0.5
QUIET_LOOKS = 30
MOST_AT_ONCE = 200


async def follow(deps: Deps, app: App, name: str) -> AsyncGenerator[str]:
    """New entries as server-sent events, oldest first, until the reader goes away.

    Read from the database, so that calls that other replicas ran are there too.
    """
    params = GetLogs(app_id=app.id, function_name=name, since=datetime.now(UTC), limit=MOST_AT_ONCE)
    after: int | None = None
    quiet = 0
    yield ": following\n\n"
    while True:
        await flush(deps)
        rows = await read(deps, app, params, limit=MOST_AT_ONCE, after=after)
        for row in reversed(rows):
            after = row["id"]
            yield f"id: {iso(row['started_at'])}\nevent: log\ndata: {json.dumps(shown(row))}\n\n"
        quiet = 0 if rows else quiet + 1
        if quiet >= QUIET_LOOKS:
            quiet = 0
            yield ": still here\n\n"
        await anyio.sleep(LOOK_SECONDS)
