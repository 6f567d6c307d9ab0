"""Reads documents in the background, as many at once as the machine bears."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from brolly.core.worker import Worker
from brolly.deps import Deps
from brolly.pg.queue import Queue
from brolly.rag import reembed
from brolly.rag.ingest import JOB
from brolly.rag.jobs import read_document
from brolly.rag.reembed import run_reembed

AT_ONCE = 2


def workers(deps: Deps) -> list[Worker]:
    """One loop: this process's share of the queue."""

    async def document(payload: Mapping[str, Any], tried: int) -> None:
        await read_document(deps, payload, tried)

    async def vectors(payload: Mapping[str, Any], tried: int) -> None:
        await run_reembed(deps, payload, tried)

    jobs = {JOB: document, reembed.JOB: vectors}
    queue = Queue(deps.databases.server, deps.control, jobs, at_once=AT_ONCE)
    return [Worker("rag", queue.run)]
