"""Deletes audit rows past their time."""

from __future__ import annotations

import anyio

from brolly.core.worker import Worker
from brolly.deps import Deps

PAUSE_SECONDS = 3600
BATCH = 10_000

_TRIM = (
    # Alone by an advisory lock, in batches, so that a large backlog never holds a long transaction.
    "delete from brolly.audit_log where pg_try_advisory_xact_lock(hashtextextended('audit-trim', 0)) and id in "
    "(select id from brolly.audit_log where created_at < now() - make_interval(days => $1) limit $2)"
)


def workers(deps: Deps) -> list[Worker]:
    """One loop that trims once an hour."""

    async def run() -> None:
        while True:
            while await deps.control.execute(_TRIM, deps.settings.audit_days, BATCH) == f"DELETE {BATCH}":
                pass
            await anyio.sleep(PAUSE_SECONDS)

    return [Worker("audit", run)]
