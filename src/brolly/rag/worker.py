"""Reads documents in the background, as many at once as the machine bears."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from brolly.core.worker import Worker
from brolly.deps import Deps
from brolly.pg.queue import Queue
from brolly.rag.ingest import JOB
from brolly.rag.jobs import read_document

AT_ONCE = 2


def workers(deps: Deps) -> list[Worker]:
    """One loop: this process's share of the queue."""

    async def document(payload: Mapping[str, Any], tried: int) -> None:
        await read_document(deps, payload, tried)

    queue = Queue(deps.databases.server, deps.control, {JOB: document}, at_once=AT_ONCE)
    return [Worker("rag", queue.run)]
